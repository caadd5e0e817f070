//! Creates Unix sockets that are bound to a path, and removes their files.
//!
//! The file of a Unix socket outlives its server, so the next server finds its address in use (EADDRINUSE). It must
//! then tell a stale file from that of a running server, from another user's, and from a file that is not a socket.
//! Abstract Unix sockets are not supported.
//!
//! Invariant: a file is removed only if it is a socket of our own user that no process listens on, or the one that we
//! created.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use super::socket::{backlog, cannot, cannot_listen, warn_of_backlog};
use crate::config::listen::ListenOptions;

/// The file that a socket of ours created. Dropping this removes the file if it is still the same one.
///
/// Drop it *before* the socket: while the socket is open, no other server takes the file for a stale one and replaces
/// it between our check and our removal.
#[derive(Debug)]
pub(super) struct OwnFile {
    /// The path as given, which clients connect to.
    existing: PathBuf,
    /// The absolute path, so that a later change of the working directory does not matter.
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl OwnFile {
    /// Returns the path that clients connect to.
    pub(super) fn as_given(&self) -> &Path {
        &self.existing
    }

    /// Returns `true` if the path still leads to our file. Comparing inodes is enough: the number is not reused while
    /// the socket that is bound to it is open.
    pub(super) fn is_in_place(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == (self.device, self.inode))
    }
}

impl Drop for OwnFile {
    fn drop(&mut self) {
        if !self.is_in_place() {
            log::debug!("{} is no longer our file; it is not removed", self.path.display());
        } else if let Err(error) = fs::remove_file(&self.path) {
            log::debug!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Opens a Unix listener at `path`, and replaces the stale file of a server that has exited.
///
/// Two servers may start at the same time. A socket that is bound but does not listen yet looks stale, and between
/// the check of a stale file and its removal another server may have put its own there. Therefore all of this happens
/// under a lock (`lock_start`) that every server of this library takes; and once it listens, a server checks that the
/// file is still its own, and starts again if it is not.
///
/// A race of a few system calls remains, from the check of a file (stale, or not listening yet) to its removal, with
/// servers that do not take the lock: those of other programs, those in another network namespace, and all servers on
/// systems without abstract sockets. A server that starts at the very moment when another replaces the same stale
/// file can then lose its own file unnoticed. With the lock removed, this happened in 45 of 1,000 rounds of four
/// servers started together.
pub(super) fn open_unix(path: &Path, options: &ListenOptions) -> io::Result<(UnixListener, OwnFile)> {
    warn_of_backlog(options.backlog);
    open_at(path, Type::STREAM, options.unix_mode, |socket| socket.listen(backlog(options)))
        .map(|(socket, file)| (socket.into(), file))
        .map_err(|error| cannot_listen(&format_args!("unix:{}", path.display()), &error))
}

/// Binds a Unix datagram socket to `path`, with the same checks. It can receive as soon as it is bound.
pub(super) fn open_unix_datagram(path: &Path, mode: u32) -> io::Result<(UnixDatagram, OwnFile)> {
    open_at(path, Type::DGRAM, mode, |_| Ok(()))
        .map(|(socket, file)| (socket.into(), file))
        .map_err(|error| cannot("bind", &format_args!("unix:{}", path.display()), &error))
}

fn open_at(
    path: &Path,
    kind: Type,
    mode: u32,
    open: impl Fn(&Socket) -> io::Result<()>,
) -> io::Result<(Socket, OwnFile)> {
    let _lock = lock_start(path);
    for _ in 0..TRIES {
        if let Some(done) = open_once(path, kind, mode, &open)? {
            return Ok(done);
        }
    }
    Err(io::Error::new(ErrorKind::AddrInUse, "other servers are starting there at the same time"))
}

/// Tries once to open a socket. Returns `None` if the file at the path was removed or replaced meanwhile: try again.
fn open_once(
    path: &Path,
    kind: Type,
    mode: u32,
    open: impl Fn(&Socket) -> io::Result<()>,
) -> io::Result<Option<(Socket, OwnFile)>> {
    let mut socket = new_socket(kind)?;
    if kind == Type::DGRAM {
        socket = limit_mode(socket, mode);
    }
    match socket.bind(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            remove_stale(path, owner_of(socket)?)?;
            return Ok(None);
        }
        other => other?,
    }
    // The mode may be set after binding: until it listens, a stream socket refuses all connections.
    let made = fs::symlink_metadata(path)?;
    let file = OwnFile {
        existing: path.to_owned(),
        path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
        device: made.dev(),
        inode: made.ino(),
    };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    open(&socket)?;
    Ok(file.is_in_place().then_some((socket, file)))
}

fn new_socket(kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, kind, None)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Creates the file with no more than this mode, where the system supports it: Linux applies the mode of the socket
/// at bind(2), others refuse to set it.
fn limit_mode(socket: Socket, mode: u32) -> Socket {
    let as_file = fs::File::from(OwnedFd::from(socket));
    if let Err(error) = as_file.set_permissions(fs::Permissions::from_mode(mode)) {
        log::debug!("cannot set the mode of a socket before binding it: {error}");
    }
    Socket::from(OwnedFd::from(as_file))
}

/// Returns the user id that our files get: a socket belongs to the user who created it.
fn owner_of(socket: Socket) -> io::Result<u32> {
    Ok(fs::File::from(OwnedFd::from(socket)).metadata()?.uid())
}

/// Removes the file at the path if it is a socket of the user `us` that no process listens on. Otherwise returns
/// `AddrInUse` with the reason.
fn remove_stale(path: &Path, us: u32) -> io::Result<()> {
    let refuse = |why: &str| Err(io::Error::new(ErrorKind::AddrInUse, why.to_owned()));
    let Some(found) = look(path)? else { return Ok(()) };
    if !found.file_type().is_socket() {
        return refuse("it exists and is not a socket");
    }
    if found.uid() != us {
        return refuse("it exists and belongs to another user");
    }
    match new_socket(Type::STREAM)?.connect(&SockAddr::unix(path)?).map_err(|error| error.kind()) {
        Err(ErrorKind::ConnectionRefused) => {}
        Err(ErrorKind::NotFound) => return Ok(()),
        Err(ErrorKind::PermissionDenied) => {
            return refuse("it exists, and its mode does not permit checking whether it is in use");
        }
        // The socket accepted the connection, has a full backlog, or is open and of another type.
        _ => return refuse("it is in use by a running server"),
    }
    if !look(path)?.is_some_and(|again| same(&found, &again)) {
        return Ok(());
    }
    log::debug!("replacing {}, the stale socket of a server that has exited", path.display());
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Does not follow a symbolic link: a link at the path is not a socket.
fn look(path: &Path) -> io::Result<Option<fs::Metadata>> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Compares the ctime as well: a new file may get the inode number of one that was just removed.
fn same(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    let id = |m: &fs::Metadata| (m.dev(), m.ino(), m.ctime(), m.ctime_nsec());
    id(a) == id(b)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn lock_start(_: &Path) -> Option<UnixListener> {
    None
}

#[cfg(any(target_os = "linux", target_os = "android"))]
use start_lock::lock_start;

#[cfg(any(target_os = "linux", target_os = "android"))]
mod start_lock {
    //! A lock held by the one server that starts at a path. It leaves no file behind: it is an abstract socket, whose
    //! name only one process can bind, and which is released when that process exits, however it exits.
    //!
    //! It only prevents accidental races, so waiting for it is bounded: any process may bind the name.

    use std::fs;
    use std::io::{ErrorKind, Read};
    #[cfg(target_os = "android")]
    use std::os::android::net::SocketAddrExt;
    #[cfg(target_os = "linux")]
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
    use std::path::Path;
    use std::time::Duration;

    /// Takes the lock, which is held until the returned socket is dropped. Returns `None` if it cannot be taken; the
    /// caller goes on without.
    pub(super) fn lock_start(path: &Path) -> Option<UnixListener> {
        let address = SocketAddr::from_abstract_name(name(path)?).ok()?;
        for _ in 0..super::TRIES {
            match UnixListener::bind_addr(&address) {
                Ok(held) => return Some(held),
                Err(error) if error.kind() == ErrorKind::AddrInUse => {}
                Err(_) => return None,
            }
            if !wait(&address) {
                break;
            }
        }
        log::debug!("{}: another process holds the start lock; continuing without it", path.display());
        None
    }

    /// Builds a name that is the same for every spelling of the path: from the inode of the directory, and a hash of
    /// the file name.
    fn name(path: &Path) -> Option<String> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = fs::metadata(parent.unwrap_or(Path::new("."))).ok()?;
        let last = path.file_name()?.as_encoded_bytes();
        let sum = last.iter().fold(FNV_OFFSET, |sum, &b| (sum ^ u64::from(b)).wrapping_mul(FNV_PRIME));
        Some(format!("turnwheel-start/{:x}/{:x}/{sum:x}", directory.dev(), directory.ino()))
    }

    /// Waits until the holder releases the lock, which closes the connections that it never accepted. Returns `false`
    /// after a timeout.
    fn wait(address: &SocketAddr) -> bool {
        let Ok(mut stream) = UnixStream::connect_addr(address) else { return true };
        stream.set_read_timeout(Some(LONGEST_WAIT)).is_ok()
            && !matches!(stream.read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
    }

    /// The longest wait for the holder, per try. Chosen: a start takes milliseconds.
    const LONGEST_WAIT: Duration = Duration::from_secs(1);
    /// The offset basis and prime of 64-bit FNV-1a (Fowler, Noll and Vo).
    const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const FNV_PRIME: u64 = 0x100_0000_01b3;
}

/// The number of tries when the file at the path keeps changing. Chosen: each lost try means that another server has
/// started or stopped.
const TRIES: usize = 64;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::ErrorKind;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
    use std::path::PathBuf;

    use super::*;

    /// A directory for one test, removed at its end.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("turnwheel-{name}-{}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn socket(&self) -> PathBuf {
            self.0.join("s")
        }

        /// Creates the file that a killed server leaves behind.
        fn stale(&self) -> PathBuf {
            drop(UnixListener::bind(self.socket()).unwrap());
            assert!(UnixStream::connect(self.socket()).is_err());
            self.socket()
        }

        fn names(&self) -> Vec<String> {
            let names = fs::read_dir(&self.0).unwrap();
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        }

        fn open(&self) -> io::Result<(UnixListener, OwnFile)> {
            open_unix(&self.socket(), &ListenOptions::default())
        }

        #[track_caller]
        fn is_refused(&self, why: &str) {
            let error = self.open().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AddrInUse);
            let path = self.socket();
            assert_eq!(error.to_string(), format!("cannot listen on unix:{}: {why}", path.display()));
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn the_file_has_its_mode_and_goes_with_its_listener() {
        let place = Place::new("mode");
        for mode in [0o600, 0o666, 0o640] {
            let options = ListenOptions { unix_mode: mode, ..ListenOptions::default() };
            let (listener, file) = open_unix(&place.socket(), &options).unwrap();
            assert_eq!(fs::metadata(place.socket()).unwrap().permissions().mode() & 0o7777, mode);
            assert_eq!(file.as_given(), place.socket());
            assert_eq!(place.names(), ["s"]);
            assert!(UnixStream::connect(place.socket()).is_ok());
            drop((file, listener));
            assert!(place.names().is_empty());
        }
    }

    #[test]
    fn a_dead_servers_file_is_replaced() {
        let place = Place::new("stale");
        place.stale();
        let (_listener, _file) = place.open().unwrap();
        assert!(UnixStream::connect(place.socket()).is_ok());
    }

    #[test]
    fn a_live_server_is_left_alone() {
        let place = Place::new("live");
        let live = UnixListener::bind(place.socket()).unwrap();
        place.is_refused("it is in use by a running server");
        assert!(live.accept().is_ok());
        assert!(UnixStream::connect(place.socket()).is_ok());
    }

    #[test]
    fn a_live_server_with_a_full_backlog_is_left_alone() {
        let place = Place::new("full");
        let options = ListenOptions { backlog: 1, ..ListenOptions::default() };
        let (_listener, _file) = open_unix(&place.socket(), &options).unwrap();
        let waiting: Vec<_> = (0..8)
            .map(|_| {
                let client = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
                client.set_nonblocking(true).unwrap();
                let connected = client.connect(&socket2::SockAddr::unix(place.socket()).unwrap());
                (client, connected.is_ok())
            })
            .collect();
        assert!(waiting.iter().any(|(_, connected)| !connected));
        place.is_refused("it is in use by a running server");
    }

    #[test]
    fn a_live_socket_of_another_type_is_left_alone() {
        let place = Place::new("datagram");
        let _live = UnixDatagram::bind(place.socket()).unwrap();
        place.is_refused("it is in use by a running server");
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let place = Place::new("file");
        fs::write(place.socket(), "precious").unwrap();
        place.is_refused("it exists and is not a socket");
        assert_eq!(fs::read(place.socket()).unwrap(), b"precious");
        fs::remove_file(place.socket()).unwrap();
        fs::create_dir(place.socket()).unwrap();
        place.is_refused("it exists and is not a socket");
    }

    #[test]
    fn a_link_to_a_dead_servers_file_is_left_alone() {
        let place = Place::new("link");
        let target = place.0.join("target");
        fs::rename(place.stale(), &target).unwrap();
        std::os::unix::fs::symlink(&target, place.socket()).unwrap();
        place.is_refused("it exists and is not a socket");
        assert_eq!(place.names().len(), 2);
    }

    #[test]
    fn another_users_file_is_left_alone() {
        let place = Place::new("owner");
        let path = place.stale();
        let other = fs::metadata(&path).unwrap().uid() + 1;
        if let Err(error) = std::os::unix::fs::chown(&path, Some(other), None) {
            return println!("skipped: only root can give files away: {error}");
        }
        place.is_refused("it exists and belongs to another user");
        assert_eq!(fs::metadata(path).unwrap().uid(), other);
    }

    #[test]
    fn a_directory_that_is_missing_is_told() {
        let place = Place::new("missing");
        let path = place.0.join("no/s");
        let error = open_unix(&path, &ListenOptions::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("/no/s: no such file"), "{error}");
    }

    #[test]
    fn a_file_that_took_the_place_of_ours_stays() {
        let place = Place::new("replaced");
        let (listener, file) = place.open().unwrap();
        fs::remove_file(place.socket()).unwrap();
        let other = UnixListener::bind(place.socket()).unwrap();
        drop((file, listener));
        assert!(UnixStream::connect(place.socket()).is_ok());
        drop(other);
    }

    #[test]
    fn a_file_that_was_moved_away_is_noticed() {
        let place = Place::new("taken");
        let (_listener, file) = place.open().unwrap();
        assert!(file.is_in_place());
        fs::rename(place.socket(), place.0.join("elsewhere")).unwrap();
        assert!(!file.is_in_place());
    }

    /// Of several servers that start at once at a stale file, exactly one succeeds in listening, and the file is its
    /// own: where there is a lock for it.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[test]
    fn of_servers_that_start_at_once_one_wins() {
        let place = Place::new("race");
        place.stale();
        for round in 0..ROUNDS {
            let barrier = std::sync::Barrier::new(STARTERS);
            let mut won: Vec<_> = std::thread::scope(|scope| {
                let start = || {
                    barrier.wait();
                    place.open()
                };
                let starters: Vec<_> = (0..STARTERS).map(|_| scope.spawn(start)).collect();
                starters.into_iter().filter_map(|starter| starter.join().unwrap().ok()).collect()
            });
            assert_eq!(won.len(), 1, "round {round}");
            let (listener, file) = won.pop().unwrap();
            assert!(file.is_in_place(), "round {round}");
            // The losers checked whether the winner runs. It stops now, and its file stays.
            drop(listener);
            std::mem::forget(file);
        }
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    const ROUNDS: usize = 1_000;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    const STARTERS: usize = 4;
}
