//! A stage for one handler: the real event loop on a scripted system, named clients, and a clock that the test
//! controls.
//!
//! Uses no sockets, no threads and no real time. Transcripts are parsed in [`transcript`](super::transcript).
//! Invariant: whenever a method returns, the loop is idle until a client acts or time passes.

mod client_codec;
mod clients;
mod driving;
mod hosts;
mod parties;
mod play;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use self::client_codec::{ClientCodec, Spoken};
use self::parties::{Client, ClientState, Host};
use super::checked_handler::CheckedHandler;
use crate::builtin::Framed;
use crate::closed::{Closed, Reason};
use crate::codec::Codec;
use crate::config::limits::{Limits, PanicPolicy};
use crate::config::listen::{ListenOptions, ListenTarget};
use crate::handler::Handler;
use crate::handler::net::Net;
use crate::id::{ConnId, Generations, Key};
use crate::reactor::Report;
use crate::reactor::event_loop::EventLoop;
use crate::stats::Stats;
use crate::sys::Sys;
use crate::sys::script::{End, Script};

/// Tests one handler behind one listener with simulated clients: no sockets, no waiting.
///
/// The handler runs in the same event loop that a [`Reactor`](crate::Reactor) has, including limits and timeouts;
/// only the system below it is simulated. A test is a transcript, or a series of method calls, or a mix of both:
///
/// ```
/// use turnwheel::testing::Stage;
/// use turnwheel::{Echo, Reason};
///
/// let mut stage = Stage::new(Echo);
/// stage.play("
///     A> hello
///     A< hello
///     B> hi
///     B< hi
///     wait 10s
///     A closes
///     A closed peer_closed
/// ");
/// assert_eq!(stage.stats().open, 1);
///
/// stage.send("B", "more");
/// assert_eq!(stage.heard("B"), b"more");
/// assert_eq!(stage.closed("A"), Some(Reason::PeerClosed));
/// ```
///
/// # Transcripts
/// Each line passed to [`play`](Stage::play) is one step. Blank lines and lines that begin with `#` are ignored.
/// After each step the loop turns until it is idle. A client connects when it is first mentioned.
///
/// | step | |
/// |---|---|
/// | `A> bytes` | `A` sends these bytes and nothing more: write a line ending as `\n`. |
/// | `A< bytes` | The bytes that `A` has received begin with these. They are consumed; the rest is for later lines. |
/// | `A< ...` | Consumes whatever `A` has received, possibly nothing. |
/// | `A hears nothing` | `A` has received nothing beyond what earlier lines consumed. |
/// | `A connects` | `A` connects without sending; or connects again after its connection has ended. |
/// | `A closes`, `A resets` | `A` finishes sending (FIN), or resets the connection (RST). |
/// | `A stops reading`, `A reads on` | As if all buffers on the way to `A` were full (a slow consumer); or no longer. |
/// | `A open` | Expects that the connection is accepted and that the reactor has not begun to close it. |
/// | `A sees end`, `A sees reset` | Expects that the reactor's FIN or RST has arrived. |
/// | `A closed`, `A closed idle_timeout` | Expects that the connection has ended, for the reason of this [name](Reason::name). |
/// | `wait 10s` | Advances the clock: a whole number of `ms`, `s`, `min` or `h`. |
/// | `shutdown`, `shutdown 10s` | Begins the shutdown, with the grace period of the limits or with this one. |
///
/// For a line-based handler, write `A> hello\n`, or use [`framed`](Stage::framed) and write `A> hello`.
///
/// A callback that never returns hangs the test. (A [`Simulation`](crate::testing::Simulation) detects it.)
///
/// Bytes are written as text; spaces around them are ignored. The escapes are `\n`, `\r`, `\t`, `\0`, `\\` and `\x20`
/// (two hexadecimal digits); there are no others, and a line cannot end with a single backslash.
///
/// At the end of a transcript, everything that any client has received must have been consumed by a line.
///
/// # Clients
/// When the reactor closes a connection cleanly, its client closes its own end as soon as it sees that, as most
/// programs do. A client that has stopped reading does not see it. Clients do not respond to a FIN that leaves the
/// connection open ([`shutdown_write`](crate::Context::shutdown_write)).
///
/// # Panics
/// A stage reports every failed expectation as a panic. All methods that name a client panic if there is no client of
/// that name. All methods that turn the loop panic if it does not become idle, because the handler defers its input
/// forever or sends again on every drain. A panic in the handler propagates to the test ([`PanicPolicy::Propagate`]),
/// so that a handler written for a test may contain assertions; see [`set_panic_policy`](Stage::set_panic_policy).
pub struct Stage<H: Handler> {
    inner: EventLoop<Script>,
    key: Key<CheckedHandler<H>>,
    clients: Vec<Client>,
    hosts: Vec<Host>,
    codec: Option<Box<dyn ClientCodec>>,
    began: u64,
    shut: bool,
}

/// The result of a step, or the message of the panic.
type Done<T = ()> = Result<T, String>;

impl<H: Handler> Stage<H> {
    /// Creates a stage with the default [`Limits`].
    ///
    /// # Panics
    /// If the handler's framing does not fit them.
    #[track_caller]
    pub fn new(handler: H) -> Self {
        done(Self::with_limits(Limits::default(), handler).map_err(|e| e.to_string()))
    }

    /// Creates a stage with the given limits.
    ///
    /// # Errors
    /// `InvalidInput` if a limit is zero or contradicts another one, or if the handler's framing does not fit: the
    /// same errors as the reactor's.
    pub fn with_limits(limits: Limits, handler: H) -> io::Result<Self> {
        let mut script = Script::new();
        script.dials_wait = true;
        let began = script.clock;
        let mut inner = EventLoop::new(script, limits, Generations::new())?;
        inner.dispatcher.set_panic_policy(PanicPolicy::Propagate);
        let handler = inner.dispatcher.add(CheckedHandler::new(handler), true)?;
        let key = inner.dispatcher.key(handler);
        let at = ListenTarget::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
        let socket = inner.sys.listen(at, &ListenOptions::default())?;
        inner.add_listener(socket, handler, 0)?;
        Ok(Self { inner, key, clients: Vec::new(), hosts: Vec::new(), codec: None, began, shut: false })
    }

    /// Sets the codec of all clients: in transcripts `A> text` then sends, and `A< text` expects, one whole message.
    /// [`say`](Stage::say) and [`hear`](Stage::hear) do the same; [`send`](Stage::send) and [`heard`](Stage::heard)
    /// still use raw bytes.
    pub fn speak(&mut self, codec: impl Codec) {
        let codec = Spoken(Rc::new(codec));
        for client in &mut self.clients {
            client.ear = Some(codec.ear());
        }
        self.codec = Some(Box::new(codec));
    }

    /// Sets what happens when a callback panics. By default, a stage propagates the panic to the test.
    pub const fn set_panic_policy(&mut self, policy: PanicPolicy) {
        self.inner.dispatcher.set_panic_policy(policy);
    }

    /// Runs a transcript: see [above](Stage#transcripts).
    ///
    /// # Panics
    /// If a line is not a step (this is checked before anything runs), an expectation fails, or a client has received
    /// bytes that no line consumes. The message names the line, what was expected, and what was there instead.
    #[track_caller]
    pub fn play(&mut self, transcript: &str) {
        done(self.perform(transcript));
    }

    /// Connects a client. It may have been connected before, if that connection has ended.
    ///
    /// # Panics
    /// If it is connected already, if data that it received before has not been consumed, or if the reactor no longer
    /// listens.
    #[track_caller]
    pub fn connect(&mut self, name: &str) {
        done(self.bring(name));
    }

    /// Adds a host at an address (`"127.0.0.1:7000"`, `"example.org:80"`, `"unix:/path"`) that the handler can
    /// connect to. The first connection to it is a client of this name; the second and third have a 2 or 3 appended
    /// to the name, and so on. Connections to all other addresses are refused, and all other host names are unknown.
    ///
    /// ```
    /// use turnwheel::testing::Stage;
    /// use turnwheel::{Context, Handler, Net};
    ///
    /// struct Caller;
    ///
    /// impl Handler for Caller {
    ///     type State = ();
    ///     fn on_open(&mut self, cx: &mut Context<'_>) {
    ///         cx.send("hello");
    ///     }
    ///     fn on_data(&mut self, _cx: &mut Context<'_>, _state: &mut (), _data: &[u8]) {}
    /// }
    ///
    /// let mut stage = Stage::new(Caller);
    /// stage.host("server", "example.org:80");
    /// assert!(stage.net().connect("example.org:80", 1).is_some());
    /// stage.settle();
    /// stage.play("server< hello");
    /// ```
    ///
    /// # Panics
    /// If the address is invalid, or there is a host at it already.
    #[track_caller]
    pub fn host(&mut self, name: &str, address: &str) {
        done(self.add_host(name, address));
    }

    /// Sends bytes from a client.
    ///
    /// # Panics
    /// If it has closed its end, or its connection has ended.
    #[track_caller]
    pub fn send(&mut self, name: &str, bytes: impl AsRef<[u8]>) {
        done(self.find(name).and_then(|i| self.send_from(i, bytes.as_ref())));
    }

    /// Sends a message from a client, encoded with its codec.
    ///
    /// # Panics
    /// As [`send`](Stage::send); also if clients have no [codec](Stage::speak), or it refuses the message.
    #[track_caller]
    pub fn say(&mut self, name: &str, message: impl AsRef<[u8]>) {
        done(self.find(name).and_then(|i| self.say_from(i, message.as_ref())));
    }

    /// Takes everything that a client has received and that has not been consumed yet, as raw bytes.
    #[track_caller]
    pub fn heard(&mut self, name: &str) -> Vec<u8> {
        done(self.at_rest(name).map(|i| self.take_heard(i)))
    }

    /// Takes the next message that a client has received. Returns `None` if there is no complete one.
    ///
    /// # Panics
    /// If clients have no [codec](Stage::speak), or it cannot decode the bytes.
    #[track_caller]
    pub fn hear(&mut self, name: &str) -> Option<Vec<u8>> {
        done(self.at_rest(name).and_then(|i| self.next_message(i)))
    }

    /// Half-closes a client's connection: it finishes sending (FIN) and goes on reading. Does nothing if it has
    /// finished already.
    #[track_caller]
    pub fn finish(&mut self, name: &str) {
        done(self.find(name).and_then(|i| self.finish_from(i)));
    }

    /// Resets a client's connection (RST). Does nothing if it has ended.
    #[track_caller]
    pub fn reset(&mut self, name: &str) {
        done(self.find(name).and_then(|i| self.reset_from(i)));
    }

    /// Makes a client stop reading, as if all buffers on the way to it were full.
    #[track_caller]
    pub fn stop_reading(&mut self, name: &str) {
        done(self.find(name).and_then(|i| self.set_reading(i, false)));
    }

    /// Makes a client read again, as much as there is.
    #[track_caller]
    pub fn read_on(&mut self, name: &str) {
        done(self.find(name).and_then(|i| self.set_reading(i, true)));
    }

    /// Returns why a client's connection has ended; `None` while it has not. A connection that was refused because
    /// there were too many counts as ended, though the handler got no callback for it.
    #[track_caller]
    pub fn closed(&mut self, name: &str) -> Option<Reason> {
        let state = done(self.at_rest(name).map(|i| self.state(i)));
        if let ClientState::Ended(why) = state { Some(why) } else { None }
    }

    /// Returns what [`on_close`](Handler::on_close) received for a client's connection; `None` if it has not been
    /// called.
    #[track_caller]
    pub fn told(&mut self, name: &str) -> Option<Closed> {
        let i = done(self.at_rest(name));
        self.seen(i).and_then(|seen| seen.closed.clone())
    }

    /// Returns `true` if a client's connection is open: it is accepted, and the reactor has not begun to close it.
    #[track_caller]
    pub fn is_open(&mut self, name: &str) -> bool {
        done(self.at_rest(name).map(|i| self.state(i) == ClientState::Open))
    }

    /// Returns `true` if a client has seen the end of its input: the reactor's FIN.
    #[track_caller]
    pub fn saw_end(&mut self, name: &str) -> bool {
        done(self.at_rest(name).map(|i| self.sees(i) == Some(End::Fin)))
    }

    /// Returns `true` if the reactor has reset a client's connection (RST), as [`abort`](crate::Context::abort) does.
    #[track_caller]
    pub fn saw_reset(&mut self, name: &str) -> bool {
        done(self.at_rest(name).map(|i| self.sees(i) == Some(End::Reset)))
    }

    /// Returns the id of a client's connection, for the methods of [`net`](Stage::net).
    ///
    /// # Panics
    /// If the handler has not seen the connection: it waits to be accepted, or was refused.
    #[track_caller]
    pub fn id(&mut self, name: &str) -> ConnId {
        let i = done(self.at_rest(name));
        match self.seen(i) {
            Some(seen) => seen.id,
            None => panic!("{name} has no id: {}", self.state(i)),
        }
    }

    /// Advances the clock. Every timer and timeout that expires in this time fires at its own moment, in order of
    /// expiry.
    ///
    /// # Panics
    /// If the clock, a 64-bit count of nanoseconds, would overflow.
    #[track_caller]
    pub fn advance(&mut self, time: Duration) {
        done(self.pass(time));
    }

    /// Returns how much time has passed on the stage.
    pub const fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.inner.sys.clock - self.began)
    }

    /// Begins the shutdown: the reactor stops listening and calls [`on_shutdown`](Handler::on_shutdown) for every
    /// connection. Connections still open after `grace` are terminated; [advance](Stage::advance) the clock to get
    /// there.
    ///
    /// # Panics
    /// If a shutdown has begun already.
    #[track_caller]
    pub fn shutdown(&mut self, grace: Duration) {
        done(self.begin_shutdown(grace));
    }

    /// Returns the report of the shutdown; `None` until it has ended.
    pub const fn last_shutdown(&self) -> Option<Report> {
        self.inner.shutdown.last()
    }

    /// The handler.
    pub fn handler(&self) -> &H {
        match self.inner.dispatcher.get(self.key) {
            Some(checked) => &checked.inner,
            None => unreachable!("a handler with a key stays as long as its loop"),
        }
    }

    /// Returns the handler, mutably.
    pub fn handler_mut(&mut self) -> &mut H {
        match self.inner.dispatcher.get_mut(self.key) {
            Some(checked) => &mut checked.inner,
            None => unreachable!("a handler with a key stays as long as its loop"),
        }
    }

    /// Returns the [`Net`] that handlers use, for calls between turns. Their effects take place before the next
    /// method that names a client looks at it, or in [`settle`](Stage::settle).
    pub fn net(&mut self) -> Net<'_> {
        self.inner.update_clock();
        let handler = self.inner.dispatcher.index_of(self.key);
        Net::new(&mut self.inner.dispatcher.core, None, handler)
    }

    /// Turns the loop until it is idle.
    #[track_caller]
    pub fn settle(&mut self) {
        done(self.rest());
    }

    /// Returns a snapshot of the counters.
    pub fn stats(&self) -> Stats {
        self.inner.dispatcher.core.snapshot()
    }
}

impl<C: Codec + Clone, H: Handler> Stage<Framed<C, H>> {
    /// Creates a stage with a [`Framed`] handler, whose clients [use](Stage::speak) the same codec.
    ///
    /// ```
    /// use turnwheel::Echo;
    /// use turnwheel::codec::LengthDelimited;
    /// use turnwheel::testing::Stage;
    ///
    /// let mut stage = Stage::framed(LengthDelimited::u32_be(1024).unwrap(), Echo);
    /// stage.play("
    ///     A> hello
    ///     A< hello
    /// ");
    /// stage.send("A", b"\0\0\0\x02hi");
    /// assert_eq!(stage.heard("A"), b"\0\0\0\x02hi");
    /// ```
    ///
    /// # Panics
    /// If the framing does not fit the default limits.
    #[track_caller]
    pub fn framed(codec: C, handler: H) -> Self {
        let mut stage = Self::new(Framed::new(codec.clone(), handler));
        stage.speak(codec);
        stage
    }
}

impl<H: Handler> fmt::Debug for Stage<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stage")
            .field("clients", &self.clients)
            .field("elapsed", &self.elapsed())
            .finish_non_exhaustive()
    }
}

/// Unwraps the result of a method, or panics with its message.
#[track_caller]
fn done<T>(result: Done<T>) -> T {
    // No closure here: `#[track_caller]` would report the closure's location instead of the test's.
    match result {
        Ok(done) => done,
        Err(said) => panic!("{said}"),
    }
}

#[cfg(test)]
mod tests;
