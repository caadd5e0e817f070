//! The kinds of faults: how likely each is, and how often it occurred.
//!
//! Invariant: a disabled kind never occurs, and every occurrence is counted under the state of its connection.

use std::fmt;

use super::dice::Dice;

/// Defines the kinds, each with its maximum probability in thousandths. Faults that end a connection or the run are
/// rare, so that runs get past them. All values are chosen.
macro_rules! faults {
    ($($name:ident $most:literal)*) => {
        /// A kind of fault, of one kind of call or event.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Fault { $($name),* }

        impl Fault {
            pub(crate) const ALL: &[Self] = &[$(Self::$name),*];

            const fn most(self) -> usize {
                match self { $(Self::$name => $most),* }
            }
        }
    };
}

faults! {
    ReadShort 500  ReadBlocked 500  ReadBroken 30
    WriteShort 500  WriteBlocked 500  WriteNoBuffers 300  WriteBroken 30
    ShutdownFails 500  AddFails 100
    AcceptBlocked 500  AcceptGone 300  AcceptShortage 100  AcceptDead 5
    PollEarly 500  PollLate 300
    EdgeLate 500  EdgeDouble 500  EdgeSplit 500  EdgeOrder 500  EdgeStale 300  EdgeNoise 500
    ClockLate 20  ClockLeap 3  ClockFrozen 10  ClockBack 20
    PeerReset 30  PeerHangUp 30  PeerFreezes 30  PeerUrgent 100  PeerEarly 200  Network 10
    DialRefused 400  DialFails 900  DialSlow 900  DialSilent 600  DialSpurious 900
    LookupRefused 200  LookupFails 500  LookupSlow 900  LookupSilent 400  LookupMany 1000  LookupLate 1000
}

/// What a connection was doing when a fault occurred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum State {
    /// The fault does not concern a connection, or concerns one that is being accepted.
    #[default]
    None,
    Connecting,
    Open,
    /// Reading is paused.
    Paused,
    /// The end of its input has been read.
    ReadClosed,
    Flushing,
    Lingering,
}

impl State {
    pub(crate) const ALL: [Self; 7] =
        [Self::None, Self::Connecting, Self::Open, Self::Paused, Self::ReadClosed, Self::Flushing, Self::Lingering];
}

/// How often each kind occurred in each state.
pub(crate) type Struck = [[u64; State::ALL.len()]; Fault::ALL.len()];

pub(crate) const fn new_struck() -> Struck {
    [[0; State::ALL.len()]; Fault::ALL.len()]
}

/// The probabilities of one run, and the occurrences.
pub(crate) struct Odds {
    /// In thousandths.
    odds: [usize; Fault::ALL.len()],
    /// Each kind has its own generator, so that disabling one does not change when the others occur.
    dice: [Dice; Fault::ALL.len()],
    pub(crate) struck: Struck,
}

impl Odds {
    /// Draws the probabilities: about half of the kinds are disabled, the others have any value up to their maximum.
    pub(crate) fn draw(dice: &mut Dice) -> Self {
        let seed = dice.roll();
        let own = |i: usize| Dice::new(seed.wrapping_add(i as u64).wrapping_mul(0x2545_f491_4f6c_dd1d));
        let odds = [0; Fault::ALL.len()];
        let mut drawn = Self { odds, dice: std::array::from_fn(own), struck: new_struck() };
        for &fault in Fault::ALL {
            let strength = dice.size(fault.most());
            if dice.one_in(2) {
                drawn.odds[fault as usize] = strength;
            }
        }
        drawn
    }

    pub(crate) const fn switch_off(&mut self, fault: Fault) {
        self.odds[fault as usize] = 0;
    }

    pub(crate) const fn switch_all_off(&mut self) {
        self.odds = [0; Fault::ALL.len()];
    }

    /// Decides whether a fault occurs now. If so, returns its generator, for the details.
    #[inline]
    pub(crate) const fn strikes(&mut self, fault: Fault, state: State) -> Option<&mut Dice> {
        let (odds, dice) = (self.odds[fault as usize], &mut self.dice[fault as usize]);
        if odds == 0 || dice.below(1000) >= odds {
            return None;
        }
        self.struck[fault as usize][state as usize] += 1;
        Some(dice)
    }
}

impl fmt::Debug for Odds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = Fault::ALL.iter().map(|&fault| (fault, self.odds[fault as usize]));
        f.write_str("faults in a thousand ")?;
        f.debug_map().entries(on.filter(|(_, odds)| *odds > 0)).finish()
    }
}
