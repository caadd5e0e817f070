//! The real system: mio's poll, the operating system's sockets, and its clock.
//!
//! Only this folder names mio's socket types. It keeps no per-connection state and makes no decisions.
//!
//! Invariant: every hint that the peer has closed, that an error is pending or that urgent data has arrived also sets
//! `READABLE`, so that a caller that reads until `WouldBlock` misses nothing.

mod datagram;
mod descriptors;
mod listener;
#[cfg(any(target_os = "linux", target_vendor = "apple"))]
mod packet_info;

use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind, IoSlice, Read};
use std::net::{Shutdown, SocketAddr};
#[cfg(unix)]
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::mio::event::{Event, Source};
use ::mio::{Events, Interest, Poll, Token};
use socket2::SockRef;

use self::descriptors::HeldDescriptors;
pub(crate) use self::listener::Listener;
use self::listener::Listening;
use super::resolver::{Resolve, Resolver, resolve_with_system};
#[cfg(unix)]
use super::unix_socket;
use super::{CloseHow, Ready, Received, Sys, Wake, dial, socket};
use crate::config::address::Address;
use crate::config::connect::{ConnectOptions, Existing};
use crate::config::listen::{ListenOptions, ListenTarget};
use crate::time::Time;

/// The real implementation of [`Sys`].
#[derive(Debug)]
pub(crate) struct MioSys {
    poll: Poll,
    events: Events,
    waker: Arc<MioWaker>,
    base: Instant,
    /// Created with the first lookup.
    resolver: Option<Resolver>,
    resolve: Resolve,
    /// The randomly keyed hasher of `std`, the source of [`Sys::random`].
    seed: RandomState,
    drawn: u64,
    held: HeldDescriptors,
}

impl MioSys {
    /// Creates the poll. `events_capacity` is the number of events that one wait can return.
    #[allow(clippy::disallowed_methods)] // The one place that reads the clock.
    pub(crate) fn new(events_capacity: usize) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(MioWaker(::mio::Waker::new(poll.registry(), WAKER)?));
        Ok(Self {
            poll,
            events: Events::with_capacity(events_capacity),
            waker,
            base: Instant::now(),
            resolver: None,
            resolve: resolve_with_system,
            seed: RandomState::new(),
            drawn: 0,
            held: HeldDescriptors::default(),
        })
    }

    /// Replaces the system's resolver.
    #[cfg(test)]
    pub(crate) fn set_resolve(&mut self, resolve: Resolve) {
        self.resolve = resolve;
    }

    fn resolver(&mut self) -> &Resolver {
        let waker = || Arc::<MioWaker>::clone(&self.waker) as Arc<dyn Wake>;
        self.resolver.get_or_insert_with(|| Resolver::new(waker(), self.resolve))
    }

    fn deregister(&self, source: &mut (impl Source + ?Sized)) {
        match self.poll.registry().deregister(source) {
            // ENOENT: it was not registered, for example because that has failed.
            Err(error) if error.kind() != ErrorKind::NotFound => log::debug!("cannot deregister: {error}"),
            _ => {}
        }
    }
}

/// Evaluates the same expression for whichever socket it is.
macro_rules! each {
    ($kind:ident, $either:expr, $socket:ident => $call:expr) => {
        match $either {
            $kind::Tcp($socket) => $call,
            #[cfg(unix)]
            $kind::Unix($socket) => $call,
        }
    };
}

/// A connection.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(::mio::net::TcpStream),
    #[cfg(unix)]
    Unix(::mio::net::UnixStream),
}

impl Sys for MioSys {
    type Listener = Listener;
    type Stream = Stream;

    #[inline]
    fn now(&mut self) -> Time {
        // 64 bits of nanoseconds overflow after 584 years.
        let elapsed = self.base.elapsed();
        Time(elapsed.as_secs().wrapping_mul(1_000_000_000).wrapping_add(u64::from(elapsed.subsec_nanos())))
    }

    fn poll(&mut self, ready: &mut Vec<Ready>, timeout: Option<Duration>) -> io::Result<bool> {
        match self.poll.poll(&mut self.events, timeout.map(|timeout| timeout.min(LONGEST_WAIT))) {
            // A signal ended the wait before it looked. The loop waits again, for what is left of the timeout.
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(true),
            other => other?,
        }
        ready.extend(self.events.iter().filter(|event| event.token() != WAKER).map(ready_of));
        // Counts the waker's event as well, because it takes up capacity.
        Ok(self.events.iter().count() >= self.events.capacity())
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::<MioWaker>::clone(&self.waker)
    }

    fn descriptor_limit(&mut self) -> Option<(usize, usize)> {
        descriptors::limit()
    }

    fn hold_descriptors(&mut self, n: usize) -> io::Result<()> {
        self.held.hold(n)
    }

    fn resolve(
        &mut self,
        host: &str,
        port: u16,
        within: Duration,
        stopped: &dyn Fn() -> bool,
    ) -> io::Result<Vec<SocketAddr>> {
        self.resolver().wait_for(host, port, within, stopped)
    }

    fn listen(&mut self, at: ListenTarget, options: &ListenOptions) -> io::Result<Listener> {
        match at {
            ListenTarget::Tcp(address) => Ok(Listener::tcp(socket::open_tcp(address, options)?, options)),
            #[cfg(unix)]
            ListenTarget::Unix(path) => {
                let (listener, file) = unix_socket::open_unix(&path, options)?;
                Ok(Listener::unix(listener, Some(file), options))
            }
            ListenTarget::TcpListener(listener) => Listener::adopt_tcp(listener, options)
                .map_err(|error| socket::cannot_listen(&"the given TCP listener", &error)),
            #[cfg(unix)]
            ListenTarget::UnixListener(listener) => socket::require_listening(SockRef::from(&listener))
                .and_then(|()| listener.set_nonblocking(true))
                .map_err(|error| socket::cannot_listen(&"the given Unix listener", &error))
                .map(|()| Listener::unix(listener, None, options)),
        }
    }

    fn local_addr(&self, listener: &Listener) -> io::Result<Address> {
        #[cfg(unix)]
        if let Some(file) = &listener.file {
            return Ok(Address::Unix(Some(file.as_given().to_owned())));
        }
        match &listener.socket {
            Listening::Tcp(socket) => socket.local_addr().map(Address::Tcp),
            #[cfg(unix)]
            Listening::Unix(socket) => Ok(unix_address(socket.local_addr()?.as_pathname())),
        }
    }

    fn add_listener(&mut self, listener: &mut Listener, token: usize) -> io::Result<()> {
        let registry = self.poll.registry();
        each!(Listening, &mut listener.socket, socket => registry.register(socket, Token(token), Interest::READABLE))
    }

    fn close_listener(&mut self, mut listener: Listener) {
        each!(Listening, &mut listener.socket, socket => self.deregister(socket));
    }

    fn accept(&mut self, listener: &mut Listener) -> io::Result<(Stream, Address)> {
        match &listener.socket {
            Listening::Tcp(socket) => {
                let (stream, peer) = uninterrupted(|| socket.accept())?;
                listener.tune_tcp(&stream);
                Ok((Stream::Tcp(stream), Address::Tcp(unmapped(peer))))
            }
            #[cfg(unix)]
            Listening::Unix(socket) => {
                let (stream, peer) = uninterrupted(|| accept_unix(socket))?;
                listener.tune_unix(SockRef::from(&stream));
                Ok((Stream::Unix(stream), peer))
            }
        }
    }

    fn connect(&mut self, to: &Address, options: &ConnectOptions) -> io::Result<Stream> {
        match to {
            Address::Tcp(to) => Ok(Stream::Tcp(::mio::net::TcpStream::from_std(dial::open_tcp(*to, options)?))),
            #[cfg(unix)]
            Address::Unix(Some(path)) => {
                Ok(Stream::Unix(::mio::net::UnixStream::from_std(dial::open_unix(path, options)?)))
            }
            Address::Unix(_) => {
                Err(io::Error::new(ErrorKind::Unsupported, "this kind of Unix socket is not supported here"))
            }
        }
    }

    fn finish_connect(&mut self, stream: &mut Stream) -> io::Result<Address> {
        match stream {
            Stream::Tcp(stream) => dial::finish_tcp(SockRef::from(&*stream)).map(Address::Tcp),
            #[cfg(unix)]
            Stream::Unix(stream) => {
                if let Some(error) = stream.take_error()? {
                    return Err(error);
                }
                Ok(unix_address(stream.peer_addr()?.as_pathname()))
            }
        }
    }

    fn take_over(&mut self, existing: Existing, options: &ConnectOptions) -> io::Result<(Stream, Address)> {
        match existing {
            Existing::Tcp(stream) => {
                let peer = unmapped(stream.peer_addr()?);
                dial::prepare(SockRef::from(&stream), options)?;
                socket::set_tcp_options(SockRef::from(&stream), options.nodelay, options.keepalive)?;
                Ok((Stream::Tcp(::mio::net::TcpStream::from_std(stream)), Address::Tcp(peer)))
            }
            #[cfg(unix)]
            Existing::Unix(stream) => {
                let peer = unix_address(stream.peer_addr()?.as_pathname());
                dial::prepare(SockRef::from(&stream), options)?;
                Ok((Stream::Unix(::mio::net::UnixStream::from_std(stream)), peer))
            }
        }
    }

    fn begin_lookup(&mut self, number: u64, host: &str, port: u16) -> io::Result<()> {
        self.resolver().begin(number, host, port)
    }

    fn next_lookup(&mut self) -> Option<(u64, io::Result<Vec<SocketAddr>>)> {
        self.resolver.as_ref()?.next()
    }

    fn cancel_lookup(&mut self, number: u64) {
        if let Some(resolver) = &self.resolver {
            resolver.cancel(number);
        }
    }

    fn random(&mut self) -> u64 {
        self.drawn += 1;
        self.seed.hash_one(self.drawn)
    }

    fn add_stream(&mut self, stream: &mut Stream, token: usize) -> io::Result<()> {
        each!(Stream, stream, stream => self.poll.registry().register(stream, Token(token), STREAM))
    }

    #[inline]
    fn read(&mut self, stream: &mut Stream, buf: &mut [u8]) -> io::Result<Received> {
        match stream {
            Stream::Tcp(stream) => {
                let len = uninterrupted(|| stream.read(buf))?;
                Ok(Received { len, drained: SHORT_IS_DRAINED && len < buf.len() })
            }
            // A short read may end at a passed descriptor (SCM_RIGHTS) with more data behind it, so it does not mean
            // drained.
            #[cfg(unix)]
            Stream::Unix(stream) => {
                let len = uninterrupted(|| stream.read(buf))?;
                Ok(Received { len, drained: false })
            }
        }
    }

    #[inline]
    fn write(&mut self, stream: &mut Stream, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        // Through `try_io`: on Windows, mio must see a `WouldBlock` to re-arm the socket for the next readiness event.
        each!(Stream, stream, stream => uninterrupted(|| stream.try_io(|| send(SockRef::from(&*stream), bufs))))
    }

    fn shutdown_write(&mut self, stream: &mut Stream) -> io::Result<()> {
        each!(Stream, stream, stream => stream.shutdown(Shutdown::Write))
    }

    fn take_error(&mut self, stream: &mut Stream) -> io::Result<Option<io::Error>> {
        each!(Stream, stream, stream => stream.take_error())
    }

    fn close(&mut self, stream: Stream, how: CloseHow) {
        match stream {
            Stream::Tcp(mut stream) => {
                // Explicitly: closing does not remove the socket from epoll while a duplicate of the descriptor, for
                // example in a forked child, is still open (epoll(7)).
                self.deregister(&mut stream);
                // SO_LINGER of zero: close(2) discards the send buffer and sends RST.
                if how == CloseHow::Reset
                    && let Err(error) = SockRef::from(&stream).set_linger(Some(Duration::ZERO))
                {
                    log::debug!("cannot reset a connection: {error}");
                }
            }
            #[cfg(unix)]
            Stream::Unix(mut stream) => self.deregister(&mut stream),
        }
    }

    fn add_source(&mut self, source: &mut dyn Source, token: usize, interest: Interest) -> io::Result<()> {
        self.poll.registry().register(source, Token(token), interest)
    }

    fn remove_source(&mut self, source: &mut dyn Source) {
        self.deregister(source);
    }
}

#[cfg(unix)]
impl AsFd for MioSys {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.poll.registry().as_fd()
    }
}

#[inline]
fn ready_of(event: &Event) -> Ready {
    let mut bits = 0;
    if event.is_readable() {
        bits |= Ready::READABLE;
    }
    if event.is_writable() {
        bits |= Ready::WRITABLE;
    }
    if event.is_read_closed() || event.is_write_closed() {
        bits |= Ready::READABLE | Ready::WRITABLE | Ready::HINT;
    }
    if event.is_priority() {
        bits |= Ready::READABLE | Ready::HINT;
    }
    if event.is_error() {
        bits |= Ready::READABLE | Ready::WRITABLE | Ready::HINT | Ready::ERROR;
    }
    Ready { token: event.token().0, bits }
}

/// Converts an IPv4-mapped peer address of a dual-stack listener to IPv4. (`to_canonical` would lose the scope of a
/// link-local address.)
fn unmapped(peer: SocketAddr) -> SocketAddr {
    match peer {
        SocketAddr::V6(v6) => v6.ip().to_ipv4_mapped().map_or(peer, |v4| SocketAddr::from((v4, v6.port()))),
        SocketAddr::V4(_) => peer,
    }
}

#[inline]
fn send(socket: SockRef<'_>, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
    match bufs {
        [one] => socket.send_with_flags(one, NO_SIGNAL),
        _ => socket.send_vectored_with_flags(bufs, NO_SIGNAL),
    }
}

#[inline]
fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Accepts a Unix connection. Does not use mio's `accept`, which panics if the client is bound to a path of 108
/// bytes, as any client may be: Linux then returns a length that includes a zero byte beyond the structure.
#[cfg(unix)]
fn accept_unix(listener: &::mio::net::UnixListener) -> io::Result<(::mio::net::UnixStream, Address)> {
    let (stream, peer) = SockRef::from(listener).accept()?;
    stream.set_nonblocking(true)?;
    Ok((::mio::net::UnixStream::from_std(stream.into()), unix_address(peer.as_pathname())))
}

/// Returns the address of a Unix socket. One without a name has no path, or an empty one.
#[cfg(unix)]
fn unix_address(path: Option<&std::path::Path>) -> Address {
    Address::Unix(path.filter(|path| !path.as_os_str().is_empty()).map(std::path::Path::to_owned))
}

#[derive(Debug)]
struct MioWaker(::mio::Waker);

impl Wake for MioWaker {
    fn wake(&self) -> io::Result<()> {
        self.0.wake()
    }
}

/// The waker's token. No other source has it, because tokens of slots never reach this value.
const WAKER: Token = Token(usize::MAX);

/// The longest wait in one poll. Chosen: epoll_wait(2) takes an `int` of milliseconds, about 24 days; an hour is far
/// below that, and waking once an hour costs nothing.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// The interests of a stream, registered once. Edge-triggered: mio sets EPOLLET. EPOLLPRI reports urgent data.
#[cfg(any(target_os = "linux", target_os = "android"))]
const STREAM: Interest = Interest::READABLE.add(Interest::WRITABLE).add(Interest::PRIORITY);
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const STREAM: Interest = Interest::READABLE.add(Interest::WRITABLE);

/// Whether a TCP read that does not fill the buffer has drained the socket, unless a hint says otherwise. epoll(7)
/// guarantees it for edge-triggered streams; elsewhere the loop reads until `WouldBlock`.
const SHORT_IS_DRAINED: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// `MSG_NOSIGNAL`, from the system's sys/socket.h: a write to a closed peer returns EPIPE and does not raise SIGPIPE,
/// even if the program does not ignore that signal. Zero on Apple systems, where a socket option does the same
/// ([`Listener::tune_tcp`]), and where there are no signals.
const NO_SIGNAL: i32 = if cfg!(any(target_os = "linux", target_os = "android")) {
    0x4000
} else if cfg!(target_os = "freebsd") {
    0x2_0000
} else if cfg!(any(target_os = "netbsd", target_os = "openbsd", target_os = "dragonfly")) {
    0x400
} else if cfg!(any(target_os = "illumos", target_os = "solaris")) {
    0x200
} else {
    0
};

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::config::listen::Keepalive;

    const TOKEN: usize = 7;
    /// No wait here takes that long unless something is broken.
    const PATIENCE: Duration = Duration::from_secs(20);

    fn world() -> MioSys {
        MioSys::new(64).unwrap()
    }

    fn listen(sys: &mut MioSys, options: &ListenOptions) -> (Listener, SocketAddr) {
        let listener = sys.listen(ListenTarget::Tcp("127.0.0.1:0".parse().unwrap()), options).unwrap();
        let at = sys.local_addr(&listener).unwrap().tcp().unwrap();
        (listener, at)
    }

    /// A registered connection and its client.
    fn pair(sys: &mut MioSys) -> (Stream, TcpStream) {
        let (mut listener, at) = listen(sys, &ListenOptions::default());
        sys.add_listener(&mut listener, 1).unwrap();
        let client = TcpStream::connect(at).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        wait_for(sys, 1, Ready::READABLE);
        let (mut stream, peer) = sys.accept(&mut listener).unwrap();
        assert_eq!(peer, Address::Tcp(client.local_addr().unwrap()));
        assert_eq!(sys.accept(&mut listener).unwrap_err().kind(), ErrorKind::WouldBlock);
        sys.close_listener(listener);
        sys.add_stream(&mut stream, TOKEN).unwrap();
        (stream, client)
    }

    /// Waits until all of `wanted` has been reported, and returns everything that was reported.
    #[track_caller]
    fn wait_for(sys: &mut MioSys, token: usize, wanted: u8) -> u8 {
        let (mut bits, start) = (0, sys.now());
        while bits & wanted != wanted {
            assert!(sys.now().since(start) < PATIENCE, "got {bits:#b} of {wanted:#b}");
            let mut ready = Vec::new();
            sys.poll(&mut ready, Some(PATIENCE)).unwrap();
            bits |= ready.iter().filter(|ready| ready.token == token).fold(0, |bits, ready| bits | ready.bits);
        }
        bits
    }

    fn read(sys: &mut MioSys, stream: &mut Stream, capacity: usize) -> (Vec<u8>, bool) {
        let mut buf = vec![0; capacity];
        let Received { len, drained } = sys.read(stream, &mut buf).unwrap();
        buf.truncate(len);
        (buf, drained)
    }

    #[test]
    fn accepted_streams_have_the_options_of_their_listener() {
        let mut sys = world();
        let keepalive = Keepalive { idle: Duration::from_secs(61), interval: Duration::from_secs(21), tries: 4 };
        for on in [true, false] {
            let options = ListenOptions { nodelay: on, keepalive: on.then_some(keepalive), ..Default::default() };
            let (own, own_at) = listen(&mut sys, &options);
            let adopted = TcpListener::bind("127.0.0.1:0").unwrap();
            let adopted_at = adopted.local_addr().unwrap();
            let adopted = sys.listen(ListenTarget::TcpListener(adopted), &options).unwrap();
            for (mut listener, at) in [(own, own_at), (adopted, adopted_at)] {
                sys.add_listener(&mut listener, 1).unwrap();
                let _client = TcpStream::connect(at).unwrap();
                wait_for(&mut sys, 1, Ready::READABLE);
                let Ok((Stream::Tcp(stream), _)) = sys.accept(&mut listener) else { panic!("no TCP stream") };
                assert_eq!(sys.accept(&mut listener).unwrap_err().kind(), ErrorKind::WouldBlock);
                let socket = SockRef::from(&stream);
                assert_eq!(socket.tcp_nodelay().unwrap(), on);
                assert_eq!(socket.keepalive().unwrap(), on);
                #[cfg(target_os = "linux")]
                if on {
                    assert_eq!(socket.tcp_keepalive_time().unwrap(), keepalive.idle);
                    assert_eq!(socket.tcp_keepalive_interval().unwrap(), keepalive.interval);
                    assert_eq!(socket.tcp_keepalive_retries().unwrap(), keepalive.tries);
                }
            }
        }
    }

    #[test]
    fn an_ipv4_peer_of_an_ipv6_listener_is_shown_as_such() {
        let shown = |peer: &str| unmapped(peer.parse().unwrap()).to_string();
        assert_eq!(shown("[::ffff:127.0.0.1]:7"), "127.0.0.1:7");
        assert_eq!(shown("127.0.0.1:7"), "127.0.0.1:7");
        assert_eq!(shown("[::1]:7"), "[::1]:7");
        assert_eq!(shown("[fe80::1%2]:7"), "[fe80::1%2]:7");
    }

    #[test]
    fn a_short_read_is_drained_and_a_full_one_is_not() {
        let mut sys = world();
        let (mut stream, mut client) = pair(&mut sys);
        client.write_all(b"hello").unwrap();
        wait_for(&mut sys, TOKEN, Ready::READABLE);
        assert_eq!(read(&mut sys, &mut stream, 3), (b"hel".to_vec(), false));
        assert_eq!(read(&mut sys, &mut stream, 3), (b"lo".to_vec(), SHORT_IS_DRAINED));
        // After "drained", the next byte is reported.
        client.write_all(b"!").unwrap();
        wait_for(&mut sys, TOKEN, Ready::READABLE);
        assert_eq!(read(&mut sys, &mut stream, 3).0, b"!");
        assert_eq!(sys.read(&mut stream, &mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_urgent_byte_gives_a_hint_for_a_read_stops_short_of_it() {
        let mut sys = world();
        let (mut stream, mut client) = pair(&mut sys);
        client.write_all(b"abc").unwrap();
        SockRef::from(&client).send_out_of_band(b"!").unwrap();
        client.write_all(b"def").unwrap();
        wait_for(&mut sys, TOKEN, Ready::READABLE | Ready::HINT);
        assert_eq!(read(&mut sys, &mut stream, 16), (b"abc".to_vec(), true));
        assert_eq!(read(&mut sys, &mut stream, 16).0, b"def");
        assert_eq!(sys.read(&mut stream, &mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    }

    #[test]
    fn the_end_of_input_is_hint_seen_and_the_other_direction_goes_on() {
        let mut sys = world();
        let (mut stream, mut client) = pair(&mut sys);
        client.write_all(b"bye").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        wait_for(&mut sys, TOKEN, Ready::READABLE | Ready::WRITABLE | Ready::HINT);
        assert_eq!(read(&mut sys, &mut stream, 16).0, b"bye");
        assert_eq!(read(&mut sys, &mut stream, 16).0, b"");
        let parts = [IoSlice::new(b"good"), IoSlice::new(b"bye")];
        assert_eq!(sys.write(&mut stream, &parts).unwrap(), 7);
        assert_eq!(sys.write(&mut stream, &parts[..1]).unwrap(), 4);
        sys.shutdown_write(&mut stream).unwrap();
        let mut all = String::new();
        client.read_to_string(&mut all).unwrap();
        assert_eq!(all, "goodbyegood");
    }

    #[test]
    fn a_reset_is_hint_seen_and_its_error_is_told_once() {
        let mut sys = world();
        let (mut stream, client) = pair(&mut sys);
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        wait_for(&mut sys, TOKEN, Ready::READABLE | Ready::WRITABLE | Ready::HINT | Ready::ERROR);
        let error = sys.take_error(&mut stream).unwrap().unwrap();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert!(sys.take_error(&mut stream).unwrap().is_none());
    }

    #[test]
    fn a_write_to_a_peer_that_is_gone_is_an_error() {
        for slices in [1, 64] {
            let mut sys = world();
            let (mut stream, client) = pair(&mut sys);
            SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
            drop(client);
            wait_for(&mut sys, TOKEN, Ready::ERROR);
            let bufs = vec![IoSlice::new(b"x"); slices];
            let kinds = [(); 2].map(|()| sys.write(&mut stream, &bufs).unwrap_err().kind());
            assert!(kinds.iter().all(|k| matches!(k, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)), "{kinds:?}");
        }
    }

    #[test]
    fn a_full_peer_blocks_and_is_reported_when_it_has_space() {
        let mut sys = world();
        let (mut stream, mut client) = pair(&mut sys);
        let block = vec![0; 1 << 16];
        let mut written = 0;
        let error = loop {
            match sys.write(&mut stream, &[IoSlice::new(&block), IoSlice::new(&block)]) {
                Ok(n) => written += n,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        let mut ready = Vec::new();
        sys.poll(&mut ready, Some(Duration::ZERO)).unwrap(); // Takes the events from before the WouldBlock.
        client.read_exact(&mut vec![0; written]).unwrap();
        wait_for(&mut sys, TOKEN, Ready::WRITABLE);
        assert!(sys.write(&mut stream, &[IoSlice::new(b"x")]).is_ok());
    }

    #[test]
    fn a_graceful_close_ends_and_a_reset_breaks() {
        for how in [CloseHow::Graceful, CloseHow::Reset] {
            let mut sys = world();
            let (mut stream, mut client) = pair(&mut sys);
            sys.write(&mut stream, &[IoSlice::new(b"last")]).unwrap();
            let mut last = [0; 4];
            client.read_exact(&mut last).unwrap();
            sys.close(stream, how);
            let end = client.read(&mut last).map_err(|error| error.kind());
            assert_eq!(end, if how == CloseHow::Reset { Err(ErrorKind::ConnectionReset) } else { Ok(0) }, "{how:?}");
        }
    }

    #[test]
    fn what_was_never_registered_can_be_closed() {
        let mut sys = world();
        let (mut listener, at) = listen(&mut sys, &ListenOptions::default());
        sys.add_listener(&mut listener, 1).unwrap();
        for how in [CloseHow::Graceful, CloseHow::Reset] {
            let mut client = TcpStream::connect(at).unwrap();
            wait_for(&mut sys, 1, Ready::READABLE);
            let (stream, _) = sys.accept(&mut listener).unwrap();
            sys.close(stream, how);
            assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)));
        }
        let (never, _) = listen(&mut sys, &ListenOptions::default());
        sys.close_listener(never);
    }

    #[test]
    fn a_closed_listener_refuses() {
        let mut sys = world();
        let (listener, at) = listen(&mut sys, &ListenOptions::default());
        sys.close_listener(listener);
        assert!(TcpStream::connect(at).is_err());
    }

    #[test]
    fn a_duplicate_of_a_closed_stream_is_not_reported() {
        let mut sys = world();
        let (stream, mut client) = pair(&mut sys);
        let Stream::Tcp(socket) = &stream else { panic!("no TCP stream") };
        let _duplicate = SockRef::from(socket).try_clone().unwrap();
        let mut ready = Vec::new();
        sys.poll(&mut ready, Some(Duration::ZERO)).unwrap();
        sys.close(stream, CloseHow::Graceful);
        client.write_all(b"x").unwrap();
        ready.clear();
        sys.poll(&mut ready, Some(Duration::from_millis(1))).unwrap();
        assert_eq!(ready, []);
    }

    #[test]
    fn a_wake_ends_the_wait_and_is_no_event() {
        let mut sys = world();
        let waker = sys.waker();
        let start = sys.now();
        let mut ready = Vec::new();
        // Before the wait, and during it.
        waker.wake().unwrap();
        waker.wake().unwrap();
        sys.poll(&mut ready, Some(PATIENCE)).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| waker.wake().unwrap());
            sys.poll(&mut ready, Some(PATIENCE)).unwrap();
        });
        assert_eq!(ready, []);
        assert!(sys.now().since(start) < PATIENCE);
    }

    #[test]
    fn a_wait_is_as_long_as_was_asked_and_brings_no_more_than_fits() {
        let mut sys = MioSys::new(1).unwrap();
        let (mut pairs, mut ready) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            pairs.push(pair(&mut sys));
        }
        for (_, client) in &mut pairs {
            client.write_all(b"x").unwrap();
        }
        let mut readable = 0;
        while readable < pairs.len() {
            ready.clear();
            assert!(sys.poll(&mut ready, Some(PATIENCE)).unwrap(), "there may be more");
            assert!(ready.len() <= 1);
            readable += ready.iter().filter(|ready| ready.bits & Ready::READABLE != 0).count();
        }
        ready.clear();
        let start = sys.now();
        assert!(!sys.poll(&mut ready, Some(Duration::from_millis(2))).unwrap());
        assert!(sys.now().since(start) >= Duration::from_millis(2));
        assert!(!sys.poll(&mut ready, Some(Duration::ZERO)).unwrap());
        assert_eq!(ready, []);
        // A wake-up takes up capacity, so there may be more events.
        sys.waker().wake().unwrap();
        assert!(sys.poll(&mut ready, Some(PATIENCE)).unwrap());
        assert_eq!(ready, []);
    }

    #[test]
    fn names_are_resolved_without_doubles() {
        let mut sys = world();
        let mut resolve = |host: &str, port| sys.resolve(host, port, PATIENCE, &|| false);
        let found = resolve("localhost", 7000).unwrap();
        assert!(found.contains(&"127.0.0.1:7000".parse().unwrap()) || found.contains(&"[::1]:7000".parse().unwrap()));
        assert!((1..found.len()).all(|i| !found[..i].contains(&found[i])));
        assert_eq!(resolve("::1", 1).unwrap(), ["[::1]:1".parse().unwrap()]);
        let error = resolve("no\0such", 1).unwrap_err().to_string();
        assert!(error.starts_with("cannot resolve \"no\\0such\": "), "{error}");
    }

    #[test]
    fn the_limit_of_descriptors_is_read() {
        let line = |soft| format!("Limit   Soft Limit  Hard Limit Units\nMax open files   {soft}   20000   files\n");
        assert_eq!(descriptors::open_files_limit(&line("1024")), Some(1024));
        assert_eq!(descriptors::open_files_limit(&line("unlimited")), None);
        assert_eq!(descriptors::open_files_limit(""), None);
        let mut sys = world();
        if !cfg!(target_os = "linux") {
            return assert_eq!(sys.descriptor_limit(), None);
        }
        let _many: Vec<_> = (0..100).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        let (most, open) = sys.descriptor_limit().unwrap();
        assert!(open > 100 && open < most, "{open} of {most}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_child_process_inherits_no_descriptor() {
        let mut sys = world();
        let (_stream, _client) = pair(&mut sys);
        let (_listener, _) = listen(&mut sys, &ListenOptions::default());
        let child = std::process::Command::new("ls")
            .args(["-l", "/proc/self/fd"])
            .stdin(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .output()
            .unwrap();
        let open = String::from_utf8(child.stdout).unwrap();
        assert!(open.contains("pipe:"), "{open}");
        assert!(!open.contains("socket:") && !open.contains("anon_inode:"), "{open}");
    }

    #[cfg(unix)]
    mod unix {
        use std::os::unix::net::{UnixListener, UnixStream};
        use std::path::PathBuf;

        use super::*;

        fn path(name: &str) -> PathBuf {
            let name = format!("turnwheel-mio-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            let _ = std::fs::remove_file(&path);
            path
        }

        #[test]
        fn a_unix_stream_is_read_until_it_would_block() {
            let (mut sys, path) = (world(), path("read"));
            let mut listener = sys.listen(ListenTarget::Unix(path.clone()), &ListenOptions::default()).unwrap();
            assert_eq!(sys.local_addr(&listener).unwrap(), Address::Unix(Some(path.clone())));
            sys.add_listener(&mut listener, 1).unwrap();
            let mut client = UnixStream::connect(&path).unwrap();
            wait_for(&mut sys, 1, Ready::READABLE);
            let (mut stream, peer) = sys.accept(&mut listener).unwrap();
            assert_eq!(peer, Address::Unix(None));
            assert_eq!(sys.accept(&mut listener).unwrap_err().kind(), ErrorKind::WouldBlock);
            sys.add_stream(&mut stream, TOKEN).unwrap();
            client.write_all(b"hello").unwrap();
            wait_for(&mut sys, TOKEN, Ready::READABLE);
            assert_eq!(read(&mut sys, &mut stream, 16), (b"hello".to_vec(), false));
            assert_eq!(sys.read(&mut stream, &mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
            assert_eq!(sys.write(&mut stream, &[IoSlice::new(b"a"), IoSlice::new(b"b")]).unwrap(), 2);
            drop(client);
            wait_for(&mut sys, TOKEN, Ready::READABLE | Ready::HINT);
            let error = sys.write(&mut stream, &[IoSlice::new(b"a"), IoSlice::new(b"b")]).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error}");
            sys.close(stream, CloseHow::Reset);
            sys.close_listener(listener);
            assert!(!path.exists());
        }

        #[test]
        fn the_buffers_of_unix_streams_are_set() {
            let (mut sys, path) = (world(), path("buffers"));
            let options = ListenOptions { send_buffer: Some(30_000), ..ListenOptions::default() };
            let mut listener = sys.listen(ListenTarget::Unix(path.clone()), &options).unwrap();
            let _client = UnixStream::connect(&path).unwrap();
            let Ok((Stream::Unix(stream), _)) = sys.accept(&mut listener) else { panic!("no Unix stream") };
            assert!((30_000..=60_000).contains(&SockRef::from(&stream).send_buffer_size().unwrap()));
            sys.close_listener(listener);
        }

        #[test]
        fn the_file_of_an_adopted_listener_stays() {
            let (mut sys, path) = (world(), path("adopted"));
            let existing = UnixListener::bind(&path).unwrap();
            let mut listener = sys.listen(ListenTarget::UnixListener(existing), &ListenOptions::default()).unwrap();
            assert_eq!(sys.local_addr(&listener).unwrap(), Address::Unix(Some(path.clone())));
            assert_eq!(sys.accept(&mut listener).unwrap_err().kind(), ErrorKind::WouldBlock);
            sys.close_listener(listener);
            assert!(path.exists());
            std::fs::remove_file(&path).unwrap();
        }

        /// One byte longer than a path with a terminating zero can be. Rust code cannot create such a client without
        /// `unsafe`, but any other program can.
        #[cfg(target_os = "linux")]
        #[test]
        fn a_client_with_the_longest_path_is_accepted() {
            let (mut sys, path) = (world(), path("longest"));
            let mut listener = sys.listen(ListenTarget::Unix(path.clone()), &ListenOptions::default()).unwrap();
            let mut long = path.clone().into_os_string();
            long.push("x".repeat(108 - long.len()));
            let script = "use Socket; socket(S, AF_UNIX, SOCK_STREAM, 0) or die;
                bind(S, pack('Sa108', AF_UNIX, $ARGV[0])) or die; connect(S, pack_sockaddr_un($ARGV[1])) or die;";
            match std::process::Command::new("perl").args(["-e", script]).arg(&long).arg(&path).status() {
                Err(error) => println!("skipped: no perl here: {error}"),
                Ok(status) => {
                    assert!(status.success());
                    let (_, peer) = sys.accept(&mut listener).unwrap();
                    assert_eq!(peer, Address::Unix(Some(PathBuf::from(&long))));
                    std::fs::remove_file(&long).unwrap();
                }
            }
            sys.close_listener(listener);
        }
    }
}
