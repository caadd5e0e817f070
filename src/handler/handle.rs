//! What other threads have of a reactor: handles, the typed ends for notes, and the commands that both send.
//!
//! Knows nothing of the loop that obeys the commands. Invariant: what is refused comes back to the caller, and what is
//! accepted is obeyed once, in the order of acceptance, unless the reactor is dropped first.

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

/// What another thread wants done.
pub(crate) enum Command {
    Send(ConnId, Bytes),
    Broadcast(Group, Bytes),
    Close(ConnId),
    Abort(ConnId),
    Run(Closure),
    /// For the handler at this place; and there, for a connection of its.
    Note(HandlerIdx, Note),
    NoteTo(HandlerIdx, ConnId, Note),
}

/// A closure to be run by the loop.
pub(crate) type Closure = Box<dyn FnOnce(&mut Net<'_>) + Send>;

/// What a reactor shares with its handles.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) commands: CommandQueue<Command>,
    /// How often it was asked to stop. Not a command, so that no full queue can refuse it.
    pub(crate) stop_requests: AtomicU8,
    reactor: u32,
}

impl Shared {
    /// The line to the reactor with this number, for so many commands.
    pub(crate) fn new(reactor: u32, capacity: usize, waker: Arc<dyn Wake>) -> Arc<Self> {
        Arc::new(Self {
            commands: CommandQueue::new(capacity, waker),
            stop_requests: AtomicU8::new(0),
            reactor,
        })
    }
}

/// What other threads have of a reactor: it sends, broadcasts, closes, runs closures and posts notes on the reactor's
/// thread, and stops it. Clones are for the same reactor.
///
/// Nothing here waits. A command is queued, and the reactor is woken and obeys it within a turn or a few
/// ([`Limits::commands_per_turn`](crate::Limits::commands_per_turn)), in the order in which they were accepted. The
/// queue is bounded ([`Limits::commands`](crate::Limits::commands)): when it is full, or the reactor has been dropped,
/// what was given comes back in the error. A command for a connection, group or handler that has gone by the time it is
/// obeyed reaches nobody, and is counted in
/// [`Stats::commands_for_nobody`](crate::Stats::commands_for_nobody).
///
/// A reactor whose [`run`](crate::Reactor::run) has returned still takes commands, as it may be turned again.
///
/// ```
/// use turnwheel::{Broadcast, Reactor};
///
/// let mut reactor = Reactor::new()?;
/// let room = reactor.net().group().expect("the first group");
/// reactor.listen("127.0.0.1:0", Broadcast::to_all().in_group(room))?;
/// let handle = reactor.handle();
/// let feeder = std::thread::spawn(move || {
///     handle.broadcast(room, "news\n").expect("there is room in the queue");
///     handle.stop()
/// });
/// reactor.run()?;
/// # feeder.join().unwrap()?;
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
    /// When the queue is full or the reactor gone; the message is in the error.
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

    /// Closes a connection in good order. See [`Net::close_id`].
    ///
    /// # Errors
    /// When the queue is full or the reactor gone.
    pub fn close_id(&self, id: ConnId) -> Result<(), HandleError<ConnId>> {
        self.shared.commands.push(id, Command::Close)
    }

    /// Ends a connection at once, with a reset. See [`Net::abort_id`].
    ///
    /// # Errors
    /// When the queue is full or the reactor gone.
    pub fn abort_id(&self, id: ConnId) -> Result<(), HandleError<ConnId>> {
        self.shared.commands.push(id, Command::Abort)
    }

    /// Runs a closure on the reactor's thread, between two callbacks, with all the verbs that need no connection. If it
    /// panics, that is caught and counted, or goes on, as
    /// [`PanicPolicy`](crate::PanicPolicy) says.
    ///
    /// # Errors
    /// When the queue is full or the reactor gone; the closure is in the error.
    pub fn run<F>(&self, closure: F) -> Result<(), HandleError<F>>
    where
        F: FnOnce(&mut Net<'_>) + Send + 'static,
    {
        let refused = |e: HandleError<Box<F>>| e.map(|closure| *closure);
        self.shared.commands.push(Box::new(closure), |closure| Command::Run(closure)).map_err(refused)
    }

    /// The end through which other threads post notes of type `T` to the handler behind a key. `None` for a key of
    /// another reactor.
    pub fn notes<T: Send + 'static>(&self, key: Key<impl Sized>) -> Option<Notes<T>> {
        let handler = key.index_in(self.shared.reactor)?;
        Some(Notes { shared: Arc::clone(&self.shared), handler, note: PhantomData })
    }

    /// Asks for a shutdown with [`Limits::shutdown_grace`](crate::Limits::shutdown_grace). Asked again, the grace is
    /// over: what is left is aborted. It overtakes all commands, and no full queue refuses it.
    ///
    /// # Errors
    /// When the loop cannot be woken; it sees the request at its next turn all the same.
    pub fn stop(&self) -> io::Result<()> {
        let more = |n: u8| Some(n.saturating_add(1));
        let _ = self.shared.stop_requests.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        self.shared.commands.wake()
    }

    /// How many commands wait.
    #[cfg(any(test, feature = "testing"))]
    #[cfg_attr(not(test), allow(dead_code))]
    pub(crate) fn queued(&self) -> usize {
        self.shared.commands.len()
    }
}

/// Posts notes to one handler, from any thread: they arrive in [`Handler::on_note`](crate::Handler::on_note) and
/// [`Handler::on_note_to`](crate::Handler::on_note_to) as a `Box<dyn Any + Send>` in which there is a `T`. Made by
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
    /// Posts to the handler: the note arrives in [`Handler::on_note`](crate::Handler::on_note).
    ///
    /// # Errors
    /// When the queue is full or the reactor gone; the note is in the error.
    pub fn post(&self, note: T) -> Result<(), HandleError<T>> {
        let handler = self.handler;
        let refused = |e: HandleError<Box<T>>| e.map(|note| *note);
        self.shared.commands.push(Box::new(note), |note| Command::Note(handler, note)).map_err(refused)
    }

    /// Posts to the handler about one of its connections: the note arrives in
    /// [`Handler::on_note_to`](crate::Handler::on_note_to). If by then the connection is not open, or has another
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
