//! The built-in handlers. Each is an ordinary [`Handler`](crate::Handler); only the wrappers use more than the public
//! API, at the end of the input and for bytes without framing.

#[macro_use]
mod pass_through;

mod broadcast;
mod echo;
mod framed;
mod telnet;

pub use broadcast::Broadcast;
pub use echo::Echo;
pub use framed::{Framed, FramedState};
pub use telnet::{Telnet, TelnetState};
