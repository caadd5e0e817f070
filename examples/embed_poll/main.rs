//! An echo server with a console. The program has its own `poll(2)` loop, which waits for the reactor and for standard
//! input.
//!
//! ```text
//! cargo run --release --example embed_poll                    # listens on 127.0.0.1:7006
//! stats                                                       # type this: prints the counters
//! connections                                                 # type this: prints a line for each connection
//! quit                                                        # type this: shuts down gracefully
//! ```

// The lint is for the library: a program may read the clock.
#![allow(clippy::disallowed_methods)]

#[cfg(unix)]
#[path = "../common/mod.rs"]
mod common;

#[cfg(unix)]
fn main() -> std::process::ExitCode {
    program::main()
}

#[cfg(not(unix))]
fn main() {
    eprintln!("this example uses poll(2), which is available on Unix only");
}

#[cfg(unix)]
mod program {
    use std::io::{Error, ErrorKind, Result, Stdin, stdin};
    use std::process::ExitCode;
    use std::time::{Duration, Instant};

    use clap::Parser;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::io::Errno;
    use turnwheel::{Echo, Reactor};

    use super::common;
    use super::common::stdio::{self, print};

    /// Sends back every byte that it receives, and runs typed commands: stats, connections, quit. Ctrl-C shuts it down
    /// gracefully.
    #[derive(Parser)]
    #[command(name = "embed_poll")]
    struct Arguments {
        /// Where to listen: HOST:PORT, [IPV6]:PORT or unix:PATH
        #[arg(value_name = "ADDR", default_value = "127.0.0.1:7006")]
        addresses: Vec<String>,

        #[command(flatten)]
        options: common::Options,
    }

    pub(crate) fn main() -> ExitCode {
        let arguments: Arguments = common::parse();
        let listen = |reactor: &mut Reactor| {
            let echo = reactor.add(Echo)?;
            common::listen_all(reactor, &arguments.addresses, echo)
        };
        common::serve_in(&arguments.options, arguments.options.limits(), listen, drive)
    }

    /// The program's loop: waits, reads the console, runs a turn of the reactor.
    fn drive(mut reactor: Reactor) -> Result<Reactor> {
        let mut console = Console { stdin: stdin(), open: true, not_before: None, typed: Vec::new() };
        loop {
            // After all other calls of the reactor: they may leave work, and then the deadline is zero.
            let due = reactor.next_deadline();
            if console.wait(&reactor, due)? {
                console.read(&mut reactor)?;
            }
            if reactor.turn(Some(Duration::ZERO))?.stopped {
                return Ok(reactor);
            }
        }
    }

    struct Console {
        stdin: Stdin,
        open: bool,
        /// When to try again to read: a terminal belongs to another program for now.
        not_before: Option<Instant>,
        /// A line that is not complete yet.
        typed: Vec<u8>,
    }

    /// Longer than every command; the rest of a longer line is ignored. Chosen.
    const LONGEST_LINE: usize = 80;

    impl Console {
        /// Waits for the reactor, standard input or the deadline. Returns whether standard input is readable.
        fn wait(&self, reactor: &Reactor, due: Option<Duration>) -> Result<bool> {
            let mut fds = [PollFd::new(reactor, PollFlags::IN), PollFd::new(&self.stdin, PollFlags::IN)];
            let rest = self.not_before.map(|at| at.saturating_duration_since(Instant::now()));
            let rest = rest.filter(|rest| self.open && !rest.is_zero());
            let watched = if self.open && rest.is_none() { 2 } else { 1 };
            // A deadline that does not fit a `Timespec` is too far away to matter.
            let due = due.into_iter().chain(rest).min().and_then(|due| Timespec::try_from(due).ok());
            match poll(&mut fds[..watched], due.as_ref()) {
                Err(Errno::INTR) => Ok(false),
                done => done.map(|_| !fds[1].revents().is_empty()).map_err(Into::into),
            }
        }

        /// Reads once, which does not block when standard input is readable, and runs each complete line. The server
        /// goes on without a console when there is no more input.
        fn read(&mut self, reactor: &mut Reactor) -> Result<()> {
            let mut buffer = [0; 1024];
            // Not through std: a line that is left in its buffer does not make the descriptor readable for `poll`.
            let n = match rustix::io::read(&self.stdin, &mut buffer).map_err(Error::from) {
                Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
                Err(error) if stdio::try_again(&error) => {
                    self.not_before = Some(Instant::now() + stdio::READ_AGAIN);
                    return Ok(());
                }
                Err(error) => {
                    stdio::input_failed(&error);
                    0
                }
                Ok(n) => n,
            };
            self.open = n > 0;
            for &byte in &buffer[..n] {
                if byte == b'\n' {
                    self.run_line(reactor)?;
                } else if self.typed.len() < LONGEST_LINE {
                    self.typed.push(byte);
                }
            }
            // The last line may have no newline.
            if self.open { Ok(()) } else { self.run_line(reactor) }
        }

        fn run_line(&mut self, reactor: &mut Reactor) -> Result<()> {
            let line = std::mem::take(&mut self.typed);
            run_command(String::from_utf8_lossy(&line).trim(), reactor)
        }
    }

    fn run_command(command: &str, reactor: &mut Reactor) -> Result<()> {
        match command {
            "" => {}
            "stats" => print(reactor.stats()),
            "connections" => {
                let all: Vec<_> = reactor.net().snapshots().collect();
                let handler = |id| reactor.handler_name(id).unwrap_or("?");
                let mut lines: String = all.iter().map(|one| format!("{one}, {}\n", handler(one.id))).collect();
                lines += &format!("{} connections", all.len());
                print(lines);
            }
            "quit" => reactor.handle().stop()?,
            _ => print(format_args!("{command:?} is none of: stats, connections, quit")),
        }
        Ok(())
    }
}
