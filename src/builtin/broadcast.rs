//! A handler that relays what one connection sends to all connections. Raw it relays bytes; inside a
//! [`Framed`](crate::Framed) it relays whole messages.

use crate::closed::Closed;
use crate::group::SlowMember;
use crate::handler::Handler;
use crate::handler::context::Context;
use crate::handler::net::Net;
use crate::id::Group;

/// Relays what one connection sends to all others, or to all.
///
/// All listeners of one value share one group. Inside a [`Framed`](crate::Framed) it relays whole messages. On its own
/// it relays bytes as they arrive, so the output of two senders may interleave at any byte.
///
/// ```
/// use turnwheel::codec::Lines;
/// use turnwheel::{Broadcast, Framed, Reactor};
///
/// let mut reactor = Reactor::new()?;
/// let chat = Framed::new(Lines::lf(1024).unwrap(), Broadcast::to_others());
/// reactor.listen("127.0.0.1:0", chat)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Broadcast {
    include_sender: bool,
    policy: SlowMember,
    group: Option<Group>,
    /// The group belongs to the user and is not dropped here.
    shared: bool,
    members: usize,
}

impl Broadcast {
    /// Relays to every connection except the sender.
    pub const fn to_others() -> Self {
        Self { include_sender: false, policy: SlowMember::Cut, group: None, shared: false, members: 0 }
    }

    /// Relays to every connection, including the sender.
    pub const fn to_all() -> Self {
        Self { include_sender: true, ..Self::to_others() }
    }

    /// Sets the policy for members that read too slowly. Default: [`SlowMember::Cut`]. A group passed to
    /// [`in_group`](Broadcast::in_group) keeps the policy it was created with.
    pub const fn slow_member(mut self, policy: SlowMember) -> Self {
        self.policy = policy;
        self
    }

    /// Uses an existing group, so that handlers with different framings can share one.
    pub const fn in_group(mut self, group: Group) -> Self {
        self.group = Some(group);
        self.shared = true;
        self
    }

    /// Returns the group of the connections; `None` if it does not exist yet.
    pub const fn group(&self) -> Option<Group> {
        self.group
    }
}

impl Handler for Broadcast {
    type State = ();

    fn on_open(&mut self, cx: &mut Context<'_>) {
        if self.group.is_none() {
            self.group = cx.group_with(self.policy);
        }
        self.members += 1;
        let joined = self.group.is_some_and(|group| cx.join(group));
        if !joined {
            // Without a group there are no receivers: the limit on groups is reached, or the shared group was dropped.
            cx.close();
        }
    }

    fn on_data(&mut self, cx: &mut Context<'_>, _state: &mut (), data: &[u8]) {
        let Some(group) = self.group else { return };
        if self.include_sender {
            cx.broadcast(group, data);
        } else {
            cx.broadcast_others(group, data);
        }
    }

    fn on_close(&mut self, net: &mut Net<'_>, _state: (), _closed: &Closed) {
        // Groups are limited: return ours when the last member has left. The next `on_open` creates another.
        self.members = self.members.saturating_sub(1);
        if self.members == 0
            && !self.shared
            && let Some(group) = self.group.take()
        {
            net.drop_group(group);
        }
    }
}
