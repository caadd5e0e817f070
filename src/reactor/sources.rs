//! Sources: other things that the system's event queue can watch, each with its own callback.
//!
//! Does no I/O on a source: its callback does. Invariant: a source whose callback is pending is in the work list
//! once; a removed one is neither there nor registered with the system.

use std::any::Any;
use std::fmt;
use std::io::{self, ErrorKind};
use std::marker::PhantomData;

use super::Reactor;
use super::event_loop::EventLoop;
use super::tables::{ErasedSource, Readiness, SourceEntry, SourceKey, SourceSlot, Sources, Watch};
use crate::dispatch::CallSite;
use crate::handler::net::Net;
use crate::id::{SourceId, Token};
use crate::sys::Sys;

impl<S: Sys> EventLoop<S> {
    /// Registers a source with its callback.
    pub(super) fn watch<E: mio::event::Source + 'static>(
        &mut self,
        source: E,
        interest: mio::Interest,
        callback: impl FnMut(&mut Net<'_>, &mut E, Readiness) -> Watch + 'static,
    ) -> io::Result<SourceId> {
        self.add_source(Box::new(SourceSlot { source, callback: Box::new(callback) }), interest)
    }

    fn add_source(&mut self, mut source: Box<dyn ErasedSource>, interest: mio::Interest) -> io::Result<SourceId> {
        let cannot = |kind, why: &dyn fmt::Display| io::Error::new(kind, format!("cannot register the source: {why}"));
        let most = self.dispatcher.core.limits.sources;
        if self.sources.entries.len() >= most {
            let why = format!("limit of {most} sources reached (Limits::sources)");
            return Err(cannot(ErrorKind::QuotaExceeded, &why));
        }
        let mut added = Ok(());
        let id = self.sources.entries.insert_with(|id| {
            added = self.sys.add_source(source.source(), Token::Source(id).pack(), interest);
            SourceEntry { id, source, bits: 0, queued: false }
        });
        let id = id.ok_or_else(|| cannot(ErrorKind::QuotaExceeded, &"too many sources"))?;
        if let Err(error) = added {
            self.sources.entries.remove(id);
            return Err(cannot(error.kind(), &error));
        }
        Ok(id)
    }

    /// Calls the callback of each source that is ready now. Those that become ready meanwhile wait for the next turn.
    pub(super) fn process_sources(&mut self) {
        for _ in 0..self.sources.ready.len() {
            let Some(id) = self.sources.ready.pop() else { return };
            self.process_source(id);
        }
    }

    fn process_source(&mut self, id: SourceId) {
        let Some(entry) = self.sources.entries.get_mut(id) else { return };
        entry.queued = false;
        let bits = std::mem::take(&mut entry.bits);
        let answer = self.dispatcher.source(id, |net| entry.source.call(net, Readiness(bits)));
        self.after_handler_callback(CallSite::Source(id));
        match answer {
            Some(Watch::Wait) => {}
            Some(Watch::Again) => {
                self.sources.mark_ready(id, bits);
            }
            // A callback that panicked returned nothing, and its source is in an unknown state.
            Some(Watch::Done) | None => {
                let Self { sys, dispatcher, sources, .. } = self;
                // The drop of a source is user code, and may panic.
                dispatcher.guarded(CallSite::Dropped, |_| drop(sources.remove(id, sys)));
            }
        }
    }
}

impl Sources {
    /// Removes a source and deregisters it from the system.
    pub(super) fn remove(&mut self, id: SourceId, sys: &mut impl Sys) -> Option<Box<dyn ErasedSource>> {
        let mut entry = self.entries.remove(id)?;
        if entry.queued {
            self.ready.retain(|other| other != id);
        }
        sys.remove_source(entry.source.source());
        Some(entry.source)
    }
}

impl Reactor {
    /// Watches an event source besides the connections: a pipe, a timerfd or inotify descriptor in a
    /// [`mio::unix::SourceFd`], a serial port, a socket of another protocol. The callback is called when the source is
    /// ready, with the [`Net`] that handlers use. It must not block.
    ///
    /// Readiness is edge-triggered: use the source until it returns `WouldBlock`, or return [`Watch::Again`] to be
    /// called in the next turn with the same readiness. A callback that stops earlier and returns [`Watch::Wait`] may
    /// never be called again.
    ///
    /// A source does not delay a shutdown. If its callback panics, the source is deregistered and dropped (unless
    /// [`PanicPolicy`](crate::PanicPolicy) is set otherwise), and counted in [`Stats::panics`](crate::Stats::panics).
    ///
    /// ```
    /// # #[cfg(unix)] {
    /// use std::io::{ErrorKind, Read, Write};
    /// use turnwheel::{Reactor, Watch, mio};
    ///
    /// let mut reactor = Reactor::new()?;
    /// let (mut writer, reader) = mio::unix::pipe::new()?;
    /// let key = reactor.register(reader, mio::Interest::READABLE, |_net, reader, _readiness| {
    ///     let mut buffer = [0; 512];
    ///     loop {
    ///         match reader.read(&mut buffer) {
    ///             Ok(0) => return Watch::Done,
    ///             Ok(n) => println!("{}", buffer[..n].escape_ascii()),
    ///             Err(e) if e.kind() == ErrorKind::WouldBlock => return Watch::Wait,
    ///             Err(e) if e.kind() == ErrorKind::Interrupted => {}
    ///             Err(_) => return Watch::Done,
    ///         }
    ///     }
    /// })?;
    /// writer.write_all(b"hello")?;
    /// reactor.turn(None)?;
    /// drop(writer);
    /// while reactor.source_mut(key).is_some() {
    ///     reactor.turn(None)?;
    /// }
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    /// If the system cannot watch such a source (for example a file on Linux), if it watches it already (kqueue does
    /// not report this), or if [`Limits::sources`](crate::Limits::sources) are registered already. The source is
    /// dropped then, and nothing else changes.
    pub fn register<E, F>(&mut self, source: E, interest: mio::Interest, callback: F) -> io::Result<SourceKey<E>>
    where
        E: mio::event::Source + 'static,
        F: FnMut(&mut Net<'_>, &mut E, Readiness) -> Watch + 'static,
    {
        let id = self.inner.watch(source, interest, callback)?;
        Ok(SourceKey { reactor: self.inner.dispatcher.core.number, id, source: PhantomData })
    }

    /// Stops watching a source and returns it, including any unread input. `None` if it is no longer registered, or for
    /// a key of another reactor.
    pub fn deregister<E: mio::event::Source + 'static>(&mut self, key: SourceKey<E>) -> Option<E> {
        self.source_mut(key)?;
        let source: Box<dyn Any> = self.inner.sources.remove(key.id, &mut self.inner.sys)?;
        source.downcast::<SourceSlot<E>>().ok().map(|source| source.source)
    }

    /// Returns a registered source, for example to write to it. `None` if it is no longer registered, or for a key of
    /// another reactor.
    pub fn source_mut<E: mio::event::Source + 'static>(&mut self, key: SourceKey<E>) -> Option<&mut E> {
        if key.reactor != self.inner.dispatcher.core.number {
            return None;
        }
        let source: &mut dyn Any = &mut *self.inner.sources.entries.get_mut(key.id)?.source;
        source.downcast_mut::<SourceSlot<E>>().map(|source| &mut source.source)
    }
}
