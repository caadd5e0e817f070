//! Holds the source itself to its rules: floors, lengths, headers, and words that only one file may use.

// Tests may panic; the library may not.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// A source file, by its path below `src/`.
struct Source {
    name: String,
    text: String,
}

impl Source {
    /// The first part of its path: the module that the crate sees.
    fn module(&self) -> &str {
        self.name.split('/').next().unwrap().trim_end_matches(".rs")
    }

    fn is_test(&self) -> bool {
        self.name.ends_with("tests.rs") || self.name.contains("/tests/")
    }

    /// The lines before the unit tests.
    fn code(&self) -> Vec<&str> {
        if self.is_test() {
            return Vec::new();
        }
        let lines: Vec<&str> = self.text.lines().collect();
        let tail = |i: usize| {
            let next =
                lines[i + 1..].iter().find(|l| !l.trim_start().starts_with("#[") && !l.trim().is_empty());
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

/// From the lowest floor to the highest. Files on one floor may import each other.
const FLOORS: [&[&str]; 6] = [
    &[
        "outbox", "pool", "input", "codec", "limits", "closed", "id", "stats", "throttle", "endpoint",
        "listen", "connect", "bind", "building", "sys", "mailbox",
    ],
    &["connection", "deadlines", "group", "timer"],
    &["core", "net", "context", "handler", "snapshot", "datagram"],
    &["engine", "handlers", "handle"],
    &["reactor"],
    &["lib", "architecture", "testing", "property_tests", "log_tests"],
];

fn floor(module: &str) -> usize {
    FLOORS
        .iter()
        .position(|modules| modules.contains(&module))
        .unwrap_or_else(|| panic!("the module {module} is on no floor: give it one"))
}

/// Which floor each name stands on that `lib.rs` re-exports: `(name, module)`.
fn re_exports(lib: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for line in lib.lines().filter_map(|l| l.strip_prefix("pub use ")) {
        let line = line.trim_start_matches("crate::").trim_end_matches(';');
        // A crate that is passed on is on no floor.
        let Some((module, names)) = line.split_once("::") else { continue };
        for name in names.trim_matches(['{', '}']).split(',') {
            found.push((name.trim().to_owned(), module.to_owned()));
        }
    }
    found
}

/// The modules that a line of code names through `crate::`.
fn named_modules(line: &str, exports: &[(String, String)]) -> Vec<String> {
    let code = line.split("//").next().unwrap();
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let word = |s: &str| s.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        let names: Vec<String> = match rest.strip_prefix('{') {
            Some(list) => list.split(['}', ';']).next().unwrap().split(',').map(|s| word(s.trim())).collect(),
            None => vec![word(rest)],
        };
        for name in names.into_iter().filter(|n| !n.is_empty()) {
            let export = exports.iter().find(|(exported, _)| *exported == name);
            found.push(export.map_or(name, |(_, module)| module.clone()));
        }
    }
    found
}

#[test]
fn imports_only_point_down_the_floors() {
    let sources = files_below("src");
    let exports = re_exports(&sources.iter().find(|s| s.name == "lib.rs").unwrap().text);
    assert!(exports.iter().any(|(name, module)| name == "Reactor" && module == "reactor"), "{exports:?}");
    let mut wrong = Vec::new();
    for source in &sources {
        let here = floor(source.module());
        for line in source.code() {
            for module in named_modules(line, &exports) {
                if floor(&module) > here {
                    wrong.push(format!(
                        "src/{} names {module}, which is above it: {}",
                        source.name,
                        line.trim()
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
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
            // A row of a table in the documentation cannot be broken.
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

/// The functions of a formatted file: the line each begins at, and how many lines it has.
fn functions(lines: &[&str]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let head = line.trim_start();
        let bare = head.replace("(crate)", "").replace("(super)", "");
        let is_fn = bare.split_whitespace().take_while(|w| !w.contains('(')).any(|w| w == "fn");
        let words = ["fn ", "pub", "const fn", "async fn", "extern "];
        if !is_fn || !words.iter().any(|w| head.starts_with(w)) || head.ends_with('}') || head.ends_with(';')
        {
            continue;
        }
        // In formatted code a function ends with the first brace at its own indentation.
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
    let exports = [("Reactor".to_owned(), "reactor".to_owned())];
    assert_eq!(named_modules("use crate::core::Core;", &exports), ["core"]);
    assert_eq!(named_modules("    x: crate::Reactor, // crate::id", &exports), ["reactor"]);
    assert_eq!(named_modules("use crate::{id, Reactor};", &exports), ["id", "reactor"]);
    assert_eq!(floor("core"), 2);
    let text = [
        "fn a() {",
        "    b();",
        "}",
        "impl X {",
        "    pub(crate) fn c(",
        "        d: u8,",
        "    ) {",
        "    }",
        "}",
    ];
    assert_eq!(functions(&text), [(1, 3), (5, 4)]);
    let source = Source { name: "a/b.rs".into(), text: "x\n#[cfg(test)]\nmod tests {\n}\n".into() };
    assert_eq!((source.module(), source.code()), ("a", vec!["x"]));
}
