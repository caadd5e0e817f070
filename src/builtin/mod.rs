//! The built-in handlers. Each is an ordinary [`Handler`](crate::Handler) that uses only the public API.

mod broadcast;
mod echo;
mod framed;

pub use broadcast::Broadcast;
pub use echo::Echo;
pub use framed::{Framed, FramedState};
