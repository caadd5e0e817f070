//! An echo server written by hand on mio, without the library: what `echo` is to be compared with.
//!
//! It reads, writes back, and does nothing else. There are no limits and no timeouts; a peer that sends and does not
//! read is cut; one error of accepting or polling ends it; nothing is counted or logged, and it ends by being killed.
//! Do not build on it: `tests/minimal.py` shows what each of the two servers costs for one ping.
//!
//! ```text
//! cargo run --release --example minimal                       # listens on 127.0.0.1:7000
//! nc 127.0.0.1 7000                                           # type a line, see it again
//! ```

use std::io::{ErrorKind, Read, Result, Write};

use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

const LISTENER: Token = Token(usize::MAX);

fn main() -> Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7000".to_string());
    let mut listener = TcpListener::bind(address.parse().map_err(std::io::Error::other)?)?;
    println!("listening on {}", listener.local_addr()?);
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(1024);
    let mut streams: Slab<TcpStream> = Slab::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for event in &events {
            if event.token() == LISTENER {
                accept(&poll, &listener, &mut streams)?;
            } else if let Some(stream) = streams.get_mut(event.token().0)
                && !echo(stream, event, &mut buffer)
            {
                streams.remove(event.token().0);
            }
        }
    }
}

/// Takes all who wait.
fn accept(poll: &Poll, listener: &TcpListener, streams: &mut Slab<TcpStream>) -> Result<()> {
    loop {
        match listener.accept() {
            Ok((mut stream, _)) => {
                stream.set_nodelay(true)?;
                let entry = streams.vacant_entry();
                poll.registry().register(&mut stream, Token(entry.key()), Interest::READABLE)?;
                entry.insert(stream);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Sends back what there is. False when the connection is at its end.
fn echo(stream: &mut TcpStream, event: &Event, buffer: &mut [u8]) -> bool {
    loop {
        match stream.read(buffer) {
            Ok(0) => return false,
            Ok(n) => {
                if stream.write_all(&buffer[..n]).is_err() {
                    return false;
                }
                // The next event comes when there is more, unless the end has been announced already.
                if n < buffer.len() && !event.is_read_closed() {
                    return true;
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
            Err(_) => return false,
        }
    }
}
