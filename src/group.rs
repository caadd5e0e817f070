//! Groups of connections, and the logs that hold their broadcasts until they are written.
//!
//! A broadcast is encoded once for each framing in use and appended to that framing's log; no work is done per member.
//! A member takes a *range* of its log when it is flushed, or earlier if something else is sent to it. So a broadcast
//! costs O(framings), and the bytes of a turn go from the shared log to each member in one write.
//!
//! Messages are numbered across all groups, for two reasons: a member of several groups gets their messages merged in
//! the order of sending, and one number per member (`from`) records what it has taken, even if messages were skipped.
//!
//! Invariant: `Membership::place` of a connection is the member's index here, and `Member::conn` is that connection;
//! the entries of a log have increasing numbers and ends; a log without entries holds no buffer.

use std::ops::Range;

use crate::buffer::pool::{Pool, Use};
use crate::codec::{Framing, NotEncoded, Panic};
use crate::id::{ConnId, GenSlab, Group, HandlerIdx, HasId};
use crate::work_list::WorkList;

/// Slow consumer policy: what a group does about a member that does not read fast enough. Nothing is dropped silently:
/// terminated connections and skipped messages are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SlowMember {
    /// Terminates it once its unsent output would exceed [`Limits::output_hard`](crate::Limits::output_hard): a member
    /// gets every message, or is closed.
    #[default]
    Cut,
    /// Skips the messages that would raise its unsent output above
    /// [`Limits::output_high`](crate::Limits::output_high). Each one is counted in
    /// [`Stats::skipped`](crate::Stats::skipped).
    Skip,
    /// Applies backpressure: stops reading the connections that send to the group while a member has more unsent output
    /// than [`Limits::output_high`](crate::Limits::output_high), until it has fallen to
    /// [`Limits::output_low`](crate::Limits::output_low) or the member has left. The hard limit still terminates.
    PauseSenders,
}

/// One member of a group.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) conn: ConnId,
    /// The index of the log in its framing.
    pub(crate) log: u32,
    /// It pauses the group's senders.
    pub(crate) slow: bool,
    /// The number of the first message that it has not taken yet.
    pub(crate) from: u64,
}

/// One message in a log. It begins where the entry before it ends.
#[derive(Clone, Copy, Debug)]
struct Entry {
    number: u64,
    end: usize,
}

/// The messages that were sent to a group and not written yet, encoded in one framing.
#[derive(Debug)]
pub(crate) struct Log {
    /// The index of the framing among the reactor's framings.
    framing: HandlerIdx,
    /// The number of members that use it. At zero the log may be reused for another framing.
    users: u32,
    block: Vec<u8>,
    entries: Vec<Entry>,
}

impl Log {
    /// Appends one encoded message. Appends nothing if there is no memory, or the framing does not encode it.
    fn append(&mut self, number: u64, framing: &Framing, message: &[u8], pool: &mut Pool) -> Result<(), NotEncoded> {
        let most = framing.encoded_len(message.len());
        if self.block.capacity() == 0 {
            let Some(block) = pool.take(most, Use::Output) else { return Err(NotEncoded::Refused) };
            self.block = block;
        }
        // `Vec` would grow by itself while encoding. Grow it here instead, so that the growth is charged to the pool
        // and an allocation failure is returned, not a panic.
        let fits = self.block.capacity() - self.block.len() >= most;
        if !fits && !pool.grow(&mut self.block, most, Use::Output) {
            return Err(NotEncoded::Refused);
        }
        // A codec may still write more than `encoded_len` announced: charge that growth as well.
        let capacity = self.block.capacity();
        let encoded = framing.encode(message, &mut self.block);
        pool.charge(Use::Output, self.block.capacity() - capacity);
        if encoded.is_ok() {
            self.entries.push(Entry { number, end: self.block.len() });
        } else if self.entries.is_empty() {
            pool.recycle(std::mem::take(&mut self.block), Use::Output);
        }
        encoded
    }

    /// Returns the index of the first entry with number `from` or above.
    fn index_of(&self, from: u64) -> usize {
        match self.entries.first() {
            // Usually a member takes the whole log: search only if its part begins later.
            Some(first) if first.number < from => self.entries.partition_point(|e| e.number < from),
            _ => 0,
        }
    }

    /// Returns where the entry at `index` begins.
    fn start_of(&self, index: usize) -> usize {
        index.checked_sub(1).map_or(0, |before| self.entries[before].end)
    }

    /// Returns the range of the block that holds the messages with number `from` and above.
    pub(crate) fn range(&self, from: u64) -> Range<usize> {
        self.start_of(self.index_of(from))..self.entries.last().map_or(0, |e| e.end)
    }

    /// Returns the messages with number `from` and above: their numbers and ranges.
    pub(crate) fn messages(&self, from: u64) -> impl Iterator<Item = (u64, Range<usize>)> {
        let first = self.index_of(from);
        let mut start = self.start_of(first);
        self.entries[first..].iter().map(move |e| (e.number, std::mem::replace(&mut start, e.end)..e.end))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.block
    }

    /// Takes the block out, to write or share its bytes. The entries stay until [`Log::clear`].
    pub(crate) fn take_block(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.block)
    }

    pub(crate) fn clear(&mut self) {
        if self.entries.capacity() > KEPT_ENTRIES {
            self.entries = Vec::new();
        }
        self.entries.clear();
    }
}

/// The capacity for entries that a log keeps while it is empty. Chosen: 16 KiB, enough for most turns; a burst does not
/// hold memory in every group afterwards.
const KEPT_ENTRIES: usize = 1024;

/// One group.
#[derive(Debug)]
pub(crate) struct GroupState {
    id: Group,
    pub(crate) policy: SlowMember,
    pub(crate) members: Vec<Member>,
    pub(crate) logs: Vec<Log>,
    /// Its logs hold messages. Set while it is in `Groups::with_unsent`.
    pub(crate) has_unsent: bool,
    /// The number of members with `slow` set.
    pub(crate) slow: u32,
    /// Connections that have sent to it since its last flush, and are paused if that flush leaves a member slow. Used
    /// only with [`SlowMember::PauseSenders`], like `waiting`.
    pub(crate) senders: Vec<ConnId>,
    /// Senders that are paused until no member is slow.
    pub(crate) waiting: Vec<ConnId>,
}

impl HasId for GroupState {
    type Id = Group;

    #[inline]
    fn id(&self) -> Group {
        self.id
    }
}

/// The result of [`GroupState::append`].
#[derive(Debug, Default)]
pub(crate) struct Appended {
    /// The number of members whose log has the message.
    pub(crate) reached: usize,
    /// The number of members whose log does not: their framing cannot encode it, or there is no memory.
    pub(crate) missed: usize,
    /// Bytes by which the log that grew most has grown.
    pub(crate) grown: usize,
    /// The handlers whose codec panicked. Their members are in neither number.
    pub(crate) panicked: Vec<(HandlerIdx, Panic)>,
}

impl GroupState {
    /// Appends a message to every log in use.
    pub(crate) fn append(&mut self, number: u64, framings: &[Framing], message: &[u8], pool: &mut Pool) -> Appended {
        let mut sum = Appended::default();
        for log in self.logs.iter_mut().filter(|l| l.users > 0) {
            let before = log.block.len();
            let framing = framings.get(log.framing.slot()).ok_or(NotEncoded::Refused);
            match framing.and_then(|framing| log.append(number, framing, message, pool)) {
                Ok(()) => sum.reached += log.users as usize,
                Err(NotEncoded::Refused) => sum.missed += log.users as usize,
                Err(NotEncoded::Panicked(panic)) => sum.panicked.push((log.framing, panic)),
            }
            sum.grown = sum.grown.max(log.block.len() - before);
        }
        sum
    }

    /// Takes the connections that are not read because of this group's slow members, if there are none any more.
    pub(crate) fn take_waiting_unless_slow(&mut self) -> Vec<ConnId> {
        if self.slow == 0 { std::mem::take(&mut self.waiting) } else { Vec::new() }
    }

    /// Skips the message with this number, which is the last one, for the member at `place`. Returns whether its log
    /// has the message.
    pub(crate) fn skip_message(&mut self, place: u32, number: u64) -> bool {
        let Some(member) = self.members.get_mut(place as usize) else { return false };
        member.from = number + 1;
        let log = &self.logs[member.log as usize];
        log.entries.last().is_some_and(|e| e.number == number)
    }

    /// Returns the handler in whose framing the member at `place` is sent to.
    pub(crate) fn framing_at(&self, place: u32) -> Option<HandlerIdx> {
        Some(self.logs[self.members.get(place as usize)?.log as usize].framing)
    }

    /// Returns the length of the longest log, plus `len`.
    pub(crate) fn length_with(&self, len: usize) -> usize {
        self.logs.iter().map(|l| l.block.len()).max().unwrap_or(0).saturating_add(len)
    }

    /// Adds a member that gets the messages from number `from` on. Returns its index in the list.
    pub(crate) fn add(&mut self, conn: ConnId, framing: HandlerIdx, from: u64) -> u32 {
        let log = self.log_in(framing);
        self.members.push(Member { conn, log, slow: false, from });
        (self.members.len() - 1) as u32
    }

    /// Moves the member at `place` to the log of another framing. It must have taken everything from its old log.
    pub(crate) fn reframe(&mut self, place: u32, framing: HandlerIdx, from: u64) {
        let place = place as usize;
        let Some(old) = self.members.get(place).map(|m| m.log) else { return };
        let log = self.log_in(framing);
        self.logs[old as usize].users -= 1;
        if let Some(member) = self.members.get_mut(place) {
            (member.log, member.from) = (log, from);
        }
    }

    /// Returns the index of the log of a framing, and counts one more user of it. Reuses an unused log only if it is
    /// empty: the messages of the old framing would not be decodable in the new one.
    fn log_in(&mut self, framing: HandlerIdx) -> u32 {
        // An unused log may name a handler that is gone, and whose index is another one's now.
        let used = |l: &Log| l.users > 0 && l.framing == framing;
        let free = |l: &Log| l.users == 0 && l.entries.is_empty();
        let found = self.logs.iter().position(used).or_else(|| self.logs.iter().position(free));
        let log = found.unwrap_or_else(|| {
            self.logs.push(Log { framing, users: 0, block: Vec::new(), entries: Vec::new() });
            self.logs.len() - 1
        });
        self.logs[log].framing = framing;
        self.logs[log].users += 1;
        log as u32
    }

    /// Removes the member at `place`. Returns it and the connection of the member that was moved to its index, whose
    /// `Membership::place` must be updated.
    pub(crate) fn remove(&mut self, place: u32) -> Option<(Member, Option<ConnId>)> {
        let place = place as usize;
        if place >= self.members.len() {
            return None;
        }
        let gone = self.members.swap_remove(place);
        self.logs[gone.log as usize].users -= 1;
        if gone.slow {
            self.slow -= 1;
        }
        Some((gone, self.members.get(place).map(|m| m.conn)))
    }
}

/// All groups.
#[derive(Debug)]
pub(crate) struct Groups {
    pub(crate) states: GenSlab<GroupState>,
    /// The number of the next message, in any group.
    number: u64,
    /// The groups whose logs hold messages.
    pub(crate) with_unsent: WorkList<Group>,
}

impl Groups {
    pub(crate) const fn new() -> Self {
        Self { states: GenSlab::new(), number: 1, with_unsent: WorkList::new() }
    }

    /// Creates a group. Returns `None` if no more ids can be issued.
    pub(crate) fn create(&mut self, policy: SlowMember) -> Option<Group> {
        self.states.insert_with(|id| GroupState {
            id,
            policy,
            members: Vec::new(),
            logs: Vec::new(),
            has_unsent: false,
            slow: 0,
            senders: Vec::new(),
            waiting: Vec::new(),
        })
    }

    /// Returns the number that the next message will have.
    #[inline]
    pub(crate) const fn next_number(&self) -> u64 {
        self.number
    }

    /// Returns the number for a new message.
    pub(crate) const fn number(&mut self) -> u64 {
        self.number += 1;
        self.number - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::LengthDelimited;
    use std::rc::Rc;

    fn conn(slot: u32) -> ConnId {
        ConnId { slot, generation: 0 }
    }

    #[test]
    fn one_append_for_each_framing_and_a_range_for_each_member() {
        let framings = [Framing::raw(), Framing::of(Rc::new(LengthDelimited::u32_be(3).unwrap()))];
        let mut pool = Pool::new(0);
        let mut groups = Groups::new();
        let g = groups.create(SlowMember::Cut).unwrap();
        let first = groups.next_number();
        let state = groups.states.get_mut(g).unwrap();
        state.add(conn(0), HandlerIdx(0), first);
        state.add(conn(1), HandlerIdx(1), first);
        state.add(conn(2), HandlerIdx(0), first);
        for m in [&b"abc"[..], b"defg", b"hi"] {
            let number = groups.number();
            let done = groups.states.get_mut(g).unwrap().append(number, &framings, m, &mut pool);
            assert_eq!((done.reached, done.missed), if m.len() > 3 { (2, 1) } else { (3, 0) });
        }
        let state = groups.states.get(g).unwrap();
        assert_eq!(state.logs[0].bytes(), b"abcdefghi");
        assert_eq!(state.logs[1].bytes(), b"\0\0\0\x03abc\0\0\0\x02hi");
        assert_eq!(state.logs[0].range(first), 0..9);
        assert_eq!(state.logs[0].range(first + 1), 3..9);
        assert_eq!(state.logs[0].range(first + 3), 9..9);
        assert_eq!(state.logs[1].range(first + 1), 7..13, "it missed the second, and its third begins there");
        let spans: Vec<_> = state.logs[1].messages(first).collect();
        assert_eq!(spans, [(first, 0..7), (first + 2, 7..13)]);
    }

    #[test]
    fn the_memory_of_a_log_is_counted_however_much_its_framing_writes() {
        let framings = [Framing::of(Rc::new(LengthDelimited::u32_be(10_000).unwrap()))];
        let mut pool = Pool::new(0);
        let mut groups = Groups::new();
        let g = groups.create(SlowMember::Cut).unwrap();
        groups.states.get_mut(g).unwrap().add(conn(0), HandlerIdx(0), 1);
        for n in 0..3_000 {
            let number = groups.number();
            let state = groups.states.get_mut(g).unwrap();
            // If the rest of the block is too short, the codec grows it itself.
            state.append(number, &framings, b"x", &mut pool);
            assert_eq!(pool.output(), state.logs[0].block.capacity(), "after {n} messages");
        }
    }

    #[test]
    fn removing_a_member_says_who_moved_into_its_place() {
        let mut groups = Groups::new();
        let g = groups.create(SlowMember::Cut).unwrap();
        let state = groups.states.get_mut(g).unwrap();
        for i in 0..3 {
            assert_eq!(state.add(conn(i), HandlerIdx(0), 1), i);
        }
        let (gone, moved) = state.remove(0).unwrap();
        assert_eq!((gone.conn, moved), (conn(0), Some(conn(2))));
        let (gone, moved) = state.remove(1).unwrap();
        assert_eq!((gone.conn, moved), (conn(1), None));
        assert!(state.remove(5).is_none());
        assert_eq!(state.logs[0].users, 1);
        groups.states.remove(g);
        assert!(groups.states.get(g).is_none());
        let again = groups.create(SlowMember::Skip).unwrap();
        assert!(groups.states.get(g).is_none() && groups.states.get(again).is_some(), "the old id names nothing");
    }
}
