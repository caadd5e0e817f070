//! Compares the scripted system with the kernel: each scenario is written once and played on both.
//!
//! A scenario is a list of steps, with the expected result beside each query. Where the two differ, the scripted
//! system is wrong, because the expected results are those of Linux. Invariant: a superfluous event is not a
//! difference, a missing one is.

mod kernel;
mod scenarios;
mod scripted;

use std::io::{self, ErrorKind, IoSlice};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use scenarios::{ACCEPTING, DIALLING, ENDING, MOVING, Scenario};

use super::{CloseHow, Ready, Sys};
use crate::config::address::Address;
use crate::config::connect::ConnectOptions;
use crate::config::listen::{ListenOptions, ListenTarget};

/// The result of a client's read.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Heard {
    Bytes(Vec<u8>),
    End,
    Reset,
    Nothing,
}

/// A system under test, with the clients on the other side. Clients are numbered in the order in which they connect.
trait World: Sized {
    type S: Sys;

    fn sys(&mut self) -> &mut Self::S;

    /// Returns `true` if results may take a while to appear.
    fn is_real(&self) -> bool;

    /// Strict edges: no second edge before `WouldBlock`, so reads never report *drained* and hints are not guaranteed.
    fn is_strict(&self) -> bool;

    fn is_unix(&self) -> bool;

    /// Sets the listener, after it was opened.
    fn set_listener(&mut self, listener: &<Self::S as Sys>::Listener);

    fn connect(&mut self) -> io::Result<()>;

    /// Returns an address to connect to, with or without a listener (`anybody`).
    fn target(&mut self, anybody: bool) -> Address;

    /// Refuses the latest connection attempt.
    fn refuse(&mut self);

    /// Accepts the latest connection attempt; its peer is the next client.
    fn meet(&mut self);

    /// Sends from a client. Returns `false` if it cannot send any more.
    fn send(&mut self, client: usize, bytes: &[u8]) -> bool;

    fn send_urgent(&mut self, client: usize);

    fn finish(&mut self, client: usize);

    fn hang_up(&mut self, client: usize);

    fn reset(&mut self, client: usize);

    fn hear(&mut self, client: usize, most: usize) -> Heard;

    /// Returns how many bytes the client could read, up to `most`.
    fn could_hear(&mut self, client: usize, most: usize) -> usize;
}

/// An action, or a query with its expected result. Steps of clients and streams concern the one chosen last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Chooses a client, and the accepted stream of the same number.
    With(usize),
    Connects,
    IsRefused,
    /// The system under test connects to a listener, whose side becomes the next client.
    Dials,
    IsMet,
    DialsNobody(ErrorKind),
    /// It begins to connect where nothing listens.
    DialsInVain,
    Connected,
    DialFails(ErrorKind),
    Sends(&'static str),
    CannotSend,
    SendsUrgent,
    Finishes,
    HangsUp,
    Resets,
    /// Waits until this many bytes have reached the client's kernel.
    Waiting(usize),
    Hears(&'static str),
    /// The client reads everything that filled the stream.
    HearsAll,
    HearsEnd,
    HearsReset,
    AddsListener,
    ListenerIsTold,
    Accepts,
    AcceptBlocks,
    ClosesListener,
    Adds,
    /// Expects all of these bits since they were last queried.
    Told(u8),
    /// Expects none of these bits.
    NotTold(u8),
    /// A read with a buffer of this length, and its expected data.
    Reads(usize, &'static str),
    ReadFails(ErrorKind),
    Writes(&'static str),
    WriteFails(ErrorKind),
    /// Writes until the socket is full, and expects that the last write is partial.
    Fills,
    ShutsDown,
    ShutdownFails(ErrorKind),
    TakesError(Option<ErrorKind>),
    Closes(CloseHow),
}

const LISTENER: usize = 1000;
/// No wait here takes that long unless something is broken.
const PATIENCE: Duration = Duration::from_secs(10);
/// After this long without events, none will come. Chosen for loopback.
const QUIET: Duration = Duration::from_millis(20);
/// The longest time that a kernel may take to report space after a peer has read (delayed ACKs take up to 200 ms).
const LONG_QUIET: Duration = Duration::from_millis(250);

/// One scenario on one system.
struct Play<W: World> {
    world: W,
    listener: Option<<W::S as Sys>::Listener>,
    streams: Vec<Option<<W::S as Sys>::Stream>>,
    with: usize,
    /// The bits reported for each stream since they were last queried, and whether the listener was reported.
    told: Vec<u8>,
    listener_told: bool,
    filled: usize,
}

/// The result of a step; `None` while the expected result may still appear.
type Answer = Option<Result<(), String>>;

fn must<T: PartialEq + std::fmt::Debug>(got: T, expected: T) -> Answer {
    Some(if got == expected { Ok(()) } else { Err(format!("{got:?}")) })
}

/// Like [`must`], where the expected result may still be on its way.
fn comes<T: PartialEq + std::fmt::Debug>(got: T, expected: T) -> Answer {
    if got == expected { Some(Ok(())) } else { None }
}

impl<W: World> Play<W> {
    fn new(mut world: W, at: ListenTarget) -> Self {
        let options = ListenOptions { send_buffer: Some(16 * 1024), ..ListenOptions::default() };
        let listener = world.sys().listen(at, &options).unwrap();
        world.set_listener(&listener);
        Self {
            world,
            listener: Some(listener),
            streams: Vec::new(),
            with: 0,
            told: Vec::new(),
            listener_told: false,
            filled: 0,
        }
    }

    /// Returns the first step that fails, and how.
    fn run(&mut self, steps: impl Iterator<Item = Step>) -> Result<(), (usize, Step, String)> {
        for (n, step) in steps.enumerate() {
            let start = self.world.sys().now();
            let answer = loop {
                if let Some(answer) = self.answer(step) {
                    break answer;
                }
                let waited = self.world.sys().now().since(start);
                if !self.world.is_real() && self.look(Duration::ZERO) == 0 || waited > PATIENCE {
                    break Err(format!("it never comes, but {}", self.instead(step)));
                }
                self.look(Duration::from_millis(1));
            };
            answer.map_err(|got| (n, step, got))?;
        }
        Ok(())
    }

    /// Polls, and records the readiness.
    fn look(&mut self, timeout: Duration) -> usize {
        let mut ready = Vec::new();
        self.world.sys().poll(&mut ready, Some(timeout)).unwrap();
        for r in &ready {
            match self.told.get_mut(r.token) {
                Some(told) => *told |= r.bits,
                None => self.listener_told |= r.token == LISTENER,
            }
        }
        ready.len()
    }

    fn settle(&mut self, quiet: Duration) {
        let quiet = if self.world.is_real() { quiet } else { Duration::ZERO };
        while self.look(quiet) > 0 {}
    }

    fn answer(&mut self, step: Step) -> Answer {
        match step {
            Step::With(i) => {
                self.with = i;
                Some(Ok(()))
            }
            Step::Dials | Step::DialsNobody(_) | Step::DialsInVain => self.of_dialling(step),
            Step::Connected | Step::DialFails(_) => self.of_dialling(step),
            Step::AddsListener | Step::ListenerIsTold | Step::ClosesListener => self.of_listener(step),
            Step::Accepts | Step::AcceptBlocks => self.classify_accept(step),
            Step::Adds | Step::Told(_) | Step::NotTold(_) => self.of_events(step),
            Step::Reads(..) | Step::ReadFails(_) => self.of_read(step),
            Step::Writes(_) | Step::WriteFails(_) | Step::Fills => self.of_write(step),
            Step::ShutsDown | Step::ShutdownFails(_) | Step::TakesError(_) | Step::Closes(_) => self.of_end(step),
            Step::Waiting(_) | Step::Hears(_) | Step::HearsAll | Step::HearsEnd | Step::HearsReset => {
                self.of_hearing(step)
            }
            _ => self.of_client(step),
        }
    }

    /// Describes the actual state when an expected result does not appear.
    fn instead(&mut self, step: Step) -> String {
        match step {
            Step::Told(_) => format!("only the bits {:#06b}", self.told[self.with]),
            Step::Hears(_) | Step::HearsAll | Step::HearsEnd | Step::HearsReset => {
                format!("{:?}", self.world.hear(self.with, 64))
            }
            _ => "nothing does instead".to_owned(),
        }
    }

    fn of_client(&mut self, step: Step) -> Answer {
        let client = self.with;
        match step {
            Step::Connects => return must(self.world.connect().map_err(|e| e.kind()), Ok(())),
            Step::IsRefused => {
                return must(self.world.connect().map_err(|e| e.kind()), Err(ErrorKind::ConnectionRefused));
            }
            Step::IsMet => self.world.meet(),
            Step::Sends(text) => return must(self.world.send(client, text.as_bytes()), true),
            Step::CannotSend => return comes(self.world.send(client, b"?"), false),
            Step::SendsUrgent => self.world.send_urgent(client),
            Step::Finishes => self.world.finish(client),
            Step::HangsUp => self.world.hang_up(client),
            Step::Resets => self.world.reset(client),
            _ => unreachable!("{step:?}"),
        }
        Some(Ok(()))
    }

    fn of_hearing(&mut self, step: Step) -> Answer {
        let client = self.with;
        match step {
            Step::Waiting(n) => comes(self.world.could_hear(client, n), n),
            Step::Hears(text) => {
                comes(self.world.could_hear(client, text.len()), text.len())?.ok()?;
                let text = Heard::Bytes(text.as_bytes().to_vec());
                must(self.world.hear(client, 64), text)
            }
            Step::HearsAll => {
                if let Heard::Bytes(some) = self.world.hear(client, self.filled) {
                    self.filled -= some.len();
                }
                comes(self.filled, 0)
            }
            _ => {
                let end = if step == Step::HearsEnd { Heard::End } else { Heard::Reset };
                match self.world.hear(client, 64) {
                    Heard::Nothing => None,
                    heard => must(heard, end),
                }
            }
        }
    }

    fn of_dialling(&mut self, step: Step) -> Answer {
        if matches!(step, Step::Connected | Step::DialFails(_)) {
            let expected = if let Step::DialFails(kind) = step { Err(kind) } else { Ok(()) };
            let stream = self.streams[self.with].as_mut().unwrap();
            return match self.world.sys().finish_connect(stream).map_err(|e| e.kind()) {
                Err(ErrorKind::WouldBlock) => None,
                done => must(done.map(drop), expected),
            };
        }
        let to = self.world.target(step == Step::Dials);
        let options = ConnectOptions { send_buffer: Some(16 * 1024), ..ConnectOptions::default() };
        let dials = self.world.sys().connect(&to, &options).map_err(|e| e.kind());
        let expected = if let Step::DialsNobody(kind) = step { Err(kind) } else { Ok(()) };
        let answer = dials.map(|stream| {
            self.streams.push(Some(stream));
            self.told.push(0);
        });
        if step == Step::DialsInVain {
            self.world.refuse();
        }
        must(answer, expected)
    }

    fn of_listener(&mut self, step: Step) -> Answer {
        match step {
            Step::AddsListener => {
                let listener = self.listener.as_mut().unwrap();
                self.world.sys().add_listener(listener, LISTENER).unwrap();
                Some(Ok(()))
            }
            Step::ListenerIsTold => comes(std::mem::take(&mut self.listener_told), true),
            _ => {
                let listener = self.listener.take().unwrap();
                self.world.sys().close_listener(listener);
                Some(Ok(()))
            }
        }
    }

    fn classify_accept(&mut self, step: Step) -> Answer {
        let listener = self.listener.as_mut().unwrap();
        match self.world.sys().accept(listener) {
            Ok((stream, _)) => {
                self.streams.push(Some(stream));
                self.told.push(0);
                must("it accepts", if step == Step::Accepts { "it accepts" } else { "" })
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => comes(Step::AcceptBlocks, step),
            Err(e) => Some(Err(e.to_string())),
        }
    }

    fn of_events(&mut self, step: Step) -> Answer {
        match step {
            Step::Told(bits) => {
                let bits = if self.world.is_strict() { bits & !(Ready::HINT | Ready::ERROR) } else { bits };
                comes(self.told[self.with] & bits, bits)?.ok()?;
                self.told[self.with] = 0;
                Some(Ok(()))
            }
            Step::NotTold(bits) => {
                self.settle(QUIET);
                let told = std::mem::take(&mut self.told[self.with]);
                if told & bits == 0 { Some(Ok(())) } else { Some(Err(format!("the bits {told:#06b}"))) }
            }
            _ => {
                let stream = self.streams[self.with].as_mut().unwrap();
                self.world.sys().add_stream(stream, self.with).unwrap();
                Some(Ok(()))
            }
        }
    }

    fn of_read(&mut self, step: Step) -> Answer {
        let (len, expected) = match step {
            Step::Reads(len, text) => (len, Ok(text)),
            Step::ReadFails(kind) => (16, Err(kind)),
            _ => unreachable!("{step:?}"),
        };
        let says_drained = !self.world.is_strict() && !self.world.is_unix();
        let (mut buf, stream) = ([0; 64], self.streams[self.with].as_mut().unwrap());
        match self.world.sys().read(stream, &mut buf[..len]) {
            Ok(received) if received.drained != (says_drained && received.len < len) => {
                Some(Err(format!("{received:?}")))
            }
            Ok(received) => must(Ok(str::from_utf8(&buf[..received.len]).unwrap()), expected),
            Err(e) if e.kind() == ErrorKind::WouldBlock => comes(Err(e.kind()), expected),
            Err(e) => must(Err(e.kind()), expected),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        let stream = self.streams[self.with].as_mut().unwrap();
        self.world.sys().write(stream, &[IoSlice::new(bytes)]).map_err(|e| e.kind())
    }

    fn of_write(&mut self, step: Step) -> Answer {
        match step {
            Step::Writes(text) => must(self.write(text.as_bytes()), Ok(text.len())),
            Step::WriteFails(kind) => must(self.write(b"?"), Err(kind)),
            _ => {
                let (block, mut whole) = (vec![b'#'; 1 << 20], true);
                loop {
                    while let Ok(n) = self.write(&block) {
                        self.filled += n;
                        whole = n == block.len();
                    }
                    // Data on its way to the client has freed buffer space by the time it arrives.
                    self.told[self.with] = 0;
                    self.settle(if self.world.is_unix() { QUIET } else { LONG_QUIET });
                    if self.told[self.with] & Ready::WRITABLE == 0 {
                        break;
                    }
                }
                must((self.filled > 0, whole), (true, false))
            }
        }
    }

    fn of_end(&mut self, step: Step) -> Answer {
        let (stream, sys) = (&mut self.streams[self.with], self.world.sys());
        if let Step::Closes(how) = step {
            sys.close(stream.take().unwrap(), how);
            return Some(Ok(()));
        }
        let stream = stream.as_mut().unwrap();
        match step {
            Step::ShutsDown => must(sys.shutdown_write(stream).map_err(|e| e.kind()), Ok(())),
            Step::ShutdownFails(kind) => must(sys.shutdown_write(stream).map_err(|e| e.kind()), Err(kind)),
            Step::TakesError(kind) => match sys.take_error(stream).unwrap().map(|e| e.kind()) {
                None => comes(None, kind),
                told => must(told, kind),
            },
            _ => unreachable!("{step:?}"),
        }
    }
}

/// A path for a Unix socket, unique to one scenario.
fn path() -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("turnwheel-world-{}-{n}", std::process::id()))
}

/// The systems, as columns of the table.
const WORLDS: [&str; 6] = ["tcp", "epoll", "strict", "unix", "epoll", "strict"];

/// Plays a scenario on one of the systems. Returns `None` if it does not apply there.
fn play(scenario: &Scenario, world: usize) -> Outcome {
    let (unix, mode) = (world >= 3, world % 3);
    let on = scenario.on;
    if if unix { !on.unix } else { !on.tcp } || mode == 2 && !on.strict {
        return None;
    }
    let at = if unix { ListenTarget::Unix(path()) } else { ListenTarget::Tcp("127.0.0.1:0".parse().unwrap()) };
    let steps = scenario.from.iter().chain(scenario.steps).copied();
    Some(match mode {
        0 => Play::new(kernel::Kernel::new(unix), at).run(steps),
        _ => Play::new(scripted::Scripted::new(unix, mode == 2), at).run(steps),
    })
}

/// Whether one system answered as the scenario expects. See [`play`].
type Outcome = Option<Result<(), (usize, Step, String)>>;

/// Plays all scenarios, each in a thread: most of their time is waiting. Returns a row for each.
fn answers(scenarios: &[Scenario]) -> Vec<Vec<Outcome>> {
    thread::scope(|scope| {
        let row = |scenario| scope.spawn(move || (0..WORLDS.len()).map(|world| play(scenario, world)).collect());
        let rows: Vec<_> = scenarios.iter().map(row).collect();
        rows.into_iter().map(|row| row.join().unwrap()).collect()
    })
}

/// Plays all scenarios on all systems, prints the table, and fails with every difference.
fn play_all(scenarios: &[Scenario]) {
    let mut wrong = Vec::new();
    println!("{:60} {}", "", WORLDS.map(|w| format!("{w:7}")).concat());
    for (scenario, answers) in scenarios.iter().zip(answers(scenarios)) {
        let mut row = String::new();
        for (world, answer) in answers.into_iter().enumerate() {
            let word = match &answer {
                None => "-",
                Some(Ok(())) => "agrees",
                Some(Err(_)) => "NO",
            };
            row.push_str(&format!("{word:7}"));
            if let Some(Err((n, step, got))) = answer {
                let kind = if world < 3 { "TCP" } else { "Unix" };
                let mode = ["the kernel", "the scripted world", "the strict scripted world"][world % 3];
                wrong.push(format!(
                    "{:?}, step {n}: {step:?} is expected; {mode} ({kind}) answers {got}",
                    scenario.name
                ));
            }
        }
        println!("{:60} {}", scenario.name, row.trim_end());
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn bytes_move_as_in_the_kernel() {
    play_all(MOVING);
}

#[test]
fn connections_end_as_in_the_kernel() {
    play_all(ENDING);
}

#[test]
fn connections_are_made_as_by_the_kernel() {
    play_all(DIALLING);
}

#[test]
fn connections_are_accepted_as_by_the_kernel() {
    play_all(ACCEPTING);
}
