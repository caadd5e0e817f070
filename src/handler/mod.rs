//! The user's side: the `Handler` trait and what its callbacks act on.
//!
//! Invariant: callbacks never nest. An action taken in a callback never calls another one before the callback returns.

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

/// An event posted to a handler from any thread.
pub(crate) type Note = Box<dyn Any + Send>;

/// A protocol as a state machine. The handler owns what its connections share; its [`State`](Handler::State) is what
/// it stores per connection.
///
/// Callbacks return no errors. A handler ends a connection with [`Context::close`] (gracefully), [`Context::abort`]
/// (at once) or [`Context::fail`] (gracefully, with a protocol error as the reason). From then on the connection is in
/// no group, receives no data and rejects sends. [`on_close`](Handler::on_close) is called when it has ended.
///
/// ```
/// use turnwheel::{Context, Handler};
///
/// /// Greets the peer, then counts the bytes it receives.
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
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler of connections: it does not implement `Handler`",
    label = "not a `Handler`",
    note = "the `Key` of a handler that was added before is passed to `listen_on(address, key)`, not to `listen`",
    note = "a `DatagramHandler` is passed to `bind`, or added with `add_datagrams`"
)]
pub trait Handler: 'static {
    /// The state of one connection. `()` costs next to no memory.
    type State: 'static;

    /// Called first for each new connection. Returns its state.
    fn on_open(&mut self, cx: &mut Context<'_>) -> Self::State;

    /// Called when bytes have arrived. Input that was [kept](Context::keep) or [deferred](Context::defer) comes first.
    /// Inside a [`Framed`](crate::Framed), `data` is one complete message. Never called after the connection began to
    /// close.
    fn on_data(&mut self, cx: &mut Context<'_>, state: &mut Self::State, data: &[u8]);

    /// Called when the peer has half-closed the connection (FIN) and all of its input has been delivered. The peer may
    /// still be reading. The default closes the connection once everything is written. If you override this, you must
    /// close it yourself. Override it if a worker thread still owes the peer an answer.
    fn on_end(&mut self, cx: &mut Context<'_>, state: &mut Self::State) {
        let _ = state;
        cx.close();
    }

    /// Called when the unsent output had reached [`Limits::output_high`](crate::Limits::output_high) and has fallen to
    /// [`Limits::output_low`](crate::Limits::output_low): continue sending. At most once per turn. To send something
    /// long, send pieces while [`Context::wants_more`] returns `true`, and continue here. Not called if the output
    /// never reached the high-water mark.
    fn on_drain(&mut self, cx: &mut Context<'_>, state: &mut Self::State) {
        let _ = (cx, state);
    }

    /// Called when a timer of this connection fires; `key` is the value it was [set](Context::set_timer) with.
    fn on_timer(&mut self, cx: &mut Context<'_>, state: &mut Self::State, key: u64) {
        let _ = (cx, state, key);
    }

    /// Called when a timer of the handler itself, rather than of a connection, fires; `key` is the value it was
    /// [set](Net::set_tick) with.
    fn on_tick(&mut self, net: &mut Net<'_>, key: u64) {
        let _ = (net, key);
    }

    /// Called when a note was posted to the handler, from any thread. The sender determines its type.
    fn on_note(&mut self, net: &mut Net<'_>, note: Box<dyn Any + Send>) {
        let _ = (net, note);
    }

    /// Called when a note was posted to the handler for this connection, from any thread: for example the result of
    /// slow work. If the connection is closing by then, the note is dropped and counted. If the peer may half-close
    /// and then wait for the answer, override [`on_end`](Handler::on_end) so that it does not close while an answer is
    /// outstanding.
    fn on_note_to(&mut self, cx: &mut Context<'_>, state: &mut Self::State, note: Box<dyn Any + Send>) {
        let _ = (cx, state, note);
    }

    /// Called when a requested connection with this tag could not be established. The error names what was tried and
    /// why it failed. Its kind is that of the last failure: `InvalidInput` for an invalid address, `TimedOut`,
    /// `QuotaExceeded` for a limit of the reactor, `Interrupted` during a shutdown. A connection that is established
    /// starts with [`on_open`](Handler::on_open) instead.
    fn on_connect_failed(&mut self, net: &mut Net<'_>, tag: u64, error: &io::Error) {
        let _ = (net, tag, error);
    }

    /// Called when connecting has failed and will be retried after `wait` ([`Connect::retry`](crate::Connect::retry),
    /// [`Connect::reconnect`](crate::Connect::reconnect)), for example to log it.
    fn on_connect_retry(&mut self, net: &mut Net<'_>, tag: u64, error: &io::Error, wait: Duration) {
        let _ = (net, tag, error, wait);
    }

    /// Called when the reactor is shutting down. The default closes the connection. A connection still open when the
    /// grace period is over is terminated.
    fn on_shutdown(&mut self, cx: &mut Context<'_>, state: &mut Self::State) {
        let _ = state;
        cx.close();
    }

    /// Called last, when the connection has ended: exactly once for each `on_open`. The descriptor is still open, the
    /// id is not reused, and sends are rejected.
    fn on_close(&mut self, net: &mut Net<'_>, state: Self::State, closed: &Closed) {
        let _ = (net, state, closed);
    }

    /// Returns the framing of messages sent to this handler's connections. Called once, when the handler is added to a
    /// reactor. By default bytes are sent unchanged; [`Framed`](crate::Framed) returns the framing of its codec.
    fn framing(&self) -> Framing {
        Framing::raw()
    }
}

impl Context<'_> {
    /// Hands the connection to another handler when this callback has returned: for a protocol upgrade, or at the end
    /// of a handshake. The bytes of the data that were [kept](Context::keep) or [deferred](Context::defer) are
    /// delivered to it next, followed by all later input. Output sent before, including in this callback, keeps its
    /// framing; later output uses the framing of the new handler. Group memberships remain. Timers end. The old state
    /// is dropped without [`on_close`](crate::Handler::on_close), which will be called on the new handler. To change
    /// the framing, switch to another [`Framed`](crate::Framed).
    ///
    /// Input kept in earlier callbacks is handed over as well. So is the end of input: if
    /// [`on_end`](crate::Handler::on_end) was already called, it is called on the new handler too.
    ///
    /// Returns `false` and does nothing if the key belongs to another reactor, the connection is closing, or it has
    /// [pieces](crate::Pieces) to send, which keep their framing: switch when
    /// [`on_drain`](crate::Handler::on_drain) is called. If called more than once, the last call counts.
    ///
    /// ```
    /// use turnwheel::{Context, Echo, Handler, Key};
    ///
    /// /// Greets the peer, then hands over to an echo handler.
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
    ///         cx.defer(data.len() - end - 1); // the bytes after the line are for the echo handler
    ///         cx.switch(self.echo, ());
    ///     }
    /// }
    /// ```
    pub fn switch<H: Handler>(&mut self, to: Key<H>, state: H::State) -> bool {
        let id = self.id();
        self.core_mut().switch(id, to, Box::new(state))
    }
}
