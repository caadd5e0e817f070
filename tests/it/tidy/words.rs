//! Words that `src` does not use, as names or in prose: private terms for which the field has a standard one.

use super::files_below;

/// A word, and what to say instead. Names are split at capitals and underscores. See the glossary in
/// `src/architecture.rs`.
const REFUSED: [(&str, &str); 42] = [
    ("seat", "handler entry, slot"),
    ("seats", "handlers, slots"),
    ("door", "listener"),
    ("doors", "listeners"),
    ("grave", "reap queue"),
    ("graves", "reap queue"),
    ("bury", "reap"),
    ("doom", "close"),
    ("doomed", "closed"),
    ("dooms", "closes"),
    ("judge", "check"),
    ("judged", "checked"),
    ("judges", "checks"),
    ("verdict", "action"),
    ("lenient", "timeouts deferred"),
    ("obey", "run"),
    ("obeys", "runs"),
    ("obeyed", "run"),
    ("mailbox", "datagram socket, command queue"),
    ("mailboxes", "datagram sockets"),
    ("outlet", "datagram socket"),
    ("outlets", "datagram sockets"),
    ("parked", "waiting for retry"),
    ("restless", "retry pending"),
    ("strained", "congested"),
    ("untaken", "unsent"),
    ("excuse", "skip"),
    ("feeder", "linked sender"),
    ("feeders", "linked senders"),
    ("starved", "throttled"),
    ("shed", "evict"),
    ("suspect", "error pending"),
    ("fruitless", "spurious"),
    ("hinted", "read to EAGAIN"),
    ("planted", "mutant"),
    ("heeded", "seen"),
    ("desk", "queue"),
    ("room", "capacity, spare; group"),
    ("rooms", "groups"),
    ("dialled", "connecting"),
    ("redial", "reconnect"),
    ("gates", "limits"),
];

/// The words of a line in lower case: names are split at underscores and capitals.
fn words(line: &str) -> Vec<String> {
    let mut found = vec![String::new()];
    let mut before = ' ';
    for c in line.chars() {
        if !c.is_alphabetic() || c.is_uppercase() && before.is_lowercase() {
            found.push(String::new());
        }
        if c.is_alphabetic() {
            found.last_mut().unwrap().extend(c.to_lowercase());
        }
        before = c;
    }
    found.retain(|word| !word.is_empty());
    found
}

#[test]
fn every_word_is_one_that_the_field_uses() {
    let mut wrong = Vec::new();
    for source in files_below("src") {
        for (n, line) in source.text.lines().enumerate() {
            let words = words(line);
            for (word, better) in REFUSED.iter().filter(|(word, _)| words.iter().any(|w| w == word)) {
                wrong.push(format!("src/{}:{}: {word}; say {better}", source.name, n + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn names_are_split_into_words() {
    assert_eq!(
        words("let WakeUp_x2 = \"is HTTP2\"; // The end"),
        ["let", "wake", "up", "x", "is", "http", "the", "end"]
    );
}
