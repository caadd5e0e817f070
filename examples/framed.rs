//! A message echo server: answers each message with the same message, however its bytes are split on arrival.
//!
//! ```text
//! cargo run --release --example framed                        # 127.0.0.1:7002, a 4-byte length before each message
//! printf '\0\0\0\005hello' | nc -N 127.0.0.1 7002
//! cargo run --release --example framed -- --frame dec:10      # the 10-character header of Python tutorials
//! ```

mod common;

use std::process::ExitCode;

use clap::Parser;
use turnwheel::codec::AnyCodec;
use turnwheel::{Echo, Framed};

/// Answers each message with the same message. Ctrl-C shuts it down gracefully.
#[derive(Parser)]
#[command(name = "framed")]
struct Arguments {
    /// Where to listen: HOST:PORT, [IPV6]:PORT or unix:PATH
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:7002")]
    addresses: Vec<String>,

    /// How messages are framed: raw, lines, len:u32be, dec:10, varint, netstring, delim:\0, fixed:64, with options such
    /// as max=1MiB after commas
    #[arg(long, value_name = "SPEC", default_value = "len:u32be")]
    frame: AnyCodec,

    #[command(flatten)]
    options: common::Options,
}

fn main() -> ExitCode {
    let arguments: Arguments = common::parse();
    let mut limits = arguments.options.limits();
    limits.fit(&arguments.frame);
    common::serve(&arguments.options, limits, |reactor| {
        let framed = reactor.add(Framed::new(arguments.frame, Echo))?;
        common::listen_all(reactor, &arguments.addresses, framed)
    })
}
