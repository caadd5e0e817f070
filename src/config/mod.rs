//! User input: addresses, socket options and limits. Plain values, checked when they are used; no I/O.

pub(crate) mod address;
pub(crate) mod builder;
pub(crate) mod connect;
pub(crate) mod datagram;
pub(crate) mod limits;
mod limits_error;
pub(crate) mod listen;
