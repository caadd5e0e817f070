//! A proxy: forwards the bytes of each client to a target, and back.
//!
//! ```text
//! cargo run --release --example proxy -- 127.0.0.1:7009 example.org:80     # each may be unix:PATH
//! printf 'GET / HTTP/1.0\r\nHost: example.org\r\n\r\n' | nc -N 127.0.0.1 7009
//! ```
//!
//! Backpressure keeps the queues at a few hundred KiB, however fast one side sends and however slowly the other reads:
//! the two ends are linked, and the reactor stops reading the faster side. Each half closes when its sender has
//! finished. If the target cannot be reached, the client receives the error text.

mod common;

use std::collections::BTreeMap;
use std::io;
use std::process::ExitCode;

use clap::Parser;
use turnwheel::{AttemptId, Closed, ConnId, Connect, Context, Endpoint, Handler, Net, Origin, Reason};

/// Forwards the bytes of each client to a target, and back. Ctrl-C shuts it down gracefully.
#[derive(Parser)]
#[command(name = "proxy")]
struct Arguments {
    /// Where to listen: HOST:PORT, [IPV6]:PORT or unix:PATH
    #[arg(value_name = "LISTEN")]
    listen: Endpoint,

    /// Where to connect to: HOST:PORT, [IPV6]:PORT or unix:PATH
    #[arg(value_name = "TARGET")]
    target: Endpoint,

    #[command(flatten)]
    options: common::Options,
}

struct Proxy {
    target: Endpoint,
    /// For each end of a pair, the other end.
    pairs: BTreeMap<ConnId, ConnId>,
}

impl Proxy {
    /// Links a client with the connection that was opened for it.
    fn pair(&mut self, net: &mut Net<'_>, client: ConnId, upstream: ConnId) {
        self.pairs.extend([(client, upstream), (upstream, client)]);
        net.link(client, upstream);
        net.link(upstream, client);
        net.resume_id(client);
    }
}

impl Handler for Proxy {
    /// For a client: the connect attempt to the target.
    type State = Option<AttemptId>;

    fn on_open(&mut self, cx: &mut Context<'_>) -> Self::State {
        let id = cx.id();
        match cx.origin() {
            Origin::Accepted(_) => {
                // Do not read from the client before the target is connected.
                cx.pause();
                let attempt = cx.connect(Connect::new(self.target.clone()), id.to_bits());
                if attempt.is_none() {
                    cx.send("proxy: too many pending connections\n");
                    cx.close();
                }
                return attempt;
            }
            Origin::Connected(tag) if cx.is_open(ConnId::from_bits(tag)) => {
                self.pair(cx, ConnId::from_bits(tag), id);
            }
            // The client closed while the target was connecting.
            _ => cx.close(),
        }
        None
    }

    fn on_data(&mut self, cx: &mut Context<'_>, _state: &mut Self::State, data: &[u8]) {
        if let Some(other) = self.pairs.get(&cx.id()) {
            cx.send_to(*other, data);
        }
    }

    fn on_end(&mut self, cx: &mut Context<'_>, _state: &mut Self::State) {
        match self.pairs.get(&cx.id()) {
            Some(other) => drop(cx.shutdown_write_id(*other)),
            None => cx.close(),
        }
    }

    fn on_close(&mut self, net: &mut Net<'_>, attempt: Self::State, closed: &Closed) {
        if let Some(attempt) = attempt {
            // Does nothing if the attempt has already succeeded.
            net.cancel_connect(attempt);
        }
        let Some(other) = self.pairs.remove(&closed.who) else { return };
        self.pairs.remove(&other);
        match closed.why {
            Reason::PeerReset | Reason::Io(_) => net.abort_id(other),
            _ => net.close_id(other),
        };
    }

    fn on_connect_failed(&mut self, net: &mut Net<'_>, tag: u64, error: &io::Error) {
        let client = ConnId::from_bits(tag);
        if error.kind() != io::ErrorKind::Interrupted {
            log::warn!("{client}: {error}");
        }
        net.send_to(client, format!("proxy: {error}\n"));
        net.close_id(client);
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    common::serve(&arguments.options, arguments.options.limits(), |reactor| {
        let proxy = reactor.add(Proxy { target: arguments.target, pairs: BTreeMap::new() })?;
        common::listen_all(reactor, &[arguments.listen.to_string()], proxy)
    })
}
