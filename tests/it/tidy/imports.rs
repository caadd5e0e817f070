//! Finds which file of `src/` imports which from the text: paths that begin with `crate`, `super` or `self`, or with a
//! module that the file declares. A re-export is followed to the file that defines the name. Tests are left out.

use std::collections::{BTreeMap, BTreeSet};

use super::Source;

/// A module path. The path of `lib.rs` is empty.
type Path = Vec<String>;

/// The files and their imports.
pub(crate) struct Imports {
    files: BTreeMap<Path, File>,
}

struct File {
    name: String,
    is_test: bool,
    /// Every path in the code, and whether it is only re-exported (`pub use`).
    paths: Vec<(Path, bool)>,
}

impl Imports {
    pub(crate) fn read(sources: &[Source]) -> Self {
        let modules: BTreeSet<Path> = sources.iter().map(|s| module_of(&s.name)).collect();
        let file = |source: &Source| {
            let here = module_of(&source.name);
            let text = source.code().iter().map(|l| l.split("//").next().unwrap()).collect::<Vec<_>>().join("\n");
            let paths = paths_in(&text, &here, &modules);
            (here, File { name: source.name.clone(), is_test: source.is_test(), paths })
        };
        Self { files: sources.iter().map(file).collect() }
    }

    /// Returns the module that defines the item of a path. Follows at most `patience` re-exports.
    fn definer(&self, path: &[String], patience: u32) -> Path {
        let deepest = (0..=path.len()).rev().find(|&n| self.files.contains_key(&path[..n])).unwrap();
        let (module, rest) = (&path[..deepest], &path[deepest..]);
        let Some(item) = rest.first().filter(|_| patience > 0) else { return module.to_vec() };
        let mut imported = self.files[module].paths.iter().map(|(path, _)| path);
        match imported.find(|p| p.last() == Some(item) && p.as_slice() != path && p.len() > 1) {
            Some(target) => self.definer(target, patience - 1),
            None => module.to_vec(),
        }
    }

    /// Returns each file with the files that it imports. A re-export alone is not an import.
    pub(crate) fn edges(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut edges = BTreeMap::new();
        for (module, file) in self.files.iter().filter(|(_, file)| !file.is_test) {
            let used = file.paths.iter().filter(|(_, passed_on)| !passed_on);
            let targets = used.map(|(path, _)| self.definer(path, 5)).filter(|target| target != module);
            let targets = targets.map(|target| &self.files[&target]).filter(|file| !file.is_test);
            edges.insert(file.name.as_str(), targets.map(|file| file.name.as_str()).collect());
        }
        edges
    }
}

/// Returns an import cycle, if there is one.
pub(crate) fn circle<'a>(edges: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> Option<Vec<&'a str>> {
    // Remove files whose imports have all been removed, until there are none. The rest is on a cycle or imports one.
    let mut left = edges.clone();
    loop {
        let done: Vec<&str> =
            left.iter().filter(|(_, targets)| !targets.iter().any(|t| left.contains_key(t))).map(|(f, _)| *f).collect();
        if done.is_empty() {
            break;
        }
        done.iter().for_each(|file| drop(left.remove(file)));
    }
    let mut walk = vec![*left.keys().next()?];
    loop {
        let next = *left[walk.last().unwrap()].iter().find(|t| left.contains_key(*t)).unwrap();
        if let Some(start) = walk.iter().position(|file| *file == next) {
            walk.push(next);
            return Some(walk.split_off(start));
        }
        walk.push(next);
    }
}

fn module_of(name: &str) -> Path {
    let path = name.trim_end_matches(".rs").trim_end_matches("/mod");
    if path == "lib" { Path::new() } else { path.split('/').map(str::to_owned).collect() }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Returns the words of a text, except those in its `use` statements.
fn used_words(text: &str) -> BTreeSet<&str> {
    let statement =
        |part: &&str| !part.lines().any(|l| l.starts_with("use ") || l.starts_with("pub") && l.contains("use "));
    text.split(';').filter(statement).flat_map(|part| part.split(|c| !is_word(c))).collect()
}

/// Returns every path in a text that is inside this crate, as an absolute path, and whether it is only re-exported.
fn paths_in(text: &str, here: &[String], modules: &BTreeSet<Path>) -> Vec<(Path, bool)> {
    let used = used_words(text);
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(gap) = text[at..].find("::") {
        let head_end = at + gap;
        let head_start = text[..head_end].rfind(|c| !is_word(c)).map_or(0, |i| i + 1);
        let (tails, end) = tails(text, head_end);
        at = end;
        let head = &text[head_start..head_end];
        let base = match head {
            "crate" => Path::new(),
            "super" => here[..here.len().saturating_sub(1)].to_vec(),
            "self" => here.to_vec(),
            _ => [here, &[head.to_owned()]].concat(),
        };
        let ours = modules.contains(&base) && !text[..head_start].ends_with("::");
        if !ours && !matches!(head, "crate" | "super" | "self") {
            // The path of another crate, or of an item. Paths inside its braces may still be in this crate.
            at = head_end + 2;
            continue;
        }
        let line = text[..head_start].rfind('\n').map_or(0, |i| i + 1);
        let passes_on = text[line..head_start].starts_with("pub") && text[line..head_start].contains("use ");
        for tail in tails {
            let ups = tail.iter().take_while(|word| *word == "super").count();
            let mut path = base[..base.len().saturating_sub(ups)].to_vec();
            path.extend(tail.into_iter().skip(ups));
            // A re-exported name may also be used in this file.
            let passed_on = passes_on && path.last().is_none_or(|name| !used.contains(name.as_str()));
            found.push((path, passed_on));
        }
    }
    found
}

/// Parses what follows the first word of a path, from `at` on. Returns one tail, or several if there are braces, and
/// the position after them.
fn tails(text: &str, at: usize) -> (Vec<Path>, usize) {
    let Some(rest) = text[at..].strip_prefix("::") else { return (vec![Path::new()], at) };
    let start = text.len() - rest.len();
    if !rest.starts_with('{') {
        let word: String = rest.chars().take_while(|c| is_word(*c)).collect();
        if word.is_empty() {
            return (vec![Path::new()], start);
        }
        let (found, end) = tails(text, start + word.len());
        return (found.into_iter().map(|tail| [vec![word.clone()], tail].concat()).collect(), end);
    }
    let (mut found, mut at) = (Vec::new(), start + 1);
    while !text[at..].starts_with('}') {
        if text[at..].starts_with(is_word) {
            let word: String = text[at..].chars().take_while(|c| is_word(*c)).collect();
            let (inner, end) = tails(text, at + word.len());
            found.extend(inner.into_iter().map(|tail| [vec![word.clone()], tail].concat()));
            at = end;
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    (found, at + 1)
}

#[test]
fn the_imports_of_a_text_are_found() {
    let source = |name: &str, text: &str| Source { name: name.into(), text: text.into() };
    let sources = [
        source("lib.rs", "mod a;\nmod b;\npub use a::Thing;\n"),
        source("a/mod.rs", "mod inner;\n#[cfg(x)]\npub(crate) use inner::Thing;\nuse crate::b;\n"),
        source("c.rs", "pub use crate::a::Own;\npub use crate::b::Two;\nstruct Three(Two);\nfn f() -> ::b::C {}\n"),
        source("a/inner.rs", "use super::super::b::{Other, More};\nfn f(x: std::io::Error) {}\n"),
        source(
            "b.rs",
            "use crate::{Thing, a::Own};\n// crate::nothing\n#[cfg(test)]\nmod tests {\n    use crate::x::Y;\n}\n",
        ),
        source("b_tests.rs", "use crate::a::Own;\n"),
    ];
    let imports = Imports::read(&sources);
    let edges = imports.edges();
    let of = |name: &str| edges[name].iter().copied().collect::<Vec<_>>();
    assert_eq!((of("lib.rs"), of("a/mod.rs"), of("a/inner.rs")), (vec![], vec!["b.rs"], vec!["b.rs"]));
    assert_eq!((of("b.rs"), of("c.rs")), (vec!["a/inner.rs", "a/mod.rs"], vec!["b.rs"]));
    assert!(!edges.contains_key("b_tests.rs"));
    let round = circle(&edges).unwrap();
    assert!(round.first() == round.last() && round.contains(&"b.rs"), "{round:?}");
    assert_eq!(circle(&BTreeMap::from([("x", BTreeSet::from(["y"])), ("y", BTreeSet::new())])), None);
}
