//! A handler with its tests: it answers each line with its number.
//!
//! ```text
//! cargo run --release --example numbers                       # listens on 127.0.0.1:7003
//! nc 127.0.0.1 7003                                           # type lines; the server answers with numbers
//! cargo test --features testing --example numbers             # runs its tests: no socket, no waiting
//! ```

mod common;

use std::process::ExitCode;

use clap::Parser;
use turnwheel::codec::{BuildError, Lines};
use turnwheel::{Context, Framed, Handler};

/// Answers each line with its number.
struct Numbers;

impl Handler for Numbers {
    type State = u64;

    fn on_open(&mut self, _cx: &mut Context<'_>) -> u64 {
        0
    }

    fn on_data(&mut self, cx: &mut Context<'_>, count: &mut u64, _line: &[u8]) {
        *count += 1;
        cx.send(count.to_string());
    }
}

/// Returns the handler, with a framing for lines of up to 1000 bytes.
fn numbers() -> Result<Framed<Lines, Numbers>, BuildError> {
    Ok(Framed::new(Lines::lf(1000)?, Numbers))
}

/// Answers each line with its number. Ctrl-C shuts it down gracefully.
#[derive(Parser)]
#[command(name = "numbers")]
struct Arguments {
    /// Where to listen: HOST:PORT, [IPV6]:PORT or unix:PATH
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:7003")]
    addresses: Vec<String>,

    #[command(flatten)]
    options: common::Options,
}

fn main() -> ExitCode {
    let arguments: Arguments = common::parse();
    common::serve(&arguments.options, arguments.options.limits(), |reactor| {
        let numbers = reactor.add(numbers()?)?;
        common::listen_all(reactor, &arguments.addresses, numbers)
    })
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use turnwheel::testing::{Simulation, Stage, prove_cuts};

    use super::*;

    #[test]
    fn lines_are_numbered_for_each_client() {
        Stage::new(numbers().unwrap()).play(
            r"
            A> first\nsecond\n
            A< 1\n2\n
            B> hello\n
            B< 1\n
            A> third, unfin
            A hears nothing
            A> ished\n
            A< 3\n
            wait 11min
            A closed idle_timeout
            B closed idle_timeout
            ",
        );
    }

    #[test]
    fn lines_are_found_however_they_arrive() {
        let found = prove_cuts(numbers().unwrap().codec(), b"one\n\ntwo\r\nthr");
        assert_eq!(found.messages, [&b"one"[..], b"", b"two"]);
    }

    #[test]
    fn no_line_is_left_out_in_the_worst_of_worlds() {
        Simulation::new(|| numbers().unwrap())
            .says(|dice, most| (0..most).map(|_| *b"ab\n".get(dice.below(3)).unwrap_or(&b'a')).collect())
            .limits(|limits| limits.fit(numbers().unwrap().codec()))
            .check(|scene| {
                for client in scene.clients().filter(|c| c.is_served()) {
                    // The last line needs no newline.
                    let lines = client.said().split_inclusive(|&b| b == b'\n').count();
                    let answers: String = (1..=lines).map(|n| format!("{n}\n")).collect();
                    assert_eq!(client.received(), answers.as_bytes());
                }
            })
            .run(0..300);
    }
}
