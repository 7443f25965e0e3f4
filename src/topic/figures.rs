//! What the partitions of a topic tell of themselves, opened or not.

use super::{State, TopicInner};
use crate::error::Error;
use crate::log::LogFigures;

/// A partition as it is found.
pub(crate) enum Found {
    NotOpened,
    Damaged(Error),
    Open(LogFigures),
}

impl TopicInner {
    /// All partitions that this directory has, by number. None is opened for it, and none that is being opened is
    /// waited for.
    pub(crate) fn figures(&self) -> Vec<(i32, Found)> {
        let found = |state: &State| match state {
            State::Open(log) | State::Closed(Some(log)) => Some(Found::Open(log.figures())),
            State::Damaged(error, _) => Some(Found::Damaged(error.clone())),
            State::NotOpened(_) | State::Closed(None) => Some(Found::NotOpened),
            State::Absent | State::Deleted => None,
        };
        let of = |(p, slot): (i32, &super::Slot)| {
            Some((p, slot.state.try_read().map_or(Some(Found::NotOpened), |state| found(&state))?))
        };
        (0..).zip(self.slots()).filter_map(of).collect()
    }
}
