//! Standard input, output and error, in whatever state the program finds them.
//!
//! A server outlives its terminal and the readers of its output. So printing never panics (`println!` does, at the
//! first error) and never waits: each stream has a thread that writes what is queued. What could not be printed is
//! reported on standard error.

use std::fmt::Display;
use std::io::{self, BufRead, ErrorKind, IsTerminal, Read, Write};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

static STDOUT: Output = Output::new("standard output");
static STDERR: Output = Output::new("standard error");

/// The most bytes that wait for a slow reader. Chosen: some 10 000 lines.
const MOST_QUEUED: usize = 1024 * 1024;
/// How long the end of the program waits for the reader of a stream. Chosen.
const LAST_WAIT: Duration = Duration::from_secs(1);
/// Longer lines of input are passed on in pieces of this many bytes. Chosen.
const LONGEST_LINE: usize = 64 * 1024;
/// When to try again to read input that cannot be read now. Chosen.
pub(crate) const READ_AGAIN: Duration = Duration::from_secs(1);

/// Starts the threads that print. What is printed before waits for them.
pub(crate) fn start() -> io::Result<()> {
    thread::Builder::new().spawn(|| STDOUT.run(io::stdout()))?;
    thread::Builder::new().spawn(|| STDERR.run(io::stderr()))?;
    Ok(())
}

/// Prints a line (or several) on standard output.
pub(crate) fn print(text: impl Display) {
    STDOUT.queue(format!("{text}\n").as_bytes());
}

/// Prints a line (or several) on standard error.
pub(crate) fn say(text: impl Display) {
    STDERR.queue(format!("{text}\n").as_bytes());
}

/// Waits until what was printed is written, but not long. Call it before the program ends.
pub(crate) fn finish() {
    if !STDOUT.flush() {
        say("the last lines were not printed on standard output: nobody reads it");
    }
    STDERR.flush();
}

/// Standard error for a logger.
pub(crate) struct Log;

impl Write for Log {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        STDERR.queue(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A stream, and what waits to be written to it.
struct Output {
    name: &'static str,
    queue: Mutex<Queue>,
    changed: Condvar,
}

struct Queue {
    text: Vec<u8>,
    /// The thread writes what it took from here.
    writing: bool,
    /// How many texts did not fit.
    lost: u64,
}

impl Output {
    const fn new(name: &'static str) -> Self {
        let queue = Queue { text: Vec::new(), writing: false, lost: 0 };
        Self { name, queue: Mutex::new(queue), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self, text: &[u8]) {
        let mut queue = self.lock();
        // An empty queue takes a text of any length.
        if queue.text.is_empty() || queue.text.len() + text.len() <= MOST_QUEUED {
            queue.text.extend_from_slice(text);
            self.changed.notify_all();
        } else {
            queue.lost += 1;
        }
    }

    /// Waits until everything is written. Returns `false` if that takes longer than [`LAST_WAIT`].
    fn flush(&self) -> bool {
        let unwritten = |queue: &mut Queue| queue.writing || !queue.text.is_empty();
        let done = self.changed.wait_timeout_while(self.lock(), LAST_WAIT, unwritten);
        !done.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn run(&self, mut stream: impl Write) {
        let mut failed = false;
        loop {
            let (text, lost) = self.take();
            // Before writing, which may take long: now there is space for this line.
            if lost > 0 {
                say(format_args!("{lost} lines were not printed on {}: nobody read it", self.name));
            }
            let result = write_all(&mut stream, &text);
            if let Err(error) = result
                && !std::mem::replace(&mut failed, true)
            {
                say(format_args!("cannot write to {}: {error}; continuing without it", self.name));
            }
            self.lock().writing = false;
            self.changed.notify_all();
        }
    }

    /// Waits for text and takes it. Returns how many texts did not fit after it as well.
    fn take(&self) -> (Vec<u8>, u64) {
        let empty = |queue: &mut Queue| queue.text.is_empty();
        let mut queue = self.changed.wait_while(self.lock(), empty).unwrap_or_else(PoisonError::into_inner);
        queue.writing = true;
        (std::mem::take(&mut queue.text), std::mem::take(&mut queue.lost))
    }
}

/// Like [`Write::write_all`] and `flush`, but waits where a nonblocking stream is full.
fn write_all(stream: &mut impl Write, mut text: &[u8]) -> io::Result<()> {
    loop {
        let done = if text.is_empty() { stream.flush().map(|()| 0) } else { stream.write(text) };
        match done {
            Ok(_) if text.is_empty() => return Ok(()),
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => text = &text[n..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(10)),
            Err(error) => return Err(error),
        }
    }
}

/// Calls `each` for every line of standard input, newline included. Returns at the end of the input, when it cannot be
/// read, or when `each` returns `false`. Lines need not be UTF-8, a long line comes in pieces, and the last line gets a
/// newline if it has none.
pub(crate) fn each_line(mut each: impl FnMut(Vec<u8>) -> bool) {
    let mut input = io::stdin().lock();
    let mut line = Vec::new();
    loop {
        let space = (LONGEST_LINE - line.len()) as u64;
        let done = match input.by_ref().take(space).read_until(b'\n', &mut line) {
            Err(error) if try_again(&error) => {
                thread::sleep(READ_AGAIN);
                continue;
            }
            done => done,
        };
        if !line.is_empty() {
            if line.len() < LONGEST_LINE && !line.ends_with(b"\n") {
                line.push(b'\n');
            }
            if !each(std::mem::take(&mut line)) {
                return;
            }
        }
        match done {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => return input_failed(&error),
        }
    }
}

/// Reports that standard input cannot be read.
pub(crate) fn input_failed(error: &io::Error) {
    say(format_args!("cannot read standard input: {error}; continuing without it"));
}

/// Returns whether standard input that returned this error may be readable later. A terminal returns EIO (5 on every
/// Unix) to a program in the background, if SIGTTIN is blocked.
pub(crate) fn try_again(error: &io::Error) -> bool {
    let in_background = cfg!(unix) && error.raw_os_error() == Some(5) && io::stdin().is_terminal();
    in_background || error.kind() == ErrorKind::WouldBlock
}
