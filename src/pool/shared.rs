//! What the threads of a pool share: the schedule behind one lock, and how they wait for each other.
//!
//! Invariants:
//! - Neither the handler nor anything else of the user's runs under the lock, and nothing is sent or committed under
//!   it.
//! - Once the pool stops, no thread takes a record; the reader commits when none is in hand.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::breaker::BreakerState;
use super::config::PoolConfig;
use super::dead_letter::DeadLetters;
use super::progress::{InHand, PartitionProgress, PoolProgress};
use super::schedule::{Schedule, Task};
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::{Clock, Error, ErrorKind, Group, Offset, Result, TopicPartition, Waker};

/// How long a wait for a time lasts before the clock is looked at again: it may be one that is moved by hand.
pub(super) const LOOK: Duration = Duration::from_millis(10);

pub(super) struct Shared {
    pub(super) group: Group,
    pub(super) config: PoolConfig,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) dead_letters: Option<DeadLetters>,
    /// The reader's.
    pub(super) waker: Waker,
    state: Mutex<State>,
    /// Threads that have nothing to do.
    work: Condvar,
    /// Whoever waits for the pool to get on.
    moved: Condvar,
}

struct State {
    schedule: Schedule,
    breaker: BreakerState,
    hands: Vec<Option<Hand>>,
    counts: Counts,
    chance: u64,
    stopping: bool,
    failure: Option<Error>,
    last_error: Option<String>,
    /// Threads that wait for `moved`, and a number that rises with everything they may wait for.
    watchers: usize,
    moves: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    handled: u64,
    failures: u64,
    panics: u64,
    skipped: u64,
    dead_lettered: u64,
}

struct Hand {
    partition: Option<TopicPartition>,
    offset: Offset,
    since: Duration,
    /// The breaker waits for what becomes of it.
    decisive: bool,
}

/// What became of a record in hand.
pub(super) enum Outcome {
    Handled,
    Failed(Failure),
}

pub(super) struct Failure {
    pub(super) text: String,
    pub(super) permanent: bool,
    pub(super) panicked: bool,
    pub(super) next: Next,
}

/// What is done about a record that failed.
pub(super) enum Next {
    Retry,
    Skip,
    DeadLettered,
    /// The pool stops with this.
    Stop(Error),
}

impl Shared {
    pub(super) fn new(
        group: &Group,
        config: PoolConfig,
        clock: Arc<dyn Clock>,
        dead_letters: Option<DeadLetters>,
        waker: Waker,
    ) -> Self {
        let state = State {
            schedule: Schedule::new(config.order, config.buffered_records),
            breaker: BreakerState::new(),
            hands: (0..config.threads).map(|_| None).collect(),
            counts: Counts::default(),
            chance: clock.now_ms() as u64,
            stopping: false,
            failure: None,
            last_error: None,
            watchers: 0,
            moves: 0,
        };
        Shared {
            group: group.clone(),
            config,
            clock,
            dead_letters,
            waker,
            state: Mutex::new(state),
            work: Condvar::new(),
            moved: Condvar::new(),
        }
    }

    // ───────── for the threads that handle records

    /// Says what became of the last record, and waits for the next; `None` when the pool stops.
    pub(super) fn next(&self, thread: usize, last: Option<(Task, Outcome)>) -> Option<Task> {
        let mut state = self.state.lock();
        if let Some((task, outcome)) = last
            && self.settle(&mut state, thread, task, outcome)
        {
            drop(state);
            self.waker.wake();
            state = self.state.lock();
        }
        loop {
            if state.stopping {
                return None;
            }
            let now = self.clock.monotonic();
            let allowed = state.breaker.allows(now);
            if allowed && let Some(task) = state.schedule.take(now) {
                let decisive = state.breaker.begin();
                let (partition, offset) =
                    (state.schedule.name_of(&task).cloned(), task.record.record().offset());
                state.hands[thread] = Some(Hand { partition, offset, since: now, decisive });
                return Some(task);
            }
            let due = if allowed { state.schedule.next_due() } else { state.breaker.due() };
            self.sleep(&self.work, &mut state, due.map(|due| due.saturating_sub(now)));
        }
    }

    /// `true`: the reader has something to do.
    fn settle(&self, state: &mut State, thread: usize, task: Task, outcome: Outcome) -> bool {
        let now = self.clock.monotonic();
        let decisive = state.hands[thread].take().is_some_and(|hand| hand.decisive);
        let failed = matches!(outcome, Outcome::Failed(_));
        let wake = match outcome {
            Outcome::Handled => {
                state.counts.handled += 1;
                state.breaker.succeeded();
                state.schedule.finish(&task)
            }
            Outcome::Failed(failure) => self.settle_failure(state, task, failure, decisive, now),
        };
        if decisive || failed {
            // The breaker changed, a retry has a time, or the pool stops.
            self.work.notify_all();
        }
        state.moved(&self.moved);
        wake
    }

    fn settle_failure(
        &self,
        state: &mut State,
        task: Task,
        failure: Failure,
        decisive: bool,
        now: Duration,
    ) -> bool {
        state.counts.failures += 1;
        state.counts.panics += u64::from(failure.panicked);
        state.last_error = Some(failure.text);
        match failure.permanent {
            true => state.breaker.succeeded(),
            false => state.breaker.failed(decisive, now, &self.config),
        }
        match failure.next {
            Next::Retry => {
                let backoff = self.config.backoff(task.failures.saturating_add(1), state.chance());
                state.schedule.retry(task, now + backoff);
                false
            }
            Next::Skip => {
                state.counts.skipped += 1;
                state.schedule.finish(&task)
            }
            Next::DeadLettered => {
                state.counts.dead_lettered += 1;
                state.schedule.finish(&task)
            }
            Next::Stop(error) => {
                state.schedule.put_back(task);
                state.failure.get_or_insert(error);
                state.stopping = true;
                true
            }
        }
    }

    // ───────── for the reader

    pub(super) fn schedule<T>(&self, work: impl FnOnce(&mut Schedule) -> T) -> T {
        work(&mut self.state.lock().schedule)
    }

    /// As [`Shared::schedule`], and whoever waits for records or for progress looks again.
    pub(super) fn change<T>(&self, work: impl FnOnce(&mut Schedule) -> T) -> T {
        let mut state = self.state.lock();
        let answer = work(&mut state.schedule);
        state.moved(&self.moved);
        self.work.notify_all();
        answer
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.state.lock().stopping
    }

    /// Notes an error that the pool goes on after.
    pub(super) fn note(&self, error: &Error) {
        let text = error.to_string();
        self.state.lock().last_error = Some(text);
    }

    /// Hands out no more records of these partitions, and waits until none of them is in hand, for at most `timeout` on
    /// the store's clock.
    pub(super) fn quiet(&self, partitions: &[TopicPartition], timeout: Option<Duration>) {
        let begun = self.clock.monotonic();
        let mut state = self.state.lock();
        loop {
            let in_hand: usize = partitions.iter().map(|name| state.schedule.leave(name)).sum();
            let left = timeout.map(|timeout| timeout.saturating_sub(self.clock.monotonic() - begun));
            if in_hand == 0 || left == Some(Duration::ZERO) {
                return;
            }
            state.watchers += 1;
            self.sleep(&self.moved, &mut state, left);
            state.watchers -= 1;
        }
    }

    /// Sleeps until it is woken, or `left` has passed on the store's clock; or less.
    fn sleep(&self, on: &Condvar, state: &mut MutexGuard<'_, State>, left: Option<Duration>) {
        match left {
            Some(left) => {
                let _ = on.wait_until(state, Instant::now() + left.min(LOOK));
            }
            None => on.wait(state),
        }
    }

    // ───────── for whoever owns the pool

    pub(super) fn stop(&self) {
        self.state.lock().stop(self);
        self.waker.wake();
    }

    /// The pool ends with an error, if it does not already.
    pub(super) fn fail(&self, error: Error) {
        let mut state = self.state.lock();
        state.failure.get_or_insert(error);
        state.stop(self);
    }

    pub(super) fn outcome(&self) -> Result<()> {
        self.state.lock().failure.clone().map_or(Ok(()), Err)
    }

    pub(super) fn progress(&self) -> PoolProgress {
        let state = self.state.lock();
        let now = self.clock.monotonic();
        let hands = state.hands.iter().enumerate().filter_map(|(thread, hand)| {
            let hand = hand.as_ref()?;
            let since = now.saturating_sub(hand.since);
            Some(InHand { thread, partition: hand.partition.clone()?, offset: hand.offset, since })
        });
        let Counts { handled, failures, panics, skipped, dead_lettered } = state.counts;
        let (in_hand, views) = (hands.collect(), state.schedule.view());
        let (breaker, last_error) = (state.breaker.view(), state.last_error.clone());
        drop(state);
        let partitions = views.into_iter().map(|view| PartitionProgress {
            end: self.end_of(&view.name).unwrap_or_else(|_| view.done.unwrap_or(0)),
            topic: view.name.topic.to_string(),
            partition: view.name.partition,
            done: view.done,
            committed: view.committed,
            buffered: view.open,
            in_hand: view.in_hand,
            is_paused: view.paused,
        });
        let partitions = partitions.collect();
        PoolProgress {
            partitions,
            handled,
            failures,
            panics,
            skipped,
            dead_lettered,
            breaker,
            in_hand,
            last_error,
        }
    }

    fn end_of(&self, name: &TopicPartition) -> Result<Offset> {
        Ok(self.group.store().topic(&name.topic)?.partition(name.partition)?.high_watermark())
    }

    /// Waits until everything is done that was committed to the assigned partitions when they were first looked at.
    pub(super) fn wait_caught_up(&self, timeout: Duration) -> Result<bool> {
        let deadline = Instant::now().checked_add(timeout);
        let mut ends: std::collections::BTreeMap<TopicPartition, Offset> = Default::default();
        loop {
            let (views, moves) = {
                let state = self.state.lock();
                if state.stopping {
                    return Err(state.failure.clone().unwrap_or_else(|| ErrorKind::Closed.into()));
                }
                (state.schedule.view(), state.moves)
            };
            let mut caught_up = !views.is_empty();
            for view in &views {
                let end = match ends.get(&view.name) {
                    Some(end) => *end,
                    None => *ends.entry(view.name.clone()).or_insert(self.end_of(&view.name)?),
                };
                caught_up &= view.done.is_some_and(|done| done >= end);
            }
            if caught_up {
                return Ok(true);
            }
            let mut state = self.state.lock();
            state.watchers += 1;
            let mut in_time = true;
            while in_time && state.moves == moves && !state.stopping {
                match deadline {
                    Some(deadline) => in_time = !self.moved.wait_until(&mut state, deadline).timed_out(),
                    None => self.moved.wait(&mut state),
                }
            }
            state.watchers -= 1;
            if !in_time {
                return Ok(false);
            }
        }
    }
}

impl State {
    fn moved(&mut self, moved: &Condvar) {
        self.moves += 1;
        if self.watchers > 0 {
            moved.notify_all();
        }
    }

    fn stop(&mut self, shared: &Shared) {
        self.stopping = true;
        shared.work.notify_all();
        self.moved(&shared.moved);
    }

    /// A number below 1 (splitmix64).
    fn chance(&mut self) -> f64 {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.chance;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}
