//! The scenarios, and where each applies.

use std::io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotConnected, NotFound, WouldBlock};

use super::Step::{self, *};
use crate::sys::CloseHow::{Graceful, Reset};
use crate::sys::Ready;

/// The kinds of streams, and whether strict edges suffice (no second edge before `WouldBlock`).
#[derive(Clone, Copy, Debug)]
pub(super) struct On {
    pub(super) tcp: bool,
    pub(super) unix: bool,
    pub(super) strict: bool,
}

pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) on: On,
    pub(super) from: &'static [Step],
    pub(super) steps: &'static [Step],
}

const fn of(name: &'static str, on: On, from: &'static [Step], steps: &'static [Step]) -> Scenario {
    Scenario { name, on, from, steps }
}

const ALL: On = On { tcp: true, unix: true, strict: true };
const TCP: On = On { unix: false, ..ALL };
const UNIX: On = On { tcp: false, ..ALL };
const EDGES: On = On { strict: false, ..ALL };
const TCP_EDGES: On = On { strict: false, ..TCP };
const UNIX_EDGES: On = On { strict: false, ..UNIX };

/// One connection, accepted and registered.
const OPEN: &[Step] = &[AddsListener, Connects, ListenerIsTold, Accepts, AcceptBlocks, Adds, Told(W), NotTold(H | E)];
const LISTENING: &[Step] = &[AddsListener];
const BOUND: &[Step] = &[];

const R: u8 = Ready::READABLE;
const W: u8 = Ready::WRITABLE;
const H: u8 = Ready::HINT;
const E: u8 = Ready::ERROR;

/// Reads, writes, and the events between them.
#[rustfmt::skip] // As in a table.
pub(super) const MOVING: &[Scenario] = &[
    of("a read that fills the buffer, then nothing", ALL, OPEN, &[
        Sends("abc"), Told(R), NotTold(H | E), Reads(3, "abc"), ReadFails(WouldBlock), ReadFails(WouldBlock),
    ]),
    of("after WouldBlock an arrival is told", ALL, OPEN, &[
        ReadFails(WouldBlock), Sends("abc"), Told(R), Reads(2, "ab"), Reads(2, "c"), ReadFails(WouldBlock),
    ]),
    of("each arrival is told, read or not", EDGES, OPEN, &[
        Sends("abc"), Told(R), Sends("d"), Told(R), Reads(2, "ab"), NotTold(R), Sends("e"), Told(R), Reads(9, "cde"),
    ]),
    of("after a short read an arrival is told", EDGES, OPEN, &[
        Sends("abc"), Told(R), Reads(9, "abc"), Sends("d"), Told(R), Reads(9, "d"), ReadFails(WouldBlock),
    ]),
    of("an arrival tells of space", EDGES, OPEN, &[
        Sends("a"), Told(R | W), Reads(9, "a"), Fills, Sends("b"), Told(R), NotTold(W), Reads(9, "b"),
    ]),
    of("space tells of what is unread", EDGES, OPEN, &[
        Sends("a"), Told(R), Fills, NotTold(R), HearsAll, Told(R | W), Reads(9, "a"),
    ]),
    of("nothing is told without space", ALL, OPEN, &[Fills, NotTold(W), WriteFails(WouldBlock), NotTold(W)]),
    of("space is told after WouldBlock", ALL, OPEN, &[
        Fills, HearsAll, Told(W), Writes("more"), Hears("more"), Fills, HearsAll, Told(W),
    ]),
    of("a full stream whose client finishes is still full", ALL, OPEN, &[
        Fills, Finishes, Told(R | H), Reads(9, ""), WriteFails(WouldBlock), HearsAll, Told(W), Writes("x"),
        Hears("x"),
    ]),
    of("a full stream that is reset is writable", TCP, OPEN, &[
        Fills, Resets, Told(R | W | H | E), WriteFails(ConnectionReset), WriteFails(BrokenPipe), Reads(9, ""),
    ]),
    of("a full stream whose client hangs up is writable", ALL, OPEN, &[
        Fills, HangsUp, Told(R | W | H | E), ReadFails(ConnectionReset), WriteFails(BrokenPipe),
    ]),
    of("a read stops at an urgent byte", TCP, OPEN, &[
        Sends("abc"), SendsUrgent, Sends("def"), Told(R | H), Reads(9, "abc"), Reads(9, "def"), ReadFails(WouldBlock),
    ]),
    of("a read stops at an urgent byte, whatever its space", TCP, OPEN, &[
        Sends("abc"), SendsUrgent, Sends("def"), Told(R | H), Reads(2, "ab"), Reads(2, "c"), Reads(2, "de"),
        Reads(2, "f"),
    ]),
    of("an urgent byte alone is told, and nothing to read", TCP, OPEN, &[
        SendsUrgent, Told(R | H), ReadFails(WouldBlock), Sends("a"), Told(R), Reads(9, "a"), ReadFails(WouldBlock),
    ]),
    of("a second urgent byte makes the first an ordinary one", TCP, OPEN, &[
        Sends("a"), SendsUrgent, Sends("b"), SendsUrgent, Sends("c"), Told(R | H), Reads(9, "a!b"), Reads(9, "c"),
        ReadFails(WouldBlock),
    ]),
    of("an urgent byte that was read up to is passed over", TCP_EDGES, OPEN, &[
        Sends("a"), SendsUrgent, Told(R | H), Reads(9, "a"), SendsUrgent, Sends("c"), Told(R | H), Reads(9, "c"),
        ReadFails(WouldBlock),
    ]),
    of("bytes behind an urgent byte", TCP, OPEN, &[
        SendsUrgent, Sends("bc"), Told(R | H), Reads(9, "bc"), ReadFails(WouldBlock),
    ]),
    of("two urgent bytes behind others", TCP, OPEN, &[
        Sends("a"), SendsUrgent, SendsUrgent, Told(R | H), Reads(9, "a!"), ReadFails(WouldBlock),
    ]),
    of("two urgent bytes behind nothing", TCP, OPEN, &[
        SendsUrgent, SendsUrgent, Told(R | H), ReadFails(WouldBlock), Sends("a"), Told(R), Reads(9, "a"),
    ]),
    of("the end behind an urgent byte", TCP, OPEN, &[
        Sends("a"), SendsUrgent, Finishes, Told(R | H), Reads(9, "a"), Reads(9, ""), Reads(9, ""),
    ]),
];

/// How a connection ends, from either side.
#[rustfmt::skip] // As in a table.
pub(super) const ENDING: &[Scenario] = &[
    of("our end comes behind all that was written", ALL, OPEN, &[
        Fills, ShutsDown, Finishes, Told(R | H), Reads(9, ""), HearsAll, HearsEnd,
    ]),
    of("closed with output on its way, the client hears all of it", ALL, OPEN, &[
        Fills, Closes(Graceful), HearsAll, HearsEnd,
    ]),
    of("our end is told of, too", EDGES, OPEN, &[
        ShutsDown, Told(W), NotTold(R | H | E), Finishes, Told(R | W | H), Reads(9, ""),
    ]),
    of("the second end is told of, whoever's it is", EDGES, OPEN, &[
        Finishes, Told(R | H), Reads(9, ""), ShutsDown, Told(R | W | H), Reads(9, ""), TakesError(None),
    ]),
    of("who hangs up behind its end, tells no one", TCP_EDGES, OPEN, &[
        Finishes, Told(R | H), Reads(9, ""), HangsUp, NotTold(E), Writes("x"), Told(R | W | H | E),
        WriteFails(BrokenPipe), Reads(9, ""),
    ]),
    of("who hangs up a Unix stream behind its end, tells it", UNIX_EDGES, OPEN, &[
        Finishes, Told(R | H), Reads(9, ""), HangsUp, Told(R | W | H), NotTold(E), WriteFails(BrokenPipe),
        Reads(9, ""),
    ]),
    of("bytes, then the end", ALL, OPEN, &[
        Sends("abc"), Finishes, Told(R), Reads(9, "abc"), Reads(9, ""), Reads(9, ""), TakesError(None), NotTold(E),
    ]),
    of("an end is told though bytes are unread", EDGES, OPEN, &[
        Sends("abc"), Told(R), NotTold(H | E), Finishes, Told(R | H), Reads(9, "abc"), Reads(9, ""),
    ]),
    of("the end alone, and the other direction goes on", ALL, OPEN, &[
        Finishes, Told(R | H), NotTold(E), Reads(9, ""), Writes("x"), Hears("x"), Writes("y"), ShutsDown, Hears("y"),
        HearsEnd,
    ]),
    of("an answer to a client that has finished", ALL, OPEN, &[
        Sends("ask"), Finishes, Told(R), Reads(9, "ask"), Reads(9, ""), Writes("answer"), Closes(Graceful),
        Hears("answer"), HearsEnd,
    ]),
    of("after our end the client goes on", ALL, OPEN, &[
        Writes("bye"), ShutsDown, Hears("bye"), HearsEnd, Sends("late"), Told(R), NotTold(H | E), Reads(9, "late"),
        ReadFails(WouldBlock), Finishes, Told(R | H), Reads(9, ""), TakesError(None),
    ]),
    of("closed with everything read, the client sees the end", ALL, OPEN, &[
        Sends("abc"), Told(R), Reads(9, "abc"), Writes("bye"), Closes(Graceful), Hears("bye"), HearsEnd, HearsEnd,
    ]),
    of("closed with input unread, the client sees a reset", ALL, OPEN, &[
        Writes("bye"), Sends("abc"), Told(R), Closes(Graceful), Hears("bye"), HearsReset, CannotSend,
    ]),
    of("closed with some input unread, the client sees a reset", ALL, OPEN, &[
        Sends("abc"), Told(R), Reads(2, "ab"), Closes(Graceful), HearsReset,
    ]),
    of("closed with only the client's end unread, it sees the end", ALL, OPEN, &[
        Writes("bye"), Finishes, Told(R | H), Closes(Graceful), Hears("bye"), HearsEnd,
    ]),
    of("closed with an urgent byte unread, the client sees a reset", TCP, OPEN, &[
        SendsUrgent, Told(R | H), Closes(Graceful), HearsReset,
    ]),
    of("closed with an urgent byte passed, the client sees the end", TCP, OPEN, &[
        SendsUrgent, Told(R | H), ReadFails(WouldBlock), Closes(Graceful), HearsEnd,
    ]),
    of("reset by us", TCP, OPEN, &[Writes("bye"), Waiting(3), Closes(Reset), Hears("bye"), HearsReset, CannotSend]),
    of("a Unix stream has no reset", UNIX, OPEN, &[Writes("bye"), Closes(Reset), Hears("bye"), HearsEnd, CannotSend]),
    of("behind our end, input unread at the close is no news to a reader", TCP, OPEN, &[
        Writes("bye"), ShutsDown, Sends("abc"), Told(R), Closes(Graceful), CannotSend, Hears("bye"), HearsEnd,
    ]),
    of("behind our end, input unread at the close is a Unix reset", UNIX, OPEN, &[
        Writes("bye"), ShutsDown, Sends("abc"), Told(R), Closes(Graceful), Hears("bye"), HearsReset,
    ]),
    of("behind our end, a reset by us is no news to a reader", TCP, OPEN, &[
        Writes("bye"), ShutsDown, Waiting(3), Closes(Reset), CannotSend, Hears("bye"), HearsEnd,
    ]),
    of("who sends to what is closed can soon send no more", TCP, OPEN, &[
        Writes("bye"), Closes(Graceful), Waiting(3), Sends("late"), CannotSend, Hears("bye"), HearsEnd,
    ]),
    of("who sends to a closed Unix stream cannot", UNIX, OPEN, &[
        Writes("bye"), Closes(Graceful), CannotSend, Hears("bye"), HearsEnd,
    ]),
    of("a reset behind bytes: they are read first", TCP, OPEN, &[
        Sends("abc"), Resets, Told(R), Reads(9, "abc"), ReadFails(ConnectionReset), Reads(9, ""), Reads(9, ""),
        WriteFails(BrokenPipe), TakesError(None), ShutdownFails(NotConnected),
    ]),
    of("a reset is told to who does not read", TCP_EDGES, OPEN, &[
        Sends("abc"), Told(R), Resets, Told(R | W | H | E), Reads(2, "ab"), Reads(2, "c"), ReadFails(ConnectionReset),
        Reads(9, ""),
    ]),
    of("a reset is told once: to who asks", TCP, OPEN, &[
        Resets, Told(R | H | E), TakesError(Some(ConnectionReset)), TakesError(None), Reads(9, ""),
        WriteFails(BrokenPipe), ShutdownFails(NotConnected),
    ]),
    of("a reset is told once: to who writes", TCP, OPEN, &[
        Resets, Told(R | H | E), WriteFails(ConnectionReset), WriteFails(BrokenPipe), Reads(9, ""), TakesError(None),
    ]),
    of("a reset is told once: bytes stay when a write is told", TCP_EDGES, OPEN, &[
        Sends("abc"), Resets, Told(R | H | E), WriteFails(ConnectionReset), Reads(9, "abc"), Reads(9, ""),
        TakesError(None),
    ]),
    of("our end comes too late for a reset", TCP, OPEN, &[
        Resets, Told(R | H | E), ShutdownFails(NotConnected), ReadFails(ConnectionReset), Reads(9, ""),
    ]),
    of("a reset behind our end", TCP, OPEN, &[
        ShutsDown, HearsEnd, Resets, Told(R | H | E), ReadFails(ConnectionReset), Reads(9, ""), TakesError(None),
    ]),
    of("a reset behind an end is told to writers", TCP_EDGES, OPEN, &[
        Finishes, Told(R | H), Reads(9, ""), Resets, Told(R | W | H | E), Reads(9, ""), WriteFails(BrokenPipe),
        WriteFails(BrokenPipe), Reads(9, ""), TakesError(None), ShutdownFails(NotConnected),
    ]),
    of("a reset behind an end is told to who asks", TCP_EDGES, OPEN, &[
        Finishes, Resets, Told(R | H | E), TakesError(Some(BrokenPipe)), TakesError(None), Reads(9, ""),
        WriteFails(BrokenPipe),
    ]),
    of("a reset behind bytes and an end", TCP_EDGES, OPEN, &[
        Sends("abc"), Finishes, Resets, Told(R | W | H | E), Reads(9, "abc"), Reads(9, ""),
        TakesError(Some(BrokenPipe)),
    ]),
    of("a reset behind both ends is nothing", TCP, OPEN, &[
        ShutsDown, HearsEnd, Finishes, Told(R | H), Reads(9, ""), Resets, NotTold(E), TakesError(None), Reads(9, ""),
    ]),
    of("the first write to who hung up is taken, and answered with a reset", TCP_EDGES, OPEN, &[
        HangsUp, Told(R | H), NotTold(E), TakesError(None), Writes("x"), Told(R | W | H | E), WriteFails(BrokenPipe),
        Reads(9, ""), TakesError(None), ShutdownFails(NotConnected),
    ]),
    of("the reset after a write to who hung up is told to who asks", TCP_EDGES, OPEN, &[
        HangsUp, Told(R | H), Writes("x"), Told(E), TakesError(Some(BrokenPipe)), TakesError(None),
        WriteFails(BrokenPipe),
    ]),
    of("a write to who hung up leaves the input", TCP_EDGES, OPEN, &[
        Sends("abc"), HangsUp, Told(R | H), Writes("x"), Told(R | W | H | E), Reads(9, "abc"), Reads(9, ""),
        TakesError(Some(BrokenPipe)), TakesError(None),
    ]),
    of("our end to who hung up is well received", ALL, OPEN, &[
        Sends("abc"), HangsUp, Told(R), Reads(9, "abc"), Reads(9, ""), ShutsDown, NotTold(E), Reads(9, ""),
        TakesError(None),
    ]),
    of("nothing is written to a Unix stream that hung up", UNIX_EDGES, OPEN, &[
        HangsUp, Told(R | W | H), NotTold(E), WriteFails(BrokenPipe), Reads(9, ""), TakesError(None), ShutsDown,
    ]),
    of("a Unix stream that hung up leaves its bytes", UNIX, OPEN, &[
        Sends("abc"), HangsUp, Told(R), WriteFails(BrokenPipe), Reads(9, "abc"), Reads(9, ""), TakesError(None),
    ]),
    of("who hangs up with our output unread, resets", ALL, OPEN, &[
        Writes("bye"), Waiting(3), HangsUp, Told(R | H | E), ReadFails(ConnectionReset), Reads(9, ""),
        WriteFails(BrokenPipe), TakesError(None),
    ]),
    of("who hangs up with our output unread, resets behind its bytes", ALL, OPEN, &[
        Sends("abc"), Writes("bye"), Waiting(3), HangsUp, Told(R), Reads(9, "abc"), ReadFails(ConnectionReset),
        Reads(9, ""),
    ]),
    of("who hangs up so behind its end, resets for writers", TCP_EDGES, OPEN, &[
        Finishes, Told(R | H), Writes("bye"), Waiting(3), HangsUp, Told(E), Reads(9, ""),
        TakesError(Some(BrokenPipe)),
    ]),
    of("who hangs up so behind its end, resets a Unix stream for all", UNIX_EDGES, OPEN, &[
        Finishes, Told(R | H), Writes("bye"), Waiting(3), HangsUp, Told(E), ReadFails(ConnectionReset), Reads(9, ""),
    ]),
];

/// Accepting, and what has happened to a connection before.
#[rustfmt::skip] // As in a table.
pub(super) const ACCEPTING: &[Scenario] = &[
    of("nothing waits", ALL, LISTENING, &[AcceptBlocks]),
    of("bytes before the registration", ALL, LISTENING, &[
        Connects, Sends("abc"), ListenerIsTold, Accepts, Adds, Told(R | W), NotTold(H | E), Reads(9, "abc"),
        ReadFails(WouldBlock),
    ]),
    of("bytes read before the registration", ALL, LISTENING, &[
        Connects, Sends("abc"), Accepts, Reads(9, "abc"), ReadFails(WouldBlock), Adds, Told(W), NotTold(R | H | E),
    ]),
    of("an end before the registration", ALL, LISTENING, &[
        Connects, Sends("abc"), Finishes, Accepts, Adds, Told(R | W | H), NotTold(E), Reads(9, "abc"), Reads(9, ""),
        Writes("x"), Hears("x"),
    ]),
    of("a reset before the registration", TCP, LISTENING, &[
        Connects, Accepts, Sends("abc"), Resets, Adds, Told(R | W | H | E), Reads(9, "abc"),
        ReadFails(ConnectionReset), Reads(9, ""),
    ]),
    of("an urgent byte before the registration", TCP, LISTENING, &[
        Connects, Accepts, Sends("a"), SendsUrgent, Sends("b"), Adds, Told(R | W | H), Reads(9, "a"), Reads(9, "b"),
    ]),
    of("a client that reset is accepted", TCP, LISTENING, &[
        Connects, Resets, ListenerIsTold, Accepts, AcceptBlocks, Adds, Told(R | W | H | E),
        ReadFails(ConnectionReset), Reads(9, ""), WriteFails(BrokenPipe), TakesError(None),
    ]),
    of("an error that was told before the registration", TCP, LISTENING, &[
        Connects, Accepts, Resets, TakesError(Some(ConnectionReset)), Adds, Told(R | W | H), NotTold(E), Reads(9, ""),
    ]),
    of("a client that reset keeps its place", TCP, LISTENING, &[
        Connects, Connects, Sends("abc"), Resets, With(1), Sends("d"), ListenerIsTold, Accepts, Accepts, AcceptBlocks,
        Reads(9, "d"), With(0), Reads(9, "abc"), ReadFails(ConnectionReset),
    ]),
    of("a client that hung up is accepted, with its bytes", ALL, LISTENING, &[
        Connects, Sends("abc"), HangsUp, ListenerIsTold, Accepts, AcceptBlocks, Adds, Told(R | W | H),
        Reads(9, "abc"), Reads(9, ""), TakesError(None),
    ]),
    of("what was never registered is closed", ALL, LISTENING, &[Connects, Accepts, Closes(Graceful), HearsEnd]),
    of("what was never registered is reset", TCP, LISTENING, &[Connects, Accepts, Closes(Reset), HearsReset]),
    of("several wait, in order", ALL, LISTENING, &[
        Connects, Connects, Connects, With(1), Sends("b"), With(0), Sends("a"), With(2), Sends("c"), ListenerIsTold,
        Accepts, Accepts, Accepts, AcceptBlocks, Reads(9, "c"), With(0), Reads(9, "a"), With(1), Reads(9, "b"),
    ]),
    of("after WouldBlock a client is told", ALL, LISTENING, &[
        Connects, ListenerIsTold, Accepts, AcceptBlocks, Connects, ListenerIsTold, Accepts, AcceptBlocks,
    ]),
    of("each client is told, accepted or not", EDGES, LISTENING, &[
        Connects, ListenerIsTold, Connects, ListenerIsTold, Accepts, Connects, ListenerIsTold, Accepts, Accepts,
        AcceptBlocks,
    ]),
    of("clients that came before the registration are told", ALL, BOUND, &[
        Connects, Connects, AddsListener, ListenerIsTold, Accepts, Accepts, AcceptBlocks,
    ]),
    of("a listener that closes resets who waits", ALL, LISTENING, &[
        Connects, Connects, Accepts, ClosesListener, With(1), HearsReset, CannotSend, With(0), Sends("abc"), Adds,
        Told(R), Reads(9, "abc"),
    ]),
    of("a listener that closes resets who has said something", ALL, LISTENING, &[
        Connects, Sends("abc"), ClosesListener, HearsReset,
    ]),
    of("nobody connects to a closed listener", ALL, LISTENING, &[ClosesListener, IsRefused]),
];

/// Connecting.
#[rustfmt::skip]
pub(super) const DIALLING: &[Scenario] = &[
    of("a socket that connects is told, and is like any other", ALL, BOUND, &[
        Dials, Adds, Told(W), NotTold(H | E), Connected, IsMet, Sends("abc"), Told(R), Reads(3, "abc"),
        ReadFails(WouldBlock), Writes("de"), Hears("de"),
    ]),
    of("one that says something at once", ALL, BOUND, &[
        Dials, IsMet, Sends("abc"), Adds, Told(R | W), Connected, Reads(3, "abc"), ReadFails(WouldBlock),
    ]),
    of("one that hangs up at once", ALL, BOUND, &[
        Dials, IsMet, HangsUp, Adds, Told(R | H), Connected, Reads(9, ""),
    ]),
    of("our end is the first to finish", ALL, BOUND, &[
        Dials, Adds, Told(W), Connected, IsMet, ShutsDown, HearsEnd, Sends("abc"), Told(R), Reads(9, "abc"),
    ]),
    of("a reset of ours", TCP, BOUND, &[Dials, Adds, Told(W), Connected, IsMet, Closes(Reset), HearsReset]),
    of("nobody is there", TCP, BOUND, &[
        DialsInVain, Adds, Told(R | W | H | E), DialFails(ConnectionRefused),
    ]),
    of("no file is there", UNIX, BOUND, &[DialsNobody(NotFound)]),
];
