//! Passes what one connection sends on to all that are connected. Knows nothing of messages: raw it relays bytes,
//! behind a [`Framed`](crate::Framed) whole messages.

use crate::closed::Closed;
use crate::group::SlowMember;
use crate::handler::Handler;
use crate::handler::context::Context;
use crate::handler::net::Net;
use crate::id::Group;

/// Passes what one connection sends on to all the others, or to all.
///
/// One value behind several listeners is one group. Behind a [`Framed`](crate::Framed) it passes on whole messages; on
/// its own it relays bytes as they come, so that the pieces of two senders may mix.
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
    /// The group was given by the user, and is not ours to drop.
    shared: bool,
    members: usize,
}

impl Broadcast {
    /// To every connection but the one it came from.
    pub const fn to_others() -> Self {
        Self { include_sender: false, policy: SlowMember::Cut, group: None, shared: false, members: 0 }
    }

    /// To every connection, the one it came from included.
    pub const fn to_all() -> Self {
        Self { include_sender: true, ..Self::to_others() }
    }

    /// What to do about members that do not read fast enough. Without this, they are cut. (A group of your own,
    /// given to [`in_group`](Broadcast::in_group), has the policy it was made with.)
    pub const fn slow_member(mut self, policy: SlowMember) -> Self {
        self.policy = policy;
        self
    }

    /// Uses this group as its group, so that handlers with different framings can share one.
    pub const fn in_group(mut self, group: Group) -> Self {
        self.group = Some(group);
        self.shared = true;
        self
    }

    /// The group that the connections are in; `None` while there is none.
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
            // As many groups as allowed, or the shared group has been dropped: there is nobody to talk to.
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
        self.members = self.members.saturating_sub(1);
        if self.members == 0
            && !self.shared
            && let Some(group) = self.group.take()
        {
            net.drop_group(group);
        }
    }
}
