//! Opening a store: whose directory it is, the lock, how it was left, which topics it holds.
//!
//! Order matters: nothing is written before the lock is held, and the mark of a clean stop is gone, durably, before
//! the first log is opened, so that a crash from here on counts as one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{RecoveryReport, meta};
use crate::error::{ErrorKind, Result};
use crate::log::checkpoint::{
    LEADER_EPOCHS, LOG_STARTS, Offsets, RECOVERY_POINTS, read_offsets, write_epochs,
};
use crate::log::{Context, OpenHints, PartitionReport, RecoveryEvent};
use crate::storage::{Entry, EntryKind, LockGuard, Open, Storage, replace};
use crate::sync::Arc;
use crate::topic::catalog::{self, Catalog, CatalogEntry, TopicId};
use crate::topic::{TopicInner, Topics};
use crate::types::TopicName;

pub(super) const LOCK: &str = ".lock";
pub(super) const CLEAN_SHUTDOWN: &str = ".kafka_cleanshutdown";

/// Partitions of a topic that were found as directories.
type Found = BTreeMap<TopicName, Vec<u32>>;

/// What opening found.
pub(super) struct Opened {
    pub(super) lock: Option<Box<dyn LockGuard>>,
    pub(super) catalog: Catalog,
    pub(super) topics: Topics,
    pub(super) recovery_points: Offsets,
    pub(super) log_starts: Offsets,
    pub(super) report: RecoveryReport,
}

pub(super) fn open(context: &Arc<Context>) -> Result<Opened> {
    let storage = context.storage.as_ref();
    let root = &context.root;
    let lock = if context.read_only {
        let entries = list_root(storage, root).map_err(|error| match error.is_not_found() {
            true => {
                let why = "it does not exist; Store::open makes it".to_owned();
                ErrorKind::NotAStore { path: root.clone(), why }.into()
            }
            false => error,
        })?;
        check_ours(&entries, storage, root)?;
        None
    } else {
        match list_root(storage, root) {
            Ok(entries) => check_ours(&entries, storage, root)?,
            Err(error) if error.is_not_found() => storage.create_dir(root)?,
            Err(error) => return Err(error),
        }
        Some(storage.lock(&root.join(LOCK))?)
    };
    let entries = list_root(storage, root)?;
    let mut report = RecoveryReport::default();
    let clean = entries.iter().any(|entry| entry.name == CLEAN_SHUTDOWN);
    report.clean = clean || !entries.iter().any(|entry| entry.kind == EntryKind::Directory);
    if !context.read_only {
        if clean {
            storage.remove_file(&root.join(CLEAN_SHUTDOWN))?;
            storage.sync_dir(root)?;
        }
        if meta::ensure(storage, root)? {
            // A new store in a directory whose own name may not be durable yet, whoever made it.
            for dir in root.ancestors().skip(1) {
                let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
                // Above, not all is ours to sync.
                let _ = storage.sync_dir(dir);
            }
        }
    }
    let catalog = read_catalog(context, &mut report)?;
    let recovery_points = read_checkpoint(context, RECOVERY_POINTS, &mut report);
    let log_starts = read_checkpoint(context, LOG_STARTS, &mut report);
    let hints = Hints { clean, recovery_points: &recovery_points, log_starts: &log_starts };
    let mut opened = Opened {
        lock,
        catalog,
        topics: Topics::default(),
        recovery_points: Offsets::new(),
        log_starts: Offsets::new(),
        report,
    };
    add_topics(context, &mut opened, partition_dirs(&entries), &hints)?;
    if !clean {
        recover_all(&mut opened);
    }
    opened.recovery_points = recovery_points;
    opened.log_starts = log_starts;
    Ok(opened)
}

fn list_root(storage: &dyn Storage, root: &Path) -> Result<Vec<Entry>> {
    storage.list(root).map_err(|error| match error.kind() {
        ErrorKind::Io { kind: std::io::ErrorKind::NotADirectory, .. } => {
            ErrorKind::NotAStore { path: root.to_owned(), why: "it is a file".to_owned() }.into()
        }
        _ => error,
    })
}

/// Refuses a directory that holds something else, before anything is written.
fn check_ours(entries: &[Entry], storage: &dyn Storage, root: &Path) -> Result<()> {
    let ours = |entry: &Entry| {
        [catalog::FILE_NAME, meta::FILE_NAME, RECOVERY_POINTS, LOG_STARTS].contains(&entry.name.as_str())
    };
    let neutral =
        |entry: &&Entry| entry.name == LOCK || entry.name == "lost+found" || entry.name.ends_with(".tmp");
    if entries.iter().any(ours) || entries.iter().all(|entry| neutral(&entry)) {
        return Ok(());
    }
    let holds_log =
        |dir: PathBuf| storage.list(&dir).is_ok_and(|files| files.iter().any(|f| f.name.ends_with(".log")));
    if entries.iter().any(|entry| parse_dir(entry).is_some() && holds_log(root.join(&entry.name))) {
        return Ok(());
    }
    let name =
        entries.iter().find(|entry| !neutral(entry)).map(|entry| entry.name.clone()).unwrap_or_default();
    let why = format!("it holds {name:?} and nothing of a log; give an empty or a new directory");
    Err(ErrorKind::NotAStore { path: root.to_owned(), why }.into())
}

/// `<topic>-<partition>`, split at the last dash. Names that say otherwise (`…-delete`, `…-stray`) are left alone,
/// and so is a cluster's own metadata log.
fn parse_dir(entry: &Entry) -> Option<(TopicName, u32)> {
    if entry.kind != EntryKind::Directory || entry.name.starts_with("__cluster_metadata-") {
        return None;
    }
    let (topic, partition) = entry.name.rsplit_once('-')?;
    let partition =
        partition.parse::<u32>().ok().filter(|p| p.to_string() == partition && *p <= i32::MAX as u32)?;
    Some((TopicName::new(topic).ok()?, partition))
}

fn partition_dirs(entries: &[Entry]) -> Found {
    let mut found = Found::new();
    for (topic, partition) in entries.iter().filter_map(parse_dir) {
        found.entry(topic).or_default().push(partition);
    }
    found
}

fn read_catalog(context: &Context, report: &mut RecoveryReport) -> Result<Catalog> {
    let storage = context.storage.as_ref();
    match Catalog::read(storage, &context.root) {
        Err(error) if error.is_corrupt() => {
            let path = context.root.join(catalog::FILE_NAME);
            report.unreadable_files.push(path.clone());
            if !context.read_only {
                storage.rename(&path, &context.root.join(format!("{}.damaged", catalog::FILE_NAME)))?;
                storage.sync_dir(&context.root)?;
            }
            Ok(Catalog::empty(&context.root))
        }
        other => other,
    }
}

/// A checkpoint that can not be read proves nothing: everything is looked at.
fn read_checkpoint(context: &Context, name: &str, report: &mut RecoveryReport) -> Offsets {
    let path = context.root.join(name);
    read_offsets(context.storage.as_ref(), &path).unwrap_or_else(|_| {
        report.unreadable_files.push(path);
        Offsets::new()
    })
}

struct Hints<'h> {
    clean: bool,
    recovery_points: &'h Offsets,
    log_starts: &'h Offsets,
}

impl Hints<'_> {
    fn of(&self, topic: &TopicName, partition: u32, contiguous: bool) -> OpenHints {
        let key = (topic.to_string(), i32::try_from(partition).unwrap_or(i32::MAX));
        OpenHints {
            recovery_point: self.recovery_points.get(&key).copied(),
            log_start: self.log_starts.get(&key).copied(),
            clean: self.clean,
            contiguous,
        }
    }
}

fn add_topics(
    context: &Arc<Context>,
    opened: &mut Opened,
    mut found: Found,
    hints: &Hints<'_>,
) -> Result<()> {
    let mut made = false;
    let entries: Vec<(TopicName, CatalogEntry)> =
        opened.catalog.topics.iter().map(|(name, entry)| (name.clone(), entry.clone())).collect();
    for (name, entry) in entries {
        let dirs = found.remove(&name).unwrap_or_default();
        if !entry.ready {
            // Its creation was interrupted, or failed; a full disk now is no reason not to open.
            if context.read_only || make_partitions(context, &name, &entry).is_err() {
                continue;
            }
            if let Some(entry) = opened.catalog.topics.get_mut(&name) {
                entry.ready = true;
                made = true;
            }
        }
        let exists = |p| !entry.ready || dirs.contains(&p);
        let partitions = 0..entry.config.partitions;
        let hints = partitions.clone().map(|p| Some(hints.of(&name, p, true))).collect();
        let topic =
            TopicInner::new(opened.topics.len(), name.clone(), entry.config, Arc::clone(context), hints);
        for partition in partitions.filter(|p| !exists(*p)) {
            let partition = i32::try_from(partition).unwrap_or(i32::MAX);
            let why = "its directory is missing".to_owned();
            topic.set_damaged(partition, why.clone());
            opened.report.partitions.extend(topic.report(partition, vec![RecoveryEvent::Damaged { why }]));
        }
        opened.topics.insert(&Arc::new(topic));
    }
    for (name, dirs) in found {
        let count = dirs.iter().max().map_or(0, |last| last + 1);
        let config = crate::config::TopicConfig::default().partitions(count);
        if config.validate().is_err() {
            continue;
        }
        let hints = (0..count).map(|p| dirs.contains(&p).then(|| hints.of(&name, p, false))).collect();
        let topic = TopicInner::new(opened.topics.len(), name, config, Arc::clone(context), hints);
        opened.topics.insert(&Arc::new(topic));
    }
    if made { opened.catalog.write(context.storage.as_ref()) } else { Ok(()) }
}

/// After a stop that was not clean: every partition is looked at before anything is served.
fn recover_all(opened: &mut Opened) {
    for topic in opened.topics.sorted() {
        for partition in 0..i32::try_from(topic.partitions()).unwrap_or(0) {
            let report: Option<PartitionReport> = match topic.open(partition) {
                Ok((_, report)) => report,
                Err(error) => match error.kind() {
                    ErrorKind::Damaged { why, .. } => {
                        topic.report(partition, vec![RecoveryEvent::Damaged { why: why.clone() }])
                    }
                    _ => None,
                },
            };
            if !opened
                .report
                .partitions
                .iter()
                .any(|r| r.topic == topic.name.as_str() && r.partition == partition)
            {
                opened.report.partitions.extend(report);
            }
        }
    }
}

/// Makes the directories and first files of a topic; what is there already stays.
pub(super) fn make_partitions(context: &Context, name: &TopicName, entry: &CatalogEntry) -> Result<()> {
    for partition in 0..entry.config.partitions {
        make_partition(context, &context.root.join(format!("{name}-{partition}")), &entry.id)?;
    }
    // Of directories that an interrupted call left the names may not be durable.
    context.storage.sync_dir(&context.root)
}

fn make_partition(context: &Context, dir: &Path, id: &TopicId) -> Result<()> {
    let storage = context.storage.as_ref();
    storage.create_dir(dir)?;
    replace(storage, &dir.join("partition.metadata"), id.metadata().as_bytes())?;
    write_epochs(storage, &dir.join(LEADER_EPOCHS), &[(0, 0)])?;
    for name in crate::log::first_segment_files() {
        match storage.open(&dir.join(name), Open::New) {
            Err(error) if !error.is_already_there() => return Err(error),
            _ => {}
        }
    }
    storage.sync_dir(dir)
}

/// Takes back what [`make_partitions`] made of a topic that nobody has seen. Files of others stay, and so do their
/// directories.
pub(super) fn unmake_partitions(context: &Context, name: &TopicName, entry: &CatalogEntry) -> Result<()> {
    let storage = context.storage.as_ref();
    let absent = |result: Result<()>| match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    };
    for partition in (0..entry.config.partitions).rev() {
        let dir = context.root.join(format!("{name}-{partition}"));
        match storage.list(&dir) {
            Ok(entries) if entries.iter().any(|entry| entry.name.ends_with(".log") && entry.len > 0) => {
                continue;
            }
            Err(error) if error.is_not_found() => continue,
            listed => listed?,
        };
        let made = crate::log::first_segment_files();
        let small = ["partition.metadata".to_owned(), LEADER_EPOCHS.to_owned()];
        for file in small.into_iter().chain(made) {
            absent(storage.remove_file(&dir.join(file)))?;
        }
        absent(storage.remove_dir(&dir))?;
    }
    storage.sync_dir(&context.root)
}
