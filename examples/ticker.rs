//! A line for every client each second, from a thread of its own; and so is every line typed here.
//!
//! ```text
//! cargo run --release --example ticker -- --every 1      # listens on 127.0.0.1:7005
//! nc 127.0.0.1 7005                                      # in another terminal, any number of times
//! ```

// The library starts no thread; a program may, and reaches the reactor by a `Handle`.
#![allow(clippy::disallowed_methods)]

mod common;

use std::io::BufRead;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Parser;
use turnwheel::{Context, Group, Handle, HandleError, Handler};

/// Sends a line to every client each second, and every line of its input as it comes. Ctrl-C ends it in good order.
#[derive(Parser)]
#[command(name = "ticker")]
struct Arguments {
    /// Where to listen: HOST:PORT, [IPV6]:PORT or unix:PATH
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:7005")]
    addresses: Vec<String>,

    /// Seconds from one line to the next
    #[arg(long, value_name = "SECS", default_value = "1", value_parser = common::interval)]
    every: Duration,

    #[command(flatten)]
    options: common::Options,
}

/// Puts its clients into a group, and hears nothing of what they say.
struct Subscribers(Group);

impl Handler for Subscribers {
    type State = ();

    fn on_open(&mut self, cx: &mut Context<'_>) {
        cx.join(self.0);
    }

    fn on_data(&mut self, _cx: &mut Context<'_>, _state: &mut (), _data: &[u8]) {}
}

/// Broadcasts a line from another thread. False when there is nobody to do it any more.
fn say(handle: &Handle, to: Group, line: String) -> bool {
    match handle.broadcast(to, line) {
        Ok(()) => true,
        Err(HandleError::Full(line)) => {
            eprintln!("too much waits already, and this is not sent: {}", line.escape_ascii());
            true
        }
        Err(HandleError::Gone(_)) => false,
    }
}

/// The thread that ticks. It ends when the reactor has gone.
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

/// The thread that reads what is typed.
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
        let to = reactor.net().group().ok_or_else(|| std::io::Error::other("no room for a group"))?;
        let key = reactor.add(Subscribers(to))?;
        common::listen_all(reactor, &arguments.addresses, key)?;
        let (ticker, reader) = (reactor.handle(), reactor.handle());
        thread::spawn(move || tick(&ticker, to, arguments.every));
        thread::spawn(move || relay_input(&reader, to));
        Ok(())
    })
}
