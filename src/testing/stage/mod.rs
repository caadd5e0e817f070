//! A stage for one handler: the whole loop in a scripted world, clients with names, and a clock in the test's hand.
//!
//! No socket, no thread and no real time. Knows nothing of the text form beyond that it is played. Invariant: whenever
//! a method returns, the loop is at rest: it has nothing to do until a client acts or time passes.

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
use self::parties::{Client, Fate, Host};
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

/// One handler behind one listener, and clients with names: to test a handler with no socket and no waiting.
///
/// The handler runs in the same loop that a [`Reactor`](crate::Reactor) has, limits and timeouts included; only the
/// system below it is played. A test is a transcript, or calls of the methods, or both in turn:
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
/// Each line of [`play`](Stage::play) is one step; blank lines and those that begin with `#` are none. After each step
/// the loop turns until it has nothing left to do. A client connects when it is first mentioned.
///
/// | step | |
/// |---|---|
/// | `A> bytes` | `A` sends these bytes, and nothing behind them: a line's end is written `\n`. |
/// | `A< bytes` | What `A` has received begins with these bytes; it is asked for the others later. |
/// | `A< ...` | Whatever `A` has received, if anything. |
/// | `A hears nothing` | Nothing has been received that no line has mentioned. |
/// | `A connects` | For one that says nothing at first; or once more, when its connection has ended. |
/// | `A closes`, `A resets` | `A` finishes sending (FIN), or breaks the connection off (RST). |
/// | `A stops reading`, `A reads on` | As if all buffers on the way to `A` were full; and no longer. |
/// | `A open` | The connection is accepted, and the reactor has not begun to end it. |
/// | `A sees end`, `A sees reset` | The reactor's FIN or RST has come. |
/// | `A closed`, `A closed idle_timeout` | The connection has ended; for the reason of this [name](Reason::name). |
/// | `wait 10s` | Time passes: `ms`, `s`, `min` or `h`, in whole numbers. |
/// | `shutdown`, `shutdown 10s` | The reactor is told to stop, with this grace or that of the limits. |
///
/// For a handler of lines, say `A> hello\n`, or use [`framed`](Stage::framed), where a line is `A> hello`.
///
/// A callback that never returns is never given up: the test hangs. (A [`Simulation`](crate::testing::Simulation) gives
/// it up.)
///
/// Bytes are written as text, without the spaces around it. `\n`, `\r`, `\t`, `\0`, `\\` and `\x20` stand for what they
/// usually do; there are no other escapes, and no backslash stands at the end of a line.
///
/// When a transcript ends, everything that any client has received must have been mentioned.
///
/// # Clients
/// A client that the reactor closes in good order closes its own end as soon as it sees that, as most programs do. One
/// that has stopped reading does not see it. To a FIN that leaves the connection open
/// ([`shutdown_write`](crate::Context::shutdown_write)) clients do not answer by themselves.
///
/// # Panics
/// That is how a stage says that something is not as the test wants it. All methods that name a client panic when there
/// is none of that name, and all that let the loop turn when it does not come to rest: the handler puts off its data
/// for ever, or sends again each time it is drained. A panic in the handler goes on to the test
/// ([`PanicPolicy::Propagate`]), so that a handler made for a test may assert; see
/// [`set_panic_policy`](Stage::set_panic_policy).
pub struct Stage<H: Handler> {
    inner: EventLoop<Script>,
    key: Key<CheckedHandler<H>>,
    clients: Vec<Client>,
    hosts: Vec<Host>,
    codec: Option<Box<dyn ClientCodec>>,
    began: u64,
    shut: bool,
}

/// What came of a step, or what to say about it.
type Done<T = ()> = Result<T, String>;

impl<H: Handler> Stage<H> {
    /// A stage with the default [`Limits`].
    ///
    /// # Panics
    /// When the handler's framing does not fit them.
    #[track_caller]
    pub fn new(handler: H) -> Self {
        done(Self::with_limits(Limits::default(), handler).map_err(|e| e.to_string()))
    }

    /// A stage with limits of your own.
    ///
    /// # Errors
    /// When a limit is zero or contradicts another one, or the handler's framing does not fit (`InvalidInput`): the
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
        inner.add_listener(socket, handler)?;
        Ok(Self { inner, key, clients: Vec::new(), hosts: Vec::new(), codec: None, began, shut: false })
    }

    /// Gives all clients a codec: in transcripts `A> text` sends, and `A< text` expects, one whole message.
    /// [`say`](Stage::say) and [`hear`](Stage::hear) do the same; [`send`](Stage::send) and [`heard`](Stage::heard)
    /// still deal in bytes.
    pub fn speak(&mut self, codec: impl Codec) {
        let codec = Spoken(Rc::new(codec));
        for client in &mut self.clients {
            client.ear = Some(codec.ear());
        }
        self.codec = Some(Box::new(codec));
    }

    /// What happens when a callback panics. On a stage it goes on to the test, unless this says otherwise.
    pub const fn set_panic_policy(&mut self, policy: PanicPolicy) {
        self.inner.dispatcher.set_panic_policy(policy);
    }

    /// Plays a transcript: see [above](Stage#transcripts).
    ///
    /// # Panics
    /// When a line is no step (before anything is played), something is not as a line says, or a client has received
    /// what no line mentions. The text says which line, what was expected, and what there was instead.
    #[track_caller]
    pub fn play(&mut self, transcript: &str) {
        done(self.perform(transcript));
    }

    /// A client connects. It may have had a connection before, if that has ended.
    ///
    /// # Panics
    /// When it is connected, or has received what nobody has asked for; or when the reactor no longer listens.
    #[track_caller]
    pub fn connect(&mut self, name: &str) {
        done(self.bring(name));
    }

    /// Somebody is at an address (`"127.0.0.1:7000"`, `"example.org:80"`, `"unix:/path"`) for the handler to connect
    /// to. When it does, that is a client of this name; the second time, and the third, one of this name with a 2 or a
    /// 3 behind it. Everywhere else connections are refused, and no other name is known.
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
    /// When the address is none, or somebody is there already.
    #[track_caller]
    pub fn host(&mut self, name: &str, address: &str) {
        done(self.add_host(name, address));
    }

    /// A client sends bytes.
    ///
    /// # Panics
    /// When it has closed its end, or its connection has ended.
    #[track_caller]
    pub fn send(&mut self, name: &str, bytes: impl AsRef<[u8]>) {
        done(self.find(name).and_then(|i| self.send_from(i, bytes.as_ref())));
    }

    /// A client sends a message in its codec.
    ///
    /// # Panics
    /// As for [`send`](Stage::send), when clients have no [codec](Stage::speak), or when it cannot carry the message.
    #[track_caller]
    pub fn say(&mut self, name: &str, message: impl AsRef<[u8]>) {
        done(self.find(name).and_then(|i| self.say_from(i, message.as_ref())));
    }

    /// All that a client has received and nobody has asked for, as it came.
    #[track_caller]
    pub fn heard(&mut self, name: &str) -> Vec<u8> {
        done(self.at_rest(name).map(|i| self.take_heard(i)))
    }

    /// The next message that a client has received; `None` when there is no whole one.
    ///
    /// # Panics
    /// When clients have no [codec](Stage::speak), or the bytes are no message of it.
    #[track_caller]
    pub fn hear(&mut self, name: &str) -> Option<Vec<u8>> {
        done(self.at_rest(name).and_then(|i| self.next_message(i)))
    }

    /// A client finishes sending (FIN), and goes on reading. Nothing happens if it has finished before.
    #[track_caller]
    pub fn finish(&mut self, name: &str) {
        done(self.find(name).and_then(|i| self.finish_from(i)));
    }

    /// A client breaks its connection off (RST). Nothing happens if it has ended.
    #[track_caller]
    pub fn reset(&mut self, name: &str) {
        done(self.find(name).and_then(|i| self.reset_from(i)));
    }

    /// A client stops reading: as if all buffers on the way to it were full.
    #[track_caller]
    pub fn stop_reading(&mut self, name: &str) {
        done(self.find(name).and_then(|i| self.set_reading(i, false)));
    }

    /// A client reads on, as much as there is.
    #[track_caller]
    pub fn read_on(&mut self, name: &str) {
        done(self.find(name).and_then(|i| self.set_reading(i, true)));
    }

    /// Why a client's connection has ended; `None` while it has not. One that was refused because there were too many
    /// has ended too, though the handler has never heard of it.
    #[track_caller]
    pub fn closed(&mut self, name: &str) -> Option<Reason> {
        let fate = done(self.at_rest(name).map(|i| self.fate(i)));
        if let Fate::Ended(why) = fate { Some(why) } else { None }
    }

    /// What [`on_close`](Handler::on_close) was told about a client's connection; `None` as long as it was not called.
    #[track_caller]
    pub fn told(&mut self, name: &str) -> Option<Closed> {
        let i = done(self.at_rest(name));
        self.seen(i).and_then(|seen| seen.closed.clone())
    }

    /// Whether a client's connection is open: accepted, and the reactor has not begun to end it.
    #[track_caller]
    pub fn is_open(&mut self, name: &str) -> bool {
        done(self.at_rest(name).map(|i| self.fate(i) == Fate::Open))
    }

    /// Whether a client has seen the end of what it is sent: the reactor's FIN.
    #[track_caller]
    pub fn saw_end(&mut self, name: &str) -> bool {
        done(self.at_rest(name).map(|i| self.sees(i) == Some(End::Fin)))
    }

    /// Whether the reactor has broken a client's connection off with a RST, as [`abort`](crate::Context::abort) does.
    #[track_caller]
    pub fn saw_reset(&mut self, name: &str) -> bool {
        done(self.at_rest(name).map(|i| self.sees(i) == Some(End::Reset)))
    }

    /// The id of a client's connection, for the verbs of [`net`](Stage::net).
    ///
    /// # Panics
    /// When the handler has not got to know it: it waits to be accepted, or was refused.
    #[track_caller]
    pub fn id(&mut self, name: &str) -> ConnId {
        let i = done(self.at_rest(name));
        match self.seen(i) {
            Some(seen) => seen.id,
            None => panic!("{name} has no id: {}", self.fate(i)),
        }
    }

    /// Time passes. Every timeout that falls due in it fires at its own moment, in the order of their times.
    ///
    /// # Panics
    /// When the clock, which counts nanoseconds in 64 bits, cannot go so far.
    #[track_caller]
    pub fn advance(&mut self, time: Duration) {
        done(self.pass(time));
    }

    /// How much time has passed on the stage.
    pub const fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.inner.sys.clock - self.began)
    }

    /// The reactor is told to stop: it stops listening and calls [`on_shutdown`](Handler::on_shutdown) for every
    /// connection. Those that are left end after `grace`, which is to be [waited](Stage::advance) for.
    ///
    /// # Panics
    /// When it was told before.
    #[track_caller]
    pub fn shutdown(&mut self, grace: Duration) {
        done(self.begin_shutdown(grace));
    }

    /// What the shutdown came to; `None` until it has ended.
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

    /// The handler, to change it.
    pub fn handler_mut(&mut self) -> &mut H {
        match self.inner.dispatcher.get_mut(self.key) {
            Some(checked) => &mut checked.inner,
            None => unreachable!("a handler with a key stays as long as its loop"),
        }
    }

    /// The verbs that handlers have, for use between turns. What they set going is done before the next method that
    /// names a client looks at it, or by [`settle`](Stage::settle).
    pub fn net(&mut self) -> Net<'_> {
        self.inner.update_clock();
        let handler = self.inner.dispatcher.index_of(self.key);
        Net::new(&mut self.inner.dispatcher.core, None, handler)
    }

    /// Turns until there is nothing left to do.
    #[track_caller]
    pub fn settle(&mut self) {
        done(self.rest());
    }

    /// A snapshot of the counters.
    pub fn stats(&self) -> Stats {
        self.inner.dispatcher.core.snapshot()
    }
}

impl<C: Codec + Clone, H: Handler> Stage<Framed<C, H>> {
    /// A stage with a [`Framed`] handler, whose clients [speak](Stage::speak) the same codec.
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
    /// When the framing does not fit the default limits.
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

/// What a method is to answer, or its panic.
#[track_caller]
fn done<T>(result: Done<T>) -> T {
    // No closure here: the panic is to be placed where the test called.
    match result {
        Ok(done) => done,
        Err(said) => panic!("{said}"),
    }
}

#[cfg(test)]
mod tests;
