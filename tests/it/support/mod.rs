//! Shared by the tests on real sockets: a reactor on its own thread, clients with long timeouts, and bytes that can be
//! checked.
//!
//! Invariant: every wait is bounded by [`PATIENCE`], and its failure names what it waited for. Nothing here checks how
//! long a wait took.

pub(crate) mod datagrams;
pub(crate) mod process;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use turnwheel::codec::{AnyCodec, Codec, Framing};
use turnwheel::{Closed, Context, Handle, Handler, Limits, Listening, Net, Reactor, Report, Stats};

/// The timeout of every wait. Chosen: far longer than any wait takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(25);

/// A reactor on its own thread.
pub(crate) struct Server {
    pub(crate) listening: Vec<Listening>,
    pub(crate) handle: Handle,
    seen: Arc<(Mutex<Stats>, Condvar)>,
    thread: Option<JoinHandle<Outcome>>,
}

/// The result of a stopped server.
pub(crate) struct Outcome {
    pub(crate) stats: Stats,
    pub(crate) report: Report,
}

impl Server {
    /// Returns the address of the first socket.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr_of(0)
    }

    /// Returns the address of the first socket of the `n`th [`Listening`].
    pub(crate) fn addr_of(&self, n: usize) -> SocketAddr {
        self.listening[n].local_addr().unwrap()
    }

    /// Returns the counters after the last turn.
    pub(crate) fn stats(&self) -> Stats {
        self.seen.0.lock().unwrap().clone()
    }

    /// Waits until `done` returns `true` for the counters, and returns them.
    pub(crate) fn wait_for(&self, what: &str, mut done: impl FnMut(&Stats) -> bool) -> Stats {
        let until = Instant::now() + PATIENCE;
        let mut stats = self.seen.0.lock().unwrap();
        while !done(&stats) {
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "timed out waiting for {what}: {stats}");
            stats = self.seen.1.wait_timeout(stats, left).unwrap().0;
        }
        stats.clone()
    }

    /// Stops the reactor and returns its result.
    pub(crate) fn stop(mut self) -> Outcome {
        self.handle.stop().unwrap();
        self.join()
    }

    /// Waits until the reactor has stopped and returns its result.
    pub(crate) fn join(&mut self) -> Outcome {
        let thread = self.thread.take().unwrap();
        let until = Instant::now() + PATIENCE;
        while !thread.is_finished() {
            assert!(Instant::now() < until, "the reactor does not stop: {}", self.stats());
            thread::sleep(Duration::from_millis(1));
        }
        thread.join().expect("the reactor's thread panicked")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Stop twice: the second stop ends the grace period, so open connections do not delay the end of the test.
        let _ = self.handle.stop();
        let _ = self.handle.stop();
    }
}

/// Starts a reactor. `set_up` adds the handlers.
pub(crate) fn serve<F>(limits: Limits, set_up: F) -> Server
where
    F: FnOnce(&mut Reactor) -> io::Result<Vec<Listening>> + Send + 'static,
{
    let seen = Arc::new((Mutex::new(Stats::default()), Condvar::new()));
    let shown = Arc::clone(&seen);
    let (ready, started) = mpsc::channel();
    let thread = thread::spawn(move || {
        let mut reactor = Reactor::with_limits(limits).unwrap();
        let listening = set_up(&mut reactor).unwrap();
        ready.send((listening, reactor.handle())).unwrap();
        drop(ready);
        while reactor.last_shutdown().is_none() {
            reactor.turn(None).unwrap();
            *shown.0.lock().unwrap() = reactor.stats();
            shown.1.notify_all();
        }
        Outcome { stats: reactor.stats(), report: reactor.last_shutdown().unwrap() }
    });
    let (listening, handle) = started.recv_timeout(PATIENCE).expect("the reactor did not start");
    Server { listening, handle, seen, thread: Some(thread) }
}

/// Starts a reactor with one handler on a free port of 127.0.0.1.
pub(crate) fn serve_one<H, F>(limits: Limits, make: F) -> Server
where
    H: Handler,
    F: FnOnce() -> H + Send + 'static,
{
    serve(limits, |reactor| Ok(vec![reactor.listen("127.0.0.1:0", make())?]))
}

/// Runs turns of a reactor on this thread until `done` returns `true`.
#[track_caller]
pub(crate) fn turn_until(reactor: &mut Reactor, what: &str, mut done: impl FnMut(&mut Reactor) -> bool) {
    let until = Instant::now() + PATIENCE;
    while !done(reactor) {
        assert!(Instant::now() < until, "timed out waiting for {what}: {}", reactor.stats());
        reactor.turn(Some(Duration::from_millis(1))).unwrap();
    }
}

/// Connects, and sets read and write timeouts.
pub(crate) fn connect(to: SocketAddr) -> TcpStream {
    patient(TcpStream::connect_timeout(&to, PATIENCE).expect("cannot connect"))
}

/// Sends without delay, and waits for no longer than [`PATIENCE`].
fn patient(stream: TcpStream) -> TcpStream {
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Whether there is IPv6 here. If not, says that the test is skipped.
pub(crate) fn has_ipv6() -> bool {
    let has = std::net::TcpListener::bind("[::1]:0").is_ok();
    if !has {
        eprintln!("skipped: no IPv6 here");
    }
    has
}

/// Connects with small kernel buffers on the client side.
pub(crate) fn connect_narrow(to: SocketAddr, bytes: usize) -> TcpStream {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(bytes).unwrap();
    socket.set_send_buffer_size(bytes).unwrap();
    socket.connect_timeout(&to.into(), PATIENCE).expect("cannot connect");
    patient(socket.into())
}

/// Drops a stream so that the peer receives RST.
pub(crate) fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

/// Returns whether an error is a timeout.
pub(crate) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Reads exactly `n` bytes.
pub(crate) fn read_n(stream: &mut impl Read, n: usize) -> Vec<u8> {
    let mut data = vec![0; n];
    let mut have = 0;
    while have < n {
        match stream.read(&mut data[have..]) {
            Ok(0) => panic!("end of stream after {have} of {n} bytes"),
            Ok(more) => have += more,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => panic!("after {have} of {n} bytes: {e}"),
        }
    }
    data
}

/// Reads to the end of the stream, which must be a clean end (FIN).
pub(crate) fn read_to_end(stream: &mut impl Read) -> Vec<u8> {
    let (data, end) = read_to_any_end(stream);
    if let Err(e) = end {
        panic!("after {} bytes: {e}", data.len());
    }
    data
}

/// Reads to the end of the stream or to an error other than a timeout. Returns the bytes before it, and how it ended.
pub(crate) fn read_to_any_end(stream: &mut impl Read) -> (Vec<u8>, io::Result<()>) {
    let mut data = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (data, Ok(())),
            Ok(n) => data.extend_from_slice(&buffer[..n]),
            Err(e) if is_timeout(&e) => panic!("timed out after {} bytes", data.len()),
            Err(e) => return (data, Err(e)),
        }
    }
}

/// Sends `data` and expects the same back.
pub(crate) fn echo(stream: &mut (impl Read + Write), data: &[u8]) {
    stream.write_all(data).unwrap();
    let back = read_n(stream, data.len());
    assert!(back == data, "the echo of {} bytes differs", data.len());
}

/// Returns eight bytes of the stream `seed`. Different streams and different parts of a stream differ.
fn word(seed: u64, n: usize) -> [u8; 8] {
    let x = (n as u64 + 1 + (seed << 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x ^ x >> 29).wrapping_mul(0xff51_afd7_ed55_8ccd).to_le_bytes()
}

/// Returns the `n`th byte of the stream `seed`.
pub(crate) fn byte(seed: u64, n: usize) -> u8 {
    word(seed, n / 8)[n % 8]
}

/// Returns the first `len` bytes of the stream `seed`.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut data: Vec<u8> = (0..len.div_ceil(8)).flat_map(|n| word(seed, n)).collect();
    data.truncate(len);
    data
}

/// Returns messages of one size, from the streams 0, 1, 2 and so on.
pub(crate) fn patterns(count: usize, len: usize) -> Arc<Vec<Vec<u8>>> {
    Arc::new((0..count).map(|seed| pattern(seed as u64, len)).collect())
}

/// Checks that `data` is the first `len` bytes of the stream `seed`.
pub(crate) fn check_pattern(seed: u64, len: usize, data: &[u8]) {
    assert_eq!(data.len(), len, "bytes of stream {seed}");
    let expected = pattern(seed, len);
    let wrong = || data.iter().zip(&expected).position(|(a, b)| a != b);
    assert!(data == expected, "first wrong byte of {len} in stream {seed}: {:?}", wrong());
}

/// Parses a codec spec.
pub(crate) fn codec(spec: &str) -> AnyCodec {
    spec.parse().unwrap_or_else(|e| panic!("{e}"))
}

/// Encodes messages with the codec of a spec.
pub(crate) fn wire<M: AsRef<[u8]>>(spec: &str, messages: &[M]) -> Vec<u8> {
    let codec = codec(spec);
    let mut out = Vec::new();
    for message in messages {
        codec.encode(message.as_ref(), &mut out).unwrap();
    }
    out
}

/// Wraps a handler, and reports each `on_close`.
pub(crate) struct Watch<H> {
    inner: H,
    ends: Sender<Closed>,
}

impl<H: Handler> Watch<H> {
    pub(crate) fn new(inner: H, ends: Sender<Closed>) -> Self {
        Self { inner, ends }
    }
}

impl<H: Handler> Handler for Watch<H> {
    type State = H::State;

    fn on_open(&mut self, cx: &mut Context<'_>) -> H::State {
        self.inner.on_open(cx)
    }

    fn on_data(&mut self, cx: &mut Context<'_>, state: &mut H::State, data: &[u8]) {
        self.inner.on_data(cx, state, data);
    }

    fn on_end(&mut self, cx: &mut Context<'_>, state: &mut H::State) {
        self.inner.on_end(cx, state);
    }

    fn on_drain(&mut self, cx: &mut Context<'_>, state: &mut H::State) {
        self.inner.on_drain(cx, state);
    }

    fn on_shutdown(&mut self, cx: &mut Context<'_>, state: &mut H::State) {
        self.inner.on_shutdown(cx, state);
    }

    fn on_close(&mut self, net: &mut Net<'_>, state: H::State, closed: &Closed) {
        self.inner.on_close(net, state, closed);
        let _ = self.ends.send(closed.clone());
    }

    fn framing(&self) -> Framing {
        self.inner.framing()
    }
}

/// Waits for the next `on_close`.
pub(crate) fn next_end(ends: &Receiver<Closed>) -> Closed {
    ends.recv_timeout(PATIENCE).expect("no connection ended")
}
