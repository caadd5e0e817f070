//! An adapter that turns a byte handler into a message handler, using a codec.
//!
//! Invariant: the inner handler gets each complete message exactly once and in order, and nothing else as data. All
//! other callbacks are passed through.

use std::rc::Rc;

use crate::codec::{Codec, Decoded, FrameError, Framing};
use crate::handler::Handler;
use crate::handler::context::Context;

/// A message handler: calls `on_data` of the inner handler once per complete message, and frames what is sent to its
/// connections.
///
/// Where possible a message is a slice of the receive buffer, not a copy. The inner handler does not call
/// [`keep`](Context::keep) or [`defer`](Context::defer): the framing decides what is buffered.
///
/// ```
/// use turnwheel::codec::LengthDelimited;
/// use turnwheel::{Echo, Framed, Reactor};
///
/// let mut reactor = Reactor::new()?;
/// reactor.listen("127.0.0.1:0", Framed::new(LengthDelimited::u32_be(64 * 1024).unwrap(), Echo))?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Framed<C, H> {
    codec: Rc<C>,
    handler: H,
}

impl<C: Codec, H: Handler> Framed<C, H> {
    /// Wraps `handler`; `codec` finds the messages.
    pub fn new(codec: C, handler: H) -> Self {
        Self { codec: Rc::new(codec), handler }
    }

    /// Returns the inner handler.
    pub const fn handler(&self) -> &H {
        &self.handler
    }

    /// Returns the inner handler, mutably.
    pub const fn handler_mut(&mut self) -> &mut H {
        &mut self.handler
    }

    /// Returns the codec.
    pub fn codec(&self) -> &C {
        &self.codec
    }

    /// Closes the connection because of `rest`, the end of its input, and quotes how that announces its length.
    fn fail(&self, cx: &mut Context<'_>, error: FrameError, rest: &[u8]) {
        let field = self.codec.length_field(rest);
        let (announced, behind) = match rest.get(field.clone()).filter(|announced| !announced.is_empty()) {
            Some(announced) => (announced, rest.len() - field.start),
            None => (&[][..], rest.len()),
        };
        cx.fail_at(error, announced, behind);
    }
}

/// The state of one connection of a [`Framed`]: the codec's state and the inner handler's.
#[derive(Debug)]
pub struct FramedState<C: Codec, S> {
    decoder: C::State,
    /// An over-long message is being discarded and its end has not arrived yet.
    discarding: bool,
    inner: S,
}

impl<C: Codec, S> FramedState<C, S> {
    /// Creates the state of a connection that [switches](Context::switch) to a [`Framed`], from the inner handler's
    /// state.
    pub fn new(inner: S) -> Self {
        Self { decoder: C::State::default(), discarding: false, inner }
    }
}

/// The error of a codec that breaks its contract.
const OUTSIDE: FrameError = FrameError::Malformed("the codec returned a message outside of its input");

impl<C: Codec, H: Handler> Handler for Framed<C, H> {
    type State = FramedState<C, H::State>;

    fn on_open(&mut self, cx: &mut Context<'_>) -> Self::State {
        FramedState::new(self.handler.on_open(cx))
    }

    fn on_data(&mut self, cx: &mut Context<'_>, state: &mut Self::State, data: &[u8]) {
        let mut rest = data;
        while cx.wants_more() {
            match self.codec.decode(&mut state.decoder, rest) {
                Ok(Decoded::Message { start, end, consumed }) => {
                    cx.count_message();
                    // A codec that consumes nothing would loop here: treat it as an error of the codec.
                    let behind = rest.get(consumed..).filter(|_| consumed > 0);
                    let (Some(message), Some(behind)) = (rest.get(start..end), behind) else {
                        return cx.fail(OUTSIDE);
                    };
                    rest = behind;
                    self.handler.on_data(cx, &mut state.inner, message);
                }
                Ok(Decoded::Skipped { consumed, finished }) => {
                    state.discarding = !finished;
                    if finished {
                        cx.count_discarded();
                    }
                    // At least one byte, or a codec that skips nothing would loop here.
                    rest = rest.get(consumed.max(1)..).unwrap_or_default();
                }
                Ok(Decoded::Incomplete) => return cx.keep(rest.len()),
                Err(error) => return self.fail(cx, error, rest),
            }
        }
        // Paused, out of budget, closing or switched: complete messages may be left, so wait for a turn, not for bytes.
        cx.defer(rest.len());
    }

    fn on_end(&mut self, cx: &mut Context<'_>, state: &mut Self::State) {
        if cx.kept() > 0 || state.discarding {
            let rest = cx.take_kept();
            state.discarding = false;
            match self.codec.decode_end(&mut state.decoder, &rest) {
                Ok(Decoded::Message { start, end, .. }) => {
                    let Some(message) = rest.get(start..end) else { return cx.fail(OUTSIDE) };
                    cx.count_message();
                    self.handler.on_data(cx, &mut state.inner, message);
                    // As behind any message: the end is not told to a handler that has paused, closed or switched.
                    if !cx.wants_more() {
                        return cx.defer_end();
                    }
                }
                Ok(Decoded::Skipped { .. }) => cx.count_discarded(),
                Ok(Decoded::Incomplete) => return cx.fail(FrameError::Truncated { have: rest.len() as u64 }),
                Err(error) => return self.fail(cx, error, &rest),
            }
        }
        self.handler.on_end(cx, &mut state.inner);
    }

    pass_through!();

    fn framing(&self) -> Framing {
        Framing::of(Rc::clone(&self.codec))
    }
}
