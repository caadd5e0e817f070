//! Runs commands from other threads, up to `commands_per_turn` in a turn.
//!
//! Invariant: the flag is cleared before the queue is taken, so that a command queued while others run wakes the loop
//! again.

use super::event_loop::EventLoop;
use crate::core::Sent;
use crate::dispatch::CallSite;
use crate::handler::handle::Command;
use crate::handler::net::Net;
use crate::sys::Sys;

impl<S: Sys> EventLoop<S> {
    /// Runs the queued commands, up to `commands_per_turn`.
    pub(super) fn run_commands(&mut self) {
        if !self.shared.commands.is_flagged() {
            return;
        }
        // First the flag, then the queue. In the other order, a command queued in between would neither be taken nor
        // wake the loop.
        self.shared.commands.clear_flag();
        let mut batch = std::mem::take(&mut self.batch);
        self.shared.commands.take(self.dispatcher.core.limits.commands_per_turn, &mut batch);
        for command in batch.drain(..) {
            self.run_command(command);
        }
        self.batch = batch;
    }

    /// Runs one command. A command whose target no longer exists does nothing and is counted.
    fn run_command(&mut self, command: Command) {
        self.dispatcher.core.stats.commands += 1;
        let net = &mut Net::new(&mut self.dispatcher.core, None, None);
        let reached = match command {
            Command::Send(id, message) => net.send_bytes_to(id, message) != Sent::Closed,
            Command::Close(id) => net.close_id(id),
            Command::Abort(id) => net.abort_id(id),
            Command::Broadcast(group, message) => {
                net.broadcast(group, message);
                net.core().groups.states.get(group).is_some()
            }
            Command::Run(closure) => {
                self.dispatcher.run(closure);
                self.after_handler_callback(CallSite::Closure);
                true
            }
            Command::Note(handler, note) => {
                let told = self.dispatcher.note(handler, note);
                self.after_handler_callback(CallSite::Handler(handler));
                told
            }
            Command::NoteTo(handler, id, note) => {
                let told = self.dispatcher.note_to(handler, id, note);
                if told {
                    self.after_callback(id, &[]);
                    self.dispatcher.core.enqueue_if_work(id);
                }
                told
            }
        };
        self.dispatcher.core.stats.commands_for_nobody += u64::from(!reached);
        self.flush_early();
    }
}
