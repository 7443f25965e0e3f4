//! All topics of a store by name, for those who know only names.

use std::collections::HashMap;
use std::fmt;

use super::TopicInner;
use crate::error::{ErrorKind, Result, each};
use crate::log::Bells;
use crate::sync::{Arc, AtomicBool, AtomicU64, AtomicUsize, OnceLock, Ordering, RwLock};

/// Looks whether a topic was made or deleted elsewhere.
type LookForTopic = Box<dyn Fn(&str) -> Result<()> + Send + Sync>;

/// The topics of a store.
#[derive(Default)]
pub(crate) struct Topics {
    by_name: RwLock<HashMap<Arc<str>, Arc<TopicInner>>>,
    next_index: AtomicUsize,
    closed: AtomicBool,
    /// Counts what was made, deleted and given partitions.
    version: AtomicU64,
    /// Those who want to know of that.
    changes: Bells,
    /// Takes up what another process did to the topics, before this one is looked up.
    follow: OnceLock<LookForTopic>,
}

impl Topics {
    /// Has `follow` called, with the name, before a topic is looked up.
    pub(crate) fn follow_by(&self, follow: impl Fn(&str) -> Result<()> + Send + Sync + 'static) {
        // Called once, by whoever made this.
        let _ = self.follow.set(Box::new(follow));
    }

    pub(crate) fn get(&self, name: &str) -> Result<Arc<TopicInner>> {
        if let Some(follow) = self.follow.get() {
            follow(name)?;
        }
        self.known(name)
    }

    /// A topic, as far as it was known before.
    pub(crate) fn known(&self, name: &str) -> Result<Arc<TopicInner>> {
        match self.by_name.read().get(name) {
            _ if self.is_closed() => Err(ErrorKind::Closed.into()),
            Some(topic) => Ok(Arc::clone(topic)),
            None => Err(ErrorKind::UnknownTopic { topic: name.to_owned() }.into()),
        }
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.by_name.read().contains_key(name)
    }

    /// An index for a topic that is to be inserted; none is given twice.
    pub(crate) fn next_index(&self) -> usize {
        self.next_index.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn remove(&self, name: &str) {
        self.by_name.write().remove(name);
        self.version.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn insert(&self, topic: &Arc<TopicInner>) {
        self.by_name.write().insert(topic.name.shared(), Arc::clone(topic));
        self.version.fetch_add(1, Ordering::SeqCst);
    }

    /// Another number after every change of what topics and partitions there are.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::SeqCst)
    }

    /// What rings after such a change.
    pub(crate) fn changes(&self) -> &Bells {
        &self.changes
    }

    /// Tells of a change. Tasks of users are woken: with no lock held.
    pub(crate) fn tell_change(&self) {
        self.version.fetch_add(1, Ordering::SeqCst);
        self.changes.ring();
    }

    /// All of them, by name.
    pub(crate) fn sorted(&self) -> Vec<Arc<TopicInner>> {
        let mut topics: Vec<_> = self.by_name.read().values().map(Arc::clone).collect();
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        topics
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Closes every partition; the first error is returned.
    pub(crate) fn close(&self) -> Result<()> {
        self.closed.store(true, Ordering::Release);
        each(self.sorted().iter().map(|topic| topic.close()))
    }
}

impl fmt::Debug for Topics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topics").field("by_name", &self.by_name).finish_non_exhaustive()
    }
}
