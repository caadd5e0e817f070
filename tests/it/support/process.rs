//! What belongs to the whole process: its descriptors, its child processes, the time that its threads get, and the
//! files in its name. The tests run at the same time; here they agree on who has what.

use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Written by whoever starts a child process, read by whoever must not be disturbed by one.
static BIRTHS: RwLock<()> = RwLock::new(());

/// Written by whoever is a crowd, read by whoever must not be beside one.
static CROWDS: RwLock<()> = RwLock::new(());

/// A test that failed leaves nothing behind that the others would have to fear.
fn read(lock: &'static RwLock<()>) -> RwLockReadGuard<'static, ()> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(lock: &'static RwLock<()>) -> RwLockWriteGuard<'static, ()> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a child process. All child processes are started here.
pub(crate) fn spawn(command: &mut Command) -> io::Result<Child> {
    let _alone = write(&BIRTHS);
    command.spawn()
}

/// Runs a child process to its end, and answers what it said.
pub(crate) fn output(command: &mut Command) -> io::Result<Output> {
    spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))?.wait_with_output()
}

/// Runs another program, which must succeed. If it is not installed, says that the test is skipped.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    let done = output(command).inspect_err(|error| eprintln!("skipped: {:?}: {error}", command.get_program()));
    done.is_ok_and(|done| {
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        true
    })
}

/// No child process is started while this is held. Until its program runs, a child has a copy of every descriptor:
/// what is closed here is open there. It is for tests that close something and expect it to be closed at once.
pub(crate) fn without_births() -> RwLockReadGuard<'static, ()> {
    read(&BIRTHS)
}

/// For a test that needs hundreds of descriptors or threads: there is one such test at a time.
pub(crate) fn as_a_crowd() -> RwLockWriteGuard<'static, ()> {
    write(&CROWDS)
}

/// No test is a crowd while this is held. It is for tests whose threads must not be kept waiting for long.
pub(crate) fn without_crowds() -> RwLockReadGuard<'static, ()> {
    read(&CROWDS)
}

/// As many of `wanted` connections as this process may have with both ends in it, and other tests beside.
pub(crate) fn affordable(wanted: usize) -> usize {
    let text = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = text.lines().find(|l| l.starts_with("Max open files"));
    let soft = line.and_then(|l| l.split_whitespace().nth(3)).and_then(|n| n.parse::<usize>().ok());
    wanted.min(soft.unwrap_or(1024).saturating_sub(200) / 5).max(50)
}

const CHILD: &str = "TURNWHEEL_TEST_CHILD";

/// Whether this process runs one test alone, started with the command that [`again`] made.
pub(crate) fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// A command that runs a test of this binary once more, alone in a process. It is for tests of what a process has or
/// does as a whole. `before` is what a shell does first.
pub(crate) fn again(before: &str, module: &str, test: &str) -> Command {
    let (_binary, module) = module.split_once("::").unwrap();
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("{before} exec \"$0\" --exact \"$1\" --nocapture --test-threads=1")])
        .arg(std::env::current_exe().unwrap())
        .arg(format!("{module}::{test}"))
        .env(CHILD, "1");
    command
}

/// A directory of this test's own, removed with what is in it.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        loop {
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("turnwheel-{}-{n}", std::process::id()));
            match std::fs::create_dir(&path) {
                Ok(()) => return Self(path),
                // Left behind by an earlier process of the same number.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => panic!("cannot make {}: {e}", path.display()),
            }
        }
    }

    /// The address of a Unix socket in it.
    pub(crate) fn unix(&self, name: &str) -> String {
        format!("unix:{}", self.0.join(name).display())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
