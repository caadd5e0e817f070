//! Buffers whose memory is counted: the pool, the outbox (unsent output), and buffered input.

pub(crate) mod input;
pub(crate) mod outbox;
pub(crate) mod pieces;
pub(crate) mod pool;
