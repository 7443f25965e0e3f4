//! One group's members and who owns what: a state machine without files, clock or threads.
//!
//! Invariants:
//! - A partition has one owner at most. From one owner to the next it is free in between: the first gave it back, left,
//!   or was removed.
//! - A member is given only what its target names and nobody else owns.
//! - The epoch grows with every change of members, of what they want, and of the topics. A target carries the epoch
//!   that it was made for, and a target of an older epoch is not followed.
//! - Whoever makes a partition free, or a target, has those woken who wait for it. Nothing of a user's is called here,
//!   nor dropped: bells are handed out, to be rung when the lock is gone, and with them the assignors of who is gone.
//!
//! Modelled on KIP-848, with two differences: a member is told by its own next call and not by an answer to a
//! heartbeat, and liveness is that call (`max.poll.interval.ms`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::assignor::Assignor;
use super::slots::{Look, Place, Slots};
use crate::log::Bell;
use crate::sync::{Arc, AtomicBool, Ordering};

/// Which join of a group: never given twice.
pub(crate) type MemberNo = u64;

/// What a sleeping member is woken by, and how it knows that the group wants something.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    pub(crate) bell: Arc<Bell>,
    pub(crate) news: AtomicBool,
}

/// Members to be woken when the group's lock is gone, and what is to be dropped then.
#[derive(Default)]
#[must_use]
pub(crate) struct Wakes {
    signals: Vec<Arc<Signal>>,
    dropped: Vec<Arc<[Named]>>,
}

impl Wakes {
    /// A task's waker is a runtime's code, and the drop of an assignor the user's: with no lock held.
    pub(crate) fn ring(self) {
        self.signals.iter().for_each(|signal| signal.bell.ring());
    }
}

/// An assignor and its name, which is asked for once: with no lock held.
pub(crate) struct Named {
    pub(crate) name: Arc<str>,
    pub(crate) assignor: Arc<dyn Assignor>,
}

impl Named {
    pub(crate) fn new(assignor: Arc<dyn Assignor>) -> Self {
        Named { name: assignor.name().into(), assignor }
    }
}

/// What a member says when it joins.
pub(crate) struct Joining {
    pub(crate) instance_id: Option<Arc<str>>,
    pub(crate) client_id: Arc<str>,
    /// Sorted, each once.
    pub(crate) wanted: Arc<[Arc<str>]>,
    /// The one it likes best first.
    pub(crate) assignors: Arc<[Named]>,
    pub(crate) max_poll_interval: Duration,
    pub(crate) session_timeout: Duration,
    pub(crate) signal: Arc<Signal>,
}

/// What a member is to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Nothing,
    /// Make a target: see [`Coordinator::plan`].
    Plan,
    /// Let go of these, then say so.
    GiveBack(Vec<Place>),
    /// These are its own from now on.
    Take(Vec<Place>),
}

/// Why a member is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gone {
    /// It did not poll in time, or left.
    Removed,
    /// Another consumer has its `group.instance.id`.
    Fenced,
}

/// When a member was last heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// It is in a poll: alive by definition.
    InPoll,
    /// Its task sleeps in a poll: alive until the group wants something of it.
    Parked,
    /// Its user is at work since.
    AtWork(Duration),
    /// A static member without a consumer, since.
    Absent(Duration),
}

pub(super) struct Member {
    pub(super) id: Arc<str>,
    pub(super) joining: Joining,
    /// The newest epoch whose target it has reached.
    pub(super) epoch: i32,
    pub(super) owned: BTreeSet<Place>,
    /// Kept for the next consumer of a static member.
    reserved: BTreeSet<Place>,
    pub(super) target: BTreeSet<Place>,
    /// The epoch of its target, -1 before the first.
    pub(super) targeted: i32,
    life: Life,
}

impl Member {
    /// When it loses what it has, unless it is heard of.
    fn deadline(&self) -> Option<Duration> {
        match self.life {
            Life::InPoll | Life::Parked => None,
            Life::AtWork(since) => Some(since.saturating_add(self.joining.max_poll_interval)),
            Life::Absent(since) => Some(since.saturating_add(self.joining.session_timeout)),
        }
    }

    fn is_settled(&self) -> bool {
        self.owned == self.target
    }

    /// What nobody else may read: its own, and what is kept for its next consumer.
    pub(super) fn held(&self) -> impl Iterator<Item = &Place> {
        self.owned.iter().chain(&self.reserved)
    }

    pub(super) fn is_absent(&self) -> bool {
        matches!(self.life, Life::Absent(_))
    }
}

/// The state of one group.
pub(crate) struct Coordinator {
    pub(super) epoch: i32,
    pub(super) target_epoch: i32,
    /// Who made the target.
    pub(super) assignor: Option<Arc<str>>,
    pub(super) members: BTreeMap<MemberNo, Member>,
    instances: HashMap<Arc<str>, MemberNo>,
    pub(super) slots: Slots,
    /// Which state of the registry of topics `slots` shows.
    topics_seen: Option<u64>,
    pub(super) next_no: MemberNo,
    /// No member's time is up before this.
    quiet_until: Duration,
    /// Somebody makes a target.
    planning: bool,
    /// The members changed, or their target, since that was written down.
    pub(crate) unwritten: bool,
    pub(super) state_ms: i64,
}

impl Coordinator {
    /// An empty group; `epoch`: the last one that is known of it.
    pub(crate) fn new(epoch: i32) -> Self {
        Coordinator {
            epoch,
            target_epoch: epoch,
            assignor: None,
            members: BTreeMap::new(),
            instances: HashMap::new(),
            slots: Slots::default(),
            topics_seen: None,
            next_no: 0,
            quiet_until: Duration::MAX,
            planning: false,
            unwritten: false,
            state_ms: -1,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Takes a member in; the next call of [`Coordinator::beat`] says what it is to do. A static member whose instance
    /// is known takes that one's place, which is fenced from now on. `None`: no assignor is known to all.
    pub(crate) fn join(
        &mut self,
        joining: Joining,
        now: Duration,
        look: Look<'_>,
        wakes: &mut Wakes,
    ) -> Option<MemberNo> {
        let before = joining.instance_id.as_ref().and_then(|instance| self.instances.get(instance)).copied();
        let others = self.members.iter().filter(|(no, _)| Some(**no) != before).map(|(_, member)| member);
        if super::target::common(&joining.assignors, others.map(|m| &*m.joining.assignors)).is_empty() {
            return None;
        }
        let no = self.next_no;
        self.next_no += 1;
        let id: Arc<str> = format!("{}-{no}", joining.client_id).into();
        if let Some(instance) = &joining.instance_id {
            self.instances.insert(Arc::clone(instance), no);
        }
        let member = match before.and_then(|before| self.members.remove(&before)) {
            Some(old) => self.succeed(old, no, id, joining, wakes),
            None => {
                self.change();
                Member {
                    id,
                    joining,
                    epoch: -1,
                    owned: BTreeSet::new(),
                    reserved: BTreeSet::new(),
                    target: BTreeSet::new(),
                    targeted: -1,
                    life: Life::InPoll,
                }
            }
        };
        self.members.insert(no, member);
        self.unwritten = true;
        // What the last consumer had still to give back.
        self.free_unwanted(no, now, wakes);
        self.look_at_topics(look);
        Some(no)
    }

    /// A static member's next consumer: what the last one had is kept for it.
    fn succeed(
        &mut self,
        mut old: Member,
        no: MemberNo,
        id: Arc<str>,
        joining: Joining,
        wakes: &mut Wakes,
    ) -> Member {
        // It may sleep in a poll: it is to hear that it is fenced.
        wake(&old.joining.signal, wakes);
        old.reserved.append(&mut old.owned);
        for place in &old.reserved {
            *self.slots.owner(*place) = Some(no);
        }
        for place in &old.target {
            *self.slots.heir(*place) = Some(no);
        }
        let same_assignors = {
            let names = |joining: &Joining| -> Vec<Arc<str>> {
                joining.assignors.iter().map(|assignor| Arc::clone(&assignor.name)).collect()
            };
            names(&old.joining) == names(&joining)
        };
        if old.joining.wanted != joining.wanted || !same_assignors {
            self.change();
        }
        wakes.dropped.push(Arc::clone(&old.joining.assignors));
        Member { id, joining, life: Life::InPoll, epoch: -1, ..old }
    }

    /// A member polls: what it is to do next. `wanted`: what it wants now, if that changed.
    pub(crate) fn beat(
        &mut self,
        no: MemberNo,
        instance: Option<&str>,
        now: Duration,
        wanted: Option<Arc<[Arc<str>]>>,
        look: Look<'_>,
    ) -> Result<Step, Gone> {
        let gone = self.gone(no, instance);
        let Some(member) = self.members.get_mut(&no) else { return Err(gone) };
        member.life = Life::InPoll;
        member.joining.signal.news.store(false, Ordering::SeqCst);
        if let Some(wanted) = wanted
            && member.joining.wanted != wanted
        {
            member.joining.wanted = wanted;
            self.change();
            self.look_at_topics(look);
        }
        if self.target_epoch != self.epoch {
            // Who plans wakes those whom it concerns.
            return Ok(if self.is_planned() { Step::Nothing } else { Step::Plan });
        }
        let Some(member) = self.members.get_mut(&no).filter(|member| member.epoch != self.epoch) else {
            return Ok(Step::Nothing);
        };
        let back: Vec<Place> = member.owned.difference(&member.target).copied().collect();
        if !back.is_empty() {
            // Its listener runs now, which may take for ever.
            member.life = Life::AtWork(now);
            self.quiet_until = self.quiet_until.min(now.saturating_add(member.joining.max_poll_interval));
            return Ok(Step::GiveBack(back));
        }
        let mut take = Vec::new();
        for place in member.target.difference(&member.owned) {
            let owner = self.slots.owner(*place);
            if owner.is_none_or(|owner| owner == no) {
                *owner = Some(no);
                take.push(*place);
            }
        }
        for place in &take {
            member.reserved.remove(place);
            member.owned.insert(*place);
        }
        if member.is_settled() {
            member.epoch = self.epoch;
        }
        if take.is_empty() {
            return Ok(Step::Nothing);
        }
        member.life = Life::AtWork(now);
        self.quiet_until = self.quiet_until.min(now.saturating_add(member.joining.max_poll_interval));
        Ok(Step::Take(take))
    }

    /// A member let go of these.
    pub(crate) fn gave_back(&mut self, no: MemberNo, places: &[Place], now: Duration, wakes: &mut Wakes) {
        let Some(member) = self.members.get_mut(&no) else { return };
        let places: Vec<Place> = places.iter().copied().filter(|place| member.owned.remove(place)).collect();
        self.free(&places, now, wakes);
    }

    /// A poll ends, and the user works on what it returned; or a task waits for more.
    pub(crate) fn end_poll(&mut self, no: MemberNo, now: Duration, parked: bool) {
        let Some(member) = self.members.get_mut(&no) else { return };
        let news = member.joining.signal.news.load(Ordering::SeqCst);
        member.life = if parked && !news { Life::Parked } else { Life::AtWork(now) };
        if let Some(deadline) = member.deadline() {
            self.quiet_until = self.quiet_until.min(deadline);
        }
    }

    /// A consumer is gone. A static member stays for its next one.
    pub(crate) fn leave(&mut self, no: MemberNo, now: Duration, now_ms: i64, wakes: &mut Wakes) {
        let Some(member) = self.members.get_mut(&no) else { return };
        if member.joining.instance_id.is_none() {
            return self.remove(no, now, now_ms, wakes);
        }
        member.life = Life::Absent(now);
        self.quiet_until = self.quiet_until.min(now.saturating_add(member.joining.session_timeout));
        member.reserved.append(&mut member.owned);
        member.epoch = -1;
        self.free_unwanted(no, now, wakes);
    }

    /// Of what is kept for a member's next consumer, what its target names no more: nobody is at work on that.
    fn free_unwanted(&mut self, no: MemberNo, now: Duration, wakes: &mut Wakes) {
        let Some(member) = self.members.get_mut(&no) else { return };
        let unwanted: Vec<Place> = member.reserved.difference(&member.target).copied().collect();
        unwanted.iter().for_each(|place| {
            member.reserved.remove(place);
        });
        self.free(&unwanted, now, wakes);
    }

    /// Removes whose time is up.
    pub(crate) fn expire(&mut self, now: Duration, now_ms: i64, wakes: &mut Wakes) {
        if now < self.quiet_until {
            return;
        }
        let due = |member: &Member| member.deadline().is_some_and(|deadline| deadline <= now);
        let late: Vec<MemberNo> = self.members.iter().filter(|(_, m)| due(m)).map(|(no, _)| *no).collect();
        for no in late {
            let Some(member) = self.members.get_mut(&no) else { continue };
            match (member.life, &member.joining.instance_id) {
                // From the moment on at which a dynamic one would have been removed; it may still be heard of.
                (Life::AtWork(_), Some(_)) => {
                    member.life = Life::Absent(member.deadline().unwrap_or(now));
                    if due(member) {
                        self.remove(no, now, now_ms, wakes);
                    }
                }
                _ => self.remove(no, now, now_ms, wakes),
            }
        }
        self.quiet_until = self.members.values().filter_map(Member::deadline).min().unwrap_or(Duration::MAX);
    }

    /// Takes a member out, whatever it holds.
    pub(crate) fn remove(&mut self, no: MemberNo, now: Duration, now_ms: i64, wakes: &mut Wakes) {
        let Some(member) = self.members.remove(&no) else { return };
        wakes.dropped.push(Arc::clone(&member.joining.assignors));
        if let Some(instance) = &member.joining.instance_id
            && self.instances.get(instance) == Some(&no)
        {
            self.instances.remove(instance);
        }
        for place in &member.target {
            *self.slots.heir(*place) = None;
        }
        let held: Vec<Place> = member.held().copied().collect();
        self.free(&held, now, wakes);
        self.change();
        // If it sleeps it is to hear of it, and of the others one has to plan.
        wake(&member.joining.signal, wakes);
        self.wake_all(now, wakes);
        self.unwritten = true;
        if self.members.is_empty() {
            (self.target_epoch, self.assignor, self.state_ms) = (self.epoch, None, now_ms);
            self.slots.clear();
            self.topics_seen = None;
        }
    }

    /// Who of the group a number is, if it is none any more.
    fn gone(&self, no: MemberNo, instance: Option<&str>) -> Gone {
        match instance.and_then(|instance| self.instances.get(instance)) {
            Some(other) if *other != no => Gone::Fenced,
            _ => Gone::Removed,
        }
    }

    /// Whether a member may commit these: those that it owns not are the answer.
    pub(crate) fn check_owner<'p>(
        &self,
        no: MemberNo,
        instance: Option<&str>,
        partitions: impl Iterator<Item = (&'p str, i32)>,
    ) -> Result<Option<(&'p str, i32)>, Gone> {
        let Some(member) = self.members.get(&no) else { return Err(self.gone(no, instance)) };
        let owns = |(topic, partition): &(&str, i32)| {
            let topic = self.slots.find(topic);
            topic.is_some_and(|topic| member.owned.contains(&Place { topic, partition: *partition }))
        };
        let mut partitions = partitions;
        Ok(partitions.find(|partition| !owns(partition)))
    }

    /// Takes up topics that were made, grew or went, if the registry is another than the one that was seen.
    pub(crate) fn refresh(&mut self, version: u64, look: Look<'_>) {
        if self.topics_seen != Some(version) && !self.members.is_empty() {
            self.topics_seen = Some(version);
            self.look_at_topics(look);
        }
    }

    fn look_at_topics(&mut self, look: Look<'_>) {
        let wanted = self.wanted().into_iter().map(Arc::clone).collect::<Vec<_>>();
        if self.slots.look_at(wanted.into_iter(), look) {
            self.change();
        }
    }

    /// The names of the topics that somebody wants.
    pub(super) fn wanted(&self) -> BTreeSet<&Arc<str>> {
        let mut all = BTreeSet::new();
        let mut last: &[Arc<str>] = &[];
        // Most members of a group want the same.
        for list in self.members.values().map(|member| &*member.joining.wanted) {
            if list != last {
                all.extend(list);
                last = list;
            }
        }
        all
    }

    fn change(&mut self) {
        self.epoch = self.epoch.saturating_add(1);
    }

    /// Nobody owns these any more: their heirs may take them.
    fn free(&mut self, places: &[Place], now: Duration, wakes: &mut Wakes) {
        let mut heirs = BTreeSet::new();
        for place in places {
            *self.slots.owner(*place) = None;
            heirs.extend(*self.slots.heir(*place));
        }
        for no in heirs {
            self.wake(no, now, wakes);
        }
    }

    pub(super) fn wake(&mut self, no: MemberNo, now: Duration, wakes: &mut Wakes) {
        let Some(member) = self.members.get_mut(&no) else { return };
        wake(&member.joining.signal, wakes);
        if member.life == Life::Parked {
            member.life = Life::AtWork(now);
            self.quiet_until = self.quiet_until.min(now.saturating_add(member.joining.max_poll_interval));
        }
    }

    fn wake_all(&mut self, now: Duration, wakes: &mut Wakes) {
        let all: Vec<MemberNo> = self.members.keys().copied().collect();
        all.into_iter().for_each(|no| self.wake(no, now, wakes));
    }

    /// Whether nobody has to make a target: there is one, or somebody is at it.
    pub(super) fn is_planned(&self) -> bool {
        self.planning || self.target_epoch == self.epoch
    }

    /// Somebody makes a target from now on; or not any more, and another has to if it did not become one.
    pub(super) fn set_planning(&mut self, planning: bool, now: Duration, wakes: &mut Wakes) {
        self.planning = planning;
        if !planning && self.target_epoch != self.epoch {
            self.wake_all(now, wakes);
        }
    }

    /// A target for the present epoch is there.
    pub(super) fn follow(
        &mut self,
        targets: Vec<(MemberNo, BTreeSet<Place>)>,
        now: Duration,
        wakes: &mut Wakes,
    ) {
        self.target_epoch = self.epoch;
        self.slots.forget_heirs();
        let mut keeping = Vec::new();
        let mut concerned = Vec::new();
        for (no, target) in targets {
            let Some(member) = self.members.get_mut(&no) else { continue };
            for place in &target {
                *self.slots.heir(*place) = Some(no);
            }
            (member.target, member.targeted) = (target, self.epoch);
            if !member.reserved.is_empty() {
                keeping.push(no);
            }
            if member.is_absent() {
                continue;
            }
            if member.is_settled() {
                member.epoch = self.epoch;
            } else {
                concerned.push(no);
            }
        }
        concerned.into_iter().for_each(|no| self.wake(no, now, wakes));
        keeping.into_iter().for_each(|no| self.free_unwanted(no, now, wakes));
        self.unwritten = true;
    }

    /// When somebody's time may be up, at the latest moment at which it is to be looked at.
    pub(crate) fn next_look(&self, now: Duration) -> Option<Duration> {
        // A poll that ends sets a time that nobody is told of.
        let at = |member: &Member| {
            member.deadline().unwrap_or_else(|| now.saturating_add(member.joining.max_poll_interval))
        };
        self.members.values().map(at).min()
    }

    /// Whether a member wants a topic.
    pub(crate) fn wants(&self, topic: &str) -> bool {
        self.members.values().any(|member| member.joining.wanted.iter().any(|wanted| &**wanted == topic))
    }

    pub(crate) fn member(&self, no: MemberNo) -> Option<(&Arc<str>, i32)> {
        self.members.get(&no).map(|member| (&member.id, member.epoch))
    }
}

fn wake(signal: &Arc<Signal>, wakes: &mut Wakes) {
    signal.news.store(true, Ordering::SeqCst);
    wakes.signals.push(Arc::clone(signal));
}
