//! An echo server: sends back every byte that it receives.
//!
//! ```text
//! cargo run --release --example echo                          # listens on 127.0.0.1:7000
//! nc 127.0.0.1 7000                                           # type a line; the server returns it
//! cargo run --release --example echo -- [::1]:7000 unix:/tmp/echo.sock --stats 5
//! systemd-socket-activate -l 7000 target/release/examples/echo    # with listeners of a supervisor
//! ```

mod common;

use std::process::ExitCode;

use clap::Parser;
use turnwheel::Echo;

/// Sends back every byte that it receives. Ctrl-C shuts it down gracefully.
#[derive(Parser)]
#[command(name = "echo")]
struct Arguments {
    /// Where to listen: HOST:PORT, [IPV6]:PORT or unix:PATH [default: 127.0.0.1:7000, unless a supervisor passes
    /// listeners in LISTEN_FDS]
    #[arg(value_name = "ADDR")]
    addresses: Vec<String>,

    #[command(flatten)]
    options: common::Options,
}

fn main() -> ExitCode {
    let arguments: Arguments = common::parse();
    common::serve(&arguments.options, arguments.options.limits(), |reactor| {
        let echo = reactor.add(Echo)?;
        let inherited = common::listen_inherited(reactor, echo)?;
        if inherited == 0 && arguments.addresses.is_empty() {
            return common::listen_all(reactor, &["127.0.0.1:7000".to_owned()], echo);
        }
        common::listen_all(reactor, &arguments.addresses, echo)
    })
}
