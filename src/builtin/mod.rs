//! The handlers that come with the crate. Each is an ordinary [`Handler`](crate::Handler): nothing here that a user
//! could not write.

mod broadcast;
mod echo;
mod framed;

pub use broadcast::Broadcast;
pub use echo::Echo;
pub use framed::{Framed, FramedState};
