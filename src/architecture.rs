//! How the reactor is built, and what it promises. A chapter to read; there is no code in it.
//!
//! # Layers
//! A file imports only from the layers below its own, and no files import each other in a circle. A test checks both.
//!
//! ```text
//!  8   lib.rs · this chapter · testing/ (a feature)                            examples/   tests/
//!  7   reactor/     the public face and the event loop: owns the sockets
//!  6   dispatch/    handlers with their states, and every call into them · builtin/ echo, broadcast, framed
//!  5   handler/     what a handler sees: its trait, contexts, verbs, handles, snapshots
//!  4   core/        what callbacks act on: output, groups, connect jobs, lists of work · command_queue.rs
//!  3   connection.rs · stats.rs · sys/  the system interface
//!  2   closed.rs · group.rs · config/  limits, addresses, options · time/  deadlines, timers
//!  1   buffer/  outbox, input, pool · codec/ · id.rs · work_list.rs
//! ```
//!
//! A subject has one name in every layer: `reactor/write.rs` calls what `core/send.rs` queued into `buffer/outbox.rs`;
//! `close`, `connect`, `timers` and `datagram` are files in `core/` and in `reactor/`. The core is one object in
//! several files: its methods call each other across them.
//!
//! Every outside effect (the clock, waiting, accepting, connecting, lookups, reading, writing, closing, randomness)
//! goes through one trait, `Sys`. Only its implementation in `sys/mio` names sockets. Tests put another system in its
//! place and drive the same loop with it: a scripted one, in which each call returns what the test says, and on top of
//! it a simulated one, which is driven by a seed. The feature `testing` gives both to users, behind handlers and not
//! behind `Sys`.
//!
//! # Storage is split by who touches it
//! ```text
//!               slot 0     slot 1     slot 2     slot 3
//!  sockets    [ stream    |    –     | stream   | stream   ]   the event loop: how to reach the peer
//!  connections[ out,phase |    –     | out,phase| out,phase]   the core: what is unsent; it issues the ids
//!  handler A: [ State     | State    ]    handler B: [ () ]    each handler's own slab of states
//! ```
//! A broadcast needs the outboxes of other connections, never their handlers. So a [`Context`](crate::Context) borrows
//! the connections, the handler borrows its own states, and the loop keeps the sockets: disjoint fields, checked when
//! the program is compiled and free when it runs.
//!
//! A [`ConnId`](crate::ConnId) is a slot and the generation of that slot. An id, or a readiness event, of a closed
//! connection is recognized and dropped; it never reaches the connection that uses the slot now.
//!
//! # One turn
//! `reactor/turn.rs` shows a turn on one screen:
//! 1. **Wait** for events until the next deadline, or not at all while there is work.
//! 2. **Accept** a few connections from each listener.
//! 3. **Read** each ready connection, one buffer at most, into the buffer that all share, and call its handler. What
//!    the handler sent to its own peer is written at once. Bytes that are sent back unchanged are written from the
//!    receive buffer, without a copy.
//! 4. **Receive** datagrams, and call the **sources** that are ready or had work left.
//! 5. **Timers**: deadlines of connections first, then the timers that handlers set. Late, never early, and only those
//!    that were due when the wait began: what had arrived by then has been read. So a loop that is late (a callback
//!    blocked, the process was stopped) closes nobody whose bytes wait in the kernel.
//! 6. **Commands** of other threads, a share of them, in the order in which they were accepted.
//! 7. **Notify**: call [`on_close`](crate::Handler::on_close) for closed connections.
//! 8. **Connect**: start connect jobs, take the results of lookups, time out.
//! 9. **Flush**: datagrams, then what was sent to other connections: one write for each receiver.
//! 10. **Reap**: descriptors are closed and slots become free, only here.
//!
//! Each step is bounded. Work that is left over stays in a queue, and the next wait does not sleep on it.
//!
//! The timeout of a caller is rounded down to a millisecond, so that a turn never oversleeps; our own deadlines are
//! rounded up, so that the deadline has passed when the loop wakes. When a batch of events was full there may be more:
//! [`Turn::more`](crate::Turn) says so to an outer loop that only sees edges.
//!
//! # Readiness
//! A stream is registered once, edge-triggered. The loop remembers its readiness until a read or a write returns
//! `WouldBlock`: an event only ever means "try". A short read of a TCP stream means "drained" where the system allows
//! that conclusion (Linux), which saves a system call for each request; but never after a hint (peer closed, error,
//! urgent data), and never on a Unix socket.
//!
//! Sources are edge-triggered as well, but the loop remembers nothing for them beyond what their callback returned.
//!
//! # Timers
//! The deadlines of connections (idle, stalled, unfinished message) are one heap with one entry for each connection. A
//! byte that moves only writes a timestamp; the deadline reads that timestamp when it expires. The timers that handlers
//! set are another heap, ordered by time and then by the order of setting, with a list for each owner, so that they end
//! with it. The delay of a timer starts when the callback that set it has returned: a slow callback shortens nothing.
//!
//! # Connecting
//! ```text
//!         name            addresses              one connects
//!   new ───────▶ looking ───────────▶ trying ─────────────────────▶ on_open (and connected, if it reconnects)
//!    │              │                   │ all failed, or timeout
//!    ▲              └───────────────────┴────────────▶ backoff, if there is a policy ── or on_connect_failed
//!    └────────────────────────────────────────────────────┘
//! ```
//! A connect job is a record in the core. The sockets that it tries are connections like any other, with ids and
//! tokens, in a phase before *open* that no handler sees. So stale events, limits and closing are handled by one
//! mechanism. A listener whose handler connects for each client [reserves](crate::Listen::reserve_connects) a place for
//! that, and accepts nobody while none is free. Addresses are tried as in RFC 8305 (happy eyeballs). Threads behind
//! `Sys` look names up, four at most; they only queue the result and wake the loop.
//!
//! # Other threads
//! Handles push commands into one bounded queue. A push sets a flag, and the push that changes the flag from clear to
//! set wakes the loop: many commands are one wake-up. The loop clears the flag *before* it takes commands; in the other
//! order a command that comes between the two would wait for the next push. Commands beyond a turn's share set the flag
//! again, and the loop does not sleep. A model checker has tried the interleavings of two producers and the loop, with
//! up to three preemptions. A refused command is returned to the caller; a command whose target no longer exists is
//! counted.
//!
//! # Datagrams
//! A datagram socket is a send queue in the core (one contiguous buffer) and a socket in the loop. Callbacks only
//! queue. The loop sends right after the callback, or at the end of the turn what others queued. A turn receives a
//! bounded number of datagrams and bytes from each socket. An error concerns one datagram: it is reported, and the
//! socket goes on. A Unix datagram socket gives no readiness when the *receiver's* queue is full, so such datagrams are
//! retried every 10 ms while other receivers are served.
//!
//! A UDP socket bound to the unspecified address has the system tell which address each datagram was sent to, and the
//! queue keeps it beside an answer. The others use the cheaper calls. A datagram from the socket's own address is
//! forged and discarded. Bound to the unspecified address, a socket learns its addresses from the datagrams whose
//! senders have its own port: one answer to itself may leave, and is recognized when it arrives. What was sent to many
//! is exempt: the system delivers it to the sender's host as well.
//!
//! Two servers that answer each other (CVE-2024-2169) look like two that have much to say, so only a limit on the rate
//! of a source ends that. It counts what is received, in a table of fixed size.
//!
//! # Closing
//! ```text
//!            close, fail, timeouts           all written            peer's FIN, quiet, limit
//!   open ───────────────────────▶ flushing ─────────────▶ lingering ──────────────────▶ closed ─▶ on_close, reap
//!     └───────────── abort, reset, a limit (from any phase) ─────────────────────────────▲
//! ```
//! Closing a TCP socket with unread input makes the kernel send RST, which can destroy our own last bytes at the peer.
//! So after our FIN the loop reads and discards input for a while: it lingers. Before a reset that was asked for
//! ([`Net::close_with_reset_id`](crate::Net::close_with_reset_id)) it lingers without a FIN.
//!
//! # Backpressure
//! A peer that does not read its output is not read either. At [`Limits::output_high`](crate::Limits::output_high)
//! unsent bytes its connection stops being read, at [`Limits::output_low`](crate::Limits::output_low) it is read again.
//! Nothing is lost and no other connection is slowed. What is sent to a slow consumer regardless (by other connections,
//! or by a handler that ignores [`Context::wants_more`](crate::Context::wants_more)) is bounded by
//! [`Limits::output_hard`](crate::Limits::output_hard). Then the connection is terminated, so that no stream ever has a
//! gap. All output together is bounded as well, and so is unfinished input, of each connection and of all.
//!
//! A *link* extends that to another connection: while much is unsent to one, the other is not read, and no more is read
//! from it at once than may still be queued. A relay that only passes bytes on is bounded by that alone.
//!
//! # Broadcasts
//! A broadcast is encoded once for each framing among the group's members and appended to a log. When the turn ends, or
//! the log grows long, each member is written the *range* of the log that it has not got yet. M messages to N members
//! cost M appends and N writes. What the kernel does not take is queued by reference to the shared block.
//!
//! # What is deliberately absent
//! - Callbacks never nest: a send never calls `on_close`.
//! - No handler is moved out of its slot to be called; none is behind a `RefCell`.
//! - There is no unsafe code, and no panic that a peer, a kernel error or a wrong option can cause.
//! - The loop resolves names only in [`Reactor::listen`](crate::Reactor::listen) and
//!   [`Reactor::bind`](crate::Reactor::bind). It touches no file but that of a Unix socket, installs no signal handler,
//!   prints nothing, and has no global state but a counter that numbers reactors.
//! - There is no thread but the resolver's. To use more cores, run a reactor on each, with
//!   [`Listen::reuse_port`](crate::Listen::reuse_port).
//!
//! # Glossary
//! Each word means one thing, in code, documentation and logs.
//!
//! | word | meaning |
//! |---|---|
//! | backoff | the wait before a connect job tries again |
//! | backpressure | not reading a peer while output that it causes is unsent |
//! | callback | a method of a handler that the loop calls |
//! | command | a request from another thread, run by the loop |
//! | connect job | an outbound connection that was asked for: names, addresses, retries |
//! | connection | one stream socket with its outbox, its phase and its handler |
//! | core | the memory that callbacks act on |
//! | datagram | one message of a UDP or Unix datagram socket |
//! | deadline | when the loop must check a connection, a job or a shutdown |
//! | dirty | having output that others queued in this turn |
//! | dispatcher | holds the handlers and calls them; catches their panics |
//! | event | one report of readiness from the system |
//! | evict | to terminate the largest holder of memory, or the oldest lingering connection, to make space |
//! | flush | to write what is unsent |
//! | framing | how messages are delimited on their way out: a codec's encoder |
//! | generation | how often a slot was used before; part of every id |
//! | group | a set of connections that broadcasts go to |
//! | handle | what another thread holds to send commands |
//! | handler | the user's value with callbacks |
//! | high-water mark | as many unsent bytes as stop the reading of a connection; at the low-water mark it resumes |
//! | hint | a part of an event that says why, such as "peer closed"; never trusted alone |
//! | input | bytes that were read and not consumed: kept as incomplete, or deferred |
//! | limit | a bound with a default in [`Limits`](crate::Limits) |
//! | linger | to read and discard input after our FIN |
//! | link | stops reading one connection while another has much unsent |
//! | listener | a listening socket |
//! | log | the messages of a group in one turn, in one framing |
//! | lookup | resolving one host name |
//! | member | a connection in a group |
//! | note | a value that another thread posts to a handler |
//! | outbox | the unsent bytes of one connection |
//! | pause | to stop reading a connection, by its handler or by flow control; resume reads it again |
//! | phase | connecting, open, flushing, lingering or closed |
//! | place | what the limit of connections counts: a connection, or one that is reserved |
//! | pool | empty buffers, kept for reuse |
//! | readiness | what events have said about a socket, until a call returned `WouldBlock` |
//! | reap | to close descriptors and free slots at the end of a turn |
//! | requester | the accepted connection on whose behalf another one is made |
//! | reserve | the places kept for connections that will be made on behalf of an accepted one |
//! | retry | one more try of a connect job, or of a datagram whose receiver was full |
//! | slot | the index of a value in its slab |
//! | snapshot | the facts about one connection at one time |
//! | source | anything else that the event queue watches, with a callback |
//! | state | what a handler stores for one connection |
//! | terminate | to close at once: with RST, unless the peer has closed first |
//! | throttle | to stop reading a connection under memory pressure |
//! | token | what the system returns with an event: a kind and an id |
//! | turn | one iteration of the loop |
//! | unsent | accepted for sending and not yet written |
