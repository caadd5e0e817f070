//! The kernel over loopback: the real system under test, and clients with sockets of their own.

use std::io::{self, ErrorKind, Read};
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use super::{Heard, World};
use crate::config::address::Address;
use crate::sys::Sys;
use crate::sys::mio::{Listener, MioSys};

pub(super) struct Kernel {
    sys: MioSys,
    unix: bool,
    at: Option<SockAddr>,
    clients: Vec<Option<Socket>>,
    /// The listener that the system under test connects to.
    theirs: Option<Socket>,
    /// Its file, if it is a Unix socket: the kernel leaves it behind.
    their_file: Option<PathBuf>,
}

impl Drop for Kernel {
    fn drop(&mut self) {
        if let Some(file) = self.their_file.take() {
            // Where nobody was to listen, there is none.
            let _ = std::fs::remove_file(file);
        }
    }
}

impl Kernel {
    pub(super) fn new(unix: bool) -> Self {
        Self { sys: MioSys::new(64).unwrap(), unix, at: None, clients: Vec::new(), theirs: None, their_file: None }
    }

    fn client(&self, client: usize) -> &Socket {
        self.clients[client].as_ref().unwrap()
    }
}

impl World for Kernel {
    type S = MioSys;

    fn sys(&mut self) -> &mut MioSys {
        &mut self.sys
    }

    fn is_real(&self) -> bool {
        true
    }

    fn is_strict(&self) -> bool {
        false
    }

    fn is_unix(&self) -> bool {
        self.unix
    }

    fn set_listener(&mut self, listener: &Listener) {
        self.at = Some(match self.sys.local_addr(listener).unwrap() {
            Address::Tcp(at) => at.into(),
            Address::Unix(path) => SockAddr::unix(path.unwrap()).unwrap(),
        });
    }

    fn connect(&mut self) -> io::Result<()> {
        let domain = if self.unix { Domain::UNIX } else { Domain::IPV4 };
        let socket = Socket::new(domain, Type::STREAM, None)?;
        if !self.unix {
            // A buffer of explicit size does not grow by itself.
            socket.set_recv_buffer_size(16 * 1024)?;
        }
        match socket.connect(self.at.as_ref().unwrap()) {
            // Closing the listener has removed its file.
            Err(e) if self.unix && e.kind() == ErrorKind::NotFound => {
                return Err(ErrorKind::ConnectionRefused.into());
            }
            done => done?,
        }
        socket.set_nonblocking(true)?;
        self.clients.push(Some(socket));
        Ok(())
    }

    fn target(&mut self, anybody: bool) -> Address {
        let domain = if self.unix { Domain::UNIX } else { Domain::IPV4 };
        let at = if self.unix {
            let file = super::path();
            self.their_file = Some(file.clone());
            SockAddr::unix(file).unwrap()
        } else {
            SockAddr::from("127.0.0.1:0".parse::<SocketAddr>().unwrap())
        };
        let listener = Socket::new(domain, Type::STREAM, None).unwrap();
        if anybody || !self.unix {
            listener.bind(&at).unwrap();
        }
        if anybody {
            listener.listen(1).unwrap();
        }
        let at = if self.unix { at } else { listener.local_addr().unwrap() };
        self.theirs = anybody.then_some(listener);
        match at.as_socket() {
            Some(at) => Address::Tcp(at),
            None => Address::Unix(at.as_pathname().map(std::path::Path::to_owned)),
        }
    }

    fn refuse(&mut self) {}

    fn meet(&mut self) {
        let (client, _) = self.theirs.take().unwrap().accept().unwrap();
        client.set_nonblocking(true).unwrap();
        self.clients.push(Some(client));
    }

    fn send(&mut self, client: usize, bytes: &[u8]) -> bool {
        match self.client(client).send(bytes) {
            Ok(n) => n == bytes.len(),
            Err(e) if matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => false,
            Err(e) => panic!("{e}"),
        }
    }

    fn send_urgent(&mut self, client: usize) {
        self.client(client).send_out_of_band(b"!").unwrap();
    }

    fn finish(&mut self, client: usize) {
        self.client(client).shutdown(Shutdown::Write).unwrap();
    }

    fn hang_up(&mut self, client: usize) {
        self.clients[client] = None;
    }

    fn reset(&mut self, client: usize) {
        self.client(client).set_linger(Some(Duration::ZERO)).unwrap();
        self.clients[client] = None;
    }

    fn hear(&mut self, client: usize, most: usize) -> Heard {
        let mut buf = vec![0; most];
        match self.client(client).read(&mut buf) {
            Ok(0) => Heard::End,
            Ok(n) => Heard::Bytes(buf[..n].to_vec()),
            Err(e) if e.kind() == ErrorKind::WouldBlock => Heard::Nothing,
            Err(e) if e.kind() == ErrorKind::ConnectionReset => Heard::Reset,
            Err(e) => panic!("{e}"),
        }
    }

    fn could_hear(&mut self, client: usize, most: usize) -> usize {
        let mut buf = vec![MaybeUninit::uninit(); most];
        self.client(client).peek(&mut buf).unwrap_or(0)
    }
}
