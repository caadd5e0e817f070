//! How the reactor is built, and what it promises. A chapter to read; there is no code in it.
//!
//! # The floors
//! Imports only point down; a test holds that.
//!
//! ```text
//!  floor 5   lib.rs, this chapter, testing/ (a feature)                         examples/   tests/
//!  floor 4   reactor/     the public face and the loop
//!  floor 3   engine.rs    sans-IO: bytes in → callbacks → bytes out             handlers/{echo,broadcast,framed}.rs
//!  floor 2   core/        what callbacks act on: dues, groups, lists of work     handler.rs  Handler, Net, Context
//!  floor 1   connection.rs  phases, the table · group.rs  rooms and logs · timer.rs  deadlines
//!  floor 0   outbox · input · pool · codec/ · limits · closed · stats · id · throttle · endpoint · listen
//!            sys/ (the seam)
//! ```
//!
//! Every outside effect (the clock, waiting, accepting, reading, writing, closing) goes through one trait, the *seam*.
//! One file behind it names sockets. Tests put another world in its place and drive the same loop with it: a scripted
//! one, in which each call answers what the test says, and on top of it a seeded one, in which chance says it. The
//! feature `testing` gives both to users, behind handlers and not behind the seam.
//!
//! # Storage is split by who touches it
//! ```text
//!               slot 0     slot 1     slot 2     slot 3
//!  sockets    [ stream    |    –     | stream   | stream   ]   the loop: how to reach the peer
//!  connections[ out,phase |    –     | out,phase| out,phase]   the slab: what we owe the peer; it issues the ids
//!  handler A: [ State     | State    ]    handler B: [ () ]    each handler's own slab of states
//! ```
//! A broadcast needs other peers' outgoing queues, never their handlers. So a [`Context`](crate::Context) borrows the
//! connections, the handler borrows its own states, and the loop keeps the sockets: disjoint fields, checked when the
//! program is compiled and free when it runs.
//!
//! A [`ConnId`](crate::ConnId) is a slot and how often the slot had been used before. An id, or an event, of a
//! connection that has gone is recognised and dropped; it never reaches whoever has the slot now.
//!
//! # One turn
//! 1. **Wait** for events, until the next deadline, or not at all while there is work.
//! 2. **Accept**, a few connections from each listener.
//! 3. **Read** each connection that is ready, one buffer at most, into the buffer that all share, and hand it to the
//!    handler. What the handler answered to its own peer is written at once. Bytes that are sent back as they came are
//!    written from where they lie, without a copy.
//! 4. **Timers**: deadlines that have passed, late but never early.
//! 5. **Tell**: [`on_close`](crate::Handler::on_close) for those whose fate is known.
//! 6. **Flush**: what connections have sent to others, one write for each receiver.
//! 7. **Reap**: descriptors are closed and slots come free, only here.
//!
//! Each step is bounded, what is left over keeps its place in a queue, and the next wait does not sleep on it.
//!
//! # Readiness
//! A stream is registered once. Its readiness is remembered until a read or a write says that nothing is left, and an
//! event only ever says "try". A short read of a TCP stream is taken as "nothing left" where the system allows it
//! (Linux), which saves a system call for each request; never after a hint of a close, an error or urgent data, and
//! never on a Unix socket.
//!
//! # Closing
//! ```text
//!            close, fail, timeouts           all written            peer's FIN, quiet, limit
//!   open ───────────────────────▶ flushing ─────────────▶ lingering ───────────────────────▶ dead ─▶ on_close, freed
//!     └───────────── abort, reset, cut by a limit (from any phase) ───────────────────────────▲
//! ```
//! Closing a TCP socket with unread input makes the kernel send a reset, which can destroy our own last bytes on the
//! peer's side. So after our FIN the input is read and thrown away for a while.
//!
//! # Backpressure
//! A peer that does not read what waits for it is not read either: at
//! [`Limits::output_high`](crate::Limits::output_high) its connection stops being read, at
//! [`Limits::output_low`](crate::Limits::output_low) it is read again. Nothing is lost and nobody else is slowed.
//! What is pushed at a peer regardless (by other connections, or by a handler that does not look at
//! [`Context::wants_more`](crate::Context::wants_more)) is bounded by
//! [`Limits::output_hard`](crate::Limits::output_hard), and then the connection is cut, so that no stream ever has a
//! gap. All output together is bounded as well, and so is unfinished input, of each and of all.
//!
//! # Broadcasts
//! A broadcast is encoded once for each framing among the group's members and appended to a log; when the turn ends
//! (or the log grows long) each member is written the *range* of the log that it has not got yet. M messages to N
//! members cost M appends and N writes. What the kernel does not take waits by reference to the shared block.
//!
//! # What is deliberately absent
//! - Callbacks never nest, and none runs inside another's verb: a send never calls `on_close`.
//! - No handler is taken out of its place to be called; none sits behind a `RefCell`.
//! - No unsafe code, and no panic that a peer, a kernel error or a wrong option can cause.
//! - No name is resolved but in [`Reactor::listen`](crate::Reactor::listen), no file is touched but a Unix socket's, no
//!   signal handler is installed, nothing is printed.
//! - No thread: to use more cores, run a reactor on each, with [`Listen::reuse_port`](crate::Listen::reuse_port).
