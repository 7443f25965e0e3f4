//! The topics of a read-only store: those that the writer, in another process, made, changed and deleted since.
//!
//! Invariants:
//! - The catalog is read before and after the directories are listed, until both say the same: a topic that is made or
//!   deleted meanwhile is not taken for another.
//! - A topic that was deleted, or made anew, is another one: handles of the old one say so.

use super::{RecoveryReport, Shared, open};
use crate::error::Result;
use crate::sync::{Arc, Ordering};
use crate::topic::catalog::{Catalog, TopicState};
use crate::types::TopicName;

/// Has topics looked for whenever one is asked for.
pub(super) fn begin(shared: &Arc<Shared>) {
    let followed = Arc::downgrade(shared);
    shared
        .topics
        .follow_by(move |name| followed.upgrade().map_or(Ok(()), |shared| shared.follow_topics(Some(name))));
}

impl Shared {
    /// Takes up what the writer did to its topics. Of one that is known, the catalog alone tells whether it changed.
    pub(super) fn follow_topics(&self, name: Option<&str>) -> Result<()> {
        if !self.context.read_only || self.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut catalog = self.catalog.lock();
        let now = open::read_catalog(&self.context, &mut RecoveryReport::default())?;
        if now.topics == catalog.topics && name.is_some_and(|name| self.is_up_to_date(&now, name)) {
            return Ok(());
        }
        let found = open::open(&self.context)?;
        *catalog = found.catalog;
        let mut gone = Vec::new();
        for topic in found.topics.sorted() {
            match self.topics.known(topic.name.as_str()) {
                Ok(known) if known.is_same(&topic) => known.follow(&topic),
                known => {
                    self.topics.insert(&topic);
                    gone.extend(known);
                }
            }
        }
        for known in self.topics.sorted().iter().filter(|known| !found.topics.contains(known.name.as_str())) {
            self.topics.remove(known.name.as_str());
            gone.push(Arc::clone(known));
        }
        // It wakes tasks of users: with no lock held.
        drop(catalog);
        gone.iter().for_each(|topic| topic.delete());
        Ok(())
    }

    fn is_up_to_date(&self, catalog: &Catalog, name: &str) -> bool {
        let entry = TopicName::new(name).ok().and_then(|name| catalog.topics.get(&name));
        entry.is_some_and(|entry| entry.state == TopicState::Ready) && self.topics.contains(name)
    }
}
