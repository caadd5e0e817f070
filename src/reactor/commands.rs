//! Commands from other threads: a share of them each turn, each followed by what follows a callback.
//!
//! Knows nothing of how they got into the queue. Invariant: the flag is cleared before the queue is looked at, so that
//! a command which comes while others are obeyed wakes the loop again.

use super::event_loop::Loop;
use crate::core::Sent;
use crate::dispatch::Who;
use crate::handler::handle::Command;
use crate::handler::net::Net;
use crate::sys::Sys;

impl<S: Sys> Loop<S> {
    /// Obeys those that wait, up to a turn's share.
    pub(super) fn obey_commands(&mut self) {
        if !self.line.commands.is_flagged() {
            return;
        }
        self.line.commands.clear_flag();
        let mut batch = std::mem::take(&mut self.batch);
        self.line.commands.take(self.dispatcher.core.limits.commands_per_turn, &mut batch);
        for command in batch.drain(..) {
            self.obey(command);
        }
        self.batch = batch;
    }

    fn obey(&mut self, command: Command) {
        self.dispatcher.core.stats.commands += 1;
        let net = &mut Net::new(&mut self.dispatcher.core, None, None);
        let reached = match command {
            Command::Send(id, message) => net.send_bytes_to(id, message) != Sent::Closed,
            Command::Close(id) => net.close_id(id),
            Command::Abort(id) => net.abort_id(id),
            Command::Broadcast(group, message) => {
                net.broadcast(group, message);
                net.core().groups.get(group).is_some()
            }
            Command::Run(closure) => {
                self.dispatcher.run(closure);
                self.timed_call(Who::Closure);
                true
            }
            Command::Note(handler, note) => {
                let told = self.dispatcher.note(handler, note);
                self.timed_call(Who::Handler(handler));
                told
            }
            Command::NoteTo(handler, id, note) => {
                let told = self.dispatcher.note_to(handler, id, note);
                if told {
                    self.after_call(id, &[]);
                    self.dispatcher.core.enqueue_if_work(id);
                }
                told
            }
        };
        self.dispatcher.core.stats.commands_for_nobody += u64::from(!reached);
        self.flush_full_logs();
    }
}
