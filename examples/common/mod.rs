//! Code that the example servers share: options, signals, and the loop. The handlers are in the example files.

// The lints are for the library, which reads the clock in one place only. Each example uses only a part of this file.
#![allow(clippy::disallowed_methods, dead_code)]

use std::io::{Result, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use turnwheel::{Limit, Limits, Reactor};

/// The options of every example with connections.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Close connections with no traffic for this many seconds, or "off"
    #[arg(long, value_name = "SECS", default_value = "600", value_parser = seconds)]
    idle_timeout: Limit<Duration>,

    /// Serve at most this many connections at a time; others wait
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = at_least_one)]
    max_connections: usize,

    #[command(flatten)]
    basic: Basic,
}

/// The options of every example.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Basic {
    /// Print a line of statistics to stderr every SECS seconds
    #[arg(long, value_name = "SECS", value_parser = interval)]
    stats: Option<Duration>,
}

impl From<&Options> for Basic {
    fn from(options: &Options) -> Self {
        options.basic
    }
}

fn seconds(text: &str) -> std::result::Result<Limit<Duration>, String> {
    if text == "off" {
        return Ok(Limit::Unlimited);
    }
    interval(text).map(Limit::At).map_err(|e| e + ", or \"off\"")
}

/// Parses a time in seconds, such as `0.5`. The shortest is 1 ms.
pub(crate) fn interval(text: &str) -> std::result::Result<Duration, String> {
    let duration = text.parse().ok().and_then(|secs| Duration::try_from_secs_f64(secs).ok());
    duration.filter(|d| *d >= Duration::from_millis(1)).ok_or_else(|| "expected seconds, at least 0.001".to_string())
}

fn at_least_one(text: &str) -> std::result::Result<usize, String> {
    text.parse().ok().filter(|&n| n > 0).ok_or_else(|| "expected a number, at least 1".to_string())
}

impl Options {
    /// Returns the default limits, changed by the options.
    pub(crate) fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        limits.connections = Limit::At(self.max_connections);
        limits.idle_timeout = self.idle_timeout;
        limits
    }
}

/// Creates a reactor, calls `set_up` to add handlers and listen, and runs the loop until Ctrl-C or SIGTERM. A second
/// signal ends the grace period of the first.
pub(crate) fn serve(
    options: impl Into<Basic>,
    limits: Limits,
    set_up: impl FnOnce(&mut Reactor) -> Result<()>,
) -> ExitCode {
    let options = options.into();
    serve_in(options, limits, set_up, |mut reactor| run(&mut reactor, options.stats).map(|()| reactor))
}

/// Like [`serve`], but with the caller's loop: `drive` runs turns of the reactor until it has stopped, and returns it.
pub(crate) fn serve_in(
    options: impl Into<Basic>,
    limits: Limits,
    set_up: impl FnOnce(&mut Reactor) -> Result<()>,
    drive: impl FnOnce(Reactor) -> Result<Reactor>,
) -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    match try_serve(options.into(), limits, set_up, drive) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn try_serve(
    options: Basic,
    limits: Limits,
    set_up: impl FnOnce(&mut Reactor) -> Result<()>,
    drive: impl FnOnce(Reactor) -> Result<Reactor>,
) -> Result<()> {
    let mut reactor = Reactor::with_limits(limits)?;
    let handle = reactor.handle();
    let mut asked = false;
    ctrlc::set_handler(move || {
        // The first signal starts a shutdown, the second ends its grace period. If the loop cannot be woken, exit with
        // 130, the shell's code for SIGINT.
        if handle.stop().is_err() {
            std::process::exit(130);
        }
        say(if asked {
            "stopping: closing the remaining connections now"
        } else {
            "stopping: waiting for connections to finish; signal again to close them at once"
        });
        asked = true;
    })
    .map_err(std::io::Error::other)?;
    set_up(&mut reactor)?;
    let reactor = drive(reactor)?;
    let report = reactor.last_shutdown().unwrap_or_default();
    say(format_args!(
        "stopped: {} connections ended well, {} were cut ({} bytes unsent)",
        report.clean, report.cut, report.bytes_lost
    ));
    if options.stats.is_some() {
        say(reactor.stats());
    }
    Ok(())
}

/// Writes a line to stderr and ignores errors: a broken pipe must not end the server.
fn say(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn run(reactor: &mut Reactor, stats: Option<Duration>) -> Result<()> {
    let Some(interval) = stats else { return reactor.run() };
    let mut next = Instant::now() + interval;
    // A turn rounds its timeout down to milliseconds: without the extra one it would spin in the last millisecond.
    let left = |next: Instant| next.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
    while !reactor.turn(Some(left(next)))?.stopped {
        if Instant::now() >= next {
            say(reactor.stats());
            next += interval;
        }
    }
    Ok(())
}

/// Takes over the listeners that a supervisor passed to this process (systemd's `LISTEN_FDS`), for the handler of
/// `key`, and prints their addresses. Returns how many there were.
pub(crate) fn listen_inherited<H: turnwheel::Handler>(reactor: &mut Reactor, key: turnwheel::Key<H>) -> Result<usize> {
    let mut given = listenfd::ListenFd::from_env();
    for n in 0..given.len() {
        for address in reactor.listen_on(inherited(&mut given, n)?, key)?.addresses() {
            println!("listening on {address}");
        }
    }
    Ok(given.len())
}

/// Returns the `n`th inherited listener, TCP or Unix.
fn inherited(given: &mut listenfd::ListenFd, n: usize) -> Result<turnwheel::Listen> {
    let not_there = || std::io::Error::other(format!("LISTEN_FDS: listener {n} was already taken"));
    let tcp = given.take_tcp_listener(n);
    #[cfg(unix)]
    if tcp.is_err()
        && let Ok(Some(unix)) = given.take_unix_listener(n)
    {
        return Ok(unix.into());
    }
    let cannot = |e| std::io::Error::other(format!("LISTEN_FDS: neither a TCP nor a Unix listener: {e}"));
    tcp.map_err(cannot)?.map(Into::into).ok_or_else(not_there)
}

/// Listens on every address for the handler of `key`, and prints the addresses.
pub(crate) fn listen_all<H: turnwheel::Handler>(
    reactor: &mut Reactor,
    addresses: &[String],
    key: turnwheel::Key<H>,
) -> Result<()> {
    for at in addresses {
        for address in reactor.listen_on(at, key)?.addresses() {
            println!("listening on {address}");
        }
    }
    Ok(())
}
