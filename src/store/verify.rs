//! Every byte of a store compared with what it should be, without changing any.

use std::path::Path;

use super::marker::{self, Marker};
use super::open::{CLEAN_SHUTDOWN, Found, check_ours, list_root, partition_dirs};
use super::place::METADATA;
use super::{Store, StoreOptions, meta};
use crate::error::{ErrorKind, Result};
use crate::log::checkpoint::{HIGH_WATERMARKS, LOG_STARTS, Offsets, RECOVERY_POINTS, read_offsets};
use crate::log::{Claims, VerifyReport, readable, verify};
use crate::storage::{Storage, read_small};
use crate::topic::catalog::{self, Catalog, CatalogEntry, TopicState};
use crate::types::{Durability, TopicName};

impl Store {
    /// Reads every byte of a store, or of a checkpoint, or of a directory that a broker made, and says what is damaged.
    ///
    /// Checked are the catalog and the checkpoint files; of every batch its checksum, the header fields that Kafka's
    /// checksum leaves out (against their neighbours), and its records, unpacked and counted; and the indexes of closed
    /// segments against the log, those of aborted transactions among them. Snapshots of producers are not: one that is
    /// wrong is made up for by the log.
    ///
    /// Nothing is changed and no lock is taken: it works beside a writer, on a read-only file system, on a store that
    /// does not open. What lies behind the committed end (after a crash, or while a writer is at work) is no damage; in
    /// a [`Durability::PageCache`] topic, where nothing tells that end, it is bytes with no whole batch behind them. It
    /// reads from the device, so cached pages of the logs are dropped; memory is bounded by one batch and one index.
    ///
    /// An open store repairs nothing that this reports: restore the file from a backup.
    ///
    /// # Errors
    /// [`ErrorKind::NotAStore`]; the directory can not be read. Damage is no error but in the report.
    pub fn verify(dir: impl AsRef<Path>) -> Result<VerifyReport> {
        StoreOptions::default().verify(dir)
    }
}

impl StoreOptions {
    /// As [`Store::verify`], with these settings.
    ///
    /// # Errors
    /// As [`Store::verify`].
    pub fn verify(self, dir: impl AsRef<Path>) -> Result<VerifyReport> {
        let root = super::absolute(dir.as_ref())?;
        let storage = self.storage();
        let mut report = VerifyReport::default();
        Root { storage: storage.as_ref(), root: &root, report: &mut report }.verify()?;
        Ok(report)
    }
}

struct Root<'v> {
    storage: &'v dyn Storage,
    root: &'v Path,
    report: &'v mut VerifyReport,
}

/// What the root's files say.
struct Said {
    clean: bool,
    /// The directory is a checkpoint.
    marker: Option<Marker>,
    catalog: Option<Catalog>,
    recovery_points: Offsets,
    log_starts: Offsets,
}

impl Root<'_> {
    fn verify(mut self) -> Result<()> {
        let (storage, root) = (self.storage, self.root);
        let entries = list_root(storage, root).map_err(|error| match error.is_not_found() {
            true => {
                ErrorKind::NotAStore { path: root.to_owned(), why: "it does not exist".to_owned() }.into()
            }
            false => error,
        })?;
        check_ours(&entries, storage, root)?;
        let marker =
            readable(Marker::read(storage, root), &root.join(marker::FILE_NAME), self.report)?.flatten();
        if marker.as_ref().is_some_and(|marker| !marker.complete) {
            let why = "a checkpoint into it was not finished: call Store::checkpoint again, or remove it";
            return Err(ErrorKind::NotAStore { path: root.to_owned(), why: why.to_owned() }.into());
        }
        let clean = entries.iter().any(|entry| entry.name == CLEAN_SHUTDOWN);
        let said = self.root_files(clean, marker)?;
        let mut found = partition_dirs(&list_root(storage, root)?);
        let topics: Vec<(TopicName, CatalogEntry)> =
            said.catalog.iter().flat_map(|catalog| catalog.topics.clone()).collect();
        for (name, entry) in topics.iter().filter(|(_, entry)| entry.state != TopicState::Foreign) {
            // One that is half made, or half deleted, holds nothing that anybody saw, or will.
            found.remove(name);
            if entry.state == TopicState::Ready {
                for partition in 0..entry.config.partitions {
                    self.partition(name, partition, Some(entry), &said)?;
                }
            }
        }
        self.others(found, &said)
    }

    /// Topics that a broker made, or whose catalog is lost.
    fn others(&mut self, found: Found, said: &Said) -> Result<()> {
        for (name, partitions) in found {
            for partition in partitions {
                let leftover = said.marker.as_ref().zip(said.catalog.as_ref());
                if !leftover.is_some_and(|(marker, catalog)| marker.is_leftover(catalog, &name, partition)) {
                    self.partition(&name, partition, None, said)?;
                }
            }
        }
        Ok(())
    }

    fn root_files(&mut self, clean: bool, marker: Option<Marker>) -> Result<Said> {
        let (storage, root) = (self.storage, self.root);
        let topics = Catalog::read(storage, root);
        let topics = readable(topics, &root.join(catalog::FILE_NAME), self.report)?;
        let mut offsets = |name: &str| -> Result<Offsets> {
            let path = root.join(name);
            Ok(readable(read_offsets(storage, &path), &path, self.report)?.unwrap_or_default())
        };
        let (recovery_points, log_starts) = (offsets(RECOVERY_POINTS)?, offsets(LOG_STARTS)?);
        offsets(HIGH_WATERMARKS)?;
        let path = root.join(meta::FILE_NAME);
        if let Some(bytes) = readable(read_small(storage, &path), &path, self.report)?.flatten()
            && !std::str::from_utf8(&bytes)
                .is_ok_and(|text| text.lines().any(|line| line.starts_with("version=")))
        {
            self.report.damage(&path, 0, "it has no line \"version=\"");
        }
        Ok(Said { clean, marker, catalog: topics, recovery_points, log_starts })
    }

    /// `entry`: of a topic of ours.
    fn partition(
        &mut self,
        name: &TopicName,
        partition: u32,
        entry: Option<&CatalogEntry>,
        said: &Said,
    ) -> Result<()> {
        let dir = self.root.join(format!("{name}-{partition}"));
        let key = (name.to_string(), i32::try_from(partition).unwrap_or(i32::MAX));
        let claims = Claims {
            clean: said.clean,
            contiguous: entry.is_some(),
            on_disk: entry.is_some_and(|entry| entry.config.durability == Durability::Disk),
            recovery_point: said.recovery_points.get(&key).copied(),
            log_start: said.log_starts.get(&key).copied(),
            tail: said.marker.as_ref().and_then(|m| m.tails.get(&format!("{name}-{partition}"))).copied(),
        };
        let before = (self.report.damaged.len(), self.report.damaged_more);
        match verify(self.storage, &dir, claims, self.report) {
            Err(error) if error.is_not_found() => self.report.damage(&dir, 0, "the directory is missing"),
            other => {
                other?;
                self.metadata(&dir, entry)?;
            }
        }
        // What was read belongs to a topic that was deleted meanwhile, and perhaps to its successor.
        if before != (self.report.damaged.len(), self.report.damaged_more)
            && !self.is_still_there(name, partition, entry)?
        {
            self.report.damaged.truncate(before.0);
            self.report.damaged_more = before.1;
        }
        Ok(())
    }

    fn metadata(&mut self, dir: &Path, entry: Option<&CatalogEntry>) -> Result<()> {
        let path = dir.join(METADATA);
        let metadata = readable(read_small(self.storage, &path), &path, self.report)?.flatten();
        match (entry, metadata) {
            (Some(entry), Some(bytes)) if bytes != entry.id.metadata().as_bytes() => {
                self.report.damage(&path, 0, format!("it has not the topic's id, {}", entry.id));
            }
            (Some(_), None) => self.report.damage(&path, 0, "it is missing"),
            _ => {}
        }
        Ok(())
    }

    /// Whether the partition still belongs to the store.
    fn is_still_there(&self, name: &TopicName, partition: u32, was: Option<&CatalogEntry>) -> Result<bool> {
        let Some(was) = was else {
            let entries = list_root(self.storage, self.root)?;
            return Ok(partition_dirs(&entries).get(name).is_some_and(|found| found.contains(&partition)));
        };
        let catalog = Catalog::read(self.storage, self.root)?;
        let now = catalog.topics.get(name).filter(|now| now.state == TopicState::Ready && now.id == was.id);
        Ok(now.is_some_and(|now| partition < now.config.partitions))
    }
}
