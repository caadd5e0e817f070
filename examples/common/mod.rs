//! What the example servers share: options, signals, and the loop. The server itself is in each example's own file.

// The library reads the clock through its seam only; a program may do as it likes.
#![allow(clippy::disallowed_methods)]

use std::io::Result;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use turnwheel::{Limit, Limits, Reactor};

/// The options that every example has.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// End connections on which no byte moved for this many seconds, or "off"
    #[arg(long, value_name = "SECS", default_value = "600", value_parser = seconds)]
    idle_timeout: Limit<Duration>,

    /// Have at most this many connections at a time; more wait
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = at_least_one)]
    max_connections: usize,

    /// Print a line of statistics on stderr every SECS seconds
    #[arg(long, value_name = "SECS", value_parser = interval)]
    stats: Option<Duration>,
}

fn seconds(text: &str) -> std::result::Result<Limit<Duration>, String> {
    if text == "off" {
        return Ok(Limit::Unlimited);
    }
    interval(text).map(Limit::At).map_err(|e| e + ", or \"off\"")
}

fn interval(text: &str) -> std::result::Result<Duration, String> {
    let duration = text.parse().ok().and_then(|secs| Duration::try_from_secs_f64(secs).ok());
    duration
        .filter(|d| *d >= Duration::from_millis(1))
        .ok_or_else(|| "expected seconds, at least 0.001".to_string())
}

fn at_least_one(text: &str) -> std::result::Result<usize, String> {
    text.parse().ok().filter(|&n| n > 0).ok_or_else(|| "expected a number, at least 1".to_string())
}

impl Options {
    /// The default limits, with what the options change.
    pub(crate) fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        limits.connections = Limit::At(self.max_connections);
        limits.idle_timeout = self.idle_timeout;
        limits
    }
}

/// Makes a reactor, lets `set_up` put handlers behind the addresses, and turns until Ctrl-C or SIGTERM. A second signal
/// ends what the first one waits for.
pub(crate) fn serve(
    options: &Options,
    limits: Limits,
    set_up: impl FnOnce(&mut Reactor) -> Result<()>,
) -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    match try_serve(options, limits, set_up) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn try_serve(
    options: &Options,
    limits: Limits,
    set_up: impl FnOnce(&mut Reactor) -> Result<()>,
) -> Result<()> {
    let mut reactor = Reactor::with_limits(limits)?;
    let stopper = reactor.stopper();
    ctrlc::set_handler(move || {
        // The first begins a shutdown, the second ends its grace; a loop that cannot be woken ends with the process.
        eprintln!("stopping: connections have a moment to finish; once more ends them at once");
        if stopper.stop().is_err() {
            std::process::exit(130);
        }
    })
    .map_err(std::io::Error::other)?;
    set_up(&mut reactor)?;
    run(&mut reactor, options.stats)?;
    let report = reactor.last_shutdown().unwrap_or_default();
    eprintln!(
        "stopped: {} connections ended well, {} were cut ({} bytes unsent)",
        report.clean, report.cut, report.bytes_lost
    );
    if options.stats.is_some() {
        eprintln!("{}", reactor.stats());
    }
    Ok(())
}

fn run(reactor: &mut Reactor, stats: Option<Duration>) -> Result<()> {
    let Some(interval) = stats else { return reactor.run() };
    let mut next = Instant::now() + interval;
    while !reactor.turn(Some(next.saturating_duration_since(Instant::now())))?.stopped {
        if Instant::now() >= next {
            eprintln!("{}", reactor.stats());
            next += interval;
        }
    }
    Ok(())
}

/// Listens at every address for the handler behind `key`, and says so.
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
