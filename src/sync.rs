//! The locks and atomics that the crate uses: the one place where a concurrency checker is switched in.
//!
//! With `--cfg logstead_shuttle` they are those of shuttle, which runs a test under many schedules and reports those
//! that end in a deadlock: see `src/store/schedules.rs`.

use crate::error::{Error, Result};

pub(crate) use std::sync::{Arc, Weak};

#[cfg(not(logstead_shuttle))]
pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
#[cfg(not(logstead_shuttle))]
pub(crate) use std::sync::OnceLock;
#[cfg(not(logstead_shuttle))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering};

#[cfg(logstead_shuttle)]
pub(crate) use checked::{Condvar, Mutex, MutexGuard, OnceLock, RwLock};
#[cfg(logstead_shuttle)]
pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// Calls `f` for every item, on up to `threads` threads of which the caller's is one; whatever fails, all are done. The
/// first error in the order of the items.
pub(crate) fn in_parallel<T: Sync>(
    threads: usize,
    items: &[T],
    f: impl Fn(&T) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let failed: Mutex<Option<(usize, Error)>> = Mutex::new(None);
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { return };
            if let Err(error) = f(item) {
                let mut failed = failed.lock();
                if failed.as_ref().is_none_or(|(first, _)| at < *first) {
                    *failed = Some((at, error));
                }
            }
        }
    };
    let helpers = if cfg!(logstead_shuttle) { 0 } else { threads.min(items.len()).saturating_sub(1) };
    std::thread::scope(|scope| {
        for _ in 0..helpers {
            // Without one the others do its share.
            let _ = std::thread::Builder::new().name("logstead-flush".to_owned()).spawn_scoped(scope, work);
        }
        work();
    });
    let failed = failed.lock().take();
    failed.map_or(Ok(()), |(_, error)| Err(error))
}

/// parking_lot's interface over shuttle's locks, as far as it is used here.
#[cfg(logstead_shuttle)]
mod checked {
    use shuttle::sync as theirs;
    use std::ops::{Deref, DerefMut};
    use std::time::Instant;

    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(theirs::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) const fn new(value: T) -> Self {
            Mutex(theirs::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            MutexGuard(self.0.lock().ok())
        }

        pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
            self.0.try_lock().ok().map(|guard| MutexGuard(Some(guard)))
        }
    }

    /// Empty only while its owner waits.
    pub(crate) struct MutexGuard<'m, T>(Option<theirs::MutexGuard<'m, T>>);

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            self.0.as_ref().expect("not waiting")
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.0.as_mut().expect("not waiting")
        }
    }

    /// std's, with the checker's lock around what fills it: std's own would block every thread of the checker.
    #[derive(Debug)]
    pub(crate) struct OnceLock<T> {
        value: std::sync::OnceLock<T>,
        filling: Mutex<()>,
    }

    impl<T> Default for OnceLock<T> {
        fn default() -> Self {
            OnceLock::new()
        }
    }

    impl<T> OnceLock<T> {
        pub(crate) const fn new() -> Self {
            OnceLock { value: std::sync::OnceLock::new(), filling: Mutex::new(()) }
        }

        pub(crate) fn get(&self) -> Option<&T> {
            self.value.get()
        }

        pub(crate) fn set(&self, value: T) -> Result<(), T> {
            self.value.set(value)
        }

        pub(crate) fn get_or_init(&self, fill: impl FnOnce() -> T) -> &T {
            let _filling = self.filling.lock();
            match self.value.get() {
                Some(value) => value,
                None => {
                    let value = fill();
                    self.value.get_or_init(|| value)
                }
            }
        }
    }

    #[derive(Debug, Default)]
    pub(crate) struct Condvar(theirs::Condvar);

    /// Time stands still under the checker: a wait that is never ended is a deadlock, which is what it looks for.
    pub(crate) struct NeverTimedOut;

    impl NeverTimedOut {
        pub(crate) fn timed_out(&self) -> bool {
            false
        }
    }

    impl Condvar {
        pub(crate) fn new() -> Self {
            Condvar::default()
        }

        pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
            guard.0 = guard.0.take().and_then(|held| self.0.wait(held).ok());
        }

        pub(crate) fn wait_until<T>(
            &self,
            guard: &mut MutexGuard<'_, T>,
            _deadline: Instant,
        ) -> NeverTimedOut {
            self.wait(guard);
            NeverTimedOut
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }
    }

    #[derive(Debug, Default)]
    pub(crate) struct RwLock<T>(theirs::RwLock<T>);

    impl<T> RwLock<T> {
        pub(crate) fn new(value: T) -> Self {
            RwLock(theirs::RwLock::new(value))
        }

        pub(crate) fn read(&self) -> theirs::RwLockReadGuard<'_, T> {
            self.0.read().expect("no thread panicked")
        }

        pub(crate) fn try_read(&self) -> Option<theirs::RwLockReadGuard<'_, T>> {
            self.0.try_read().ok()
        }

        pub(crate) fn try_write(&self) -> Option<theirs::RwLockWriteGuard<'_, T>> {
            self.0.try_write().ok()
        }

        pub(crate) fn write(&self) -> theirs::RwLockWriteGuard<'_, T> {
            self.0.write().expect("no thread panicked")
        }
    }
}
