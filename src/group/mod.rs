//! Consumer groups: who of a group reads what, and how far the group is.
//!
//! `consumer` → [`Groups::beat`] (what is mine?) → [`coordinator`] (members, owners, epochs) → [`assignor`] (who shall
//! have what). And `consumer` → [`Groups::commit`] → [`codec`] → `__consumer_offsets`, an ordinary topic → [`replay`].
//!
//! Invariants:
//! - Locks, in this order: the list of groups → a group's `commits` → its `state`, or a replay → topics, and so on
//!   down. Assignors, listeners and wakers run with none of them held.
//! - Time-outs are looked at by every call about a group, by the store's timer and by its host.
//! - A group that nobody has in hand, without members and all written, is forgotten: what is written says the same.
//! - What is kept across runs is in the log: offsets, and what a group looked like last. Members live in memory: they
//!   are gone when the process is.

mod assignor;
mod codec;
mod coordinator;
mod describe;
mod expiry;
mod handle;
mod offsets;
mod replay;
mod reset;
mod slots;
mod target;
#[cfg(test)]
mod tests;
mod upkeep;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::limits::GROUP_TEXT_BYTES_MAX;
use crate::log::Context;
use crate::sync::{Arc, Mutex, OnceLock};
use crate::topic::Topics;

pub use assignor::{Assignor, GroupSpec, MemberSpec, PartitionIndex, TopicSpec};
use codec::TEXT_BYTES_MAX;
#[cfg(feature = "testing")]
pub(crate) use codec::{GroupValue, Key, OffsetValue};
use coordinator::{Coordinator, Gone, MemberNo, Step, Wakes};
pub(crate) use coordinator::{Joining, Named, Signal};
pub use describe::{GroupDescription, GroupLag, GroupState, MemberDescription, PartitionLag};
pub use handle::Group;
pub use offsets::OffsetAndMetadata;
pub(crate) use offsets::{By, Positions};
pub use reset::{OffsetMove, ResetPlan, ResetTo};
use slots::Place;
use target::Installed;

/// Where offsets are kept.
pub(crate) const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// Makes the topic of offsets.
type MakeTopic = Box<dyn Fn() -> Result<()> + Send + Sync>;

/// All groups of a store.
pub(crate) struct Groups {
    context: Arc<Context>,
    topics: Arc<Topics>,
    cells: Mutex<BTreeMap<Arc<str>, Arc<GroupCell>>>,
    /// By partition of the topic of offsets.
    replays: Mutex<BTreeMap<i32, Arc<Mutex<replay::Replay>>>>,
    make_topic: OnceLock<MakeTopic>,
    /// `None`: offsets are kept for ever.
    retention_ms: Option<i64>,
    upkeep: Mutex<upkeep::Upkeep>,
}

/// One group that was asked for, and not forgotten since.
pub(crate) struct GroupCell {
    pub(crate) id: Arc<str>,
    /// Held over the check of a commit and its append.
    commits: Mutex<offsets::Written>,
    state: Mutex<Coordinator>,
}

/// A member's place in its group. It must be given back with [`Groups::leave`].
#[derive(Clone)]
pub(crate) struct Seat {
    pub(crate) cell: Arc<GroupCell>,
    no: MemberNo,
    instance: Option<Arc<str>>,
    pub(crate) member_id: Arc<str>,
}

/// A partition that goes to a member, or comes from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Handed {
    pub(crate) topic: Arc<str>,
    /// Which topic of that name.
    pub(crate) instance: usize,
    pub(crate) partition: i32,
    place: Place,
}

/// What a member is to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Handover {
    Nothing,
    /// Finish with these, then call [`Groups::gave_back`].
    GiveBack(Vec<Handed>),
    /// Read these from now on.
    Take(Vec<Handed>),
}

impl Groups {
    /// `retention_ms`: `offsets.retention.minutes`, in milliseconds.
    pub(crate) fn new(context: &Arc<Context>, topics: &Arc<Topics>, retention_ms: Option<i64>) -> Self {
        Groups {
            context: Arc::clone(context),
            topics: Arc::clone(topics),
            cells: Mutex::default(),
            replays: Mutex::default(),
            make_topic: OnceLock::new(),
            retention_ms,
            upkeep: Mutex::new(upkeep::Upkeep::new(context.clock.monotonic())),
        }
    }

    /// Has `make` called when the first offset is committed.
    pub(crate) fn make_topic_by(&self, make: impl Fn() -> Result<()> + Send + Sync + 'static) {
        // Called once, by whoever made this.
        let _ = self.make_topic.set(Box::new(make));
    }

    pub(crate) fn topics(&self) -> &Arc<Topics> {
        &self.topics
    }

    /// The time that time-outs go by.
    pub(crate) fn now(&self) -> Duration {
        self.context.clock.monotonic()
    }

    fn check_writable(&self) -> Result<()> {
        if self.topics.is_closed() {
            return Err(ErrorKind::Closed.into());
        }
        if self.context.read_only {
            return Err(ErrorKind::ReadOnly { path: self.context.root.clone() }.into());
        }
        Ok(())
    }

    /// A group, which begins with the epoch that it is written down with.
    ///
    /// # Errors
    /// No record can hold its name; what is written about it can not be read.
    pub(crate) fn cell(&self, id: &str) -> Result<Arc<GroupCell>> {
        check_text("group.id", id, TEXT_BYTES_MAX)?;
        if let Some(cell) = self.cells.lock().get(id) {
            return Ok(Arc::clone(cell));
        }
        let cell =
            GroupCell { id: id.into(), commits: Mutex::default(), state: Mutex::new(Coordinator::new(0)) };
        let listed = |replay: &replay::Replay| {
            let listed = replay.groups.get(id).and_then(|group| group.listed.as_ref());
            listed.map(|listed| (listed.generation, listed.members > 0))
        };
        let known = match self.log_of(id)? {
            Some(log) => listed(&self.replay(&log)?.lock()),
            None => None,
        };
        if let Some((epoch, has_members)) = known {
            // Whatever others wrote: it can grow, and is none of the numbers that stand for none.
            let epoch = epoch.clamp(0, i32::MAX / 2);
            *cell.state.lock() = Coordinator::new(epoch);
            // They are gone with the process that they were in.
            cell.state.lock().unwritten = has_members && !self.context.read_only;
        }
        cell.state.lock().next_no = self.upkeep.lock().next_no;
        let mut cells = self.cells.lock();
        Ok(Arc::clone(cells.entry(Arc::clone(&cell.id)).or_insert_with(|| Arc::new(cell))))
    }

    /// Works on a group's state, with time looked at before; wakes whom that concerns afterwards.
    fn with_state<T>(
        &self,
        cell: &GroupCell,
        work: impl FnOnce(&mut Coordinator, Duration, &mut Wakes) -> T,
    ) -> T {
        let mut wakes = Wakes::default();
        let now = self.context.clock.monotonic();
        let done = {
            let mut state = cell.state.lock();
            state.expire(now, self.context.clock.now_ms(), &mut wakes);
            work(&mut state, now, &mut wakes)
        };
        wakes.ring();
        done
    }

    /// What a topic's name stands for now.
    fn look(&self, name: &str) -> Option<(usize, u32)> {
        self.topics.known(name).ok().map(|topic| (topic.index, topic.partitions()))
    }

    /// Takes a member in.
    pub(crate) fn join(&self, cell: &Arc<GroupCell>, joining: Joining) -> Result<Seat> {
        self.check_writable()?;
        let instance = joining.instance_id.clone();
        let names: Vec<Arc<str>> = joining.assignors.iter().map(|a| Arc::clone(&a.name)).collect();
        let check = |name: &Arc<str>| check_text("partition.assignment.strategy", name, GROUP_TEXT_BYTES_MAX);
        names.iter().try_for_each(check)?;
        let no = self.with_state(cell, |state, now, wakes| {
            let no = state.join(joining, now, &|name| self.look(name), wakes)?;
            state.member(no).map(|(id, _)| (no, Arc::clone(id)))
        });
        let Some((no, member_id)) = no else {
            let group = cell.id.to_string();
            return Err(ErrorKind::InconsistentStrategies { group, strategies: names.join(", ") }.into());
        };
        // The timer may sleep for long, and knows nothing of this member's time.
        self.context.wake.wake();
        Ok(Seat { cell: Arc::clone(cell), no, instance, member_id })
    }

    /// A member polls. `wanted`: the topics that it wants, sorted, if they changed.
    ///
    /// # Errors
    /// It is a member no more; or an assignor's answer can not be followed.
    pub(crate) fn beat(&self, seat: &Seat, mut wanted: Option<Arc<[Arc<str>]>>) -> Result<Handover> {
        self.check_writable()?;
        loop {
            let version = self.topics.version();
            let step: std::result::Result<_, Gone> = self.with_state(&seat.cell, |state, now, _| {
                let look = |name: &str| self.look(name);
                state.refresh(version, &look);
                let step = state.beat(seat.no, seat.instance.as_deref(), now, wanted.take(), &look)?;
                Ok(match step {
                    Step::Nothing => Some(Handover::Nothing),
                    Step::Plan => None,
                    Step::GiveBack(places) => Some(Handover::GiveBack(handed(state, places))),
                    Step::Take(places) => Some(Handover::Take(handed(state, places))),
                })
            });
            match step {
                Ok(Some(handover)) => return Ok(handover),
                Ok(None) => self.plan(&seat.cell)?,
                Err(gone) => return Err(seat.error(gone)),
            }
        }
    }

    /// Has an assignor make a target, with no lock held.
    fn plan(&self, cell: &GroupCell) -> Result<()> {
        let Some(plan) = self.with_state(cell, |state, now, wakes| state.plan(now, wakes)) else {
            return Ok(());
        };
        let planning = Planning { groups: self, cell };
        let answer = plan.assignor.assign(&plan.spec);
        let installed = self.with_state(cell, |state, now, wakes| state.install(&plan, &answer, now, wakes));
        drop(planning);
        match installed {
            Installed::Late => Ok(()),
            Installed::Followed => {
                // It is tried again, and nobody's records wait for it.
                let _ = self.write_members(cell);
                Ok(())
            }
            Installed::Wrong(why) => {
                let (group, assignor) = (cell.id.to_string(), plan.name.to_string());
                Err(ErrorKind::InvalidAssignment { group, assignor, why }.into())
            }
        }
    }

    /// A member let go of what it was asked for.
    pub(crate) fn gave_back(&self, seat: &Seat, handed: &[Handed]) {
        let places: Vec<Place> = handed.iter().map(|handed| handed.place).collect();
        self.with_state(&seat.cell, |state, now, wakes| state.gave_back(seat.no, &places, now, wakes));
    }

    /// A poll ends; `parked`: its task sleeps until it is woken.
    pub(crate) fn end_poll(&self, seat: &Seat, parked: bool) {
        self.with_state(&seat.cell, |state, now, _| state.end_poll(seat.no, now, parked));
    }

    /// A consumer is gone.
    pub(crate) fn leave(&self, seat: &Seat) {
        let now_ms = self.context.clock.now_ms();
        let empty = self.with_state(&seat.cell, |state, now, wakes| {
            state.leave(seat.no, now, now_ms, wakes);
            state.is_empty()
        });
        // A static member's session runs from now on.
        self.context.wake.wake();
        if empty && !self.topics.is_closed() {
            // When it fails it is tried again.
            let _ = self.write_members(&seat.cell);
        }
    }

    /// The newest epoch whose assignment a member has, all of it.
    pub(crate) fn epoch_of(&self, seat: &Seat) -> Option<i32> {
        let state = seat.cell.state.lock();
        state.member(seat.no).map(|(_, epoch)| epoch).filter(|epoch| *epoch >= 0)
    }

    /// How long until a member's time may be up.
    pub(crate) fn next_look(&self, seat: &Seat) -> Option<Duration> {
        let now = self.context.clock.monotonic();
        seat.cell.state.lock().next_look(now).map(|at| at.saturating_sub(now))
    }
}

/// Refuses a text that is too long for a record of a group.
fn check_text(name: &'static str, text: &str, bytes_max: usize) -> Result<()> {
    if text.len() <= bytes_max {
        return Ok(());
    }
    let (value, why) =
        (format!("{} bytes", text.len()), "a group's records hold 32,000: give a shorter name");
    Err(ErrorKind::InvalidConfig { name, value, why }.into())
}

fn handed(state: &Coordinator, places: Vec<Place>) -> Vec<Handed> {
    let name = |place| {
        let (topic, instance, partition) = state.slots.name_of(place)?;
        Some(Handed { topic, instance, partition, place })
    };
    places.into_iter().filter_map(name).collect()
}

/// Somebody makes a target; however that ends, others may again.
struct Planning<'g> {
    groups: &'g Groups,
    cell: &'g GroupCell,
}

impl Drop for Planning<'_> {
    fn drop(&mut self) {
        self.groups.with_state(self.cell, |state, now, wakes| state.set_planning(false, now, wakes));
    }
}

impl Seat {
    fn error(&self, gone: Gone) -> Error {
        let group = self.cell.id.to_string();
        match (gone, &self.instance) {
            (Gone::Fenced, Some(instance)) => {
                ErrorKind::FencedInstance { group, instance_id: instance.to_string() }
            }
            _ => ErrorKind::RemovedFromGroup { group, member: self.member_id.to_string() },
        }
        .into()
    }
}

impl GroupCell {
    /// Whether nothing is lost when it is forgotten, where offsets are kept at all and nobody else has it.
    fn is_idle(&self) -> bool {
        let is_written = self.commits.lock().is_committed();
        let state = self.state.lock();
        is_written && state.is_empty() && !state.unwritten
    }

    fn check_empty(&self, state: &Coordinator) -> Result<()> {
        if state.is_empty() {
            return Ok(());
        }
        let members = state.members.values().map(|member| member.id.to_string()).collect();
        Err(ErrorKind::GroupNotEmpty { group: self.id.to_string(), members }.into())
    }
}

impl fmt::Debug for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Groups").field("groups", &self.cells.lock().len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.member_id, self.cell.id)
    }
}
