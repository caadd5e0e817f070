//! An adapter that turns a byte handler into a handler of lines that people type, at telnet clients or `nc`.
//!
//! Invariant: the inner handler gets each line exactly once and in order, and no byte of the telnet protocol.

use std::rc::Rc;

use crate::codec::telnet::{TelnetEvent, TelnetInput, TelnetOutput};
use crate::codec::{BuildError, Framing, Lines};
use crate::handler::Handler;
use crate::handler::context::Context;

/// A handler of lines from people at a terminal, with `telnet` or `nc`: calls `on_data` of the inner handler once per
/// line.
///
/// It differs from a [`Framed`](crate::Framed) with [`Lines`], which is for programs:
/// - Telnet commands (RFC 854) are run, answered or dropped, and reach nobody. Every option is refused. Ctrl-C has
///   no effect.
/// - A line ends with `\r\n`, `\r\0`, `\r` or `\n`, or at the end of the input. Backspace and Delete erase a character.
/// - In both directions a `?` replaces each control character, except tabs, and each byte that is not UTF-8: no user
///   can control the terminal of another. A message that contains `\n` is rejected, as for [`Lines`].
/// - Who types slowly is not cut: [`Limits::message_timeout`](crate::Limits::message_timeout) does not apply, only the
///   idle timeout. An unfinished line is stored outside [`Limits::input_total`](crate::Limits::input_total).
/// - A line over the maximum is discarded and counted.
///
/// A line that is unfinished when the inner handler [switches](Context::switch) is lost.
///
/// ```
/// use turnwheel::{Broadcast, Reactor, Telnet};
///
/// let mut reactor = Reactor::new()?;
/// reactor.listen("127.0.0.1:0", Telnet::new(1024, Broadcast::to_others())?)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Telnet<H> {
    max: usize,
    handler: H,
}

impl<H: Handler> Telnet<H> {
    /// Wraps `handler`. Lines have at most `max` bytes.
    ///
    /// # Errors
    /// Returns an error if `max` is 0.
    pub fn new(max: usize, handler: H) -> Result<Self, BuildError> {
        let max = crate::codec::Codec::max_message(&Lines::lf(max)?);
        Ok(Self { max, handler })
    }

    /// Returns the inner handler.
    pub const fn handler(&self) -> &H {
        &self.handler
    }

    /// Returns the inner handler, mutably.
    pub const fn handler_mut(&mut self) -> &mut H {
        &mut self.handler
    }

    /// Acts on what a client has sent.
    fn take(&mut self, cx: &mut Context<'_>, inner: &mut H::State, event: TelnetEvent) {
        match event {
            TelnetEvent::Line(line) => {
                cx.count_message();
                self.handler.on_data(cx, inner, &line);
            }
            TelnetEvent::TooLong => cx.count_discarded(),
            TelnetEvent::Answer(bytes) => cx.send_unframed(&bytes),
        }
    }
}

/// The state of one connection of a [`Telnet`]: its unfinished line, and the inner handler's state.
#[derive(Debug)]
pub struct TelnetState<S> {
    input: TelnetInput,
    inner: S,
}

impl<S> TelnetState<S> {
    /// Creates the state of a connection that [switches](Context::switch) to a [`Telnet`], from the inner handler's
    /// state.
    pub fn new(inner: S) -> Self {
        Self { input: TelnetInput::default(), inner }
    }
}

impl<H: Handler> Handler for Telnet<H> {
    type State = TelnetState<H::State>;

    fn on_open(&mut self, cx: &mut Context<'_>) -> Self::State {
        TelnetState::new(self.handler.on_open(cx))
    }

    fn on_data(&mut self, cx: &mut Context<'_>, state: &mut Self::State, data: &[u8]) {
        let mut rest = data;
        while !rest.is_empty() && cx.wants_more() {
            let (consumed, event) = state.input.next(rest, self.max);
            rest = rest.get(consumed..).unwrap_or_default();
            if let Some(event) = event {
                self.take(cx, &mut state.inner, event);
            }
        }
        cx.defer(rest.len());
    }

    fn on_end(&mut self, cx: &mut Context<'_>, state: &mut Self::State) {
        if let Some(last) = state.input.end() {
            self.take(cx, &mut state.inner, last);
            if !cx.wants_more() {
                return cx.defer_end();
            }
        }
        self.handler.on_end(cx, &mut state.inner);
    }

    pass_through!();

    fn framing(&self) -> Framing {
        Framing::with(Rc::new(TelnetOutput { max: self.max }), self.max, TelnetOutput::OVERHEAD)
    }
}
