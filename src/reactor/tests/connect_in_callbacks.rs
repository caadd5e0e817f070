//! Tests of handlers that connect in their callbacks, also during a shutdown.

use std::rc::Rc;

use super::*;
use crate::builtin::Echo;
use crate::connection::Origin;
use crate::sys::script::DialPlan;

const ECONNREFUSED: i32 = 111;

/// Connects again whenever connecting has failed, up to a number of times, and counts how often that was refused. With
/// `switch` it connects and switches to an echo.
struct Stubborn {
    left: u32,
    refused: Rc<std::cell::Cell<u32>>,
    echo: Option<Key<Echo>>,
}

impl Stubborn {
    fn new(left: u32) -> Self {
        Self { left, refused: Rc::default(), echo: None }
    }

    fn ask(&self, net: &mut Net<'_>) {
        if net.connect("127.0.0.1:7", 1).is_none() {
            self.refused.set(self.refused.get() + 1);
        }
    }
}

impl Handler for Stubborn {
    type State = ();

    fn on_open(&mut self, cx: &mut Context<'_>) {
        if matches!(cx.origin(), Origin::Connected(_)) {
            cx.send("hello");
        }
    }

    fn on_data(&mut self, cx: &mut Context<'_>, _state: &mut (), data: &[u8]) {
        self.ask(cx);
        if data == b"switch" {
            assert!(cx.switch(self.echo.unwrap(), ()));
        }
    }

    fn on_connect_failed(&mut self, net: &mut Net<'_>, _tag: u64, _error: &std::io::Error) {
        if self.left > 0 {
            self.left -= 1;
            self.ask(net);
        }
    }
}

/// A rig with an echo, and a second handler whose only user is the connection of the client.
fn beside_an_echo(left: u32) -> (Rig, usize) {
    let mut rig = rig(limits(), Echo);
    let echo = Some(rig.inner.dispatcher.key(rig.handler));
    let handler = rig.inner.dispatcher.add(Stubborn { echo, ..Stubborn::new(left) }, false).unwrap();
    let listener = rig.listen(handler);
    let client = rig.sys().connect(1);
    rig.settle();
    rig.inner.close_listener(listener);
    (rig, client)
}

#[test]
fn a_handler_that_asks_again_when_all_else_has_gone_is_not_dropped() {
    let (mut rig, client) = beside_an_echo(2);
    rig.sys().dials.extend([DialPlan::Later, DialPlan::Fail(ECONNREFUSED)]);
    rig.say(client, "ask");
    rig.reset(client);
    rig.sys().dial_fails(1, ECONNREFUSED);
    rig.settle();
    assert_eq!(rig.stats().connect_failed, 2);
    assert_eq!(rig.heard(2), "hello");
}

#[test]
fn a_handler_that_asks_and_hands_its_last_connection_over_is_not_dropped() {
    let (mut rig, client) = beside_an_echo(0);
    rig.say(client, "switch");
    assert_eq!(rig.heard(1), "hello");
    rig.say(client, "echo");
    assert_eq!(rig.heard(client), "echo");
}

#[test]
fn an_attempt_that_has_failed_makes_space_for_the_next() {
    let handler = Stubborn::new(1);
    let refused = Rc::clone(&handler.refused);
    let mut rig = rig(Limits { attempts: 1, ..limits() }, handler);
    let client = rig.connect();
    rig.sys().dials.push_back(DialPlan::Fail(ECONNREFUSED));
    rig.say(client, "ask");
    assert_eq!(refused.get(), 0, "the one that was told of is over");
    assert_eq!(rig.heard(1), "hello");
}

#[test]
fn a_handler_that_always_asks_again_does_not_keep_a_shutdown_from_ending() {
    let mut rig = rig(limits(), Stubborn::new(u32::MAX));
    let client = rig.connect();
    rig.sys().dials.push_back(DialPlan::Later);
    rig.say(client, "ask");
    rig.inner.begin_shutdown(SECOND);
    rig.fin(client);
    rig.settle();
    assert!(!rig.inner.shutdown.is_under_way());
}

#[test]
fn what_comes_about_while_the_reactor_shuts_down_is_not_begun() {
    let mut rig = rig(limits(), Stubborn::new(0));
    let client = rig.connect();
    rig.sys().dials.push_back(DialPlan::Later);
    rig.say(client, "ask");
    rig.fin(client);
    rig.sys().dial_succeeds(1);
    rig.inner.begin_shutdown(SECOND);
    rig.settle();
    assert_eq!(rig.heard(1), "", "nobody would tell it of the shutdown");
    assert_eq!((rig.stats().connected, rig.stats().connect_failed), (0, 1));
    assert!(!rig.inner.shutdown.is_under_way());
}
