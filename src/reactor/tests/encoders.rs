//! Tests of codecs that panic while encoding: the panic ends those who have the codec, and not who sends.

use std::cell::Cell;
use std::rc::Rc;

use super::*;
use crate::builtin::{Echo, Framed};
use crate::codec::{Codec, Decoded, EncodeError, FrameError, Lines};
use crate::config::limits::PanicPolicy;
use crate::id::Group;
use crate::testing::log_tests::lines;

/// Lines, one of which cannot be encoded for a mistake in the codec.
struct Faulty(Lines);

impl Codec for Faulty {
    type State = <Lines as Codec>::State;

    fn decode(&self, state: &mut Self::State, data: &[u8]) -> Result<Decoded, FrameError> {
        self.0.decode(state, data)
    }

    fn encode(&self, message: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend_from_slice(b"half of it");
        assert_ne!(message, b"boom", "as the test wants it");
        out.truncate(out.len() - 10);
        self.0.encode(message, out)
    }

    fn max_message(&self) -> usize {
        self.0.max_message()
    }

    fn max_overhead(&self) -> usize {
        self.0.max_overhead()
    }
}

/// A rig whose first handler passes all input on to a group; two peers of it, and two that have the faulty codec.
fn half_faulty() -> (Rig, [usize; 4], Rc<Cell<Option<Group>>>) {
    let group = Rc::new(Cell::new(None));
    let shared = Rc::clone(&group);
    let mut rig = puppet(move |cx, on| {
        if let (On::Data(data), Some(group)) = (on, shared.get()) {
            cx.broadcast_others(group, data);
        }
    });
    let faulty = Framed::new(Faulty(Lines::lf(60).unwrap()), Echo);
    let faulty = rig.inner.dispatcher.add(faulty, true).unwrap();
    rig.listen(faulty);
    let plain = [rig.connect(), rig.connect()];
    let framed = [rig.sys().connect(1), rig.sys().connect(1)];
    rig.settle();
    let all = [plain[0], plain[1], framed[0], framed[1]];
    let ids = all.map(|peer| rig.id(peer));
    let id = rig.net().group().unwrap();
    for member in ids {
        assert!(rig.net().join_id(id, member));
    }
    group.set(Some(id));
    (rig, all, group)
}

#[test]
fn a_broadcast_that_a_codec_cannot_encode_ends_the_members_with_that_codec() {
    let (mut rig, [sender, other, ..], _) = half_faulty();
    lines();
    rig.sys().send(sender, b"fine");
    rig.settle();
    rig.say(sender, "boom");
    assert_eq!((rig.closed(&Reason::HandlerPanic), rig.stats().open, rig.stats().panics), (2, 2, 1));
    assert_eq!((rig.phase(sender), rig.heard(other)), (Phase::Open, "fineboom".into()));
    let said = lines();
    assert!(said[0].starts_with("the codec of ") && said[0].contains("as the test wants it"), "{said:?}");
    rig.say(sender, "after it");
    assert_eq!(rig.heard(other), "after it");
    assert_eq!(rig.stats().unencodable, 0, "a panic is no message that cannot be encoded");
}

#[test]
fn a_sender_with_the_codec_is_not_ended_by_what_it_sends_to_others() {
    let (mut rig, [plain, _, sender, other], group) = half_faulty();
    let (group, id) = (group.get().unwrap(), rig.id(sender));
    assert_eq!(rig.inner.dispatcher.core.broadcast(group, b"boom", Some(id), Some(id)), 2);
    rig.settle();
    assert_eq!((rig.phase(sender), rig.closed(&Reason::HandlerPanic)), (Phase::Open, 1));
    assert_eq!(rig.heard(plain), "boom");
    assert!(rig.sys().peers[other].closed.is_some());
}

#[test]
fn a_send_that_a_codec_cannot_encode_ends_its_receiver_and_leaves_nothing_of_it() {
    let (mut rig, [_, _, receiver, other], _) = half_faulty();
    let id = rig.id(receiver);
    assert_eq!(rig.net().send_to(id, "fine"), crate::core::Sent::Queued);
    assert_eq!(rig.net().send_to(id, "boom"), crate::core::Sent::Closed);
    rig.say(other, "an echo\n");
    assert_eq!((rig.closed(&Reason::HandlerPanic), rig.stats().panics), (1, 1));
    assert_eq!((rig.heard(receiver).as_str(), rig.heard(other).as_str()), ("", "an echo\\n"));
    assert_eq!(rig.stats().bytes_unsent, 5);
}

#[test]
fn a_panic_of_a_codec_is_propagated_if_that_is_wanted() {
    let (mut rig, [_, _, receiver, _], _) = half_faulty();
    rig.inner.dispatcher.set_panic_policy(PanicPolicy::Propagate);
    rig.sys().send(receiver, b"boom\n");
    let turn = std::panic::AssertUnwindSafe(|| rig.inner.turn(None));
    assert!(std::panic::catch_unwind(turn).is_err());
}
