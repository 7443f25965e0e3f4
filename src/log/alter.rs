//! Other settings for a log that is in use.
//!
//! Invariants:
//! - Settings change with the tail locked: a write goes by one or the other.
//! - The high watermark never moves back. What was committed when the topic was a `PageCache` one stays so, and is
//!   called safe on the disk ([`Log::durability`]) once it was synced.
//! - Readers in other processes hold to `logstead-committed` where it says something: it does so before the first
//!   record that must be synced, and no more once records need not be.

use super::Log;
use crate::config::TopicConfig;
use crate::error::Result;
use crate::sync::{Arc, Ordering};
use crate::types::Durability;

impl Log {
    /// Goes by `config` from the next append on.
    pub(crate) fn set_config(self: &Arc<Self>, config: &Arc<TopicConfig>) {
        if self.context.read_only {
            *self.config.write() = Arc::clone(config);
            return;
        }
        let becomes = Some(config.durability).filter(|new| *new != self.config().durability);
        if becomes == Some(Durability::Disk) {
            self.open_committed_file();
            self.begin_to_tell();
        }
        {
            let mut tail = self.tail.lock();
            let before = std::mem::replace(&mut *self.config.write(), Arc::clone(config));
            if (before.roll_ms(), before.segment_jitter_ms) != (config.roll_ms(), config.segment_jitter_ms) {
                tail.segment_ms = self.jittered_segment_ms(config);
            }
            // After a failed sync nobody knows what the system still has.
            if config.durability == Durability::PageCache && self.failure().is_none() {
                for segment in self.segments.read().iter() {
                    segment.show(segment.written());
                }
                self.high_watermark.fetch_max(tail.next_offset, Ordering::SeqCst);
            }
        }
        if becomes == Some(Durability::PageCache) {
            self.cease_to_tell();
        }
        self.flush.wake_all();
        self.bells.ring();
        self.run_completions();
    }

    /// Makes everything durable that was appended before the call, whatever the topic promises.
    pub(crate) fn sync_all(self: &Arc<Self>) -> Result<()> {
        self.sync_everything().map(drop)
    }
}
