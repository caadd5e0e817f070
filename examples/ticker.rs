//! Sends a line to every client each second, and every line that is typed on standard input. Both come from other
//! threads.
//!
//! ```text
//! cargo run --release --example ticker -- --every 1      # listens on 127.0.0.1:7005
//! nc 127.0.0.1 7005                                      # in other terminals, as often as you like
//! ```

// The lint is for the library. A program may start threads; they reach the reactor through a `Handle`.
#![allow(clippy::disallowed_methods)]

mod common;

use std::io::BufRead;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Parser;
use turnwheel::{Context, Group, Handle, HandleError, Handler};

/// Sends a line to every client each second, and each line of standard input as it arrives. Ctrl-C shuts it down
/// gracefully.
#[derive(Parser)]
#[command(name = "ticker")]
struct Arguments {
    /// Where to listen: HOST:PORT, [IPV6]:PORT or unix:PATH
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:7005")]
    addresses: Vec<String>,

    /// Seconds between two lines
    #[arg(long, value_name = "SECS", default_value = "1", value_parser = common::interval)]
    every: Duration,

    #[command(flatten)]
    options: common::Options,
}

/// Adds its clients to a group, and ignores their input.
struct Subscribers(Group);

impl Handler for Subscribers {
    type State = ();

    fn on_open(&mut self, cx: &mut Context<'_>) {
        cx.join(self.0);
    }

    fn on_data(&mut self, _cx: &mut Context<'_>, _state: &mut (), _data: &[u8]) {}
}

/// Broadcasts a line from another thread. Returns `false` if the reactor was dropped.
fn say(handle: &Handle, to: Group, line: String) -> bool {
    match handle.broadcast(to, line) {
        Ok(()) => true,
        Err(HandleError::Full(line)) => {
            eprintln!("the command queue is full; not sent: {}", line.escape_ascii());
            true
        }
        Err(HandleError::Gone(_)) => false,
    }
}

/// Runs the ticking thread. Returns when the reactor was dropped.
fn tick(handle: &Handle, to: Group, every: Duration) {
    let mut n: u64 = 0;
    loop {
        thread::sleep(every);
        n += 1;
        if !say(handle, to, format!("tick {n}\n")) {
            return;
        }
    }
}

/// Runs the thread that reads standard input. Returns at its end, or when the reactor was dropped.
fn relay_input(handle: &Handle, to: Group) {
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { return };
        if !say(handle, to, line + "\n") {
            return;
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    common::serve(&arguments.options, arguments.options.limits(), |reactor| {
        let to = reactor.net().group().ok_or_else(|| std::io::Error::other("limit of groups reached"))?;
        let key = reactor.add(Subscribers(to))?;
        common::listen_all(reactor, &arguments.addresses, key)?;
        let (ticker, reader) = (reactor.handle(), reactor.handle());
        thread::spawn(move || tick(&ticker, to, arguments.every));
        thread::spawn(move || relay_input(&reader, to));
        Ok(())
    })
}
