//! What only Unix has: sockets with a file, and children that inherit nothing.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use turnwheel::{Address, Echo, Limits, Listen, Reactor};

use crate::support::process::{Scratch, again, is_child, output, spawn, without_births};
use crate::support::{self, PATIENCE, echo, serve};

fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn a_unix_socket_is_for_its_user_only_serves_and_goes_with_its_reactor() {
    let scratch = Scratch::new();
    let path = scratch.0.join("a.sock");
    let (first, second) = (scratch.unix("a.sock"), scratch.unix("b.sock"));
    let server = serve(Limits::default(), move |r| {
        Ok(vec![r.listen(first, Echo)?, r.listen(Listen::new(second).unix_mode(0o660), Echo)?])
    });
    let mode = |name: &str| fs::metadata(scratch.0.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("a.sock"), mode("b.sock")), (0o600, 0o660));
    let address = server.listening[0].addresses().next().unwrap();
    assert_eq!(*address, Address::Unix(Some(path.clone())));
    assert_eq!(server.listening[0].local_addr(), None);
    let mut client = connect(&path);
    echo(&mut client, &support::pattern(1, 100_000));
    drop(client);
    server.stop();
    assert!(!path.exists() && !scratch.0.join("b.sock").exists());
}

#[test]
fn the_file_goes_when_the_reactor_is_dropped_without_a_shutdown() {
    let scratch = Scratch::new();
    let mut reactor = Reactor::new().unwrap();
    reactor.listen(scratch.unix("a.sock"), Echo).unwrap();
    assert!(scratch.0.join("a.sock").exists());
    drop(reactor);
    assert!(!scratch.0.join("a.sock").exists());
}

#[test]
fn a_dead_servers_file_is_replaced_and_a_live_ones_is_not() {
    let _undisturbed = without_births();
    let scratch = Scratch::new();
    let path = scratch.0.join("a.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(fs::metadata(&path).unwrap().file_type().is_socket(), "the dead server's file must exist");
    let mut first = Reactor::new().unwrap();
    first.listen(scratch.unix("a.sock"), Echo).unwrap();

    let mut second = Reactor::new().unwrap();
    let error = second.listen(scratch.unix("a.sock"), Echo).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert!(error.to_string().contains("a.sock"), "{error}");
    drop(second);
    assert!(path.exists(), "the refused reactor removed the file");
    let _client = UnixStream::connect(&path).unwrap();
}

#[test]
fn what_is_no_socket_is_never_replaced() {
    let scratch = Scratch::new();
    let path = scratch.0.join("precious");
    fs::write(&path, "data").unwrap();
    let error = Reactor::new().unwrap().listen(scratch.unix("precious"), Echo).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert!(error.to_string().contains("not a socket"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "data");
}

#[test]
fn another_servers_new_file_is_not_removed() {
    let scratch = Scratch::new();
    let path = scratch.0.join("a.sock");
    let mut reactor = Reactor::new().unwrap();
    reactor.listen(scratch.unix("a.sock"), Echo).unwrap();
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    drop(reactor);
    assert!(path.exists());
}

#[test]
fn a_unix_listener_that_the_caller_bound_is_taken_over_and_its_file_left_alone() {
    let scratch = Scratch::new();
    let path = scratch.0.join("a.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let server = serve(Limits::default(), |r| Ok(vec![r.listen(listener, Echo)?]));
    echo(&mut connect(&path), b"hello");
    server.stop();
    assert!(path.exists());
}

#[cfg(target_os = "linux")]
#[test]
fn a_child_process_inherits_no_socket() {
    if !is_child() {
        // Alone: the sockets that other tests have open are not meant.
        let done = output(&mut again("", module_path!(), "a_child_process_inherits_no_socket")).unwrap();
        let said = String::from_utf8_lossy(&done.stdout);
        let failed = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success() && said.contains("1 passed"), "{said}{failed}");
        return;
    }
    let scratch = Scratch::new();
    let mut reactor = Reactor::new().unwrap();
    let at = reactor.listen("127.0.0.1:0", Echo).unwrap().local_addr().unwrap();
    reactor.listen(scratch.unix("a.sock"), Echo).unwrap();
    let _clients = (support::connect(at), connect(&scratch.0.join("a.sock")));
    support::turn_until(&mut reactor, "both clients", |r| r.stats().accepted == 2);
    let links = |pid: u32| -> Vec<String> {
        let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(|e| e.unwrap().path());
        entries.filter_map(|p| fs::read_link(p).ok()).map(|l| l.display().to_string()).collect()
    };
    let ours = links(std::process::id());
    assert!(ours.iter().filter(|l| l.starts_with("socket:")).count() >= 6, "{ours:?}");
    let mut cat = std::process::Command::new("cat");
    cat.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut child = spawn(&mut cat).unwrap();
    let theirs = links(child.id());
    let _ = child.kill();
    let _ = child.wait();
    let bad = |l: &&String| l.starts_with("socket:") || l.contains("event");
    assert_eq!(theirs.iter().filter(bad).count(), 0, "{theirs:?}");
}
