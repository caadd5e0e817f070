//! A broadcast server: sends what one client sends to all the others. With `--telnet` it is a chat room for people.
//!
//! ```text
//! cargo run --release --example broadcast -- --telnet    # listens on 127.0.0.1:7001
//! telnet 127.0.0.1 7001                                  # or nc, in two terminals; type in one, read in the other
//! ```

mod common;

use std::process::ExitCode;

use clap::Parser;
use turnwheel::codec::AnyCodec;
use turnwheel::{Broadcast, Framed, Telnet};

/// Sends what one client sends to all the others. Ctrl-C shuts it down gracefully.
#[derive(Parser)]
#[command(name = "broadcast")]
struct Arguments {
    /// Where to listen: HOST:PORT, [IPV6]:PORT or unix:PATH
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:7001")]
    addresses: Vec<String>,

    /// How messages are framed: raw, lines, len:u32be, dec:10, varint, netstring, delim:\0, fixed:64, with options such
    /// as max=1MiB after commas
    #[arg(long, value_name = "SPEC", default_value = "raw")]
    frame: AnyCodec,

    /// Serve people who type lines at telnet or nc: answer telnet's options, and send no control characters
    #[arg(long, conflicts_with = "frame")]
    telnet: bool,

    /// Send a message back to its sender as well
    #[arg(long)]
    include_sender: bool,

    #[command(flatten)]
    options: common::Options,
}

fn main() -> ExitCode {
    let arguments: Arguments = common::parse();
    let mut limits = arguments.options.limits();
    limits.fit(&arguments.frame);
    common::serve(&arguments.options, limits, |reactor| {
        let room = if arguments.include_sender { Broadcast::to_all() } else { Broadcast::to_others() };
        if arguments.telnet {
            let room = reactor.add(Telnet::new(LINE, room)?)?;
            return common::listen_all(reactor, &arguments.addresses, room);
        }
        let room = reactor.add(Framed::new(arguments.frame, room))?;
        common::listen_all(reactor, &arguments.addresses, room)
    })
}

/// The longest line of a person, in bytes. Chosen: a terminal passes on no more than 4 095 bytes in one line.
const LINE: usize = 4096;
