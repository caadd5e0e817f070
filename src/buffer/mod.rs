//! Memory that is counted: the pool of buffers, what waits to be written, and what waits to be read again.

pub(crate) mod input;
pub(crate) mod outbox;
pub(crate) mod pool;
