//! What a user writes: the callbacks of a protocol.
//!
//! Knows no sockets and no loop. Invariant: callbacks never nest.

pub(crate) mod context;
pub(crate) mod datagram;
pub(crate) mod handle;
pub(crate) mod net;
pub(crate) mod snapshot;

use std::any::Any;
use std::io;
use std::time::Duration;

use crate::closed::Closed;
use crate::codec::Framing;
use crate::handler::context::Context;
use crate::handler::net::Net;
use crate::id::Key;

/// Something that was posted to a handler.
pub(crate) type Note = Box<dyn Any + Send>;

/// A protocol as a state machine: the value owns what its connections share, and its [`State`](Handler::State) is what
/// it remembers about one of them.
///
/// Callbacks are infallible. What a handler wants to end, it ends: [`Context::close`] (in good order),
/// [`Context::abort`] (at once), [`Context::fail`] (in good order, with a protocol error as the reason). From then on
/// the connection is in no group, gets no data and refuses sends; [`on_close`](Handler::on_close) comes when its fate
/// is known.
///
/// ```
/// use turnwheel::{Context, Handler};
///
/// /// Greets, then counts the bytes it gets.
/// struct Counter;
///
/// impl Handler for Counter {
///     type State = u64;
///
///     fn on_open(&mut self, cx: &mut Context<'_>) -> u64 {
///         cx.send(b"hello\n");
///         0
///     }
///
///     fn on_data(&mut self, _cx: &mut Context<'_>, count: &mut u64, data: &[u8]) {
///         *count += data.len() as u64;
///     }
///
///     fn on_end(&mut self, cx: &mut Context<'_>, count: &mut u64) {
///         cx.send(format!("{count} bytes\n"));
///         cx.close();
///     }
/// }
/// ```
pub trait Handler: 'static {
    /// What is remembered about one connection. `()` takes no memory worth mention.
    type State: 'static;

    /// A connection begins: the first callback for it. The answer is its state.
    fn on_open(&mut self, cx: &mut Context<'_>) -> Self::State;

    /// Bytes have arrived (with what was [kept](Context::keep) or [deferred](Context::defer) in front of them); behind
    /// a [`Framed`](crate::Framed), one whole message. Never called after the connection began to close.
    fn on_data(&mut self, cx: &mut Context<'_>, state: &mut Self::State, data: &[u8]);

    /// The peer has finished sending, and all it sent has been delivered. It may still be reading. By default the
    /// connection is closed once everything is written; where you write this callback, closing is yours. (CallSite
    /// still waits for the answer of another thread keeps it open until that has come.)
    fn on_end(&mut self, cx: &mut Context<'_>, state: &mut Self::State) {
        let _ = state;
        cx.close();
    }

    /// What waits for the peer had passed [`Limits::output_high`](crate::Limits::output_high) and has fallen to
    /// [`Limits::output_low`](crate::Limits::output_low): go on sending. At most once in a turn. To send something
    /// long, send pieces while [`Context::wants_more`] says so, and go on here; who stops earlier than that is not
    /// called.
    fn on_drain(&mut self, cx: &mut Context<'_>, state: &mut Self::State) {
        let _ = (cx, state);
    }

    /// A timer of this connection has gone off; `key` is what it was [set](Context::set_timer) with.
    fn on_timer(&mut self, cx: &mut Context<'_>, state: &mut Self::State, key: u64) {
        let _ = (cx, state, key);
    }

    /// A timer of the handler itself has gone off, of no connection; `key` is what it was [set](Net::set_tick) with.
    fn on_tick(&mut self, net: &mut Net<'_>, key: u64) {
        let _ = (net, key);
    }

    /// Something was posted to the handler, by another thread perhaps. Its type is known to whoever posts.
    fn on_note(&mut self, net: &mut Net<'_>, note: Box<dyn Any + Send>) {
        let _ = (net, note);
    }

    /// Something was posted to the handler about this connection, by another thread perhaps: the answer to a question
    /// that took long, say. If by then the connection is closing, nobody is told, and it is counted: a peer that
    /// finishes sending and then reads needs an [`on_end`](Handler::on_end) that does not close while an answer is due.
    fn on_note_to(&mut self, cx: &mut Context<'_>, state: &mut Self::State, note: Box<dyn Any + Send>) {
        let _ = (cx, state, note);
    }

    /// A connection that was asked for with this tag does not come about. The error says what was tried, and why it
    /// failed; its kind is that of what went wrong last, `InvalidInput` for a wrong address, `TimedOut`,
    /// `QuotaExceeded` for a limit of the reactor's, `Interrupted` when it is shutting down. (A connection that does
    /// come about begins with [`on_open`](Handler::on_open).)
    fn on_connect_failed(&mut self, net: &mut Net<'_>, tag: u64, error: &io::Error) {
        let _ = (net, tag, error);
    }

    /// Connecting has failed and is tried again after `wait` ([`Connect::retry`](crate::Connect::retry),
    /// [`Connect::reconnect`](crate::Connect::reconnect)): to say so, perhaps.
    fn on_connect_retry(&mut self, net: &mut Net<'_>, tag: u64, error: &io::Error, wait: Duration) {
        let _ = (net, tag, error, wait);
    }

    /// The reactor is shutting down. By default the connection is closed; one that is not is aborted when the grace is
    /// over.
    fn on_shutdown(&mut self, cx: &mut Context<'_>, state: &mut Self::State) {
        let _ = state;
        cx.close();
    }

    /// The connection has ended: the last callback for it, exactly once for each `on_open`. Its descriptor is still
    /// open, its id still names nothing else, and it takes no more sends.
    fn on_close(&mut self, net: &mut Net<'_>, state: Self::State, closed: &Closed) {
        let _ = (net, state, closed);
    }

    /// How messages sent to this handler's connections are framed. Asked once, when the handler is added to a reactor.
    /// By default bytes go out as they are given; [`Framed`](crate::Framed) answers its codec's framing.
    fn framing(&self) -> Framing {
        Framing::raw()
    }
}

impl Context<'_> {
    /// Lets another handler take over when this callback has returned: an upgrade, or the end of a handshake. The bytes
    /// of the data that were [kept](Context::keep) or [deferred](Context::defer) go to it next, and everything that
    /// comes later. What was sent before, in this callback too, keeps its framing; what is sent later has the new
    /// handler's. Groups go on, timers end, and the old state is dropped without
    /// [`on_close`](crate::Handler::on_close), which the new handler will be called for. To change the framing is to go
    /// over to another [`Framed`](crate::Framed).
    ///
    /// What was kept in earlier callbacks goes over as well, and so does the end of input: where it was told already,
    /// the new handler's [`on_end`](crate::Handler::on_end) is called too.
    ///
    /// False, and nothing happens, when the key belongs to another reactor, or the connection is closing. The last call
    /// counts.
    ///
    /// ```
    /// use turnwheel::{Context, Echo, Handler, Key};
    ///
    /// /// Says hello, and is an echo from then on.
    /// struct Greeter {
    ///     echo: Key<Echo>,
    /// }
    ///
    /// impl Handler for Greeter {
    ///     type State = ();
    ///     fn on_open(&mut self, _cx: &mut Context<'_>) {}
    ///     fn on_data(&mut self, cx: &mut Context<'_>, _state: &mut (), data: &[u8]) {
    ///         let Some(end) = data.iter().position(|b| *b == b'\n') else { return cx.keep(data.len()) };
    ///         cx.send("hello\n");
    ///         cx.defer(data.len() - end - 1); // what comes behind the line is for the echo
    ///         cx.switch(self.echo, ());
    ///     }
    /// }
    /// ```
    pub fn switch<H: Handler>(&mut self, to: Key<H>, state: H::State) -> bool {
        let id = self.id();
        self.core_mut().switch(id, to, Box::new(state))
    }
}
