//! Checks the rules for the source itself: layers, lengths, file headers, and names that only some files may use.

mod imports;
mod snippets;
mod words;

use std::fs;
use std::path::{Path, PathBuf};

use imports::Imports;

/// A source file. `name` is its path below `src/` (or below the folder that was read).
struct Source {
    name: String,
    text: String,
}

/// Returns the first part of a file's path: its top-level module.
fn module(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

impl Source {
    fn is_test(&self) -> bool {
        self.name.ends_with("tests.rs") || self.name.contains("/tests/")
    }

    /// Returns the lines before the unit tests.
    fn code(&self) -> Vec<&str> {
        if self.is_test() {
            return Vec::new();
        }
        let lines: Vec<&str> = self.text.lines().collect();
        let tail = |i: usize| {
            let next = lines[i + 1..].iter().find(|l| !l.trim_start().starts_with("#[") && !l.trim().is_empty());
            lines[i] == "#[cfg(test)]" && next.is_some_and(|l| l.starts_with("mod ") && l.ends_with('{'))
        };
        let end = (0..lines.len()).find(|&i| tail(i)).unwrap_or(lines.len());
        lines[..end].to_vec()
    }
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn files_below(name: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    let mut paths = Vec::new();
    walk(&root, &mut paths);
    paths.sort();
    assert!(!paths.is_empty());
    let source = |path: PathBuf| Source {
        name: path.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/"),
        text: fs::read_to_string(&path).unwrap(),
    };
    paths.into_iter().map(source).collect()
}

/// The top-level modules (folders or files), from the lowest layer to the highest. A module imports only from the
/// layers below its own.
const FLOORS: [&[&str]; 8] = [
    &["buffer", "codec", "id", "work_list"],
    &["closed", "config", "group", "time"],
    &["connection", "stats", "sys"],
    &["command_queue", "core"],
    &["handler"],
    &["builtin", "dispatch"],
    &["reactor"],
    &["lib", "architecture", "testing"],
];

fn floor(module: &str) -> usize {
    FLOORS
        .iter()
        .position(|modules| modules.contains(&module))
        .unwrap_or_else(|| panic!("the module {module} is in no layer: add it to `FLOORS`"))
}

#[test]
fn imports_only_point_down_the_floors() {
    let imports = Imports::read(&files_below("src"));
    let mut wrong = Vec::new();
    for (file, targets) in imports.edges() {
        for target in targets {
            let (here, there) = (module(file), module(target));
            if here != there && floor(there) >= floor(here) {
                wrong.push(format!("src/{file} imports src/{target}, which is not in a lower layer"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let imports = Imports::read(&files_below("src"));
    let edges = imports.edges();
    assert!(edges.values().map(std::collections::BTreeSet::len).sum::<usize>() > 200, "the search is broken");
    if let Some(circle) = imports::circle(&edges) {
        panic!("an import cycle: {}", circle.join(" -> "));
    }
}

#[test]
fn few_files_stand_flat_in_src() {
    let flat: Vec<String> = files_below("src").into_iter().map(|s| s.name).filter(|name| !name.contains('/')).collect();
    assert!(flat.len() <= 10, "{} files: {flat:?}", flat.len());
}

#[test]
fn only_the_seam_names_the_sockets_of_mio() {
    for source in files_below("src") {
        let allowed = source.name.starts_with("sys/mio");
        let names = source.code().iter().any(|l| {
            let code = l.split("//").next().unwrap();
            code.contains("mio::net") || code.contains("use mio::") || code.contains(" mio::Poll")
        });
        assert!(allowed || !names, "src/{} names mio", source.name);
    }
}

#[test]
fn only_one_file_of_the_tests_starts_child_processes() {
    for source in files_below("tests").iter().filter(|s| s.name != "it/support/process.rs") {
        let starts = ["spawn", "output", "status"].map(|word| format!(".{word}()"));
        let found = starts.iter().find(|start| source.text.contains(*start));
        assert_eq!(found, None, "tests/{}: see tests/it/support/process.rs", source.name);
    }
}

#[test]
fn there_is_neither_unsafe_code_nor_a_ref_cell() {
    for source in files_below("src") {
        for (n, line) in source.text.lines().enumerate() {
            let code = line.split("//").next().unwrap();
            let words = || code.split(|c: char| !c.is_alphanumeric() && c != '_');
            assert!(!words().any(|w| w == "unsafe"), "src/{}:{}: unsafe", source.name, n + 1);
            assert!(!words().any(|w| w == "RefCell"), "src/{}:{}: RefCell", source.name, n + 1);
        }
    }
}

#[test]
fn every_file_says_what_it_is() {
    for dir in ["src", "tests", "examples"] {
        for source in files_below(dir) {
            assert!(source.text.starts_with("//! "), "{dir}/{} does not begin with //!", source.name);
        }
    }
}

#[test]
fn no_line_is_wider_than_120_columns() {
    let mut wrong = Vec::new();
    for dir in ["src", "tests", "examples"] {
        for source in files_below(dir) {
            // A table row in rustdoc cannot be wrapped.
            let wide = |l: &&str| l.chars().count() > 120 && !l.trim_start().starts_with("/// |");
            let wide: Vec<&str> = source.text.lines().filter(wide).collect();
            if !wide.is_empty() {
                wrong.push(format!("{dir}/{}:\n{}", source.name, wide.join("\n")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_stay_short() {
    let mut wrong = Vec::new();
    for source in files_below("src") {
        let lines = source.code().len();
        if lines > 450 {
            wrong.push(format!("src/{} has {lines} lines before its tests, at most 450", source.name));
        }
    }
    for source in files_below("tests") {
        let lines = source.text.lines().count();
        if lines > 450 {
            wrong.push(format!("tests/{} has {lines} lines", source.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Returns the functions of a formatted file: the first line of each, and how many lines it has.
fn functions(lines: &[&str]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let head = line.trim_start();
        let bare = head.replace("(crate)", "").replace("(super)", "");
        let is_fn = bare.split_whitespace().take_while(|w| !w.contains('(')).any(|w| w == "fn");
        let words = ["fn ", "pub", "const fn", "async fn", "extern "];
        if !is_fn || !words.iter().any(|w| head.starts_with(w)) || head.ends_with('}') || head.ends_with(';') {
            continue;
        }
        // In formatted code a function ends at the first closing brace with its own indentation.
        let close = format!("{}}}", " ".repeat(indent));
        let open_end = format!("{});", " ".repeat(indent));
        let end = lines[i + 1..].iter().position(|l| *l == close || l.starts_with(&open_end));
        found.push((i + 1, end.map_or(lines.len() - i, |n| n + 2)));
    }
    found
}

#[test]
fn functions_stay_short() {
    let mut seen = 0;
    for dir in ["src", "tests", "examples"] {
        for source in files_below(dir) {
            let lines: Vec<&str> = source.text.lines().collect();
            for (at, len) in functions(&lines) {
                seen += 1;
                assert!(len <= 70, "{dir}/{}:{at}: a function of {len} lines", source.name);
            }
        }
    }
    assert!(seen > 300, "only {seen} functions found: the search is broken");
}

#[test]
fn the_searches_find_what_they_look_for() {
    assert_eq!((module("core/mod.rs"), floor("core")), ("core", 3));
    let text =
        ["fn a() {", "    b();", "}", "impl X {", "    pub(crate) fn c(", "        d: u8,", "    ) {", "    }", "}"];
    assert_eq!(functions(&text), [(1, 3), (5, 4)]);
    let source = Source { name: "a/b.rs".into(), text: "x\n#[cfg(test)]\nmod tests {\n}\n".into() };
    assert_eq!(source.code(), ["x"]);
}
