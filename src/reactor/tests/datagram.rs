//! Tests of datagram sockets: delivery, bounded queues, and errors that concern one datagram or one socket.

use std::io;
use std::net::IpAddr;

use super::*;
use crate::config::address::Address;
use crate::config::datagram::{DatagramBind, DatagramOptions};
use crate::config::limits::PanicPolicy;
use crate::core::Posted;
use crate::dispatch::datagram::call_datagram_handler;
use crate::handler::datagram::{DatagramContext, DatagramHandler};
use crate::id::DatagramId;
use crate::sys::datagram::{DatagramSys, LocalIp};
use crate::sys::script::Came;
use crate::sys::sim::Dice;

const ECONNREFUSED: i32 = 111;
const EMSGSIZE: i32 = 90;
const ENOMEM: i32 = 12;
const EBADF: i32 = 9;
/// Two addresses of this host.
const ONE: [u8; 4] = [192, 0, 2, 1];
const OTHER: [u8; 4] = [192, 0, 2, 2];
/// The address of another host.
const FAR: [u8; 4] = [198, 51, 100, 1];

/// The callback that an action replaces.
#[derive(Debug)]
enum Got<'a> {
    Datagram(&'a Address, &'a [u8]),
    Truncated,
    Drained,
    Error,
    Shutdown,
}

/// Records its events, and runs the action of the test.
struct Puppet<A> {
    act: A,
    log: Vec<String>,
}

impl<A: FnMut(&mut DatagramContext<'_>, Got<'_>) + 'static> Puppet<A> {
    fn told(&mut self, cx: &mut DatagramContext<'_>, what: String, got: Got<'_>) {
        self.log.push(format!("{} {what}", cx.id().slot));
        (self.act)(cx, got);
    }
}

impl<A: FnMut(&mut DatagramContext<'_>, Got<'_>) + 'static> DatagramHandler for Puppet<A> {
    fn on_datagram(&mut self, cx: &mut DatagramContext<'_>, from: &Address, data: &[u8]) {
        let shown = format!("{}>{}", from.tcp().map_or(0, |a| a.port()), data.escape_ascii());
        self.told(cx, shown, Got::Datagram(from, data));
    }

    fn on_truncated(&mut self, cx: &mut DatagramContext<'_>, from: &Address, max: usize) {
        let shown = format!("{}>over {max}", from.tcp().map_or(0, |a| a.port()));
        self.told(cx, shown, Got::Truncated);
    }

    fn on_drain(&mut self, cx: &mut DatagramContext<'_>) {
        self.told(cx, "drained".to_owned(), Got::Drained);
    }

    fn on_error(&mut self, cx: &mut DatagramContext<'_>, error: &io::Error) {
        self.told(cx, format!("error {}", error.raw_os_error().unwrap_or(0)), Got::Error);
    }

    fn on_shutdown(&mut self, cx: &mut DatagramContext<'_>) {
        self.told(cx, "shutdown".to_owned(), Got::Shutdown);
    }

    fn on_close(&mut self, _net: &mut Net<'_>, id: DatagramId) {
        self.log.push(format!("{} closed", id.slot));
    }
}

/// A reactor with datagram sockets that share one puppet.
struct Post {
    rig: Rig,
    ids: Vec<DatagramId>,
    read_log: ReadLog,
}

fn bind(sockets: usize, act: impl FnMut(&mut DatagramContext<'_>, Got<'_>) + 'static) -> Post {
    bind_with(sockets, Limits::default(), &DatagramOptions::default(), act)
}

fn bind_with(
    sockets: usize,
    limits: Limits,
    options: &DatagramOptions,
    act: impl FnMut(&mut DatagramContext<'_>, Got<'_>) + 'static,
) -> Post {
    bind_at([127, 0, 0, 1].into(), sockets, limits, options, act)
}

/// A socket that is bound to any address, and told which one was asked.
fn bind_to_any(act: impl FnMut(&mut DatagramContext<'_>, Got<'_>) + 'static) -> Post {
    bind_at([0, 0, 0, 0].into(), 1, Limits::default(), &DatagramOptions::default(), act)
}

fn bind_at<A: FnMut(&mut DatagramContext<'_>, Got<'_>) + 'static>(
    ip: IpAddr,
    sockets: usize,
    limits: Limits,
    options: &DatagramOptions,
    act: A,
) -> Post {
    let mut rig = rig(limits, crate::Echo);
    let inner = &mut rig.inner;
    let handler = inner.dispatcher.add_datagrams(Puppet { act, log: Vec::new() }, true);
    let key: Key<Puppet<A>> = inner.dispatcher.key(handler);
    let ids = (0..sockets).map(|n| {
        let at = DatagramBind::Udp((ip, 9000 + n as u16).into());
        let socket = inner.sys.bind_datagram(at, options).unwrap();
        inner.add_datagram_socket(socket, handler, call_datagram_handler::<Puppet<A>>, options).unwrap().0
    });
    let ids = ids.collect();
    let read_log: ReadLog =
        Box::new(move |inner| inner.dispatcher.get_mut(key).map(|p| std::mem::take(&mut p.log)).unwrap_or_default());
    rig.settle();
    Post { rig, ids, read_log }
}

impl Post {
    fn log(&mut self) -> Vec<String> {
        (self.read_log)(&mut self.rig.inner)
    }

    fn said(&mut self, socket: usize) -> Vec<String> {
        self.rig.sys().sockets[socket].said()
    }

    /// Delivers a datagram to a socket, and settles.
    fn comes(&mut self, socket: usize, port: u16, data: &str) {
        self.rig.sys().datagram(socket, port, data);
        self.rig.settle();
    }

    /// Delivers a datagram from a port of one address to the socket's at another.
    fn asks(&mut self, from: ([u8; 4], u16), to: [u8; 4], data: &str) {
        let came = Came::From(Address::Tcp(from.into()), Some(local(to)), data.into());
        self.rig.sys().comes(0, came);
        self.rig.settle();
    }

    fn fails(&mut self, socket: usize, error: i32) {
        self.rig.sys().comes(socket, Came::Fail(error));
        self.rig.settle();
    }

    fn open_window(&mut self, socket: usize, window: usize) {
        self.rig.sys().set_datagram_space(socket, window);
        self.rig.settle();
    }

    fn post(&mut self, socket: usize, port: u16, data: &[u8]) -> Posted {
        let id = self.ids[socket];
        self.rig.net().send_datagram_to(id, port_of(port), data)
    }
}

fn port_of(port: u16) -> Address {
    Address::Tcp(([127, 0, 0, 1], port).into())
}

fn local(ip: [u8; 4]) -> LocalIp {
    LocalIp { ip: ip.into(), interface: 0 }
}

fn connected() -> DatagramOptions {
    DatagramOptions { peer: Some(port_of(7001)), ..DatagramOptions::default() }
}

/// Echoes each datagram.
fn echo(cx: &mut DatagramContext<'_>, got: Got<'_>) {
    match got {
        Got::Datagram(from, data) => drop(cx.send_to(from, data)),
        Got::Shutdown => cx.close(),
        _ => {}
    }
}

#[test]
fn a_datagram_is_told_with_its_sender_and_may_be_empty() {
    for strict in [false, true] {
        let mut post = bind(2, echo);
        post.rig.sys().strict = strict;
        post.comes(0, 7001, "hello");
        post.comes(1, 7002, "");
        post.comes(0, 7002, "again");
        assert_eq!(post.log(), ["0 7001>hello", "1 7002>", "0 7002>again"]);
        assert_eq!(post.said(0), ["7001<hello", "7002<again"]);
        assert_eq!(post.said(1), ["7002<"]);
        let stats = post.rig.stats();
        assert_eq!((stats.datagrams_in, stats.datagrams_out, stats.datagrams_dropped), (3, 3, 0));
    }
}

#[test]
fn one_that_is_too_long_is_told_and_not_cut() {
    let options = DatagramOptions { max_size: 5, ..DatagramOptions::default() };
    let mut post = bind_with(1, Limits::default(), &options, echo);
    for data in ["12345", "123456", "1234567890", "x"] {
        post.comes(0, 7001, data);
    }
    assert_eq!(post.log(), ["0 7001>12345", "0 7001>over 5", "0 7001>over 5", "0 7001>x"]);
    let stats = post.rig.stats();
    assert_eq!((stats.datagrams_in, stats.datagrams_truncated, stats.datagrams_out), (4, 2, 2));
}

#[test]
fn one_flooded_socket_leaves_others_their_turn() {
    let limits = Limits { datagrams_per_turn: 4, ..Limits::default() };
    let mut post = bind_with(2, limits, &DatagramOptions::default(), echo);
    for n in 0..100 {
        post.rig.sys().datagram(0, 7001, format!("{n}"));
    }
    post.rig.sys().datagram(1, 7002, "me too");
    let turn = post.rig.turn();
    assert!(turn.more, "and the next turn does not wait");
    let log = post.log();
    assert_eq!(log.len(), 5, "four of the flood, and the other: {log:?}");
    assert_eq!(log[4], "1 7002>me too");
    post.rig.settle();
    assert_eq!(post.log().len(), 96, "one event was enough");
}

#[test]
fn long_datagrams_use_up_the_turn_by_their_bytes() {
    let limits = Limits { read_buffer: 1000, ..Limits::default() };
    let mut post = bind_with(1, limits, &DatagramOptions::default(), |_, _| {});
    for _ in 0..10 {
        post.rig.sys().datagram(0, 7001, [b'x'; 400]);
    }
    post.rig.turn();
    assert_eq!(post.log().len(), 3);
}

#[test]
fn what_the_kernel_does_not_take_waits_and_leaves_in_order() {
    for strict in [false, true] {
        let mut post = bind(1, echo);
        post.rig.sys().strict = strict;
        post.open_window(0, 1);
        for n in 0..5 {
            post.comes(0, 7000 + n, &format!("{n}"));
        }
        assert_eq!(post.said(0), ["7000<0"]);
        assert_eq!(post.rig.net().pending_datagrams(post.ids[0]), Some(4));
        assert!(post.rig.stats().output_held > 0);
        post.open_window(0, 2);
        post.open_window(0, 9);
        assert_eq!(post.said(0), ["7001<1", "7002<2", "7003<3", "7004<4"]);
        assert_eq!((post.rig.stats().output_held, post.rig.stats().datagrams_dropped), (0, 0));
    }
}

#[test]
fn a_full_queue_drops_counts_and_tells_when_it_is_empty() {
    let limits = Limits { datagram_queue: 1000, ..Limits::default() };
    let mut post = bind_with(1, limits, &DatagramOptions::default(), echo);
    post.open_window(0, 0);
    let posted: Vec<Posted> = (0..20).map(|_| post.post(0, 7001, &[b'x'; 36])).collect();
    let queued = posted.iter().filter(|p| p.is_queued()).count();
    assert_eq!((queued, posted[10]), (10, Posted::Dropped), "each counts its bytes and 64 more");
    assert_eq!(post.post(0, 7001, &[0; 937]), Posted::TooLong, "it would not fit in an empty one");
    post.rig.settle();
    assert_eq!(post.rig.stats().datagrams_dropped, 11);
    assert!(post.log().is_empty());
    post.open_window(0, 9);
    assert!(post.log().is_empty());
    post.open_window(0, 100);
    assert_eq!(post.log(), ["0 drained"]);
    assert_eq!(post.said(0).len(), 10);
    assert!(post.post(0, 7001, b"more").is_queued());
    post.rig.settle();
    assert!(post.log().is_empty(), "told once");
}

#[test]
fn empty_datagrams_fill_the_queue_as_well() {
    let limits = Limits { datagram_queue: 6400, ..Limits::default() };
    let mut post = bind_with(1, limits, &DatagramOptions::default(), echo);
    post.open_window(0, 0);
    let queued = (0..1000).filter(|_| post.post(0, 7001, b"").is_queued()).count();
    assert_eq!(queued, 100);
}

#[test]
fn much_that_waited_is_told_to_be_gone_though_nothing_was_dropped() {
    let limits = Limits { datagram_queue: 1000, ..Limits::default() };
    for (waiting, told) in [(4, 0), (6, 1)] {
        let mut post = bind_with(1, limits.clone(), &DatagramOptions::default(), echo);
        post.open_window(0, 0);
        for _ in 0..waiting {
            assert!(post.post(0, 7001, &[b'x'; 36]).is_queued());
        }
        post.rig.settle();
        post.open_window(0, 100);
        assert_eq!(post.log().len(), told, "{waiting} waited");
    }
}

#[test]
fn a_handler_that_fills_the_queue_whenever_it_is_empty_does_not_keep_the_turn() {
    let limits = Limits { datagram_queue: 1000, ..Limits::default() };
    let mut post = bind_with(1, limits, &DatagramOptions::default(), |cx, got| {
        if matches!(got, Got::Datagram(..) | Got::Drained) {
            while cx.send_to(port_of(7001), [b'x'; 36]).is_queued() {}
        }
    });
    post.rig.sys().datagram(0, 7001, "go");
    post.rig.turn();
    post.said(0);
    for _ in 0..10 {
        assert!(post.rig.turn().more);
        let sent = post.said(0).len();
        assert_eq!(sent, 10, "in one turn");
    }
}

#[test]
fn an_error_of_one_datagram_is_told_and_the_next_goes_out() {
    let mut post = bind(1, echo);
    post.rig.sys().sockets[0].answers.extend([0, EMSGSIZE, 0]);
    for n in 0..3 {
        assert!(post.post(0, 7001, format!("{n}").as_bytes()).is_queued());
    }
    post.rig.settle();
    assert_eq!(post.log(), ["0 error 90"]);
    assert_eq!(post.said(0), ["7001<0", "7001<2"]);
    let stats = post.rig.stats();
    assert_eq!((stats.datagrams_dropped, stats.datagram_errors), (1, 1));
}

#[test]
fn an_error_of_an_earlier_datagram_does_not_cost_a_later_one() {
    let mut post = bind_with(1, Limits::default(), &connected(), |_, _| {});
    let id = post.ids[0];
    post.rig.sys().sockets[0].answers.push_back(ECONNREFUSED);
    assert!(post.rig.net().send_datagram(id, "a").is_queued());
    post.rig.settle();
    assert_eq!((post.log(), post.said(0)), (vec!["0 error 111".to_owned()], vec!["peer<a".to_owned()]));
    post.rig.sys().sockets[0].answers.extend([ECONNREFUSED, ECONNREFUSED]);
    assert!(post.rig.net().send_datagram(id, "b").is_queued());
    post.rig.settle();
    assert_eq!(post.log().len(), 2);
    assert_eq!((post.said(0).len(), post.rig.stats().datagrams_dropped), (0, 1), "but only once");
}

#[test]
fn errors_of_receiving_are_told_and_the_socket_goes_on() {
    let mut post = bind(1, echo);
    post.fails(0, ECONNREFUSED);
    post.comes(0, 7001, "still here");
    assert_eq!(post.log(), ["0 error 111", "0 7001>still here"]);
    assert_eq!(post.rig.stats().datagram_errors, 1);
}

#[test]
fn errors_without_end_do_not_keep_the_loop_busy() {
    let mut post = bind(1, echo);
    for _ in 0..1000 {
        post.rig.sys().comes(0, Came::Fail(ENOMEM));
    }
    post.rig.sys().datagram(0, 7001, "at last");
    post.rig.settle();
    assert_eq!(post.log().len(), 64, "then it rests");
    post.rig.pass(10 * MS);
    assert_eq!(post.log().len(), 64);
    post.rig.pass(200 * MS);
    assert_eq!(post.log().last().unwrap(), "0 7001>at last");
}

#[test]
fn a_socket_that_is_none_any_more_is_lost_and_no_other() {
    let mut post = bind(2, echo);
    post.fails(0, EBADF);
    assert_eq!(post.log(), ["0 error 9", "0 closed"]);
    assert!(post.rig.sys().sockets[0].closed);
    assert_eq!(post.post(0, 7001, b"x"), Posted::Closed);
    post.comes(1, 7001, "me not");
    assert_eq!(post.said(1), ["7001<me not"]);
}

#[test]
fn a_receiver_that_takes_nothing_holds_up_no_other() {
    let mut post = bind(1, echo);
    let stuck = port_of(7001);
    post.rig.sys().sockets[0].stuck.push(stuck);
    for n in 0..3 {
        post.comes(0, 7001, &format!("{n}"));
        post.comes(0, 7002, &format!("{n}"));
    }
    assert_eq!(post.said(0), ["7002<0", "7002<1", "7002<2"]);
    post.rig.pass(50 * MS);
    assert_eq!(post.rig.net().pending_datagrams(post.ids[0]), Some(3));
    post.rig.sys().sockets[0].stuck.clear();
    // A datagram sent now must not overtake queued ones.
    post.comes(0, 7001, "3");
    assert!(post.said(0).is_empty());
    post.rig.pass(11 * MS);
    assert_eq!(post.said(0), ["7001<0", "7001<1", "7001<2", "7001<3"]);
    assert_eq!((post.rig.stats().datagrams_dropped, post.rig.stats().output_held), (0, 0));
}

#[test]
fn what_waits_for_a_receiver_that_takes_nothing_leaves_space_for_others() {
    let limits = Limits { datagram_queue: 10_000, ..Limits::default() };
    let mut post = bind_with(1, limits, &DatagramOptions::default(), echo);
    post.rig.sys().sockets[0].stuck.push(port_of(7001));
    for _ in 0..1000 {
        post.comes(0, 7001, "forty bytes forty bytes forty bytes fort");
    }
    assert_eq!(post.rig.net().pending_datagrams(post.ids[0]), Some(48));
    assert_eq!(post.rig.stats().datagrams_dropped, 952);
    post.comes(0, 7002, "me");
    assert_eq!(post.said(0), ["7002<me"]);
    post.rig.calls();
    post.rig.pass(SECOND);
    let tries = post.rig.calls().iter().filter(|c| matches!(c, Call::SendDatagram(..))).count();
    assert!((90..=110).contains(&tries), "{tries} tries in a second, one for each ten milliseconds");
}

#[test]
fn a_closed_socket_sends_what_waits_and_receives_no_more() {
    let mut post = bind(1, |cx, got| {
        if let Got::Datagram(from, data) = got {
            cx.send_to(from, data);
            cx.close();
            assert_eq!(cx.send_to(from, "late"), Posted::Closed);
        }
    });
    post.open_window(0, 0);
    post.rig.sys().datagram(0, 7001, "a");
    post.rig.sys().datagram(0, 7001, "b");
    post.rig.settle();
    assert_eq!(post.log(), ["0 7001>a"]);
    assert!(!post.rig.sys().sockets[0].closed);
    post.open_window(0, 5);
    assert_eq!((post.log(), post.said(0)), (vec!["0 closed".to_owned()], vec!["7001<a".to_owned()]));
    assert!(post.rig.sys().sockets[0].closed);
    let id = post.ids[0];
    assert!(!post.rig.net().close_datagram(id));
}

#[test]
fn nothing_but_its_end_is_told_of_a_socket_that_is_being_closed() {
    let mut post = bind(1, echo);
    post.rig.sys().sockets[0].answers.push_back(EMSGSIZE);
    post.post(0, 7001, b"x");
    let id = post.ids[0];
    post.rig.net().close_datagram(id);
    post.rig.settle();
    assert_eq!(post.log(), ["0 closed"]);
    assert_eq!((post.rig.stats().datagrams_dropped, post.rig.stats().datagram_errors), (1, 1));
}

#[test]
fn a_close_does_not_wait_for_ever() {
    let mut post = bind(1, echo);
    post.open_window(0, 0);
    post.comes(0, 7001, "a");
    let id = post.ids[0];
    assert!(post.rig.net().close_datagram(id));
    post.rig.pass(9 * SECOND);
    assert_eq!(post.log(), ["0 7001>a"]);
    post.rig.pass(2 * SECOND);
    assert_eq!(post.log(), ["0 closed"]);
    assert_eq!((post.rig.stats().datagrams_dropped, post.rig.stats().output_held), (1, 0));
}

#[test]
fn a_new_socket_in_an_old_place_is_not_taken_for_the_old_one() {
    let mut post = bind(1, echo);
    let old = post.ids[0];
    post.rig.net().close_datagram(old);
    post.rig.settle();
    let handler = post.rig.handler;
    let at = DatagramBind::Udp(([127, 0, 0, 1], 9001).into());
    let socket = post.rig.sys().bind_datagram(at, &DatagramOptions::default()).unwrap();
    let new = post
        .rig
        .inner
        .add_datagram_socket(socket, handler, call_datagram_handler::<NoBody>, &DatagramOptions::default())
        .unwrap()
        .0;
    assert_eq!((new.slot, new == old), (old.slot, false));
    assert_eq!(post.rig.net().send_datagram_to(old, port_of(1), "x"), Posted::Closed);
    assert!(!post.rig.net().close_datagram(old));
    assert_eq!(post.rig.net().pending_datagrams(old), None);
    let stale = crate::id::Token::Datagram(old).pack();
    post.rig.sys().inject(stale, crate::sys::Ready::READABLE);
    post.rig.settle();
    assert_eq!(post.rig.stats().stale_events, 1);
}

struct NoBody;

impl DatagramHandler for NoBody {
    fn on_datagram(&mut self, _cx: &mut DatagramContext<'_>, _from: &Address, _data: &[u8]) {}
}

#[test]
fn a_panic_costs_its_datagram_and_no_other() {
    let mut post = bind(2, |cx, got| {
        if let Got::Datagram(from, data) = got {
            assert_ne!(data, b"boom");
            cx.send_to(from, data);
        }
    });
    post.rig.sys().datagram(0, 7001, "boom");
    post.rig.sys().datagram(0, 7001, "the next one");
    post.rig.sys().datagram(1, 7002, "fine");
    post.rig.settle();
    assert_eq!(post.log(), ["0 7001>boom", "0 7001>the next one", "1 7002>fine"]);
    assert_eq!((post.rig.stats().panics, post.said(0).len(), post.said(1).len()), (1, 1, 1));
    post.rig.inner.dispatcher.set_panic_policy(PanicPolicy::Propagate);
    post.rig.sys().datagram(1, 7002, "boom");
    let inner = std::panic::AssertUnwindSafe(|| post.rig.inner.turn(None));
    assert!(std::panic::catch_unwind(inner).is_err());
}

#[test]
fn a_panic_in_a_shutdown_closes_the_socket() {
    let mut post = bind(2, |_, got| assert!(!matches!(got, Got::Shutdown)));
    post.rig.inner.begin_shutdown(5 * SECOND);
    post.rig.settle();
    assert_eq!(post.log(), ["0 shutdown", "1 shutdown", "0 closed", "1 closed"]);
}

#[test]
fn a_socket_never_answers_itself() {
    let mut post = bind(1, echo);
    post.comes(0, 9000, "from itself, it says");
    post.comes(0, 7001, "from another");
    assert_eq!(post.log(), ["0 7001>from another"]);
    assert_eq!((post.rig.stats().datagrams_own, post.said(0).len()), (1, 1));
}

#[test]
fn an_answer_leaves_from_the_address_that_was_asked_also_when_it_has_to_wait() {
    let mut post = bind_to_any(|cx, got| {
        let Got::Datagram(from, data) = got else { return };
        assert_eq!(cx.asked_addr().is_some(), data != b"untold");
        cx.send_to(from, data);
        cx.send_to(port_of(7009), "news");
    });
    post.asks((FAR, 7001), ONE, "a");
    post.comes(0, 7002, "untold");
    let first = ["7001<a from 192.0.2.1", "7009<news", "7002<untold", "7009<news"];
    assert_eq!(post.said(0), first, "only the answer to who asked");
    post.open_window(0, 0);
    post.asks((FAR, 7001), ONE, "b");
    post.asks((FAR, 7001), OTHER, "c");
    assert!(post.post(0, 7001, b"later").is_queued());
    post.open_window(0, 10);
    let then = ["7001<b from 192.0.2.1", "7009<news", "7001<c from 192.0.2.2", "7009<news", "7001<later"];
    assert_eq!(post.said(0), then);
}

#[test]
fn an_answer_that_is_retried_leaves_from_the_address_that_was_asked() {
    let mut post = bind_to_any(echo);
    let stuck = Address::Tcp((FAR, 7001).into());
    post.rig.sys().sockets[0].stuck.push(stuck);
    post.asks((FAR, 7001), ONE, "a");
    assert!(post.said(0).is_empty());
    post.rig.sys().sockets[0].stuck.clear();
    post.rig.pass(11 * MS);
    assert_eq!(post.said(0), ["7001<a from 192.0.2.1"]);
}

#[test]
fn a_socket_bound_to_any_address_does_not_talk_to_itself_between_two() {
    let mut post = bind_to_any(echo);
    post.asks((ONE, 9000), ONE, "from the same");
    assert!(post.said(0).is_empty());
    post.asks((OTHER, 9000), ONE, "forged");
    assert_eq!(post.said(0), ["9000<forged from 192.0.2.1"], "nobody knows yet whose address it is");
    post.asks((ONE, 9000), OTHER, "forged");
    assert!(post.said(0).is_empty(), "the answer is not answered");
    post.asks((FAR, 9000), ONE, "a peer at the same port");
    post.asks((FAR, 9000), ONE, "again");
    post.asks((ONE, 9001), OTHER, "a program of this host");
    assert_eq!((post.said(0).len(), post.rig.stats().datagrams_own), (3, 2));
}

#[test]
fn what_was_sent_to_many_is_not_taken_for_forged() {
    let mut post = bind_to_any(echo);
    let came = Came::ToMany(Address::Tcp((ONE, 9000).into()), Some(local(ONE)), b"anybody there?".into());
    post.rig.sys().comes(0, came);
    post.rig.settle();
    assert_eq!(post.said(0), ["9000<anybody there? from 192.0.2.1"]);
    post.asks((ONE, 9000), ONE, "anybody there?");
    assert!(post.said(0).is_empty());
    assert_eq!(post.rig.stats().datagrams_own, 1);
}

#[test]
fn a_socket_bound_to_a_mapped_address_knows_itself() {
    let at = "::ffff:127.0.0.1".parse().unwrap();
    let mut post = bind_at(at, 1, Limits::default(), &DatagramOptions::default(), echo);
    post.comes(0, 9000, "from itself, it says");
    assert_eq!((post.rig.stats().datagrams_own, post.said(0).len()), (1, 0));
}

#[test]
fn a_source_gets_no_more_than_its_rate_and_others_theirs() {
    let options = DatagramOptions { source_rate: Some(3), ..DatagramOptions::default() };
    let mut post = bind_with(1, Limits::default(), &options, echo);
    for _ in 0..5 {
        post.comes(0, 7001, "a");
        post.comes(0, 7002, "b");
    }
    assert_eq!((post.rig.stats().datagrams_over_rate, post.said(0).len()), (4, 6));
    post.rig.pass(SECOND);
    post.comes(0, 7001, "a");
    assert_eq!(post.said(0), ["7001<a"]);
}

#[test]
fn a_shutdown_waits_for_what_is_to_be_sent_and_then_ends() {
    let mut post = bind(2, echo);
    post.open_window(0, 0);
    post.comes(0, 7001, "a");
    post.rig.inner.begin_shutdown(5 * SECOND);
    post.rig.settle();
    assert_eq!(post.log(), ["0 7001>a", "0 shutdown", "1 shutdown", "1 closed"]);
    assert!(post.rig.inner.shutdown.is_under_way());
    post.open_window(0, 1);
    assert_eq!((post.log(), post.said(0).len()), (vec!["0 closed".to_owned()], 1));
    assert!(!post.rig.inner.shutdown.is_under_way());
}

#[test]
fn a_shutdown_ends_at_its_deadline_whatever_a_handler_wants() {
    let mut post = bind(1, |_, _| {});
    post.rig.inner.begin_shutdown(SECOND);
    post.rig.pass(900 * MS);
    assert_eq!(post.log(), ["0 shutdown"]);
    post.rig.pass(200 * MS);
    assert_eq!(post.log(), ["0 closed"]);
    assert!(!post.rig.inner.shutdown.is_under_way());
}

#[test]
fn connections_and_timers_between_turns_can_send_and_are_sent_at_once() {
    let mut post = bind(1, echo);
    assert!(post.post(0, 7001, b"from outside").is_queued());
    assert!(post.rig.inner.next_deadline() <= post.rig.inner.dispatcher.core.now);
    post.rig.turn();
    assert_eq!(post.said(0), ["7001<from outside"]);
}

#[test]
fn what_can_reach_nobody_is_refused_and_counted() {
    let mut post = bind(1, echo);
    let id = post.ids[0];
    let mut net = post.rig.net();
    assert_eq!(net.send_datagram(id, "no peer"), Posted::Unreachable);
    assert_eq!(net.send_datagram_to(id, Address::Unix(None), "x"), Posted::Unreachable);
    let v6 = Address::Tcp("[::1]:5".parse().unwrap());
    assert_eq!(net.send_datagram_to(id, v6, "x"), Posted::Unreachable);
    assert_eq!(net.send_datagram_to(id, port_of(1), vec![0; 65_508]), Posted::TooLong);
    assert_eq!(net.send_datagram_to(id, port_of(1), vec![0; 65_507]), Posted::Queued);
    assert_eq!(post.rig.stats().datagrams_dropped, 4);
    let mut post = bind_with(1, Limits::default(), &connected(), echo);
    let id = post.ids[0];
    let mut net = post.rig.net();
    assert_eq!(net.send_datagram_to(id, port_of(7002), "x"), Posted::Unreachable);
    assert_eq!(net.send_datagram_to(id, port_of(7001), "x"), Posted::Queued);
}

#[test]
fn what_waits_counts_in_the_total_of_all_output() {
    let limits = Limits {
        output_high: 3000,
        output_low: 100,
        output_hard: Limit::At(6000),
        output_total: Limit::At(20_000),
        ..Limits::default()
    };
    let mut post = bind_with(4, limits, &DatagramOptions::default(), echo);
    for socket in 0..4 {
        post.open_window(socket, 0);
        for _ in 0..200 {
            post.post(socket, 7001, &[b'x'; 500]);
        }
    }
    post.rig.settle();
    let stats = post.rig.stats();
    assert!(stats.output_held <= 20_000 && stats.datagrams_dropped > 700, "{stats}");
    for socket in 0..4 {
        post.rig.sys().set_datagram_space(socket, 1000);
    }
    post.rig.pass(20 * MS);
    assert_eq!((post.rig.stats().output_held, post.log().len()), (0, 4), "each is told that it may send again");
}

/// Serves connections and datagrams with one value.
struct Both {
    heard: Vec<String>,
}

impl Handler for Both {
    type State = ();
    fn on_open(&mut self, _cx: &mut Context<'_>) {}
    fn on_data(&mut self, cx: &mut Context<'_>, _state: &mut (), data: &[u8]) {
        self.heard.push(format!("stream {}", data.escape_ascii()));
        let id = DatagramId::from_bits(0);
        assert!(cx.send_datagram_to(id, port_of(7009), data).is_queued());
    }
}

impl DatagramHandler for Both {
    fn on_datagram(&mut self, cx: &mut DatagramContext<'_>, _from: &Address, data: &[u8]) {
        self.heard.push(format!("datagram {}", data.escape_ascii()));
        let all: Vec<ConnId> = cx.connections().collect();
        for id in all {
            cx.net().send_to(id, data);
        }
    }
}

#[test]
fn one_handler_may_serve_connections_and_datagrams() {
    let mut rig = rig(Limits::default(), Both { heard: Vec::new() });
    let at = DatagramBind::Udp(([127, 0, 0, 1], 9000).into());
    let socket = rig.sys().bind_datagram(at, &DatagramOptions::default()).unwrap();
    let handler = rig.handler;
    rig.inner.add_datagram_socket(socket, handler, call_datagram_handler::<Both>, &DatagramOptions::default()).unwrap();
    let peer = rig.connect();
    rig.say(peer, "over here");
    assert_eq!(rig.sys().sockets[0].said(), ["7009<over here"]);
    rig.sys().datagram(0, 7001, "over there");
    rig.settle();
    assert_eq!(rig.heard(peer), "over there");
    let key: Key<Both> = rig.inner.dispatcher.key(handler);
    assert_eq!(rig.inner.dispatcher.get(key).unwrap().heard, ["stream over here", "datagram over there"]);
}

/// What is sent to each receiver arrives in order or is counted as dropped, whatever the kernel takes and refuses when.
#[test]
fn in_any_weather_order_is_kept_and_nothing_is_lost_uncounted() {
    for seed in 0..300 {
        let mut dice = Dice::new(seed);
        let limits = Limits {
            datagram_queue: 70 + dice.size(5_000),
            datagrams_per_turn: dice.size(8),
            read_buffer: 64,
            output_total: Limit::At(4 << 20),
            ..Limits::default()
        };
        let sockets = dice.size(3);
        let mut post = bind_with(sockets, limits, &DatagramOptions::default(), echo);
        post.rig.sys().strict = dice.one_in(2);
        let (mut posted, mut came) = (0, 0);
        for _ in 0..200 {
            // Moving a datagram to the retry queue takes a turn without a system call; that is not a spin.
            post.rig.idle_turns = 0;
            let socket = dice.below(sockets);
            let port = 7000 + dice.below(3) as u16;
            let data = |kind: char, n: u64| format!("{kind}{n:05}{}", "-".repeat(n as usize % 40));
            match dice.below(12) {
                0..4 => {
                    posted += 1;
                    post.post(socket, port, data('p', posted).as_bytes());
                }
                4..7 => {
                    came += 1;
                    post.rig.sys().datagram(socket, port, data('c', came));
                }
                7 => post.rig.sys().set_datagram_space(socket, dice.below(4)),
                8 => post.rig.sys().set_datagram_space(socket, 1000),
                9 if dice.one_in(2) => post.rig.sys().sockets[socket].stuck.push(port_of(port)),
                9 => post.rig.sys().sockets[socket].stuck.clear(),
                10 => post.rig.sys().sockets[socket].answers.push_back(dice.pick(&[EMSGSIZE, ENOMEM, 1])),
                _ => post.rig.pass(dice.pick(&[MS, 15 * MS])),
            }
            if dice.one_in(3) {
                post.rig.turn();
            }
        }
        for socket in 0..sockets {
            post.rig.sys().sockets[socket].stuck.clear();
            post.rig.sys().set_datagram_space(socket, usize::MAX);
        }
        post.rig.pass(SECOND);
        check_weather(&mut post, seed, posted, came);
    }
}

/// At the end of a run: everything was sent, in order.
fn check_weather(post: &mut Post, seed: u64, posted: u64, came: u64) {
    let stats = post.rig.stats();
    assert_eq!((stats.datagrams_in, stats.output_held), (came, 0), "seed {seed}");
    let mut sent = 0;
    for socket in 0..post.ids.len() {
        assert_eq!(post.rig.net().pending_datagrams(post.ids[socket]), Some(0), "seed {seed}");
        let said = post.said(socket);
        sent += said.len() as u64;
        for (port, kind) in (7000..7003).flat_map(|port| [(port, 'p'), (port, 'c')]) {
            let to = format!("{port}<{kind}");
            let own: Vec<&str> = said.iter().filter_map(|s| s.strip_prefix(&to)).map(|s| &s[..5]).collect();
            assert!(own.is_sorted(), "seed {seed}: {own:?}");
        }
    }
    assert_eq!(stats.datagrams_out, sent, "seed {seed}");
    assert_eq!(sent + stats.datagrams_dropped, posted + came, "seed {seed}: {stats}");
}

#[test]
fn a_closing_socket_with_many_errors_goes_on_in_the_next_turn() {
    let limits = Limits { datagrams_per_turn: 1, ..Limits::default() };
    let mut post = bind_with(1, limits, &DatagramOptions::default(), |_, _| {});
    post.rig.sys().sockets[0].answers.extend([EMSGSIZE; 4]);
    for port in 0..6 {
        assert!(post.post(0, 7000 + port, b"x").is_queued());
    }
    let id = post.ids[0];
    assert!(post.rig.net().close_datagram(id));
    post.rig.settle();
    assert_eq!(post.said(0), ["7004<x", "7005<x"]);
    assert_eq!(post.log(), ["0 closed"]);
}

#[test]
fn a_retry_may_come_when_its_socket_has_sent_everything_and_is_gone() {
    let mut post = bind(1, |_, _| {});
    let id = post.ids[0];
    post.rig.sys().set_datagram_space(0, 0);
    post.post(0, 7, b"last");
    post.rig.net().close_datagram(id);
    post.rig.settle();
    post.open_window(0, 100);
    assert!(post.rig.inner.dispatcher.core.datagrams.slots.get(id).is_none());
    post.rig.pass(20 * MS);
    assert_eq!(post.rig.inner.dispatcher.core.datagrams.retry_at, crate::time::Time::NEVER);
}

#[test]
fn another_thread_may_close_a_socket_with_more_to_receive() {
    let limits = Limits { datagrams_per_turn: 1, ..Limits::default() };
    let mut post = bind_with(1, limits, &DatagramOptions::default(), |_, _| {});
    let id = post.ids[0];
    post.rig.sys().datagram(0, 7, "one");
    post.rig.sys().datagram(0, 7, "two");
    let close = move |net: &mut Net<'_>| {
        net.close_datagram(id);
    };
    post.rig.inner.handle().run(close).unwrap();
    post.rig.settle();
    assert_eq!(post.log().last().map(String::as_str), Some("0 closed"));
    assert!(post.rig.inner.dispatcher.core.datagrams.slots.get(id).is_none());
}
