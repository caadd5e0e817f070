//! A proxy: forwards the bytes of each client to a target, and back.
//!
//! ```text
//! cargo run --release --example proxy -- 127.0.0.1:7009 example.org:80     # each may be unix:PATH
//! printf 'GET / HTTP/1.0\r\nHost: example.org\r\n\r\n' | nc -N 127.0.0.1 7009
//! ```
//!
//! Backpressure keeps the queues at a few hundred KiB, however fast one side sends and however slowly the other reads:
//! the two ends are linked, and the reactor stops reading the faster side. Each half closes when its sender has
//! finished. If one end is reset, the other one gets what was sent and is then reset as well. If the target cannot be
//! reached, that is logged and the client is reset: the proxy adds nothing to the stream, unless `--say-why` is given.
//!
//! A client is accepted only while there is a place for its target too. The others wait.

mod common;

use std::collections::BTreeMap;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use turnwheel::{AttemptId, Closed, ConnId, Connect, Context, Endpoint, Handler, Limit, Listen, Net, Origin, Reason};

/// Forwards the bytes of each client to a target, and back. A client and its target count as two connections. Ctrl-C
/// shuts it down gracefully.
#[derive(Parser)]
#[command(name = "proxy")]
struct Arguments {
    /// Where to listen: HOST:PORT, [IPV6]:PORT or unix:PATH
    #[arg(value_name = "LISTEN")]
    listen: Endpoint,

    /// Where to connect to: HOST:PORT, [IPV6]:PORT or unix:PATH
    #[arg(value_name = "TARGET")]
    target: Endpoint,

    /// Tell a client why its target cannot be reached, in a line of text; otherwise it is only reset
    #[arg(long)]
    say_why: bool,

    /// Cut connections whose peer takes nothing that waits for it for this many seconds, or "off" [default: as
    /// --idle-timeout]
    #[arg(long, value_name = "SECS", value_parser = common::seconds)]
    write_timeout: Option<Limit<Duration>>,

    #[command(flatten)]
    options: common::Options,
}

struct Proxy {
    target: Endpoint,
    say_why: bool,
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

    /// Ends a client that cannot be served.
    fn refuse(&self, net: &mut Net<'_>, client: ConnId, why: &str) {
        if self.say_why {
            net.send_to(client, format!("proxy: {why}\n"));
            net.close_id(client);
        } else {
            // A FIN would look like an answer without content.
            net.abort_id(client);
        }
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
                    self.refuse(cx, id, "the proxy is shutting down");
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
            Reason::PeerClosed | Reason::Shutdown if closed.unsent == 0 => net.close_id(other),
            // It must not look as if the sender had finished. What it did send is delivered.
            _ => net.close_with_reset_id(other),
        };
    }

    fn on_connect_failed(&mut self, net: &mut Net<'_>, tag: u64, error: &io::Error) {
        let client = ConnId::from_bits(tag);
        if error.kind() != io::ErrorKind::Interrupted {
            log::warn!("{client}: {error}");
        }
        self.refuse(net, client, &error.to_string());
    }
}

fn main() -> ExitCode {
    let arguments: Arguments = common::parse();
    let mut limits = arguments.options.limits();
    limits.write_stall = arguments.write_timeout.unwrap_or(limits.idle_timeout);
    common::serve(&arguments.options, limits, |reactor| {
        let Arguments { listen, target, say_why, .. } = arguments;
        let proxy = reactor.add(Proxy { target, say_why, pairs: BTreeMap::new() })?;
        common::listen_all(reactor, [Listen::new(listen).reserve_connects(1)], proxy)
    })
}
