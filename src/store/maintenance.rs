//! The work that nobody waits for: batches that linger, syncs that are due, checkpoints, members of groups whose time
//! is up.
//!
//! One function does a slice of it, for hosts without threads. The threads do the same: `logstead-timer` finds out
//! what is due and never touches a file; `logstead-flush` threads do it, each partition or producer by one at a time.
//! `logstead-clean` gives space back, by its own clock: what may take long keeps nobody from being synced.

use std::collections::HashSet;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::Shared;
use super::producers::EXPIRATION_INTERVAL;
use crate::error::{Error, Result, each};
use crate::log::{CHECKPOINT_INTERVAL, Log};
use crate::producer::Shared as ProducerShared;
use crate::sync::{Arc, AtomicBool, Mutex, Ordering};

/// The timer's pause while something is at work or about to be due.
const TICK: Duration = Duration::from_millis(1);

/// How long the timer sleeps when nothing is due; it is woken earlier.
const IDLE: Duration = Duration::from_secs(3_600);

/// What a call of [`Store::maintain`](crate::Store::maintain) says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Maintained {
    /// When the next work is due, if any is known now.
    pub next_due: Option<Duration>,
}

/// A piece of work for a flush thread.
enum Job {
    Drain(Arc<ProducerShared>),
    Sync(Arc<Log>),
    Checkpoint,
    ExpireProducers,
    Groups,
    #[cfg(feature = "metrics")]
    Export,
}

impl Job {
    /// Who it is about: one job for one of these at a time.
    fn key(&self) -> usize {
        match self {
            Job::Drain(producer) => Arc::as_ptr(producer).addr(),
            Job::Sync(log) => Arc::as_ptr(log).addr(),
            Job::Checkpoint => 0,
            Job::ExpireProducers => 2,
            Job::Groups => 1,
            #[cfg(feature = "metrics")]
            Job::Export => 3,
        }
    }
}

impl Shared {
    /// What is due now, and when the next is.
    fn due(&self) -> (Vec<Job>, Option<Duration>) {
        let now = self.context.clock.monotonic();
        let (logs, mut next) = self.context.unsynced.due(now);
        let mut sooner = |left: Duration| next = Some(next.map_or(left, |n| n.min(left)));
        let mut jobs: Vec<Job> = Vec::new();
        for producer in self.live_producers() {
            match producer.next_due() {
                Some(due) if due <= now => jobs.push(Job::Drain(producer)),
                Some(due) => sooner(due - now),
                None => {}
            }
        }
        // While somebody writes checkpoints, none are due.
        if let Some(checkpoints) = self.checkpoints.try_lock()
            && self.context.checkpoint_due.load(Ordering::SeqCst)
        {
            let due = checkpoints.written_at + CHECKPOINT_INTERVAL;
            if due <= now { jobs.push(Job::Checkpoint) } else { sooner(due - now) }
        }
        match self.groups.due(now) {
            (true, _) => jobs.push(Job::Groups),
            (false, left) => left.into_iter().for_each(&mut sooner),
        }
        jobs.extend(logs.into_iter().map(Job::Sync));
        // Nobody wakes for it: what is forgotten late does no harm.
        if *self.expired_at.lock() + EXPIRATION_INTERVAL <= now {
            jobs.push(Job::ExpireProducers);
        }
        #[cfg(feature = "metrics")]
        if let Some(due) = self.export_due() {
            if due <= now {
                jobs.push(Job::Export)
            } else {
                next = Some(next.map_or(due - now, |n| n.min(due - now)))
            }
        }
        (jobs, next)
    }

    fn run(&self, job: &Job) -> Result<()> {
        match job {
            Job::Drain(producer) => {
                producer.drain_due(self.context.clock.monotonic());
                Ok(())
            }
            Job::Sync(log) => log.sync_due(),
            Job::Checkpoint => self.write_checkpoints(),
            Job::ExpireProducers => {
                self.expire_producers();
                Ok(())
            }
            Job::Groups => self.groups.tick(),
            #[cfg(feature = "metrics")]
            Job::Export => {
                self.export();
                Ok(())
            }
        }
    }

    pub(super) fn maintain(&self) -> Result<super::Maintained> {
        if let Some(lookout) = &self.context.lookout {
            lookout.look_at_others();
            return Ok(super::Maintained { next_due: lookout.next_due() });
        }
        let (jobs, _) = self.due();
        let done = each(jobs.iter().map(|job| self.run(job)));
        let now = self.context.clock.monotonic();
        let done = match self.clean_due() <= now {
            true => done.and(self.clean_slice().map(drop)),
            false => done,
        };
        done.and(self.compaction_slice(&|| false))?;
        let clean = self.cleaner_due().saturating_sub(self.context.clock.monotonic());
        let next = self.due().1;
        Ok(super::Maintained { next_due: Some(next.map_or(clean, |next| next.min(clean))) })
    }
}

impl Shared {
    /// When there is something to delete or to compact, on the monotonic clock.
    fn cleaner_due(&self) -> Duration {
        let clean = self.clean_due();
        self.compaction_due().map_or(clean, |compaction| compaction.min(clean))
    }
}

/// The store's own threads.
pub(super) struct Threads {
    timer: JoinHandle<()>,
    cleaner: JoinHandle<()>,
    flushers: Arc<Flushers>,
    stop: Arc<AtomicBool>,
}

impl Threads {
    pub(super) fn start(shared: &Arc<Shared>, flush_threads: usize) -> Result<Threads> {
        let (jobs, taken) = unbounded();
        let flushers = Arc::new(Flushers {
            jobs: Mutex::new(Some(jobs)),
            taken,
            at_work: Mutex::default(),
            threads: Mutex::default(),
            threads_max: flush_threads,
        });
        let stop = Arc::new(AtomicBool::new(false));
        let timer = {
            let (shared, flushers, stop) = (Arc::clone(shared), Arc::clone(&flushers), Arc::clone(&stop));
            spawn("logstead-timer", move || run_timer(&shared, &flushers, &stop))?
        };
        let cleaner = {
            let (shared, stop) = (Arc::clone(shared), Arc::clone(&stop));
            spawn("logstead-clean", move || run_cleaner(&shared, &stop))
        };
        match cleaner {
            Ok(cleaner) => Ok(Threads { timer, cleaner, flushers, stop }),
            Err(error) => {
                stop.store(true, Ordering::SeqCst);
                shared.context.wake.wake_always();
                let _ = timer.join();
                Err(error)
            }
        }
    }

    /// Ends the threads; jobs that were handed out are done first.
    pub(super) fn stop(self, shared: &Shared) {
        self.stop.store(true, Ordering::SeqCst);
        shared.context.wake.wake_always();
        // A thread that panicked has nothing more to say.
        let _ = self.timer.join();
        shared.context.upkeep.wake.wake_always();
        let _ = self.cleaner.join();
        self.flushers.jobs.lock().take();
        for thread in std::mem::take(&mut *self.flushers.threads.lock()) {
            let _ = thread.join();
        }
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map_err(|error| Error::io(name.as_ref(), "start thread", &error))
}

fn run_timer(shared: &Arc<Shared>, flushers: &Arc<Flushers>, stop: &AtomicBool) {
    while !stop.load(Ordering::SeqCst) {
        shared.context.wake.fall_asleep();
        let now = shared.context.clock.monotonic();
        let (jobs, next) = shared.due();
        let busy = !jobs.is_empty();
        for job in jobs {
            flushers.hand_out(shared, job);
        }
        if !stop.load(Ordering::SeqCst) {
            let pause = if busy { TICK } else { next.map_or(IDLE, |next| next.clamp(TICK, IDLE)) };
            shared.context.wake.sleep(now, pause);
        }
    }
}

fn run_cleaner(shared: &Shared, stop: &AtomicBool) {
    while !stop.load(Ordering::SeqCst) {
        shared.context.upkeep.wake.fall_asleep();
        let (due, now) = (shared.cleaner_due(), shared.context.clock.monotonic());
        if due <= now {
            // What it could not do is told by `explain_retention`, and tried again. Deleting first: it makes room.
            if shared.clean_due() <= now {
                let _ = shared.clean_slice();
            }
            let _ = shared.compaction_slice(&|| stop.load(Ordering::SeqCst));
        } else if !stop.load(Ordering::SeqCst) {
            shared.context.upkeep.wake.sleep(now, (due - now).min(IDLE));
        }
    }
}

/// The threads that touch files, started when there is work for one more.
struct Flushers {
    /// `None` when the store closes.
    jobs: Mutex<Option<Sender<Job>>>,
    taken: Receiver<Job>,
    at_work: Mutex<HashSet<usize>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    threads_max: usize,
}

impl Flushers {
    fn hand_out(self: &Arc<Self>, shared: &Arc<Shared>, job: Job) {
        let at_work = {
            let mut at_work = self.at_work.lock();
            if !at_work.insert(job.key()) {
                return;
            }
            at_work.len()
        };
        let mut threads = self.threads.lock();
        if threads.len() < self.threads_max && threads.len() < at_work {
            let (flushers, shared) = (Arc::clone(self), Arc::clone(shared));
            let thread = spawn("logstead-flush", move || {
                for job in &flushers.taken {
                    // An error stays with the partition: whoever uses it next is told.
                    let _ = shared.run(&job);
                    flushers.at_work.lock().remove(&job.key());
                }
            });
            // Without a thread the job stays due and is tried again.
            match thread {
                Ok(thread) => threads.push(thread),
                Err(_) if threads.is_empty() => {
                    self.at_work.lock().remove(&job.key());
                    return;
                }
                Err(_) => {}
            }
        }
        if let Some(jobs) = &*self.jobs.lock() {
            // The receiver lives as long as this.
            let _ = jobs.send(job);
        }
    }
}
