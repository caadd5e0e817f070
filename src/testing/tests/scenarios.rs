//! The handlers of the crate's own simulations: echo, framed echo, a relay, and actors, raw and framed.

use std::any::Any;

use super::actor::{Actor, ActorPlan, Ledger};
use super::relay::Relaying;
use crate::builtin::{Echo, Framed, FramedState};
use crate::closed::{Closed, Reason};
use crate::codec::{AnyCodec, Codec, Decoded, FrameError};
use crate::config::limits::Limits;
use crate::reactor::audit::require;
use crate::sys::script::End;
use crate::sys::sim::{Dice, Mark};
use crate::testing::client::Client;
use crate::testing::oracle::Oracle;
use crate::testing::run::{Outcome, Play, RunOptions, play};
use crate::testing::threads::ThreadPlan;
use crate::testing::view::View;

/// Runs a seed with the handler that the seed selects.
pub(super) fn simulate(seed: u64, options: RunOptions) -> Outcome {
    match seed % 5 {
        0 => play(seed, |_| Echoing, options),
        1 => play(seed, FramedEcho::draw, options),
        2 => play(seed, |_| Acting { codec: None }, options),
        3 => play(seed, |_| Relaying, options),
        _ => play(seed, FramedActing::draw, options),
    }
}

fn draw_codec(dice: &mut Dice) -> AnyCodec {
    let max = 1 + dice.size(4_000);
    let spec = match dice.below(7) {
        0 => format!("len:u32be,max={max}"),
        1 => format!("len:u16le,max={max}"),
        2 => format!("lines,max={max}"),
        3 => format!("dec:10,max={max}"),
        4 => format!("varint,max={max}"),
        5 => format!("netstring,max={max}"),
        _ => format!("delim:\\0,max={max}"),
    };
    spec.parse().unwrap()
}

/// Draws the data of a client for a framed handler: messages, in some seeds followed by garbage.
fn messages(codec: &AnyCodec, dice: &mut Dice, most: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while out.len() < most {
        let n = dice.between(0, codec.max_message().min(most));
        let text: Vec<u8> = (0..n).map(|_| b'a' + dice.below(26) as u8).collect();
        codec.encode(&text, &mut out).unwrap();
    }
    if dice.one_in(4) {
        let n = dice.below(most);
        out.extend(dice.bytes(n));
    }
    out
}

/// Returns `true` if a client must have got every byte.
fn is_whole(view: &View<impl crate::Handler>, client: &Client, closed: &Closed) -> bool {
    let Some(p) = client.peer.map(|p| &view.inner.sys.script.peers[p]) else { return false };
    client.is_here() && closed.unsent == 0 && p.end() == Some(End::Fin)
}

/// The crate's echo.
pub(super) struct Echoing;

impl Play for Echoing {
    type H = Echo;

    fn handler(&self, _dice: &mut Dice) -> Echo {
        Echo
    }

    fn thread_plan(&self) -> Option<ThreadPlan> {
        Some(ThreadPlan { ending: None, ends: true })
    }

    fn says(&self, dice: &mut Dice, most: usize) -> Vec<u8> {
        dice.bytes(most)
    }

    fn check(&self, view: &View<Echo>, oracle: &Oracle, over: bool) -> Result<(), String> {
        check_echo(view, oracle, over)
    }
}

/// N1: a client got a prefix of what it sent, and all of it after a clean close.
fn check_echo<H: crate::Handler>(view: &View<H>, oracle: &Oracle, over: bool) -> Result<(), String> {
    for client in view.clients.iter().filter(|_| over) {
        let (said, got) = (&client.says[..client.said], client.received(&view.inner.sys));
        require(said.starts_with(got), || format!("N1: not an echo: {got:?} of {said:?}"))?;
        let closed = client.peer.and_then(|p| oracle.closed_of(p));
        if let Some(closed) = closed.filter(|c| c.why == Reason::PeerClosed && is_whole(view, client, c)) {
            require(said == got, || format!("N1: {} of {} B, {closed}", got.len(), said.len()))?;
        }
    }
    Ok(())
}

/// An echo of messages: clients get their messages back unchanged.
pub(super) struct FramedEcho {
    codec: AnyCodec,
}

impl FramedEcho {
    fn draw(dice: &mut Dice) -> Self {
        Self { codec: draw_codec(dice) }
    }
}

impl Play for FramedEcho {
    type H = Framed<AnyCodec, Echo>;

    fn handler(&self, _dice: &mut Dice) -> Self::H {
        Framed::new(self.codec.clone(), Echo)
    }

    fn limits(&self, limits: &mut Limits) {
        limits.fit(&self.codec);
    }

    fn thread_plan(&self) -> Option<ThreadPlan> {
        Some(ThreadPlan { ending: None, ends: true })
    }

    fn says(&self, dice: &mut Dice, most: usize) -> Vec<u8> {
        messages(&self.codec, dice, most)
    }

    fn check(&self, view: &View<Self::H>, oracle: &Oracle, over: bool) -> Result<(), String> {
        for client in view.clients.iter().filter(|_| over) {
            let (got, error) = parse(Some(&self.codec), client.received(&view.inner.sys));
            require(error.is_none(), || format!("N1: no messages: {error:?}"))?;
            let said = said_in(&self.codec, &client.says[..client.said]);
            require(said.starts_with(&got), || format!("N1: not an echo: {got:?} of {said:?}"))?;
            let closed = client.peer.and_then(|p| oracle.closed_of(p));
            if let Some(closed) = closed.filter(|c| c.why == Reason::PeerClosed && is_whole(view, client, c)) {
                require(said == got, || format!("N1: {} of {}, {closed}", got.len(), said.len()))?;
            }
        }
        Ok(())
    }
}

/// Splits a stream into messages, up to the first error. Without a codec, messages end with a line break.
fn parse(codec: Option<&AnyCodec>, stream: &[u8]) -> (Vec<Vec<u8>>, Option<FrameError>) {
    let Some(codec) = codec else {
        return (stream.split_inclusive(|&b| b == b'\n').map(<[u8]>::to_vec).collect(), None);
    };
    let (mut state, mut at, mut found) = (Default::default(), 0, Vec::new());
    loop {
        match codec.decode(&mut state, &stream[at..]) {
            Ok(Decoded::Message { start, end, consumed }) => {
                found.push(stream[at + start..at + end].to_vec());
                at += consumed;
            }
            Ok(Decoded::Skipped { consumed, .. }) => at += consumed,
            Ok(Decoded::Incomplete) => return (found, None),
            Err(e) => return (found, Some(e)),
        }
    }
}

/// Splits what a client has sent before its end into messages. The last one may lack its ending.
fn said_in(codec: &AnyCodec, stream: &[u8]) -> Vec<Vec<u8>> {
    let (mut said, error) = parse(Some(codec), stream);
    let ended = stream.is_empty() || stream.ends_with(b"\n");
    if let AnyCodec::Lines(_) = codec
        && error.is_none()
        && !ended
        && let Some(last) = stream.rsplit(|byte| *byte == b'\n').next()
        && let Ok(Decoded::Message { start, end, .. }) = codec.decode_end(&mut Default::default(), last)
    {
        said.push(last[start..end].to_vec());
    }
    said
}

/// Removes from a stream the messages of other threads, which must be those in `direct`, once and in order.
fn without_direct(mut got: Vec<Vec<u8>>, direct: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, String> {
    let mut sent = direct.iter();
    for strange in got.extract_if(.., |m| m.starts_with(b"!")) {
        require(sent.any(|m| *m == strange), || format!("N3: never sent: {:?}", strange.escape_ascii()))?;
    }
    Ok(got)
}

/// An actor, raw or framed.
pub(super) struct Acting {
    codec: Option<AnyCodec>,
}

impl Acting {
    /// N2, N3: a client's stream has the messages sent to it, once and in order, except those that its groups may skip.
    ///
    /// Returns how many were skipped.
    fn check_stream(&self, ledger: &Ledger, got: &[u8], whole: bool, direct: &[Vec<u8>]) -> Result<u64, String> {
        let mut expected = ledger.expected.iter();
        let mut skipped = 0;
        let (mut got, error) = parse(self.codec.as_ref(), got);
        require(error.is_none(), || format!("N2: no messages: {error:?}"))?;
        let half =
            if self.codec.is_none() && got.last().is_some_and(|m| !m.ends_with(b"\n")) { got.pop() } else { None };
        let got = without_direct(got, direct)?;
        for message in got {
            let next = expected.find(|o| {
                let stops = o.text == message || !o.may_miss;
                skipped += u64::from(!stops);
                stops
            });
            require(next.is_some_and(|o| o.text == message), || {
                let text = |m: &[u8]| String::from_utf8_lossy(&m[..m.len().min(20)]).into_owned();
                format!("N2: got {:?}, expected {:?}", text(&message), next.map(|o| text(&o.text)))
            })?;
        }
        let half = half.filter(|h| !h.starts_with(b"!"));
        let fits = |half: Vec<u8>| expected.clone().find(|o| o.text.starts_with(&half) || !o.may_miss).is_some();
        require(half.is_none_or(fits), || "N2: half of a message that was not sent".to_owned())?;
        let missed = expected.filter(|o| !o.may_miss).count();
        require(!whole || missed == 0, || format!("N2: {missed} messages missing"))?;
        Ok(skipped)
    }

    /// Returns the encoded size of messages.
    fn size<'a>(&self, texts: impl Iterator<Item = &'a Vec<u8>>) -> u64 {
        let mut out = Vec::new();
        match &self.codec {
            None => texts.map(|t| t.len() as u64).sum(),
            Some(codec) => {
                texts.for_each(|t| drop(codec.encode(t, &mut out)));
                out.len() as u64
            }
        }
    }

    /// N4: all data sent is accounted for. Messages of other threads (`direct`) may have been refused.
    fn check_end(&self, ledger: &Ledger, closed: &Closed, limits: &Limits, direct: &[Vec<u8>]) -> Result<(), String> {
        let sent = self.size(ledger.expected.iter().map(|o| &o.text));
        let most = sent + self.size(direct.iter());
        let gone = closed.bytes_out + closed.unsent;
        let told = || format!("N4: {closed}: {sent} B were sent, {ledger:?}");
        require(gone <= most, told)?;
        // What was not fetched is not counted.
        let exact = !ledger.in_pieces && !ledger.expected.iter().any(|o| o.may_miss);
        require(!exact || gone >= sent, told)?;
        let waiting = (most + ledger.refused as u64 + 32).saturating_sub(closed.bytes_out);
        let overfull = waiting > limits.output_hard.get() as u64;
        require(closed.why != Reason::OutputLimit || overfull || ledger.in_pieces, told)
    }

    fn check_actor<H: crate::Handler>(
        &self,
        view: &View<H>,
        oracle: &Oracle,
        actor: &Actor,
        over: bool,
    ) -> Result<(), String> {
        if let Some(wrong) = actor.wrong.first() {
            return Err(wrong.clone());
        }
        actor.timer_model.check(view)?;
        actor.connect_model.check(view, oracle)?;
        actor.link_model.check(&view.inner.dispatcher.core)?;
        let Some(checked) = view.checked().filter(|_| over) else { return Ok(()) };
        let mut ids = std::collections::BTreeSet::new();
        let mut skipped = 0;
        for record in checked.records.iter().rev().filter(|r| ids.insert(r.id)) {
            let Some(ledger) = actor.ledgers.get(&record.id) else { continue };
            let Some(client) = view.clients.iter().find(|c| c.peer == Some(record.peer)) else { continue };
            let closed = record.closed.as_ref();
            let whole = closed.is_some_and(|c| is_whole(view, client, c));
            let limits = &view.inner.dispatcher.core.limits;
            let direct = view.threads().map_or(&[][..], |t| t.texts_for(record.id));
            let got = client.received(&view.inner.sys);
            let checked = self.check_stream(ledger, got, whole, direct).and_then(|n| {
                skipped += n;
                closed.map_or(Ok(()), |c| self.check_end(ledger, c, limits, direct))
            });
            checked.map_err(|e| format!("{e} (peer {}, {closed:?})", record.peer))?;
        }
        let counted = view.inner.dispatcher.core.stats.skipped;
        require(skipped <= counted, || format!("N2: {skipped} messages skipped, {counted} counted"))
    }
}

impl Play for Acting {
    type H = Actor;

    fn handler(&self, dice: &mut Dice) -> Actor {
        let plan = ActorPlan::draw(dice);
        Actor::new(Dice::new(dice.roll()), plan, false, || Box::new(()))
    }

    fn mark(&self, actor: &Actor) -> Mark {
        Mark::clone(&actor.timer_model.mark)
    }

    fn may_panic(&self) -> bool {
        true
    }

    fn thread_plan(&self) -> Option<ThreadPlan> {
        Some(ThreadPlan { ending: Some(b"\n"), ends: false })
    }

    fn says(&self, dice: &mut Dice, most: usize) -> Vec<u8> {
        dice.bytes(most)
    }

    fn check(&self, view: &View<Actor>, oracle: &Oracle, over: bool) -> Result<(), String> {
        view.checked().map_or(Ok(()), |w| self.check_actor(view, oracle, &w.inner, over))
    }
}

/// An actor behind a codec.
pub(super) struct FramedActing {
    acting: Acting,
    codec: AnyCodec,
}

impl FramedActing {
    fn draw(dice: &mut Dice) -> Self {
        let codec = draw_codec(dice);
        Self { acting: Acting { codec: Some(codec.clone()) }, codec }
    }
}

impl Play for FramedActing {
    type H = Framed<AnyCodec, Actor>;

    fn handler(&self, dice: &mut Dice) -> Self::H {
        let plan = ActorPlan { rest: 0, ..ActorPlan::draw(dice) };
        let state = || Box::new(FramedState::<AnyCodec, ()>::new(())) as Box<dyn Any>;
        Framed::new(self.codec.clone(), Actor::new(Dice::new(dice.roll()), plan, true, state))
    }

    fn mark(&self, framed: &Self::H) -> Mark {
        Mark::clone(&framed.handler().timer_model.mark)
    }

    fn limits(&self, limits: &mut Limits) {
        limits.fit(&self.codec);
    }

    fn may_panic(&self) -> bool {
        true
    }

    fn thread_plan(&self) -> Option<ThreadPlan> {
        Some(ThreadPlan { ending: Some(b""), ends: false })
    }

    fn says(&self, dice: &mut Dice, most: usize) -> Vec<u8> {
        messages(&self.codec, dice, most)
    }

    fn check(&self, view: &View<Self::H>, oracle: &Oracle, over: bool) -> Result<(), String> {
        view.checked().map_or(Ok(()), |w| self.acting.check_actor(view, oracle, w.inner.handler(), over))
    }
}
