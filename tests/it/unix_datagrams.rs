//! Unix datagrams over real sockets: their files, their clients' files, and receivers that do not read.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::mpsc;

use turnwheel::{Address, Datagrams, Posted, Reactor};

use crate::support::datagrams::{Echo, Told, World};
use crate::support::process::{Scratch, succeeds, without_births};
use crate::support::{PATIENCE, turn_until};

fn client(path: &Path) -> UnixDatagram {
    let client = UnixDatagram::bind(path).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

#[test]
fn unix_datagrams_come_back_and_the_file_goes_with_the_socket() {
    let scratch = Scratch::new();
    let path = scratch.0.join("s");
    let mut world = World::new(Datagrams::new(scratch.unix("s")).unix_mode(0o640));
    assert_eq!(world.at, Address::Unix(Some(path.clone())));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    let mine = scratch.0.join("c");
    let there = client(&mine);
    for data in [&b"hello"[..], b"", &[b'x'; 60_000]] {
        there.send_to(data, &path).unwrap();
        assert_eq!(world.next(), Told::Datagram(Address::Unix(Some(mine.clone())), data.to_vec()));
        let mut buffer = vec![0; 70_000];
        assert_eq!(there.recv(&mut buffer).unwrap(), data.len());
    }
    world.reactor.net().close_datagram(world.id);
    assert_eq!(world.next(), Told::Closed);
    assert!(!path.exists());
}

#[test]
fn one_without_a_name_is_heard_and_cannot_be_answered() {
    let scratch = Scratch::new();
    let mut world = World::new(scratch.unix("s"));
    UnixDatagram::unbound().unwrap().send_to(b"who am I", scratch.0.join("s")).unwrap();
    assert_eq!(world.next(), Told::Datagram(Address::Unix(None), b"who am I".to_vec()));
    assert_eq!(world.reactor.stats().datagrams_dropped, 1);
}

/// A path that fills `sun_path` (108 bytes), with no space for a zero byte after it. The Rust libraries here can
/// neither bind nor send to such a path.
#[cfg(target_os = "linux")]
#[test]
fn a_client_with_the_longest_path_is_heard() {
    let scratch = Scratch::new();
    let mut world = World::new(scratch.unix("s"));
    let base = scratch.0.as_os_str().len() + 1;
    let longest = scratch.0.join("x".repeat(108 - base));
    let script = "use Socket; socket(S, AF_UNIX, SOCK_DGRAM, 0) or die;
        bind(S, pack('Sa108', AF_UNIX, $ARGV[0])) or die; send(S, 'far', 0, pack_sockaddr_un($ARGV[1])) or die;";
    let mut perl = std::process::Command::new("perl");
    if !succeeds(perl.args(["-e", script]).arg(&longest).arg(scratch.0.join("s"))) {
        return;
    }
    assert_eq!(world.next(), Told::Datagram(Address::Unix(Some(longest)), b"far".to_vec()));
    assert_eq!(world.next(), Told::Error(ErrorKind::InvalidInput, None), "it cannot be answered");
}

/// Linux reports no readiness when the receiver's queue has space again, and queues at most ten datagrams by default.
#[test]
fn a_receiver_that_does_not_read_loses_nothing_and_holds_up_nobody() {
    let scratch = Scratch::new();
    let mut world = World::new(scratch.unix("s"));
    let (slow, quick) = (client(&scratch.0.join("slow")), client(&scratch.0.join("quick")));
    let to = |name: &str| Address::Unix(Some(scratch.0.join(name)));
    for n in 0..100u8 {
        assert_eq!(world.reactor.net().send_datagram_to(world.id, to("slow"), [n]), Posted::Queued);
    }
    assert_eq!(world.reactor.net().send_datagram_to(world.id, to("quick"), "q"), Posted::Queued);
    world.reactor.turn(None).unwrap();
    assert_eq!(quick.recv(&mut [0; 10]).unwrap(), 1);
    let mut next = 0;
    slow.set_nonblocking(true).unwrap();
    turn_until(&mut world.reactor, "all hundred", |_| {
        let mut buffer = [0; 10];
        while slow.recv(&mut buffer).is_ok() {
            assert_eq!(buffer[0], next, "in order");
            next += 1;
        }
        next == 100
    });
    assert_eq!(world.reactor.stats().datagrams_dropped, 0);
}

#[test]
fn in_connected_mode_a_peer_that_does_not_read_is_waited_for() {
    let _undisturbed = without_births();
    let scratch = Scratch::new();
    let there = client(&scratch.0.join("there"));
    let mut world = World::new(Datagrams::new(scratch.unix("s")).peer(scratch.unix("there")));
    for n in 0..100u8 {
        assert_eq!(world.reactor.net().send_datagram(world.id, [n]), Posted::Queued);
    }
    let mut next = 0;
    there.set_nonblocking(true).unwrap();
    turn_until(&mut world.reactor, "all hundred", |_| {
        let mut buffer = [0; 10];
        while there.recv(&mut buffer).is_ok() {
            assert_eq!(buffer[0], next, "in order");
            next += 1;
        }
        next == 100
    });
    drop(there);
    assert_eq!(world.reactor.net().send_datagram(world.id, "gone?"), Posted::Queued);
    assert!(matches!(world.next(), Told::Error(ErrorKind::ConnectionRefused, _)));
}

#[test]
fn a_dead_programs_file_is_replaced_and_nothing_else_is() {
    let _undisturbed = without_births();
    let scratch = Scratch::new();
    let path = scratch.0.join("s");
    drop(client(&path));
    assert!(path.exists());
    let world = World::new(scratch.unix("s"));
    let mut reactor = Reactor::new().unwrap();
    let (tell, _told) = mpsc::channel();
    let error = reactor.bind(scratch.unix("s"), Echo(tell.clone())).unwrap_err();
    let said = format!("cannot bind unix:{}: it is in use by a running server", path.display());
    assert_eq!((error.kind(), error.to_string()), (ErrorKind::AddrInUse, said));
    assert!(path.exists());
    drop(world);
    assert!(!path.exists());
    fs::write(&path, "precious").unwrap();
    assert!(reactor.bind(scratch.unix("s"), Echo(tell)).is_err());
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[test]
fn a_pair_of_sockets_is_taken_over() {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    theirs.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut world = World::new(ours);
    assert_eq!(world.reactor.net().send_datagram(world.id, "hello"), Posted::Queued);
    world.reactor.turn(None).unwrap();
    assert_eq!(theirs.recv(&mut [0; 10]).unwrap(), 5);
    theirs.send(b"back").unwrap();
    assert_eq!(world.next(), Told::Datagram(Address::Unix(None), b"back".to_vec()));
}
