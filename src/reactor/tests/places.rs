//! Tests of places: a listener accepts only whom its handler can serve, when it has to connect for each.

use std::collections::BTreeMap;
use std::io;

use super::*;
use crate::config::connect::Connect;
use crate::config::limits::AtCapacity;
use crate::connection::Origin;
use crate::sys::script::DialPlan;

const ECONNREFUSED: i32 = 111;
/// The listener that reserves a place for each connection.
const RESERVING: usize = 1;

/// Connects each client to `target`, or to `fallback` if that fails, and closes both ends of a pair together.
struct Relay {
    target: &'static str,
    fallback: Option<&'static str>,
    pairs: BTreeMap<ConnId, ConnId>,
    failed: Vec<String>,
}

impl Handler for Relay {
    type State = ();

    fn on_open(&mut self, cx: &mut Context<'_>) {
        match cx.origin() {
            Origin::Accepted(_) => {
                let client = cx.id().to_bits();
                let job = cx.connect(self.target, client);
                assert!(job.is_some(), "accepted without a free connect job");
            }
            Origin::Connected(tag) => {
                let client = ConnId::from_bits(tag);
                self.pairs.extend([(client, cx.id()), (cx.id(), client)]);
                cx.send_to(client, "served");
            }
        }
    }

    fn on_data(&mut self, _cx: &mut Context<'_>, _state: &mut (), _data: &[u8]) {}

    fn on_connect_failed(&mut self, net: &mut Net<'_>, tag: u64, error: &io::Error) {
        self.failed.push(error.to_string());
        let client = ConnId::from_bits(tag);
        match self.fallback.take() {
            Some(other) => drop(net.connect(Connect::new(other).on_behalf_of(client), tag)),
            None => drop(net.abort_id(client)),
        }
    }

    fn on_close(&mut self, net: &mut Net<'_>, _state: (), closed: &Closed) {
        if let Some(other) = self.pairs.remove(&closed.who) {
            net.close_id(other);
        }
    }
}

fn relay_to(target: &'static str, fallback: Option<&'static str>, limits: Limits) -> Rig {
    let relay = Relay { target, fallback, pairs: BTreeMap::new(), failed: Vec::new() };
    let mut rig = Rig::new(limits, Generations::new(), relay, |key| {
        Box::new(move |inner| inner.dispatcher.get_mut(key).map(|r| std::mem::take(&mut r.failed)).unwrap_or_default())
    });
    rig.listen_reserving(rig.handler, 1);
    rig
}

fn relay(limits: Limits) -> Rig {
    relay_to("127.0.0.1:7", None, limits)
}

fn at_most(connections: usize) -> Limits {
    Limits { connections: Limit::At(connections), ..limits() }
}

impl Rig {
    /// So many clients connect at once. Returns their peer numbers.
    fn crowd(&mut self, n: usize) -> Vec<usize> {
        let peers = (0..n).map(|_| self.sys().connect(RESERVING)).collect();
        self.settle();
        peers
    }

    /// Returns how many of these clients are served.
    fn served(&mut self, clients: &[usize]) -> usize {
        clients.iter().filter(|&&p| self.sys().peers[p].got == b"served").count()
    }

    /// Returns the peer that was last connected to.
    fn upstream(&mut self) -> usize {
        self.sys().dials_made.last().and_then(|(_, peer)| *peer).unwrap()
    }
}

#[test]
fn at_the_limit_half_as_many_pairs_are_served_and_the_rest_wait() {
    let mut rig = relay(at_most(10));
    let clients = rig.crowd(10);
    assert_eq!((rig.served(&clients), rig.sys().waiting(RESERVING)), (5, 5));
    assert_eq!((rig.stats().open, rig.stats().refused), (10, 0));
    for &p in &clients[..5] {
        rig.fin(p);
    }
    rig.pass(10 * SECOND);
    assert_eq!((rig.served(&clients), rig.sys().waiting(RESERVING)), (10, 0));
    assert!(rig.log().is_empty(), "nobody was accepted in vain");
}

#[test]
fn a_place_that_half_a_pair_has_left_is_taken_by_nobody() {
    let mut rig = relay(at_most(2));
    let [a, b] = rig.crowd(2)[..] else { panic!() };
    let upstream = rig.upstream();
    rig.reset(upstream);
    assert_eq!((rig.phase(a), rig.stats().open), (Phase::Lingering, 1));
    assert_eq!(rig.sys().waiting(RESERVING), 1);
    rig.fin(a);
    assert_eq!((rig.served(&[b]), rig.sys().waiting(RESERVING)), (1, 0));
}

#[test]
fn with_few_descriptors_half_as_many_pairs_are_served_and_the_rest_wait() {
    for (descriptors, pairs) in [(10, 5), (7, 3), (2, 1)] {
        let mut rig = relay(Limits { connections: Limit::Unlimited, ..limits() });
        rig.sys().most_open = Some(descriptors);
        let clients = rig.crowd(10);
        rig.pass(SECOND);
        assert_eq!((rig.served(&clients), rig.sys().waiting(RESERVING)), (pairs, 10 - pairs));
        assert!(rig.log().is_empty(), "nobody was accepted in vain");
        // Those that are served end, and others take their place.
        for &p in &clients[..pairs] {
            rig.fin(p);
        }
        rig.pass(5 * SECOND);
        assert_eq!(rig.served(&clients), (2 * pairs).min(10));
        assert!(rig.log().is_empty());
    }
}

#[test]
fn descriptors_are_held_only_while_something_is_to_be_connected() {
    let mut rig = relay_to("name:7", None, limits());
    rig.crowd(3);
    assert_eq!(rig.sys().held_descriptors, 3);
    for n in 0..3 {
        rig.sys().resolves(n, Ok(vec!["1.1.1.1:7".parse().unwrap()]));
    }
    rig.settle();
    assert_eq!((rig.stats().open, rig.sys().held_descriptors), (6, 0));
}

#[test]
fn others_take_no_place_that_is_reserved() {
    let mut rig = relay_to("name:7", None, at_most(3));
    rig.crowd(1);
    let handler = rig.handler;
    let [first, second] = [(); 2].map(|()| rig.sys().connect(0));
    rig.settle();
    assert_eq!(rig.sys().waiting(0), 1, "{first} is accepted and {second} waits");
    rig.inner.dispatcher.core.connect(handler, "127.0.0.1:8".into(), 0, None).unwrap();
    rig.settle();
    assert_eq!(rig.log(), ["cannot connect to 127.0.0.1:8: limit of 3 connections reached"]);
    rig.sys().resolves(0, Ok(vec!["1.1.1.1:7".parse().unwrap()]));
    rig.settle();
    assert_eq!((rig.stats().open, rig.stats().connected), (3, 1));
}

#[test]
fn the_next_address_takes_the_place_of_the_one_that_failed() {
    for at_once in [true, false] {
        let mut rig = relay_to("name:7", None, at_most(2));
        let clients = rig.crowd(2);
        // Whoever needs one place only does not get the one that comes free in between.
        rig.sys().connect(0);
        rig.sys().dials.push_back(if at_once { DialPlan::Fail(ECONNREFUSED) } else { DialPlan::Later });
        rig.sys().resolves(0, Ok(["[::1]:7", "127.0.0.1:7"].map(|a| a.parse().unwrap()).to_vec()));
        rig.settle();
        if !at_once {
            // The first address is silent: there is no place to try the next one beside it, so that one waits.
            rig.pass(SECOND);
            assert_eq!(rig.sys().dials_made.len(), 1);
            let upstream = rig.upstream();
            rig.sys().dial_fails(upstream, ECONNREFUSED);
            rig.settle();
        }
        assert_eq!((rig.served(&clients), rig.sys().waiting(RESERVING), rig.sys().waiting(0)), (1, 1, 1));
        assert!(rig.log().is_empty());
    }
}

#[test]
fn a_second_target_takes_the_place_of_the_first() {
    let mut rig = relay_to("127.0.0.1:7", Some("127.0.0.1:8"), at_most(2));
    rig.sys().dials.push_back(DialPlan::Later);
    let clients = rig.crowd(2);
    let upstream = rig.upstream();
    rig.sys().dial_fails(upstream, ECONNREFUSED);
    rig.settle();
    assert_eq!((rig.served(&clients), rig.sys().waiting(RESERVING)), (1, 1));
    assert_eq!(rig.log().len(), 1);
}

#[test]
fn who_cannot_get_a_connect_job_or_a_lookup_waits() {
    let few_lookups = Limits { lookups: 2, ..limits() };
    let few_jobs = Limits { attempts: 2, ..limits() };
    for limits in [few_lookups, few_jobs] {
        let mut rig = relay_to("name:7", None, limits);
        let clients = rig.crowd(7);
        assert_eq!(rig.sys().waiting(RESERVING), 5);
        for n in 0..7 {
            rig.sys().resolves(n, Ok(vec!["1.1.1.1:7".parse().unwrap()]));
            rig.settle();
        }
        assert_eq!((rig.served(&clients), rig.sys().waiting(RESERVING)), (7, 0));
        assert!(rig.log().is_empty(), "nobody was accepted in vain");
    }
}

#[test]
fn two_that_linger_make_space_for_one_who_needs_two_places() {
    let mut rig = relay(at_most(4));
    let [a, b] = rig.crowd(2)[..] else { panic!() };
    for peer in [a, 2] {
        let id = rig.id(peer);
        rig.net().close_id(id);
        rig.settle();
        assert_eq!(rig.phase(peer), Phase::Lingering);
    }
    let late = rig.crowd(1);
    assert_eq!(rig.served(&late), 1);
    // If only one lingers, it would be dropped for nobody.
    let id = rig.id(b);
    rig.net().close_id(id);
    rig.settle();
    rig.crowd(1);
    assert_eq!((rig.phase(b), rig.sys().waiting(RESERVING)), (Phase::Lingering, 1));
}

#[test]
fn where_the_policy_is_to_refuse_whoever_cannot_be_served_is_refused() {
    let mut rig = relay(Limits { at_capacity: AtCapacity::Refuse, ..at_most(5) });
    let clients = rig.crowd(7);
    assert_eq!((rig.served(&clients), rig.stats().refused), (2, 5));
    assert!(rig.log().is_empty());
}

#[test]
fn a_shutdown_accepts_nobody_for_whom_it_cannot_connect() {
    let mut rig = relay(limits());
    rig.sys().connect(RESERVING);
    rig.inner.begin_shutdown(SECOND);
    rig.settle();
    assert_eq!((rig.stats().accepted, rig.stats().refused), (0, 0));
}
