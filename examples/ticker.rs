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

use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::Parser;
use common::stdio::{each_line, say};
use turnwheel::{Context, Group, Handle, HandleError, Handler, Net};

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
    #[arg(allow_negative_numbers = true)]
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

/// Runs the ticking thread. Returns when the reactor was dropped.
fn tick(handle: &Handle, to: Group, every: Duration) {
    for n in 1_u64.. {
        thread::sleep(every);
        match handle.broadcast(to, format!("tick {n}\n")) {
            Ok(()) => {}
            Err(HandleError::Full(_)) => say(format_args!("the command queue is full; tick {n} is not sent")),
            Err(HandleError::Gone(_)) => return,
        }
    }
}

/// Runs the thread that reads standard input. Returns at its end, or when the reactor was dropped.
fn relay_input(handle: &Handle, to: Group) {
    each_line(|line| {
        // Input may come faster than clients read: go on when the one that is furthest behind has caught up.
        let mut behind = send(handle, to, line);
        while behind.is_some_and(|bytes| bytes > MOST_BEHIND) {
            thread::sleep(Duration::from_millis(1));
            behind = send(handle, to, Vec::new());
        }
        behind.is_some()
    });
}

/// Sends a line to all clients, or nothing if it is empty. Returns how many bytes are unsent to the one that is
/// furthest behind; `None` when the reactor was dropped.
fn send(handle: &Handle, to: Group, line: Vec<u8>) -> Option<usize> {
    let (reply, answer) = mpsc::sync_channel(1);
    let mut on_loop = move |net: &mut Net<'_>| {
        if !line.is_empty() {
            net.broadcast(to, &line);
        }
        let behind = net.members(to).filter_map(|id| net.pending_of(id)).max();
        let _ = reply.send(behind.unwrap_or(0));
    };
    while let Err(refused) = handle.run(on_loop) {
        let HandleError::Full(back) = refused else { return None };
        on_loop = back;
        thread::sleep(Duration::from_millis(1));
    }
    answer.recv().ok()
}

/// Bytes. A client that is further behind is waited for (chosen; the hard limit of a connection is 2 MiB).
const MOST_BEHIND: usize = 256 * 1024;

fn main() -> ExitCode {
    let arguments: Arguments = common::parse();
    common::serve(&arguments.options, arguments.options.limits(), |reactor| {
        let to = reactor.net().group().ok_or_else(|| std::io::Error::other("limit of groups reached"))?;
        let key = reactor.add(Subscribers(to))?;
        common::listen_all(reactor, &arguments.addresses, key)?;
        let (ticker, reader) = (reactor.handle(), reactor.handle());
        thread::Builder::new().spawn(move || tick(&ticker, to, arguments.every))?;
        thread::Builder::new().spawn(move || relay_input(&reader, to))?;
        Ok(())
    })
}
