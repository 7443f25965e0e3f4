//! How readers sleep until a partition has more: one bell per reader, rung by whoever moves the high watermark.
//!
//! The one who publishes stores the high watermark, then looks at a counter; the one who sleeps raises the counter,
//! then looks at the high watermark. Both sequentially consistent: one of the two sees the other.

use std::time::Instant;

use crate::sync::{Arc, AtomicUsize, Condvar, Mutex, Ordering, Weak};

/// What a reader sleeps on.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    rung: Mutex<bool>,
    ringing: Condvar,
}

impl Bell {
    pub(crate) fn ring(&self) {
        *self.rung.lock() = true;
        self.ringing.notify_all();
    }

    /// Sleeps until the bell is rung or the time is up; a ring before the call counts.
    pub(crate) fn wait_until(&self, deadline: Instant) {
        let mut rung = self.rung.lock();
        while !*rung {
            if self.ringing.wait_until(&mut rung, deadline).timed_out() {
                break;
            }
        }
        *rung = false;
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

    /// Called after the high watermark was stored; free when nobody sleeps.
    pub(crate) fn ring(&self) {
        if self.sleeping.load(Ordering::SeqCst) > 0 {
            for bell in self.bells.lock().iter().filter_map(Weak::upgrade) {
                bell.ring();
            }
        }
    }
}
