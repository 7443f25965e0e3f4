//! One assigned partition: where its reader stands, and what was fetched ahead of that.

use crate::config::{AutoOffsetReset, ConsumerConfig};
use crate::error::{ErrorKind, Result};
use crate::log::{Log, ReadOptions, Records};
use crate::sync::Arc;
use crate::topic::TopicInner;
use crate::types::Offset;

#[derive(Debug)]
pub(super) struct Assigned {
    pub(super) topic: Arc<TopicInner>,
    pub(super) partition: i32,
    pub(super) paused: bool,
    /// It begins where the group stands, which is not looked up yet.
    pub(super) awaits_commit: bool,
    /// What is known to be committed, durably.
    pub(super) committed: Option<Offset>,
    /// The offset that comes next; `None`: as `auto.offset.reset` says.
    position: Option<Offset>,
    /// Fetched and not returned yet; begins at `position`.
    fetched: Records,
}

impl Assigned {
    pub(super) fn new(topic: Arc<TopicInner>, partition: i32) -> Self {
        Assigned {
            topic,
            partition,
            paused: false,
            awaits_commit: false,
            committed: None,
            position: None,
            fetched: Records::default(),
        }
    }

    /// One that begins where the consumer's group stands.
    pub(super) fn of_group(topic: Arc<TopicInner>, partition: i32) -> Self {
        Assigned { awaits_commit: true, ..Assigned::new(topic, partition) }
    }

    /// Begins at what the group committed; `None`: nothing. `alone`: nobody else commits it.
    pub(super) fn start_at(&mut self, committed: Option<Offset>, alone: bool) {
        self.awaits_commit = false;
        self.committed = committed.filter(|_| alone);
        self.position = committed.or(self.position);
    }

    /// The position, if it is known and not what is committed.
    pub(super) fn uncommitted(&self) -> Option<Offset> {
        self.position.filter(|position| Some(*position) != self.committed)
    }

    pub(super) fn log(&self) -> Result<Arc<Log>> {
        self.topic.log(self.partition)
    }

    /// Whether what is written to it passes through this store.
    pub(super) fn is_written_here(&self) -> bool {
        !self.topic.context.read_only
    }

    pub(super) fn is(&self, topic: &str, partition: i32) -> bool {
        self.partition == partition && self.topic.name.as_str() == topic
    }

    /// Goes on at `offset`; what was fetched is forgotten.
    pub(super) fn seek(&mut self, offset: Offset) {
        self.position = Some(offset);
        self.awaits_commit = false;
        self.fetched = Records::default();
    }

    /// Whether records that a reader may see lie behind the position.
    pub(super) fn has_more(&self, config: &ConsumerConfig) -> bool {
        if self.paused {
            return false;
        }
        let end = self.log().and_then(|log| log.read_end(config.isolation_level));
        end.is_ok_and(|end| self.position.is_some_and(|position| end > position))
    }

    /// At most `records_max` records, fetched if nothing is left of the last fetch.
    pub(super) fn take(
        &mut self,
        records_max: usize,
        bytes_max: usize,
        config: &ConsumerConfig,
    ) -> Result<Records> {
        if self.fetched.is_empty() {
            self.fetch(bytes_max, config)?;
        }
        let records = self.fetched.take_front(records_max);
        if let Some(next) = records.next_offset() {
            self.position = Some(next);
        }
        Ok(records)
    }

    /// Whether everything fetched was returned: the next partition's turn.
    pub(super) fn is_drained(&self) -> bool {
        self.fetched.is_empty()
    }

    fn fetch(&mut self, bytes_max: usize, config: &ConsumerConfig) -> Result<()> {
        let log = self.log()?;
        let mut position = self.position(&log, config.auto_offset_reset)?;
        if log.high_watermark() < position && position <= log.log_end() {
            // Given out and not committed yet: it comes.
            return Ok(());
        }
        let options = ReadOptions {
            max_bytes: bytes_max.min(config.max_partition_fetch_bytes),
            check_crcs: config.check_crcs,
            isolation_level: config.isolation_level,
        };
        loop {
            let records = match log.read(position, options) {
                Err(error) if matches!(error.kind(), ErrorKind::OffsetOutOfRange { .. }) => {
                    self.position = None;
                    match self.position(&log, config.auto_offset_reset) {
                        Ok(again) if again != position => {
                            position = again;
                            continue;
                        }
                        _ => {
                            self.position = Some(position);
                            return Err(error);
                        }
                    }
                }
                other => other?,
            };
            let Some(next) = records.next_offset() else { return Ok(()) };
            if !records.is_empty() {
                self.fetched = records;
                return Ok(());
            }
            // Markers, or what was aborted: what follows is what is asked for.
            position = next;
            self.position = Some(position);
        }
    }

    pub(super) fn position(&mut self, log: &Log, reset: AutoOffsetReset) -> Result<Offset> {
        if let Some(position) = self.position {
            return Ok(position);
        }
        let position = match reset {
            AutoOffsetReset::Earliest => log.log_start(),
            AutoOffsetReset::Latest => log.high_watermark(),
            AutoOffsetReset::ByDuration(age) => {
                let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
                let since = self.topic.context.clock.now_ms().saturating_sub(age);
                log.offset_for_time(since)?.map_or_else(|| log.high_watermark(), |(offset, _)| offset)
            }
            AutoOffsetReset::None => {
                let topic = self.topic.name.to_string();
                return Err(ErrorKind::NoPosition { topic, partition: self.partition }.into());
            }
        };
        self.position = Some(position);
        Ok(position)
    }
}
