//! What peers can provoke in the log is limited.

use std::sync::Mutex;

use log::{Level, LevelFilter, Log, Metadata, Record};

use super::*;

/// Keeps the lines of `warn` and above of the thread that asked for them, for tests run side by side.
struct Keeper;

static LINES: Mutex<Vec<(std::thread::ThreadId, String)>> = Mutex::new(Vec::new());

impl Log for Keeper {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            LINES.lock().unwrap().push((std::thread::current().id(), record.args().to_string()));
        }
    }

    fn flush(&self) {}
}

/// The lines that this thread has logged since it last asked.
fn lines() -> Vec<String> {
    let _ = log::set_logger(&Keeper);
    log::set_max_level(LevelFilter::Warn);
    let mut all = LINES.lock().unwrap();
    let (mine, others) = all.drain(..).partition(|(id, _)| *id == std::thread::current().id());
    *all = others;
    mine.into_iter().map(|(_, line): (_, String)| line).collect()
}

#[test]
fn a_thousand_bad_clients_are_a_dozen_lines() {
    lines();
    let mut rig = puppet_within(Limits { input_kept: 64, ..limits() }, |cx, on| match on {
        On::Data(data) => cx.keep(data.len()),
        On::End => cx.close(),
        _ => {}
    });
    lines();
    for n in 0..1000 {
        let a = rig.sys().connect(0);
        rig.sys().send(a, &bytes(100));
        rig.sys().fin(a);
        rig.settle();
        if n % 500 == 0 {
            rig.pass(SECOND);
        }
    }
    let said = lines();
    assert!((10..=13).contains(&said.len()), "{said:#?}");
    assert!(said.iter().any(|l| l.contains("suppressed")), "{said:#?}");
}

#[test]
fn a_listener_at_its_limit_for_a_minute_is_a_line_or_two() {
    let mut rig = puppet_within(Limits { connections: Limit::At(2), ..limits() }, echo);
    lines();
    for _ in 0..10 {
        rig.sys().connect(0);
        rig.pass(6 * SECOND);
    }
    let said = lines();
    assert!((1..=2).contains(&said.len()), "{said:#?}");
}

#[test]
fn a_shortage_of_descriptors_for_a_minute_is_no_line_for_each_try() {
    let mut rig = puppet(echo);
    lines();
    rig.sys().accepts_fail(0, &[24; 600]);
    rig.pass(60 * SECOND);
    let said = lines();
    assert!(said.len() <= 10 + 60, "{}", said.len());
    assert!(rig.stats().accept_pauses >= 590);
}
