//! Programs in the documentation are compiled as they stand: none is left out, and none has lines that are not shown.

use super::files_below;

const README: &str = include_str!("../../../README.md");

/// The fences (the lines that begin a block of code) of a text, without what makes its lines comments.
fn fences(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(|line| line.trim_start_matches(['/', '!', ' '])).filter(|line| line.starts_with("```"))
}

#[test]
fn no_program_is_left_out() {
    let mut texts = vec![("README.md".to_owned(), README.to_owned())];
    for dir in ["src", "examples"] {
        texts.extend(files_below(dir).into_iter().map(|source| (format!("{dir}/{}", source.name), source.text)));
    }
    assert!(texts.iter().map(|(_, text)| fences(text).count()).sum::<usize>() > 100, "the search is broken");
    for (name, text) in texts {
        let left_out = fences(&text).find(|fence| fence.contains("ignore"));
        assert_eq!(left_out, None, "{name}");
    }
}

#[test]
fn a_program_of_the_readme_shows_all_its_lines() {
    let programs: Vec<&str> =
        README.split("\n```rust").skip(1).map(|rest| rest.split("\n```").next().unwrap()).collect();
    assert!(programs.len() >= 8, "{}", programs.len());
    for program in programs {
        assert_eq!(program.lines().find(|line| line.trim() == "#" || line.trim().starts_with("# ")), None, "{program}");
    }
}
