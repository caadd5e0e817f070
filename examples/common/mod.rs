//! Code that the example servers share: options, standard streams, signals, and the loop. The handlers are in the
//! example files.

// The lints are for the library, which reads the clock in one place only. Each example uses only a part of this file.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, dead_code)]

mod report;
mod signals;
pub(crate) mod stdio;

use std::io::{ErrorKind, IsTerminal, Result, Write};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, SystemTime};

use clap::{Args, Parser};
use env_logger::{Env, Target};
use turnwheel::{Handle, HandleError, Limit, Limits, Reactor};

use stdio::{print, say};

/// The options of every example with connections.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Close connections with no traffic for this many seconds, or "off"
    #[arg(long, value_name = "SECS", default_value = "600", value_parser = seconds, allow_negative_numbers = true)]
    idle_timeout: Limit<Duration>,

    /// Serve at most this many connections at a time; others wait
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = at_least_one, allow_negative_numbers = true)]
    max_connections: usize,

    #[command(flatten)]
    basic: Basic,
}

const ENVIRONMENT: &str =
    "Environment:\n  RUST_LOG=LEVEL  Log this and what is worse to stderr: error, warn [default], info or debug";

/// The options of every example.
#[derive(Args, Clone, Copy, Debug)]
#[command(after_help = ENVIRONMENT)]
pub(crate) struct Basic {
    /// Print a line of statistics to stderr every SECS seconds
    #[arg(long, value_name = "SECS", value_parser = interval, allow_negative_numbers = true)]
    stats: Option<Duration>,
}

impl From<&Options> for Basic {
    fn from(options: &Options) -> Self {
        options.basic
    }
}

/// Parses a time in seconds, or `off`.
pub(crate) fn seconds(text: &str) -> std::result::Result<Limit<Duration>, String> {
    if text == "off" {
        return Ok(Limit::Unlimited);
    }
    interval(text).map(Limit::At).map_err(|e| e + ", or \"off\"")
}

/// Parses a time in seconds, such as `0.5`. The longest is some 30 years (chosen): no clock overflows.
pub(crate) fn interval(text: &str) -> std::result::Result<Duration, String> {
    let allowed = Duration::from_millis(1)..=Duration::from_secs(1_000_000_000);
    let duration = text.parse().ok().and_then(|secs| Duration::try_from_secs_f64(secs).ok());
    duration.filter(|d| allowed.contains(d)).ok_or_else(|| "expected seconds, 0.001 to 1000000000".to_owned())
}

fn at_least_one(text: &str) -> std::result::Result<usize, String> {
    text.parse().ok().filter(|&n| n > 0).ok_or_else(|| format!("expected a number, 1 to {}", usize::MAX))
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

/// Parses the command line. Prints the help if it is asked for, or what is wrong, and exits.
pub(crate) fn parse<A: Parser>() -> A {
    A::try_parse().unwrap_or_else(|usage| {
        // A reader that has read enough is no error.
        let failed = usage.print().err().filter(|error| error.kind() != ErrorKind::BrokenPipe);
        let Some(error) = failed else { std::process::exit(usage.exit_code()) };
        let _ = writeln!(std::io::stderr(), "error: cannot print: {error}");
        std::process::exit(1)
    })
}

/// Creates a reactor, calls `set_up` to add handlers and listen, and runs the loop until a signal stops it.
pub(crate) fn serve(
    options: impl Into<Basic>,
    limits: Limits,
    set_up: impl FnOnce(&mut Reactor) -> Result<()>,
) -> ExitCode {
    serve_in(options, limits, set_up, |mut reactor| reactor.run().map(|()| reactor))
}

/// Like [`serve`], but with the caller's loop: `drive` runs turns of the reactor until it has stopped, and returns it.
pub(crate) fn serve_in(
    options: impl Into<Basic>,
    limits: Limits,
    set_up: impl FnOnce(&mut Reactor) -> Result<()>,
    drive: impl FnOnce(Reactor) -> Result<Reactor>,
) -> ExitCode {
    let result = try_serve(options.into(), limits, set_up, drive);
    if let Err(error) = &result {
        say(format_args!("error: {error}"));
    }
    stdio::finish();
    ExitCode::from(u8::from(result.is_err()))
}

fn try_serve(
    options: Basic,
    limits: Limits,
    set_up: impl FnOnce(&mut Reactor) -> Result<()>,
    drive: impl FnOnce(Reactor) -> Result<Reactor>,
) -> Result<()> {
    let signals = signals::block()?;
    stdio::start()?;
    start_logger();
    let mut reactor = Reactor::with_limits(limits)?;
    signals.watch(stopper(reactor.handle()))?;
    match set_up(&mut reactor) {
        // A signal has ended the lookup of a name.
        Err(error) if error.kind() == ErrorKind::Interrupted => {
            say(format_args!("stopped: {error}"));
            return Ok(());
        }
        other => other?,
    }
    if let Some(interval) = options.stats {
        let handle = reactor.handle();
        thread::Builder::new().spawn(move || report_stats(&handle, interval))?;
    }
    let reactor = drive(reactor)?;
    let (stats, shutdown) = (reactor.stats(), reactor.last_shutdown().unwrap_or_default());
    // From here on a signal has nothing left to stop.
    drop(reactor);
    if options.stats.is_some() {
        say(report::totals(&stats));
    }
    say(report::last_line(&shutdown, &stats));
    Ok(())
}

/// Logs warnings and errors to standard error, or what RUST_LOG says, each with the time (UTC).
fn start_logger() {
    let in_color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let style = if in_color { "always" } else { "never" };
    let choices = Env::default().default_filter_or("warn").default_write_style_or(style);
    let mut logger = env_logger::Builder::from_env(choices);
    logger.format(|out, record| {
        let (now, level) = (humantime::format_rfc3339_seconds(SystemTime::now()), record.level());
        let color = out.default_level_style(level);
        writeln!(out, "[{now} {color}{level:<5}{color:#} {}] {}", record.target(), record.args())
    });
    logger.target(Target::Pipe(Box::new(stdio::Log))).init();
}

/// Returns what to do at each signal. The first one ends the lookup of a name, or starts a shutdown; the second one
/// ends its grace period. If the loop does not answer, because a callback does not return, the process exits.
fn stopper(handle: Handle) -> impl FnMut(i32) + Send {
    let mut signals = 0;
    move |signal| {
        signals += 1;
        match signals {
            2 if has_ended(&handle) => return,
            1 => say("stopping: waiting for connections to finish; signal again to close them at once"),
            2 => {
                say("stopping: closing the remaining connections now");
                let handle = handle.clone();
                let watchdog = thread::Builder::new().spawn(move || {
                    thread::sleep(ANSWER_WITHIN);
                    if !has_ended(&handle) {
                        exit_now(signal);
                    }
                });
                if watchdog.is_err() {
                    exit_now(signal);
                }
            }
            _ => exit_now(signal),
        }
        if handle.stop().is_err() {
            exit_now(signal);
        }
    }
}

/// Returns whether the reactor was dropped: the program is about to end.
fn has_ended(handle: &Handle) -> bool {
    matches!(handle.run(|_| ()), Err(HandleError::Gone(_)))
}

/// How long the loop may take for the second signal. Chosen.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Ends the process with the exit code that shells use for a signal.
fn exit_now(signal: i32) -> ! {
    say("stopped: the event loop did not answer; its connections are cut");
    stdio::finish();
    std::process::exit(128 + signal)
}

/// Prints a line of statistics at each interval, until the reactor is dropped.
fn report_stats(handle: &Handle, interval: Duration) {
    let mut meter = report::Meter::new();
    loop {
        thread::sleep(interval);
        let (reply, answer) = mpsc::sync_channel(1);
        if let Err(HandleError::Gone(_)) = handle.run(move |net| drop(reply.send(net.stats()))) {
            return;
        }
        // There is no answer if the queue of commands is full: this line is left out.
        if let Ok(stats) = answer.recv() {
            say(meter.line(stats));
        }
    }
}

/// Takes over the listeners that a supervisor passed to this process (systemd's `LISTEN_FDS`), for the handler of
/// `key`, and prints their addresses. Returns how many there were.
pub(crate) fn listen_inherited<H: turnwheel::Handler>(reactor: &mut Reactor, key: turnwheel::Key<H>) -> Result<usize> {
    let mut given = listenfd::ListenFd::from_env();
    for n in 0..given.len() {
        for address in reactor.listen_on(inherited(&mut given, n)?, key)?.addresses() {
            print(format_args!("listening on {address}"));
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
    addresses: impl IntoIterator<Item = impl Into<turnwheel::Listen>>,
    key: turnwheel::Key<H>,
) -> Result<()> {
    for at in addresses {
        for address in reactor.listen_on(at, key)?.addresses() {
            print(format_args!("listening on {address}"));
        }
    }
    Ok(())
}
