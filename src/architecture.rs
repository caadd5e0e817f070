//! How the reactor is built, and what it promises. A chapter to read; there is no code in it.
//!
//! # The floors
//! Imports only point down; a test holds that.
//!
//! ```text
//!  floor 8   lib.rs, this chapter · testing/ (a feature)                       examples/   tests/
//!  floor 7   reactor/     the public face and the event loop
//!  floor 6   dispatch/    handlers with their states, and every call into them · builtin/ echo, broadcast, framed
//!  floor 5   handler/     what a handler sees: its trait, contexts, verbs, handles, snapshots
//!  floor 4   core/        what callbacks act on: output, groups, connect jobs, lists of work · command_queue.rs
//!  floor 3   connection.rs · stats.rs · sys/ (the seam)
//!  floor 2   closed.rs · config/ limits, addresses, options · group.rs · time/ deadlines, timers
//!  floor 1   buffer/ outbox, input, pool · codec/ · id.rs
//! ```
//!
//! Every outside effect (the clock, waiting, accepting, connecting, looking names up, reading, writing, closing,
//! chance) goes through one trait, the *seam*. One corner behind it names sockets. Tests put another world in its place
//! and drive the same loop with it: a scripted one, in which each call answers what the test says, and on top of it a
//! seeded one, in which chance says it. The feature `testing` gives both to users, behind handlers and not behind the
//! seam.
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
//! 4. **Receive** datagrams, and call back **sources** that were ready or had work left.
//! 5. **Timers**: deadlines that have passed, late but never early; ours first, then those that handlers set.
//! 6. **Commands** of other threads, a share of them, in the order of acceptance.
//! 7. **DatagramCallback**: [`on_close`](crate::Handler::on_close) for those whose fate is known.
//! 8. **Connect**: what is to begin, what has been looked up, what has taken too long.
//! 9. **Flush**: datagrams, then what connections have sent to others, one write for each receiver.
//! 10. **Reap**: descriptors are closed and slots come free, only here.
//!
//! Each step is bounded, what is left over keeps its place in a queue, and the next wait does not sleep on it.
//!
//! CallSite asks for a timeout is not kept longer (rounded down to a millisecond); what is due is not looked for in
//! vain (rounded up). A batch of events that was full means that there may be more: an outer loop that only hears edges
//! is told so by [`Turn::more`](crate::Turn).
//!
//! # Readiness
//! A stream is registered once. Its readiness is remembered until a read or a write says that nothing is left, and an
//! event only ever says "try". A short read of a TCP stream is taken as "nothing left" where the system allows it
//! (Linux), which saves a system call for each request; never after a hint of a close, an error or urgent data, and
//! never on a Unix socket.
//!
//! Sources of the user's are edges as well, but nothing is remembered for them beyond what their callback answers.
//!
//! # Timers
//! Deadlines of connections (idle, stalled, unfinished) are one heap with one entry a connection: a byte that moves
//! writes a stamp, and the deadline looks at the stamp when it comes. Timers that handlers set are another heap,
//! ordered by time and then by order of setting, with a list for each owner, so that they end with it. A timer's time
//! begins when the callback that set it has returned and the clock was looked at: a callback that ran for long takes
//! nothing off it.
//!
//! # Connecting
//! ```text
//!         name            addresses              one connects
//!   new ───────▶ looking ───────────▶ trying ─────────────────────▶ on_open (and up, if it is to be made anew)
//!    │              │                   │ all failed, or time over
//!    ▲              └───────────────────┴────────────▶ resting, if there is a policy ── or on_connect_failed
//!    └────────────────────────────────────────────────────┘
//! ```
//! An attempt is a record in the core; the sockets that it tries are connections like any other, with ids and tokens,
//! in a phase before *open* of which no handler knows. So a stale event, a limit, or the closing of a socket is the
//! business of one mechanism. Names are looked up by threads behind the seam, four at most; they only hand over what
//! they found and wake the loop.
//!
//! # Other threads
//! Handles put commands into one bounded queue. A push sets a flag, and whoever sets it that was clear wakes the loop,
//! so many commands are one wake-up. The loop clears the flag *before* it takes commands; the other way round, what
//! comes between the two would wait for the next push. What exceeds a turn's share flags the loop again, which then
//! does not sleep. A model checker has tried the orders of two producers and the loop, with up to three preemptions.
//! What is refused comes back; what is for someone who has gone is counted.
//!
//! # Datagrams
//! A datagram socket is a *mailbox* in the core (what it has still to send, by address, in one contiguous buffer) and a
//! socket in the loop. Callbacks only post; the loop sends right after the callback, or at the end of the turn what
//! others posted. A turn receives a bounded number of datagrams and bytes from each socket, first come first served. An
//! error concerns one datagram: it is told, and the socket goes on. Of a Unix receiver whose queue is full the system
//! does not say when it takes more: what is for it is put aside and tried again every 10 ms, so that nobody else waits.
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
//! A *link* carries that over from one connection to another: while much waits for the one, the other is not read, and
//! no more is read of it at once than may still wait. A relay that only passes bytes on is bounded by that alone.
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
//! - No name is resolved on the loop but in [`Reactor::listen`](crate::Reactor::listen) and
//!   [`Reactor::bind`](crate::Reactor::bind), no file is touched but a Unix socket's, no signal handler is installed,
//!   nothing is printed, and there is no global state but a counter that numbers reactors.
//! - No thread, but for the resolver's: to use more cores, run a reactor on each, with
//!   [`Listen::reuse_port`](crate::Listen::reuse_port).
