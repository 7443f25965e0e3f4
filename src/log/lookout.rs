//! Who looks for readers that sleep, in a store that was opened read-only: nobody of this process writes, so nobody
//! rings their bells.
//!
//! A thread of its own (`logstead-follow`, from the first sleep on) waits for the system to report a change in the
//! directory of a log that somebody sleeps on, looks, and rings. What the system does not watch is looked at every
//! [`FOLLOW_INTERVAL`]. Hosts that forbid threads have it done by whoever sleeps, and by `maintain`.
//!
//! Invariants:
//! - A log is announced before its sleeper looks a last time: what changes after that look is reported.
//! - While nobody sleeps nobody looks, and nothing is reported twice.
//! - No lock is held while a log is looked at.

use std::collections::HashMap;
use std::path::Path;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use super::Log;
use crate::limits::FOLLOW_INTERVAL;
use crate::storage::{Changes, Storage, Watch};
use crate::sync::{Arc, AtomicBool, Mutex, OnceLock, Ordering, Weak};

/// What the logs of a read-only store, and the sleepers on them, share.
#[derive(Debug)]
pub(crate) struct Lookout {
    storage: Arc<dyn Storage>,
    /// From the first sleep on.
    watch: OnceLock<Box<dyn Watch>>,
    state: Mutex<State>,
    /// The store does without this thread.
    by_hand: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// Logs that the system watches, by its number.
    watched: HashMap<i32, Weak<Log>>,
    /// Logs to look at from time to time.
    others: Vec<Weak<Log>>,
    thread: Option<JoinHandle<()>>,
    stopped: bool,
}

impl State {
    /// The logs that changes concern, and whether names changed; they are watched no more.
    fn take(&mut self, changes: Changes) -> Vec<(Weak<Log>, bool)> {
        match changes {
            Changes::In(found) => found
                .iter()
                .filter_map(|(number, names)| Some((self.watched.remove(number)?, *names)))
                .collect(),
            Changes::Anywhere => {
                std::mem::take(&mut self.watched).into_values().map(|log| (log, true)).collect()
            }
        }
    }
}

impl Lookout {
    /// With a thread of its own, or without.
    pub(crate) fn new(storage: &Arc<dyn Storage>, own_thread: bool) -> Arc<Lookout> {
        Arc::new(Lookout {
            storage: Arc::clone(storage),
            watch: OnceLock::new(),
            state: Mutex::default(),
            by_hand: AtomicBool::new(!own_thread),
        })
    }

    fn watch(&self) -> &dyn Watch {
        self.watch.get_or_init(|| self.storage.watch()).as_ref()
    }

    /// Whoever sleeps must look by itself every [`FOLLOW_INTERVAL`].
    pub(crate) fn is_by_hand(&self) -> bool {
        self.by_hand.load(Ordering::Acquire)
    }

    /// To be called by a sleeper, before it looks a last time.
    pub(crate) fn announce(self: &Arc<Self>, log: &Arc<Log>) {
        let Some(follow) = &log.follow else { return };
        if !follow.announced.swap(true, Ordering::SeqCst) {
            self.start();
            if !self.take_on(log, &log.dir) {
                // The directory may be gone: then nothing would be reported. Its error wakes the sleeper.
                let _ = log.look_closely(true);
            }
        }
    }

    /// Has changes of a log reported; `false`: it is looked at from time to time instead.
    fn take_on(&self, log: &Arc<Log>, dir: &Path) -> bool {
        // With the state locked: a report that comes at once finds the log.
        let mut state = self.state.lock();
        let number = if self.is_by_hand() { None } else { self.watch().watch(dir) };
        match number {
            Some(number) => {
                state.watched.insert(number, Arc::downgrade(log));
                true
            }
            None => {
                state.others.push(Arc::downgrade(log));
                if state.others.len() == 1 && !self.is_by_hand() {
                    self.watch().wake();
                }
                false
            }
        }
    }

    fn start(self: &Arc<Self>) {
        let mut state = self.state.lock();
        if state.thread.is_some() || state.stopped || self.is_by_hand() {
            return;
        }
        let lookout = Arc::clone(self);
        match Builder::new().name("logstead-follow".to_owned()).spawn(move || lookout.run()) {
            Ok(thread) => state.thread = Some(thread),
            // No thread is to be had: the sleepers do it.
            Err(_) => self.by_hand.store(true, Ordering::Release),
        }
    }

    fn run(&self) {
        loop {
            let idle = self.state.lock().others.is_empty();
            let changes = self.watch().wait(if idle { None } else { Some(FOLLOW_INTERVAL) });
            let reported = {
                let mut state = self.state.lock();
                if state.stopped {
                    return;
                }
                state.take(changes)
            };
            for (log, names) in reported.iter().filter_map(|(log, names)| Some((log.upgrade()?, *names))) {
                self.look_again(&log, names);
            }
            self.look_at_others();
        }
    }

    /// Looks at a log whose change was reported, and has the next one reported too if somebody still sleeps on it.
    fn look_again(&self, log: &Arc<Log>, names: bool) {
        let Some(follow) = &log.follow else { return };
        follow.announced.store(false, Ordering::SeqCst);
        let wanted = log.bells.have_sleepers() && !follow.announced.swap(true, Ordering::SeqCst);
        let unwatched = wanted && !self.take_on(log, &log.dir);
        look_for_sleepers(log, names || unwatched);
    }

    /// Looks at the logs that nobody watches, as long as somebody sleeps on them.
    pub(crate) fn look_at_others(&self) {
        let mut slept_on = Vec::new();
        self.state.lock().others.retain(|log| {
            let Some(log) = log.upgrade() else { return false };
            if let Some(follow) = log.follow.as_ref().filter(|_| !log.bells.have_sleepers()) {
                follow.announced.store(false, Ordering::SeqCst);
                // A sleeper that saw it announced a moment ago counts on this list.
                if !log.bells.have_sleepers() || follow.announced.swap(true, Ordering::SeqCst) {
                    return false;
                }
            }
            slept_on.push(log);
            true
        });
        slept_on.iter().for_each(|log| look_for_sleepers(log, false));
    }

    /// Ends the thread.
    pub(crate) fn stop(&self) {
        let thread = {
            let mut state = self.state.lock();
            state.stopped = true;
            state.thread.take()
        };
        let Some(thread) = thread else { return };
        self.watch().wake();
        // A task that it woke may have dropped the store.
        if thread.thread().id() != std::thread::current().id() {
            // A thread that panicked has nothing more to say.
            let _ = thread.join();
        }
    }

    /// When the next look is due, by who looks by hand.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        (!self.state.lock().others.is_empty()).then_some(FOLLOW_INTERVAL)
    }
}

/// Looks on behalf of those who sleep. An error, and whether the settings were changed, is their business: they are
/// woken, look, and find out. Nobody who looks for himself is woken by that, or he would never sleep.
fn look_for_sleepers(log: &Log, names: bool) {
    let _ = log.look_closely(names);
    if log.is_unsure() {
        log.bells.ring();
    }
}
