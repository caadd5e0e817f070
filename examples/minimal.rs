//! An echo server written by hand on mio, without the library, as a baseline for `echo`.
//!
//! It reads, writes back, and does nothing else. It has no limits and no timeouts, closes a peer that sends and does
//! not read, ends at the first error of `accept` or `poll`, counts and logs nothing, and runs until it is killed. Do
//! not build on it. `tests/minimal.py` measures what one ping costs each of the two servers.
//!
//! ```text
//! cargo run --release --example minimal                       # listens on 127.0.0.1:7000
//! nc 127.0.0.1 7000                                           # type a line; the server returns it
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
    // Not `println!`, which panics if nobody reads it.
    let _ = writeln!(std::io::stdout(), "listening on {}", listener.local_addr()?);
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

/// Accepts all waiting connections.
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

/// Reads all available input and sends it back. Returns `false` if the connection has ended.
fn echo(stream: &mut TcpStream, event: &Event, buffer: &mut [u8]) -> bool {
    loop {
        match stream.read(buffer) {
            Ok(0) => return false,
            Ok(n) => {
                if stream.write_all(&buffer[..n]).is_err() {
                    return false;
                }
                // A short read emptied the socket, and more input makes a new event. Not so if the peer has closed its
                // end: that event was already delivered.
                if n < buffer.len() && !event.is_read_closed() {
                    return true;
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
            Err(_) => return false,
        }
    }
}
