//! Sends back what it gets. Knows nothing of messages: behind a [`Framed`](crate::Framed) it answers each with the
//! same.

use crate::handler::Handler;
use crate::handler::context::Context;

/// Answers with what it got: bytes with bytes, and behind a [`Framed`](crate::Framed), messages with messages.
///
/// A peer that sends and does not read is soon not read either, so no more waits for it than the limits say, and no
/// byte is lost.
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
