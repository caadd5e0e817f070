//! A datagram echo server: sends every datagram back to its sender, over UDP or Unix sockets.
//!
//! ```text
//! cargo run --release --example udp_echo                      # receives on 127.0.0.1:7004
//! nc -u 127.0.0.1 7004                                        # type a line; the server returns it
//! cargo run --release --example udp_echo -- [::]:7004 unix:/tmp/echo.sock --max-size 1500 --stats 5
//! ```

mod common;

use std::io;
use std::process::ExitCode;

use clap::{Parser, value_parser};
use common::stdio::{print, say};
use turnwheel::{Address, DatagramContext, DatagramHandler, Datagrams, Limits};

/// The most that the library allows, in bytes.
const MOST: i64 = 16 * 1024 * 1024;

/// Sends every datagram back to its sender. Ctrl-C shuts it down gracefully.
#[derive(Parser)]
#[command(name = "udp_echo")]
struct Arguments {
    /// Where to receive: HOST:PORT, [IPV6]:PORT or unix:PATH
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:7004")]
    addresses: Vec<String>,

    /// Accept datagrams of up to this many bytes; discard and report longer ones
    #[arg(long, value_name = "BYTES", default_value_t = 65_535, value_parser = value_parser!(u32).range(1..=MOST))]
    max_size: u32,

    /// Answer one source at most so many times a second: two servers that answer each other stop there
    #[arg(long, value_name = "DATAGRAMS", default_value_t = 10_000, value_parser = value_parser!(u32).range(1..))]
    rate: u32,

    /// Set SO_REUSEPORT, so that other sockets with this option can bind the same port
    #[arg(long)]
    reuse_port: bool,

    #[command(flatten)]
    options: common::Basic,
}

/// Echoes datagrams. Reports the first, second, fourth, eighth error and so on, to keep the output short.
#[derive(Default)]
struct Echo {
    too_long: u64,
    errors: u64,
}

/// Adds one to `count`. Returns whether to print a line: when the count is a power of two.
fn worth_a_line(count: &mut u64) -> bool {
    *count += 1;
    count.is_power_of_two()
}

impl DatagramHandler for Echo {
    fn on_datagram(&mut self, cx: &mut DatagramContext<'_>, from: &Address, data: &[u8]) {
        cx.send_to(from, data);
    }

    fn on_truncated(&mut self, _cx: &mut DatagramContext<'_>, from: &Address, max: usize) {
        if worth_a_line(&mut self.too_long) {
            say(format_args!("a datagram from {from} has more than {max} bytes ({} so far)", self.too_long));
        }
    }

    fn on_error(&mut self, cx: &mut DatagramContext<'_>, error: &io::Error) {
        if worth_a_line(&mut self.errors) {
            say(format_args!("{}: {error} ({} errors so far)", cx.local_addr(), self.errors));
        }
    }
}

fn main() -> ExitCode {
    let arguments: Arguments = common::parse();
    common::serve(arguments.options, Limits::default(), |reactor| {
        let echo = reactor.add_datagrams(Echo::default());
        for at in &arguments.addresses {
            let at = Datagrams::new(at).max_size(arguments.max_size as usize).source_rate(arguments.rate);
            let at = at.reuse_port(arguments.reuse_port);
            for address in reactor.bind_on(at, echo)?.addresses() {
                print(format_args!("listening on {address}"));
            }
        }
        Ok(())
    })
}
