//! What a server prints about itself: the lines of `--stats`, and its last line.

use std::fmt::Display;
use std::time::{Duration, Instant, SystemTime};

use turnwheel::{Report, Stats};

/// The columns of a line. Chosen.
const WIDTH: usize = 100;
/// How connections usually end.
const USUAL: [&str; 3] = ["peer_closed", "handler", "shutdown"];

/// Prints what has changed since its last line.
pub(crate) struct Meter {
    before: Stats,
    at: Instant,
}

impl Meter {
    pub(crate) fn new() -> Self {
        Self { before: Stats::default(), at: Instant::now() }
    }

    /// Returns a line with the time (UTC) and the rates since the last one. Errors, refusals and forced ends follow if
    /// there were any.
    pub(crate) fn line(&mut self, stats: Stats) -> String {
        let (before, since) = (std::mem::replace(&mut self.before, stats), self.at.elapsed().as_secs_f64());
        self.at = Instant::now();
        let now = &self.before;
        let rate = |count: fn(&Stats) -> u64| (count(now) - count(&before)) as f64 / since;
        let mut parts = Vec::new();
        // A server of datagrams has no connections.
        if now.datagrams_in + now.datagrams_out > 0 {
            let [received, sent] = [rate(|s| s.datagrams_in), rate(|s| s.datagrams_out)].map(count);
            parts.push(format!("{received}/s datagrams in, {sent}/s out"));
        } else {
            let opened = rate(|s| s.accepted + s.connected);
            let [opened, closed] = [opened, rate(|s| s.closed_total() - s.refused)].map(count);
            let [read, written] = [rate(|s| s.bytes_in), rate(|s| s.bytes_out)].map(bytes);
            parts.push(format!("{} open, {opened}/s opened, {closed}/s closed", count(now.open as f64)));
            parts.push(format!("{read}/s in, {written}/s out"));
            parts.push(format!("{} buffered", bytes((now.output_held + now.input_held) as f64)));
        }
        if now.messages_in > 0 {
            parts.push(format!("{}/s messages", count(rate(|s| s.messages_in))));
        }
        parts.extend(troubles(&before, now));
        wrap(&format!("{} {}", time_of_day(), parts.join(", ")), ", ")
    }
}

/// Returns what went wrong between two times.
fn troubles(before: &Stats, now: &Stats) -> Vec<String> {
    let grown = errors(before).into_iter().zip(errors(now)).map(|((_, old), (name, new))| (new - old, name.to_owned()));
    let ends = before.reasons().zip(now.reasons()).filter(|(_, (name, _))| !USUAL.contains(name));
    let ended = ends.map(|((_, old), (name, new))| (new - old, format!("closed for {name}")));
    grown.chain(ended).filter(|(n, _)| *n > 0).map(|(n, name)| format!("{n} {name}")).collect()
}

fn errors(stats: &Stats) -> [(&'static str, u64); 10] {
    [
        ("refused", stats.refused),
        ("accept errors", stats.accept_errors),
        ("failed to connect", stats.connect_failed),
        ("messages skipped", stats.skipped + stats.discarded),
        ("messages that a framing cannot carry", stats.unencodable),
        ("datagrams dropped", stats.datagrams_dropped),
        ("datagrams too long", stats.datagrams_truncated),
        ("datagram errors", stats.datagram_errors),
        ("panics", stats.panics),
        ("bytes unsent", stats.bytes_unsent),
    ]
}

/// Returns all counters since the start.
pub(crate) fn totals(stats: &Stats) -> String {
    wrap(&format!("totals: {stats}"), " ")
}

/// Returns the last line of a server.
pub(crate) fn last_line(report: &Report, stats: &Stats) -> String {
    if stats.datagrams_in + stats.datagrams_out > 0 {
        let (received, sent) = (stats.datagrams_in, stats.datagrams_out);
        return format!("stopped: {received} datagrams received, {sent} sent, {} dropped", stats.datagrams_dropped);
    }
    let (finished, cut) = (report.clean, report.cut);
    let unsent = if report.bytes_lost > 0 { format!(" ({} bytes unsent)", report.bytes_lost) } else { String::new() };
    format!("stopped: {} connections were open, {finished} finished, {cut} cut{unsent}", finished + cut)
}

/// Breaks text between its parts. Further lines are indented.
fn wrap(text: &str, between: &str) -> String {
    let mut lines = String::new();
    let mut used = 0;
    for part in text.split_inclusive(between) {
        if used > 0 && used + part.trim_end().len() > WIDTH {
            lines.truncate(lines.trim_end().len());
            lines += "\n  ";
            used = 2;
        }
        lines += part;
        used += part.len();
    }
    lines
}

/// Writes a number in at most four characters: 0.4, 12, 1.2k, 999k, 12M.
fn count(n: f64) -> String {
    let (n, unit) = scale(n, 1000.0, ["", "k", "M", "G"]);
    format!("{}{unit}", digits(n, unit.is_empty()))
}

fn bytes(n: f64) -> String {
    let (n, unit) = scale(n, 1024.0, ["B", "KiB", "MiB", "GiB"]);
    format!("{} {unit}", digits(n, unit == "B"))
}

fn scale(mut n: f64, by: f64, units: [&'static str; 4]) -> (f64, &'static str) {
    let mut unit = 0;
    while n >= by - 0.5 && unit + 1 < units.len() {
        n /= by;
        unit += 1;
    }
    (n, units[unit])
}

/// One digit after the point below 10. A whole number has none.
fn digits(n: f64, whole: bool) -> impl Display {
    let places = usize::from(n < 9.95 && !(whole && n.fract() == 0.0));
    format!("{n:.places$}")
}

/// Returns the time of day in UTC, which needs no calendar.
fn time_of_day() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let secs = since.as_secs() % (24 * 60 * 60);
    format!("{:02}:{:02}:{:02}Z", secs / 3600, secs / 60 % 60, secs % 60)
}
