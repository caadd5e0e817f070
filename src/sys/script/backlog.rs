//! The backlog of a scripted listener.

use std::collections::VecDeque;

#[derive(Debug, Default)]
pub(super) struct Backlog {
    pub(super) token: Option<usize>,
    pub(super) closed: bool,
    /// Strict mode: whether the next client triggers an edge.
    pub(super) armed: bool,
    pub(super) waiting: VecDeque<usize>,
    pub(super) answers: VecDeque<i32>,
}
