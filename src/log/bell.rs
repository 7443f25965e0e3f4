//! How readers sleep until a partition has more: one bell per reader, rung by whoever moves the high watermark.
//!
//! The one who publishes stores the high watermark, then looks at a counter; the one who sleeps raises the counter,
//! then looks at the high watermark. Both sequentially consistent: one of the two sees the other.

use std::task;
use std::time::Instant;

use super::callback;
use crate::sync::{Arc, AtomicUsize, Condvar, Mutex, Ordering, Weak};

/// What a reader sleeps on: a thread, or a task of an async runtime.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    state: Mutex<State>,
    ringing: Condvar,
}

#[derive(Debug, Default)]
struct State {
    rung: bool,
    task: Option<task::Waker>,
}

impl Bell {
    pub(crate) fn ring(&self) {
        let task = {
            let mut state = self.state.lock();
            state.rung = true;
            state.task.take()
        };
        self.ringing.notify_all();
        // A runtime's code: with no lock held.
        if let Some(task) = task {
            task.wake();
        }
    }

    /// Sleeps until the bell is rung or the time is up; a ring before the call counts.
    pub(crate) fn wait_until(&self, deadline: Instant) {
        let mut state = self.state.lock();
        while !state.rung {
            if self.ringing.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        state.rung = false;
    }

    /// Has the task woken by the next ring.
    pub(crate) fn wake_task(&self, task: &task::Waker) {
        // A runtime's code, here and where the one before is dropped: with no lock held.
        let task = Some(task.clone());
        let before = {
            let mut state = self.state.lock();
            state.rung = false;
            std::mem::replace(&mut state.task, task)
        };
        drop(before);
    }
}

/// The bells that hang on one partition.
#[derive(Debug, Default)]
pub(crate) struct Bells {
    sleeping: AtomicUsize,
    bells: Mutex<Vec<Weak<Bell>>>,
}

impl Bells {
    /// Hangs a bell; it is taken off when its owner is gone.
    pub(crate) fn hang(&self, bell: &Arc<Bell>) {
        let mut bells = self.bells.lock();
        bells.retain(|bell| bell.strong_count() > 0);
        bells.push(Arc::downgrade(bell));
    }

    pub(crate) fn take_off(&self, bell: &Arc<Bell>) {
        self.bells
            .lock()
            .retain(|hung| hung.strong_count() > 0 && !std::ptr::eq(hung.as_ptr(), Arc::as_ptr(bell)));
    }

    /// Announces a sleeper; the caller looks at the high watermark once more before it sleeps.
    pub(crate) fn sleep(&self) {
        self.sleeping.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn awake(&self) {
        self.sleeping.fetch_sub(1, Ordering::SeqCst);
    }

    pub(crate) fn have_sleepers(&self) -> bool {
        self.sleeping.load(Ordering::SeqCst) > 0
    }

    /// Called after the high watermark was stored; free when nobody sleeps.
    pub(crate) fn ring(&self) {
        if self.have_sleepers() {
            let hung: Vec<Arc<Bell>> = self.bells.lock().iter().filter_map(Weak::upgrade).collect();
            for bell in hung {
                callback::tell(callback::Told::Reader(bell));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    /// The last handle of a task, with all that the task owned.
    struct Task(Arc<Bell>);

    impl task::Wake for Task {
        fn wake(self: Arc<Self>) {}
    }

    impl Drop for Task {
        fn drop(&mut self) {
            self.0.ring();
        }
    }

    #[test]
    fn a_task_that_gives_way_to_another_is_dropped_with_no_lock_held() {
        let (done, waited) = mpsc::channel();
        std::thread::spawn(move || {
            let bell = Arc::new(Bell::default());
            bell.wake_task(&Arc::new(Task(Arc::clone(&bell))).into());
            bell.wake_task(task::Waker::noop());
            done.send(bell.state.lock().rung)
        });
        assert!(waited.recv_timeout(Duration::from_secs(10)).unwrap());
    }
}
