//! An echo server with a console. The program has its own `poll(2)` loop, which waits for the reactor and for standard
//! input.
//!
//! ```text
//! cargo run --release --example embed_poll                    # listens on 127.0.0.1:7006
//! stats                                                       # type this: prints the counters
//! connections                                                 # type this: prints a line for each connection
//! quit                                                        # type this: shuts down gracefully
//! ```

#[cfg(unix)]
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
    use std::io::{Result, Stdin, Write, stdin, stdout};
    use std::process::ExitCode;
    use std::time::Duration;

    use clap::Parser;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::io::Errno;
    use turnwheel::{Echo, Reactor};

    use super::common;

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
        let arguments = Arguments::parse();
        let listen = |reactor: &mut Reactor| {
            let echo = reactor.add(Echo)?;
            common::listen_all(reactor, &arguments.addresses, echo)
        };
        common::serve_in(&arguments.options, arguments.options.limits(), listen, drive)
    }

    /// The program's loop: waits, reads the console, runs a turn of the reactor.
    fn drive(mut reactor: Reactor) -> Result<Reactor> {
        let mut console = Console { stdin: stdin(), open: true, typed: Vec::new() };
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
        /// A line that is not complete yet.
        typed: Vec<u8>,
    }

    /// Longer than every command; the rest of a longer line is ignored. Chosen.
    const LONGEST_LINE: usize = 80;

    impl Console {
        /// Waits for the reactor, standard input or the deadline. Returns whether standard input is readable.
        fn wait(&self, reactor: &Reactor, due: Option<Duration>) -> Result<bool> {
            let mut fds = [PollFd::new(reactor, PollFlags::IN), PollFd::new(&self.stdin, PollFlags::IN)];
            let watched = if self.open { 2 } else { 1 };
            // A deadline that does not fit a `Timespec` is too far away to matter.
            let due = due.and_then(|due| Timespec::try_from(due).ok());
            match poll(&mut fds[..watched], due.as_ref()) {
                Err(Errno::INTR) => Ok(false),
                done => done.map(|_| !fds[1].revents().is_empty()).map_err(Into::into),
            }
        }

        /// Reads once, which does not block when standard input is readable, and runs each complete line.
        fn read(&mut self, reactor: &mut Reactor) -> Result<()> {
            let mut buffer = [0; 1024];
            // Not through std: a line that is left in its buffer does not make the descriptor readable for `poll`.
            let n = match rustix::io::read(&self.stdin, &mut buffer) {
                Err(Errno::INTR | Errno::AGAIN) => return Ok(()),
                done => done?,
            };
            self.open = n > 0;
            for &byte in &buffer[..n] {
                if byte == b'\n' {
                    let line = std::mem::take(&mut self.typed);
                    run_command(String::from_utf8_lossy(&line).trim(), reactor)?;
                } else if self.typed.len() < LONGEST_LINE {
                    self.typed.push(byte);
                }
            }
            Ok(())
        }
    }

    fn run_command(command: &str, reactor: &mut Reactor) -> Result<()> {
        let mut out = stdout().lock();
        match command {
            "" => {}
            "stats" => writeln!(out, "{}", reactor.stats())?,
            "connections" => {
                let all: Vec<_> = reactor.net().snapshots().collect();
                for snapshot in &all {
                    writeln!(out, "{snapshot}, {}", reactor.handler_name(snapshot.id).unwrap_or("?"))?;
                }
                writeln!(out, "{} connections", all.len())?;
            }
            "quit" => reactor.handle().stop()?,
            _ => writeln!(out, "{command:?} is none of: stats, connections, quit")?,
        }
        out.flush()
    }
}
