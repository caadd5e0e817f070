//! Access to a reactor from other threads: handles, typed senders of notes, and the commands that both queue.
//!
//! Invariant: a rejected command is returned to the caller. An accepted one runs exactly once, in the order of
//! acceptance, unless the reactor is dropped first.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;

use super::Note;
use crate::command_queue::{CommandQueue, HandleError};
use crate::handler::net::Net;
use crate::id::{ConnId, Group, HandlerIdx, Key};
use crate::sys::Wake;

/// A command from another thread.
pub(crate) enum Command {
    Send(ConnId, Bytes),
    Broadcast(Group, Bytes),
    Close(ConnId),
    Abort(ConnId),
    Run(Closure),
    /// A note for this handler and, in `NoteTo`, for one of its connections.
    Note(HandlerIdx, Note),
    NoteTo(HandlerIdx, ConnId, Note),
}

/// A closure to run on the reactor's thread.
pub(crate) type Closure = Box<dyn FnOnce(&mut Net<'_>) + Send>;

/// The state that a reactor shares with its handles.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) commands: CommandQueue<Command>,
    /// How many stops were requested. Not a command, so a full queue cannot reject it.
    pub(crate) stop_requests: AtomicU8,
    reactor: u32,
}

impl Shared {
    /// Creates the shared state of the reactor with this number, with a queue for `capacity` commands.
    pub(crate) fn new(reactor: u32, capacity: usize, waker: Arc<dyn Wake>) -> Arc<Self> {
        Arc::new(Self { commands: CommandQueue::new(capacity, waker), stop_requests: AtomicU8::new(0), reactor })
    }
}

/// Controls a reactor from other threads: sends, broadcasts, closes connections, runs closures and posts notes on the
/// reactor's thread, and stops the reactor. Clones refer to the same reactor.
///
/// No method blocks. A command is queued and the reactor is woken; it runs commands in the order of acceptance, within
/// one turn or a few ([`Limits::commands_per_turn`](crate::Limits::commands_per_turn)). The queue is bounded
/// ([`Limits::commands`](crate::Limits::commands)). If it is full, or the reactor has been dropped, the error returns
/// your value. A command whose target no longer exists when it runs is dropped and counted in
/// [`Stats::commands_for_nobody`](crate::Stats::commands_for_nobody).
///
/// A reactor whose [`run`](crate::Reactor::run) has returned still accepts commands, because it may be turned again.
///
/// ```
/// use turnwheel::{Broadcast, Reactor};
///
/// let mut reactor = Reactor::new()?;
/// let group = reactor.net().group().expect("the first group");
/// reactor.listen("127.0.0.1:0", Broadcast::to_all().in_group(group))?;
/// let handle = reactor.handle();
/// let sender = std::thread::spawn(move || {
///     handle.broadcast(group, "news\n").expect("the queue is not full");
///     handle.stop()
/// });
/// reactor.run()?;
/// # sender.join().unwrap()?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Sends a message to a connection, in its framing. See [`Net::send_bytes_to`].
    ///
    /// # Errors
    /// Returns the message in the error if the queue is full or the reactor has been dropped.
    pub fn send_to(&self, id: ConnId, message: impl Into<Bytes>) -> Result<(), HandleError<Bytes>> {
        self.shared.commands.push(message.into(), |message| Command::Send(id, message))
    }

    /// Sends a message to every member of a group, to each in its own framing. See [`Net::broadcast`].
    ///
    /// # Errors
    /// As for [`send_to`](Handle::send_to).
    pub fn broadcast(&self, group: Group, message: impl Into<Bytes>) -> Result<(), HandleError<Bytes>> {
        self.shared.commands.push(message.into(), |message| Command::Broadcast(group, message))
    }

    /// Closes a connection gracefully. See [`Net::close_id`].
    ///
    /// # Errors
    /// Returns the id in the error if the queue is full or the reactor has been dropped.
    pub fn close_id(&self, id: ConnId) -> Result<(), HandleError<ConnId>> {
        self.shared.commands.push(id, Command::Close)
    }

    /// Terminates a connection with a reset. See [`Net::abort_id`].
    ///
    /// # Errors
    /// Returns the id in the error if the queue is full or the reactor has been dropped.
    pub fn abort_id(&self, id: ConnId) -> Result<(), HandleError<ConnId>> {
        self.shared.commands.push(id, Command::Abort)
    }

    /// Runs a closure on the reactor's thread, between two callbacks, with all actions that need no connection. A
    /// panic in it is caught and counted or propagated, according to the [`PanicPolicy`](crate::PanicPolicy).
    ///
    /// # Errors
    /// Returns the closure in the error if the queue is full or the reactor has been dropped.
    pub fn run<F>(&self, closure: F) -> Result<(), HandleError<F>>
    where
        F: FnOnce(&mut Net<'_>) + Send + 'static,
    {
        let refused = |e: HandleError<Box<F>>| e.map(|closure| *closure);
        self.shared.commands.push(Box::new(closure), |closure| Command::Run(closure)).map_err(refused)
    }

    /// Returns a sender for notes of type `T` to the handler of a key. Returns `None` for a key of another reactor.
    pub fn notes<T: Send + 'static>(&self, key: Key<impl Sized>) -> Option<Notes<T>> {
        let handler = key.index_in(self.shared.reactor)?;
        Some(Notes { shared: Arc::clone(&self.shared), handler, note: PhantomData })
    }

    /// Requests a shutdown with [`Limits::shutdown_grace`](crate::Limits::shutdown_grace). A second call ends the
    /// grace period: what is left is terminated. It overtakes all queued commands and works even if the queue is full.
    ///
    /// # Errors
    /// Returns an error if the loop cannot be woken. The request is recorded anyway and takes effect in the next turn.
    pub fn stop(&self) -> io::Result<()> {
        // Saturates: 256 requests must not wrap around to none.
        let more = |n: u8| Some(n.saturating_add(1));
        let _ = self.shared.stop_requests.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        self.shared.commands.wake()
    }

    /// Returns how many commands are queued.
    #[cfg(any(test, feature = "testing"))]
    #[cfg_attr(not(test), allow(dead_code))]
    pub(crate) fn queued(&self) -> usize {
        self.shared.commands.len()
    }
}

/// Posts notes to one handler from any thread. They arrive in [`Handler::on_note`](crate::Handler::on_note) and
/// [`Handler::on_note_to`](crate::Handler::on_note_to) as a `Box<dyn Any + Send>` that holds a `T`. Created by
/// [`Reactor::notes`](crate::Reactor::notes) or [`Handle::notes`].
///
/// ```
/// use std::any::Any;
/// use turnwheel::{Context, Handler, Net, Reactor};
///
/// struct Total(u64);
///
/// impl Handler for Total {
///     type State = ();
///     fn on_open(&mut self, _cx: &mut Context<'_>) {}
///     fn on_data(&mut self, _cx: &mut Context<'_>, _state: &mut (), _data: &[u8]) {}
///     fn on_note(&mut self, _net: &mut Net<'_>, note: Box<dyn Any + Send>) {
///         if let Ok(n) = note.downcast::<u64>() {
///             self.0 += *n;
///         }
///     }
/// }
///
/// let mut reactor = Reactor::new()?;
/// let key = reactor.add(Total(0))?;
/// let notes = reactor.notes::<u64>(key).expect("its own key");
/// std::thread::spawn(move || (1..=4).for_each(|n| notes.post(n).unwrap())).join().unwrap();
/// reactor.turn(None)?;
/// assert_eq!(reactor.get(key).unwrap().0, 10);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Notes<T> {
    shared: Arc<Shared>,
    handler: HandlerIdx,
    note: PhantomData<fn(T)>,
}

impl<T: Send + 'static> Notes<T> {
    /// Posts a note to the handler. It arrives in [`Handler::on_note`](crate::Handler::on_note).
    ///
    /// # Errors
    /// Returns the note in the error if the queue is full or the reactor has been dropped.
    pub fn post(&self, note: T) -> Result<(), HandleError<T>> {
        let handler = self.handler;
        let refused = |e: HandleError<Box<T>>| e.map(|note| *note);
        self.shared.commands.push(Box::new(note), |note| Command::Note(handler, note)).map_err(refused)
    }

    /// Posts a note to the handler for one of its connections. It arrives in
    /// [`Handler::on_note_to`](crate::Handler::on_note_to). If by then the connection is not open or has another
    /// handler, the note is dropped and counted in [`Stats::commands_for_nobody`](crate::Stats::commands_for_nobody).
    ///
    /// # Errors
    /// As for [`post`](Notes::post).
    pub fn post_to(&self, id: ConnId, note: T) -> Result<(), HandleError<T>> {
        let handler = self.handler;
        let refused = |e: HandleError<Box<T>>| e.map(|note| *note);
        self.shared.commands.push(Box::new(note), |note| Command::NoteTo(handler, id, note)).map_err(refused)
    }
}

impl<T> Clone for Notes<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), handler: self.handler, note: PhantomData }
    }
}

impl<T> fmt::Debug for Notes<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notes").field("handler", &self.handler).field("shared", &self.shared).finish()
    }
}
