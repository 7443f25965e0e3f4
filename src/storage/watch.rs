//! Sleeping until a directory changes: inotify on Linux; elsewhere, and where the system refuses, the caller looks
//! from time to time.
//!
//! Invariants:
//! - A change that happens after [`Watch::watch`] returned is reported, once; then the directory is watched no more.
//! - While nobody watches nothing is reported and nothing piles up.
//! - A [`Watch::wake`] that comes before the sleep counts.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::sync::{Condvar, Mutex};

/// What was reported.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Changes {
    /// In these directories, by the numbers that [`Watch::watch`] gave; empty when the time was up. `true`: of names,
    /// not of bytes.
    In(Vec<(i32, bool)>),
    /// Perhaps anywhere: the system lost count.
    Anywhere,
}

/// Somebody who is told of changes made by other processes.
pub(crate) trait Watch: fmt::Debug + Send + Sync {
    /// Has the next change in a directory reported: bytes written, a name that comes or goes. `None` when that is not
    /// to be had: look from time to time.
    fn watch(&self, dir: &Path) -> Option<i32>;
    /// Sleeps until there is a report, or a `wake`, or the time is up. For one thread at a time.
    fn wait(&self, timeout: Option<Duration>) -> Changes;
    /// Ends the sleep of now, or else the next.
    fn wake(&self);
}

/// Where no directory can be watched: a sleep that can be ended.
#[derive(Debug, Default)]
pub(super) struct Timer {
    woken: Mutex<bool>,
    wakes: Condvar,
}

impl Watch for Timer {
    fn watch(&self, _dir: &Path) -> Option<i32> {
        None
    }

    fn wait(&self, timeout: Option<Duration>) -> Changes {
        let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut woken = self.woken.lock();
        while !*woken {
            match until {
                None => self.wakes.wait(&mut woken),
                Some(until) if self.wakes.wait_until(&mut woken, until).timed_out() => break,
                Some(_) => {}
            }
        }
        *woken = false;
        Changes::In(Vec::new())
    }

    fn wake(&self) {
        *self.woken.lock() = true;
        self.wakes.notify_all();
    }
}

/// The best that the system has.
pub(super) fn of_the_system() -> Box<dyn Watch> {
    #[cfg(target_os = "linux")]
    if let Ok(watch) = linux::Inotify::new() {
        return Box::new(watch);
    }
    Box::new(Timer::default())
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::HashMap;
    use std::mem::MaybeUninit;
    use std::os::fd::OwnedFd;
    use std::path::Path;
    use std::time::Duration;

    use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
    use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

    use super::{Changes, Watch};
    use crate::sync::Mutex;

    /// One inotify instance, and a descriptor that ends its sleep.
    #[derive(Debug)]
    pub(super) struct Inotify {
        events: OwnedFd,
        wakes: OwnedFd,
        /// Directories whose change was read, and not yet that their watch has ended. Until then a new watch would be
        /// the old one, and end with it.
        ending: Mutex<HashMap<i32, bool>>,
    }

    impl Inotify {
        pub(super) fn new() -> rustix::io::Result<Inotify> {
            Ok(Inotify {
                events: inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?,
                wakes: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
                ending: Mutex::default(),
            })
        }

        fn drain(&self) -> Changes {
            let mut changed = Vec::new();
            let mut ending = self.ending.lock();
            let mut buffer = [MaybeUninit::uninit(); 4_096];
            let mut events = inotify::Reader::new(&self.events, &mut buffer);
            // It ends with "would block"; after any other error there is nothing to be had either.
            while let Ok(event) = events.next() {
                let (number, what) = (event.wd(), event.events());
                if what.contains(ReadFlags::QUEUE_OVERFLOW) {
                    ending.clear();
                    return Changes::Anywhere;
                }
                if what.contains(ReadFlags::IGNORED) {
                    changed.push((number, ending.remove(&number).unwrap_or(true)));
                } else {
                    ending.insert(number, !what.contains(ReadFlags::MODIFY));
                }
            }
            Changes::In(changed)
        }
    }

    impl Watch for Inotify {
        fn watch(&self, dir: &Path) -> Option<i32> {
            let flags = WatchFlags::MODIFY
                | WatchFlags::CREATE
                | WatchFlags::DELETE
                | WatchFlags::MOVE
                | WatchFlags::DELETE_SELF
                | WatchFlags::MOVE_SELF
                | WatchFlags::ONLYDIR
                | WatchFlags::ONESHOT;
            inotify::add_watch(&self.events, dir, flags).ok()
        }

        fn wait(&self, timeout: Option<Duration>) -> Changes {
            // Too long for the system's clock is for ever.
            let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
            let mut both = [&self.events, &self.wakes].map(|fd| PollFd::new(fd, PollFlags::IN));
            // Interrupted, or out of memory: who waits looks and comes again.
            let _ = poll(&mut both, timeout.as_ref());
            let _ = rustix::io::read(&self.wakes, &mut [0; 8]);
            self.drain()
        }

        fn wake(&self) {
            // It fails only when it is full of wakes already.
            let _ = rustix::io::write(&self.wakes, &1_u64.to_ne_bytes());
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "the room of the disk")]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;
    use std::sync::mpsc;

    const LONG: Option<Duration> = Some(Duration::from_secs(20));
    const NOW: Option<Duration> = Some(Duration::ZERO);

    #[test]
    fn a_wake_before_the_sleep_counts_and_one_during_it_ends_it() {
        for watch in [Box::<Timer>::default() as Box<dyn Watch>, of_the_system()] {
            watch.wake();
            assert_eq!(watch.wait(None), Changes::In(vec![]));
            let (asleep, sleeps) = mpsc::channel();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    asleep.send(()).unwrap();
                    watch.wait(None)
                });
                sleeps.recv().unwrap();
                watch.wake();
            });
            assert_eq!(watch.wait(NOW), Changes::In(vec![]));
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_directory_watched_again_at_once_is_watched() {
        let home = tempfile::tempdir().unwrap();
        let (watch, file) = (of_the_system(), std::fs::File::create(home.path().join("f")).unwrap());
        let (go, goes) = mpsc::channel();
        std::thread::scope(|scope| {
            let (watch, file) = (&watch, &file);
            scope.spawn(move || {
                for len in goes {
                    // The second while the report of the first ends the watch.
                    file.write_at(b"x", len - 2).unwrap();
                    file.write_at(b"y", len - 1).unwrap();
                }
            });
            for len in (2..40_000).step_by(2) {
                let mut number = watch.watch(home.path()).unwrap();
                go.send(len).unwrap();
                while file.metadata().unwrap().len() < len {
                    // Awake, so that it reads the report before the system is done with it.
                    let asked = Instant::now();
                    let reported =
                        |changes| matches!(changes, Changes::In(all) if all.contains(&(number, false)));
                    while !reported(watch.wait(NOW)) {
                        assert!(Some(asked.elapsed()) < LONG, "the change to {len} bytes was not reported");
                    }
                    number = watch.watch(home.path()).unwrap();
                }
            }
            drop(go);
        });
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn every_kind_of_change_is_reported_once_until_it_is_watched_again() {
        let home = tempfile::tempdir().unwrap();
        let (dir, other) = (home.path().join("a"), home.path().join("b"));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::create_dir_all(&other).unwrap();
        let watch = of_the_system();
        // It may end in between with nothing to say.
        let wait_long =
            || std::iter::repeat_with(|| watch.wait(LONG)).find(|c| *c != Changes::In(vec![])).unwrap();
        let change = |names: bool, change: &dyn Fn()| {
            let number = watch.watch(&dir).unwrap();
            assert_eq!(watch.wait(NOW), Changes::In(vec![]), "nothing happened yet");
            change();
            assert_eq!(wait_long(), Changes::In(vec![(number, names)]));
            assert_eq!(watch.wait(NOW), Changes::In(vec![]), "reported already");
        };
        watch.watch(&other).unwrap();
        change(true, &|| std::fs::write(dir.join("f"), b"").unwrap());
        change(false, &|| std::fs::write(dir.join("f"), b"bytes").unwrap());
        change(false, &|| {
            std::fs::File::options().write(true).open(dir.join("f")).unwrap().set_len(1).unwrap()
        });
        change(true, &|| std::fs::rename(dir.join("f"), dir.join("g")).unwrap());
        change(true, &|| std::fs::remove_file(dir.join("g")).unwrap());
        change(true, &|| std::fs::remove_dir(&dir).unwrap());
        assert_eq!(watch.watch(&dir), None, "it is gone");
    }
}
