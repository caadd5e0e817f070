//! Draws random limits for a simulated run: of every size, without contradictions.
//!
//! Invariant: the limits pass [`Limits::check`], and no run needs more than some ten thousand turns for the data of
//! its clients.

use std::time::Duration;

use crate::config::limits::{AtCapacity, LEAST_READ, Limit, Limits};
use crate::sys::sim::Dice;

/// The bytes that all clients may send together, per byte of the smallest budget (they may be served one after
/// another); and the most that they may send at all. Chosen to bound the turns of a run.
const TURNS: usize = 4_000;
const MOST_SAID: usize = 20_000;
/// The bytes of a small message. Chosen.
const MESSAGE: usize = 4;
/// Below this total output limit, a connection or two use it up: an answer waits for space.
const SCANT: usize = 128 * 1024;

fn ms(dice: &mut Dice, most: usize) -> Duration {
    Duration::from_millis(dice.size(most) as u64)
}

/// A timeout from a millisecond to an hour; half of them are an hour.
fn timeout(dice: &mut Dice) -> Limit<Duration> {
    let hour = 3_600_000;
    let long = dice.one_in(2);
    Limit::At(if long { Duration::from_millis(hour as u64) } else { ms(dice, hour) })
}

fn or_unlimited(dice: &mut Dice, n: usize) -> Limit<usize> {
    if dice.one_in(8) { Limit::Unlimited } else { Limit::At(n) }
}

/// Draws limits of any size.
pub(crate) fn draw_limits(dice: &mut Dice) -> Limits {
    let read_buffer = dice.size(16_384);
    let output_high = dice.size(65_535) + 1;
    let hard = output_high + read_buffer.min(LEAST_READ) + dice.size(65_536);
    let output_hard = or_unlimited(dice, hard);
    let input_kept = dice.size(65_536);
    let linger_quiet = ms(dice, 5_000);
    Limits {
        connections: Limit::At(dice.size(64)),
        at_capacity: dice.pick(&[AtCapacity::Pause, AtCapacity::Refuse]),
        read_buffer,
        output_high,
        output_low: dice.below(output_high),
        output_hard,
        output_total: Limit::At(output_hard.get().min(1 << 20) + dice.size(1 << 20)),
        input_kept,
        input_total: Limit::At(2 * input_kept + 4096 + dice.size(1 << 20)),
        idle_timeout: timeout(dice),
        message_timeout: timeout(dice),
        write_stall: timeout(dice),
        linger_quiet,
        linger_total: linger_quiet + ms(dice, 20_000),
        linger_input: dice.size(65_536),
        shutdown_grace: ms(dice, 20_000),
        accepts_per_turn: dice.size(16),
        write_per_turn: dice.size(65_536),
        messages_per_turn: dice.size(256),
        timeouts_per_turn: dice.size(64),
        events_per_turn: dice.size(1024),
        accept_pause: ms(dice, 200),
        groups: dice.size(64),
        groups_per_connection: dice.size(8),
        pooled: dice.below(1 << 20),
        timers: dice.size(1000),
        timers_per_connection: dice.size(100),
        connect_timeout: timeout(dice),
        connect_stagger: ms(dice, 2_000),
        attempts: dice.size(64),
        lookups: dice.size(16),
        links_per_connection: dice.size(8),
        sources: dice.size(64),
        slow_callback: timeout(dice),
        datagram_queue: dice.size(1 << 18),
        datagrams_per_turn: dice.size(256),
        commands: dice.size(1024),
        commands_per_turn: dice.size(64),
    }
}

/// Draws how many bytes one client may send, so that a run stays short under these limits.
pub(crate) fn draw_volume(dice: &mut Dice, limits: &Limits, clients: usize) -> usize {
    let least = limits.read_buffer.min(limits.write_per_turn).min(limits.output_high);
    // If the total output limit is only a buffer or two, no more than one message is answered per turn.
    let messages = if limits.output_total.get() < SCANT { 1 } else { limits.messages_per_turn };
    let least = least.min(MESSAGE * messages);
    dice.size(MOST_SAID.min(TURNS * least / clients))
}
