//! A consumer as a member of a group: joining, taking partitions and giving them back, leaving.
//!
//! Invariants:
//! - What is assigned here is what the coordinator says is this member's, or less: a partition is let go of here before
//!   that is said there, and taken up here after it was given there.
//! - No record of a partition is returned by a poll that has not asked the coordinator before.
//! - The listener, the pattern and the assignor run with no lock held.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use super::{Consumer, RebalanceListener};
use crate::config::ConsumerConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::group::{Assignor, Group, GroupCell, Groups, Handed, Handover, Joining, Named, Seat, Signal};
use crate::log::Bell;
use crate::sync::{Arc, Ordering};
use crate::topic::Topics;
use crate::types::{TopicName, TopicPartition};

use super::position::Assigned;

/// A user's rule for the names of topics.
type Pattern = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// What a consumer subscribed to.
enum Wanted {
    Nothing,
    Topics,
    Matching(Pattern),
}

/// What a consumer has of its group.
pub(super) struct Membership {
    pub(super) groups: Arc<Groups>,
    pub(super) cell: Arc<GroupCell>,
    wanted: Wanted,
    /// The names of the topics that are wanted, sorted.
    list: Arc<[Arc<str>]>,
    /// The group does not know this list yet.
    list_changed: bool,
    pub(super) seat: Option<Seat>,
    /// Another consumer has its `group.instance.id`: for good.
    fenced: Option<Error>,
    assignors: Arc<[Named]>,
    signal: Arc<Signal>,
    listener: Option<Box<dyn RebalanceListener>>,
    listening: bool,
    /// Which topics there were at the last look.
    topics_seen: u64,
    /// When the next commit is due that nobody asks for.
    auto_commit_at: Option<Duration>,
}

impl Membership {
    pub(super) fn new(
        groups: &Arc<Groups>,
        config: &ConsumerConfig,
        own: Option<Arc<dyn Assignor>>,
        bell: &Arc<Bell>,
        topics: &Topics,
    ) -> Result<Option<Box<Self>>> {
        let Some(id) = &config.group_id else { return Ok(None) };
        let known = config.assignment_strategies.iter().map(|strategy| Named::new(Arc::new(*strategy)));
        let assignors: Arc<[Named]> = match own {
            Some(own) => Arc::new([Named::new(own)]),
            None => known.collect(),
        };
        let signal = Signal { bell: Arc::clone(bell), ..Signal::default() };
        Ok(Some(Box::new(Membership {
            groups: Arc::clone(groups),
            cell: groups.cell(id)?,
            wanted: Wanted::Nothing,
            list: Arc::default(),
            list_changed: false,
            seat: None,
            fenced: None,
            assignors,
            signal: Arc::new(signal),
            listener: None,
            listening: false,
            topics_seen: topics.version(),
            auto_commit_at: None,
        })))
    }

    pub(super) fn is_subscribed(&self) -> bool {
        !matches!(self.wanted, Wanted::Nothing)
    }

    /// Whether the group, or the list of topics, wants to be looked at.
    pub(super) fn has_news(&self, topics: &Topics) -> bool {
        self.is_subscribed()
            && (self.signal.news.load(Ordering::SeqCst) || self.topics_seen != topics.version())
    }

    /// How long until somebody's time may be up, who would not wake this one.
    pub(super) fn next_look(&self) -> Option<Duration> {
        self.groups.next_look(self.seat.as_ref()?)
    }

    /// An error inside a call of the listener, for what would wait for that call.
    pub(super) fn check_not_listening(&self, call: &'static str) -> Result<()> {
        if self.listening { Err(ErrorKind::WouldWaitForItself { call }.into()) } else { Ok(()) }
    }

    fn join(&mut self, config: &ConsumerConfig) -> Result<Seat> {
        if let Some(fenced) = &self.fenced {
            return Err(fenced.clone());
        }
        let client_id = match &config.client_id {
            Some(id) => Arc::clone(id),
            None => format!("consumer-{}", self.cell.id).into(),
        };
        let seat = self.groups.join(
            &self.cell,
            Joining {
                instance_id: config.group_instance_id.clone(),
                client_id,
                wanted: Arc::clone(&self.list),
                assignors: Arc::clone(&self.assignors),
                max_poll_interval: Duration::from_millis(config.max_poll_interval_ms),
                session_timeout: Duration::from_millis(config.session_timeout_ms),
                signal: Arc::clone(&self.signal),
            },
        )?;
        self.list_changed = false;
        self.seat = Some(seat.clone());
        Ok(seat)
    }

    /// Which topics are wanted now; asks the user's pattern when there are other topics than at the last look.
    fn look_at_topics(&mut self, topics: &Topics) {
        let version = topics.version();
        if version == std::mem::replace(&mut self.topics_seen, version) && !self.list_changed {
            return;
        }
        if let Wanted::Matching(matches) = &self.wanted {
            let all = topics.sorted();
            let names = all.iter().map(|topic| topic.name.shared());
            // Kafka's internal topics are never meant by a pattern.
            let list: Arc<[Arc<str>]> =
                names.filter(|name| !name.starts_with("__") && matches(name)).collect();
            if list != self.list {
                (self.list, self.list_changed) = (list, true);
            }
        }
    }
}

impl Group {
    /// A consumer of this group with the default settings: Kafka's but for a few, see [`ConsumerConfig`]; nothing is
    /// committed unasked. It becomes a member with its first `poll` after a `subscribe`.
    ///
    /// # Errors
    /// As [`Group::consumer_with`].
    pub fn consumer(&self) -> Result<Consumer> {
        self.consumer_with(ConsumerConfig::default())
    }

    /// A consumer of this group.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`], [`ErrorKind::Closed`]; what is written about the group can not be read.
    pub fn consumer_with(&self, config: ConsumerConfig) -> Result<Consumer> {
        let config = config.group_id(self.id());
        config.validate()?;
        let (assignor, store) = (self.assignor.clone(), Arc::clone(&self.store));
        Consumer::new(config, self.groups.topics(), &self.groups, assignor, store)
    }
}

impl Consumer {
    /// Reads these topics from now on, together with the other members of the group: the next `poll` joins it. Topics
    /// that do not exist are waited for. What was assigned by hand is given up.
    ///
    /// # Errors
    /// [`ErrorKind::NoGroup`]; [`ErrorKind::InvalidTopic`]: no topic can ever have that name. Nothing is changed then.
    pub fn subscribe<'t>(&mut self, topics: impl IntoIterator<Item = &'t str>) -> Result<()> {
        let names = topics.into_iter().map(|name| TopicName::new(name).map(|name| name.shared()));
        let mut list: Vec<Arc<str>> = names.collect::<Result<_>>()?;
        list.sort();
        list.dedup();
        self.want(Wanted::Topics, list.into())
    }

    /// Reads all topics whose name matches, those too that are made later. Internal topics, whose names begin with two
    /// underscores, are left out.
    ///
    /// The rule may be anything, a regular expression of whatever crate for one: `move |name| regex.is_match(name)`. It
    /// is asked by `poll`, when topics were made or deleted.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use logstead::{Store, TopicConfig};
    /// # let store = Store::in_memory()?;
    /// # store.create_topic("orders.eu", TopicConfig::default())?;
    /// # store.create_topic("invoices", TopicConfig::default())?;
    /// let mut consumer = store.group("billing").consumer()?;
    /// consumer.subscribe_matching(|name| name.starts_with("orders."))?;
    /// consumer.poll(Duration::ZERO)?;
    /// assert_eq!(consumer.assignment().collect::<Vec<_>>(), [("orders.eu", 0)]);
    /// # Ok::<(), logstead::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::NoGroup`].
    pub fn subscribe_matching(
        &mut self,
        wanted: impl Fn(&str) -> bool + Send + Sync + 'static,
    ) -> Result<()> {
        self.want(Wanted::Matching(Arc::new(wanted)), Arc::default())
    }

    fn want(&mut self, wanted: Wanted, list: Arc<[Arc<str>]>) -> Result<()> {
        let Some(member) = &mut self.member else { return Err(ErrorKind::NoGroup.into()) };
        let by_hand = !member.is_subscribed();
        (member.wanted, member.list, member.list_changed) = (wanted, list, true);
        self.topics.changes().take_off(&self.bell);
        self.topics.changes().hang(&self.bell);
        if by_hand {
            self.unassign(|_| true);
        }
        Ok(())
    }

    /// Leaves the group: what is to be committed is committed with `enable.auto.commit`, the listener is told, and
    /// others may take the partitions. A static member's are kept for `session.timeout.ms`.
    ///
    /// # Errors
    /// The commit, or the listener, failed; or the consumer had been removed before. It has left all the same.
    pub fn unsubscribe(&mut self) -> Result<()> {
        let Some(member) = &self.member else { return Ok(()) };
        member.check_not_listening("Consumer::unsubscribe")?;
        if !member.is_subscribed() {
            return Ok(());
        }
        let mut outcome = Ok(());
        if member.seat.is_some() {
            // A commit of nothing says whether it is still a member.
            outcome =
                if self.config.enable_auto_commit { self.commit() } else { self.commit_all(&[], false) };
            outcome = match outcome {
                Err(error) if is_gone(&error) => Err(self.lose(error)),
                outcome => {
                    let all = self.owned();
                    outcome.and(self.tell(&all, |listener, consumer, all| listener.revoked(consumer, all)))
                }
            };
        }
        self.unassign(|_| true);
        if let Some(member) = &mut self.member {
            if let Some(seat) = member.seat.take() {
                member.groups.leave(&seat);
            }
            (member.wanted, member.list) = (Wanted::Nothing, Arc::default());
        }
        self.topics.changes().take_off(&self.bell);
        outcome
    }

    /// Leaves the group, as [`Consumer::unsubscribe`] does, and says whether that went well; dropping a consumer leaves
    /// too, commits nothing and tells nobody.
    ///
    /// # Errors
    /// As [`Consumer::unsubscribe`].
    pub fn close(mut self) -> Result<()> {
        let by_hand = self.member.as_ref().is_some_and(|member| !member.is_subscribed());
        if by_hand && self.config.enable_auto_commit { self.commit() } else { self.unsubscribe() }
    }

    /// Has `listener` told of partitions that come and go, instead of the one before.
    pub fn on_rebalance(&mut self, listener: impl RebalanceListener + 'static) {
        if let Some(member) = &mut self.member {
            member.listener = Some(Box::new(listener));
        }
    }

    /// Its id as a member of the group, while it is one.
    pub fn member_id(&self) -> Option<&str> {
        Some(&self.member.as_ref()?.seat.as_ref()?.member_id)
    }

    /// The newest epoch of the group whose assignment it has, all of it. `None` while there is none.
    pub fn group_epoch(&self) -> Option<i32> {
        let member = self.member.as_ref()?;
        member.groups.epoch_of(member.seat.as_ref()?)
    }

    /// Does what the group wants of its member, before anything is read.
    pub(super) fn reconcile(&mut self) -> Result<()> {
        while let Some(member) = &mut self.member
            && member.is_subscribed()
        {
            member.look_at_topics(&self.topics);
            let seat = match &member.seat {
                Some(seat) => seat.clone(),
                None => member.join(&self.config)?,
            };
            let changed = std::mem::take(&mut member.list_changed).then(|| Arc::clone(&member.list));
            match member.groups.beat(&seat, changed) {
                Ok(Handover::Nothing) => break,
                Ok(Handover::GiveBack(handed)) => self.give_back(&seat, &handed)?,
                Ok(Handover::Take(handed)) => self.take_over(&handed)?,
                Err(error) => return Err(self.lose(error)),
            }
        }
        self.start_from_committed()
    }

    fn give_back(&mut self, seat: &Seat, handed: &[Handed]) -> Result<()> {
        let partitions = names(handed);
        let committed = match self.config.enable_auto_commit {
            true => self.commit(),
            false => Ok(()),
        };
        let told = self.tell(&partitions, |listener, consumer, all| listener.revoked(consumer, all));
        self.unassign(|assigned| {
            handed.iter().any(|h| h.instance == assigned.topic.index && h.partition == assigned.partition)
        });
        if let Some(member) = &self.member {
            member.groups.gave_back(seat, handed);
        }
        committed.and(told)
    }

    fn take_over(&mut self, handed: &[Handed]) -> Result<()> {
        for one in handed {
            // Of one that was deleted a moment ago the group will say so.
            let Ok(topic) = self.topics.known(&one.topic) else { continue };
            if topic.index != one.instance {
                continue;
            }
            topic.bells(one.partition)?.hang(&self.bell);
            self.assigned.push(Assigned::of_group(topic, one.partition));
        }
        self.tell(&names(handed), |listener, consumer, all| listener.assigned(consumer, all))
    }

    /// Gives up what is assigned, if the consumer is a member no more. The error, for the caller.
    fn lose(&mut self, error: Error) -> Error {
        if !is_gone(&error) {
            return error;
        }
        let all = self.owned();
        if let Some(member) = &mut self.member {
            member.seat = None;
            if matches!(error.kind(), ErrorKind::FencedInstance { .. }) {
                member.fenced = Some(error.clone());
            }
        }
        // Why they are lost is what the caller is told.
        let _ = self.tell(&all, |listener, consumer, all| listener.lost(consumer, all));
        self.unassign(|_| true);
        error
    }

    fn owned(&self) -> Vec<TopicPartition> {
        let name = |a: &Assigned| TopicPartition { topic: a.topic.name.shared(), partition: a.partition };
        self.assigned.iter().map(name).collect()
    }

    /// Calls the listener, if there is one and something to tell. It is not lost when it panics.
    fn tell(
        &mut self,
        partitions: &[TopicPartition],
        call: impl FnOnce(&mut dyn RebalanceListener, &mut Consumer, &[TopicPartition]) -> Result<()>,
    ) -> Result<()> {
        let Some(member) = &mut self.member else { return Ok(()) };
        if partitions.is_empty() {
            return Ok(());
        }
        let Some(mut listener) = member.listener.take() else { return Ok(()) };
        member.listening = true;
        let told = catch_unwind(AssertUnwindSafe(|| call(&mut *listener, self, partitions)));
        if let Some(member) = &mut self.member {
            member.listening = false;
            // It may have been replaced from within.
            member.listener.get_or_insert(listener);
        }
        told.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Has partitions that came from the group, or by hand, begin where the group stands.
    pub(super) fn start_from_committed(&mut self) -> Result<()> {
        let Some(member) = &self.member else { return Ok(()) };
        let awaited = || self.assigned.iter().filter(|assigned| assigned.awaits_commit);
        if awaited().next().is_none() {
            return Ok(());
        }
        let partitions = awaited().map(|a| (a.topic.name.as_str(), a.partition));
        let committed = member.groups.committed(&member.cell, partitions)?;
        let mut outcome = Ok(());
        let awaiting = self.assigned.iter_mut().filter(|assigned| assigned.awaits_commit);
        for (assigned, committed) in awaiting.zip(committed) {
            match committed {
                Ok(committed) => {
                    let is_member = member.seat.is_some();
                    assigned.start_at(committed.map(|committed| committed.offset), is_member);
                }
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        outcome
    }

    /// What a poll does first: nothing from within a listener, and a commit that is due.
    pub(super) fn begin_poll(&mut self) -> Result<()> {
        let Some(member) = &mut self.member else { return Ok(()) };
        member.check_not_listening("Consumer::poll")?;
        if !self.config.enable_auto_commit {
            return Ok(());
        }
        let now = member.groups.now();
        let next = now + Duration::from_millis(self.config.auto_commit_interval_ms);
        match member.auto_commit_at.replace(next) {
            Some(at) if at <= now => {}
            at => {
                member.auto_commit_at = at.or(Some(next));
                return Ok(());
            }
        }
        match self.commit_async() {
            // What that means for its partitions is found out by the poll.
            Err(error) if is_gone(&error) || matches!(error.kind(), ErrorKind::NotOwner { .. }) => Ok(()),
            committed => committed,
        }
    }

    /// What a poll does last: from now on time runs.
    pub(super) fn end_poll(&self, parked: bool) {
        if let Some(member) = &self.member
            && let Some(seat) = &member.seat
        {
            member.groups.end_poll(seat, parked);
        }
    }

    /// Leaves without a word.
    pub(super) fn abandon_group(&mut self) {
        if let Some(member) = &mut self.member {
            if let Some(seat) = member.seat.take() {
                member.groups.leave(&seat);
            }
            self.topics.changes().take_off(&self.bell);
        }
    }

    /// Drops partitions of topics that are gone. `false`: there are none.
    pub(super) fn drop_deleted(&mut self) -> bool {
        let topics = Arc::clone(&self.topics);
        let is_gone = |a: &Assigned| {
            !topics.known(a.topic.name.as_str()).is_ok_and(|known| Arc::ptr_eq(&known, &a.topic))
        };
        self.unassign(is_gone)
    }
}

fn names(handed: &[Handed]) -> Vec<TopicPartition> {
    let name = |h: &Handed| TopicPartition { topic: Arc::clone(&h.topic), partition: h.partition };
    handed.iter().map(name).collect()
}

/// Whether the consumer is a member no more.
fn is_gone(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::RemovedFromGroup { .. } | ErrorKind::FencedInstance { .. })
}
