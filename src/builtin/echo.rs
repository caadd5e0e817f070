//! A handler that sends back what it receives.

use crate::handler::Handler;
use crate::handler::context::Context;

/// Sends back what it receives: bytes as bytes and, inside a [`Framed`](crate::Framed), messages as messages.
///
/// Backpressure bounds the output: the reactor stops reading a peer that does not read its replies, so no more than
/// the limits allow is queued for it, and no byte is lost.
///
/// ```
/// use turnwheel::{Echo, Reactor};
///
/// let mut reactor = Reactor::new()?;
/// reactor.listen("127.0.0.1:0", Echo)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo;

impl Handler for Echo {
    type State = ();

    fn on_open(&mut self, _cx: &mut Context<'_>) {}

    #[inline]
    fn on_data(&mut self, cx: &mut Context<'_>, _state: &mut (), data: &[u8]) {
        cx.send(data);
    }
}
