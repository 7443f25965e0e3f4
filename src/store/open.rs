//! Opening a store: whose directory it is, the lock, how it was left, which topics it holds.
//!
//! Order matters: nothing is written before the lock is held, and the mark of a clean stop is gone, durably, before
//! the first log is opened, so that a crash from here on counts as one.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::marker::{self, Marker};
use super::{RecoveryReport, meta};
use crate::config::TopicConfig;
use crate::error::{ErrorKind, Result, each};
use crate::log::checkpoint::{
    CLEANER_OFFSETS, LEADER_EPOCHS, LOG_STARTS, Offsets, RECOVERY_POINTS, epochs_text, read_offsets,
    write_offsets,
};
use crate::log::{Context, OpenHints, PartitionReport, RecoveryEvent, names};
use crate::segment::name::{DELETED_SUFFIX, LOG_SUFFIX};
use crate::storage::{Entry, EntryKind, LockGuard, Open, Storage, write_new};
use crate::sync::{Arc, Mutex, in_parallel};
use crate::topic::catalog::{self, Catalog, CatalogEntry, TopicId, TopicState};
use crate::topic::{TopicInner, Topics};
use crate::types::TopicName;

pub(super) const LOCK: &str = ".lock";
pub(super) const CLEAN_SHUTDOWN: &str = ".kafka_cleanshutdown";
pub(super) const CLEAN_MARK: &[u8] = b"{\"version\":0,\"brokerEpoch\":-1}";

/// Partitions of a topic that were found as directories.
pub(super) type Found = BTreeMap<TopicName, Vec<u32>>;

/// What opening found.
pub(super) struct Opened {
    pub(super) lock: Option<Box<dyn LockGuard>>,
    pub(super) catalog: Catalog,
    pub(super) topics: Topics,
    pub(super) checkpoints: Checkpoints,
    /// The store had been closed in order, and nobody else can have opened it since.
    clean: bool,
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
    let marker = read_marker(context, &mut report)?;
    let clean = entries.iter().any(|entry| entry.name == CLEAN_SHUTDOWN);
    report.clean = clean || !entries.iter().any(|entry| entry.kind == EntryKind::Directory);
    if !context.read_only {
        if clean {
            storage.remove_file(&root.join(CLEAN_SHUTDOWN))?;
            storage.sync_dir(root)?;
        }
        meta::ensure(storage, root)?;
        if !clean {
            // What is served must not be lost by a second crash: names neither.
            storage.sync_dir(root)?;
        }
    }
    let mut catalog = read_catalog(context, &mut report)?;
    let entries = if context.read_only { list_with_catalog(context, &mut catalog)? } else { entries };
    read_names(context, &mut report)?;
    let recovery_points = read_checkpoint(context, RECOVERY_POINTS, &mut report);
    let log_starts = read_checkpoint(context, LOG_STARTS, &mut report);
    let cleaned = read_checkpoint(context, CLEANER_OFFSETS, &mut report);
    let mut opened = Opened {
        lock,
        catalog,
        topics: Topics::default(),
        checkpoints: Checkpoints { recovery_points, log_starts, cleaned },
        clean: clean && !context.read_only,
        report,
    };
    let mut found = partition_dirs(&entries);
    if let Some(marker) = marker {
        leave_checkpoint(context, &marker, &opened.catalog, &mut found)?;
    }
    if !context.read_only {
        remove_deleted(context, &entries);
    }
    add_topics(context, &mut opened, found)?;
    // A reader looks at a partition when it is first used: there may be many, and a writer at work on them.
    if !clean && !context.read_only {
        recover_all(context, &mut opened)?;
    }
    Ok(opened)
}

pub(super) fn list_root(storage: &dyn Storage, root: &Path) -> Result<Vec<Entry>> {
    storage.list(root).map_err(|error| match error.kind() {
        ErrorKind::Io { kind: std::io::ErrorKind::NotADirectory, .. } => {
            ErrorKind::NotAStore { path: root.to_owned(), why: "it is a file".to_owned() }.into()
        }
        _ => error,
    })
}

/// Refuses a directory that holds something else, before anything is written.
pub(super) fn check_ours(entries: &[Entry], storage: &dyn Storage, root: &Path) -> Result<()> {
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
pub(super) fn parse_dir(entry: &Entry) -> Option<(TopicName, u32)> {
    if entry.kind != EntryKind::Directory || entry.name.starts_with("__cluster_metadata-") {
        return None;
    }
    let (topic, partition) = entry.name.rsplit_once('-')?;
    let partition =
        partition.parse::<u32>().ok().filter(|p| p.to_string() == partition && *p <= i32::MAX as u32)?;
    Some((TopicName::new(topic).ok()?, partition))
}

pub(super) fn partition_dirs(entries: &[Entry]) -> Found {
    let mut found = Found::new();
    for (topic, partition) in entries.iter().filter_map(parse_dir) {
        found.entry(topic).or_default().push(partition);
    }
    found
}

/// The directories, and the catalog that goes with them: a writer may be changing both.
fn list_with_catalog(context: &Context, catalog: &mut Catalog) -> Result<Vec<Entry>> {
    loop {
        let entries = list_root(context.storage.as_ref(), &context.root)?;
        let before = std::mem::replace(catalog, read_catalog(context, &mut RecoveryReport::default())?);
        if before.topics == catalog.topics {
            return Ok(entries);
        }
    }
}

pub(super) fn read_catalog(context: &Context, report: &mut RecoveryReport) -> Result<Catalog> {
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

/// Names that can not be read are given out anew, and the report says so.
fn read_names(context: &Context, report: &mut RecoveryReport) -> Result<()> {
    let storage = context.storage.as_ref();
    match context.names.read(storage, &context.root) {
        Err(error) if error.is_corrupt() => {
            let path = context.root.join(names::FILE_NAME);
            if !context.read_only {
                storage.rename(&path, &context.root.join(format!("{}.damaged", names::FILE_NAME)))?;
                storage.sync_dir(&context.root)?;
            }
            report.unreadable_files.push(path);
            Ok(())
        }
        read => read,
    }
}

/// What says that the directory is a checkpoint of another store. One that can not be read vouches for nothing.
fn read_marker(context: &Context, report: &mut RecoveryReport) -> Result<Option<Marker>> {
    let root = &context.root;
    match Marker::read(context.storage.as_ref(), root) {
        Ok(Some(marker)) if !marker.complete => {
            let why = "a checkpoint into it was not finished: call Store::checkpoint again, or remove it"
                .to_owned();
            Err(ErrorKind::NotAStore { path: root.clone(), why }.into())
        }
        Err(error) if error.is_corrupt() => {
            report.unreadable_files.push(root.join(marker::FILE_NAME));
            Ok(Some(Marker::default()))
        }
        other => other,
    }
}

/// Steps over what an interrupted checkpoint left; a store that is written to is no checkpoint any more.
fn leave_checkpoint(context: &Context, marker: &Marker, catalog: &Catalog, found: &mut Found) -> Result<()> {
    let mut leftovers = Vec::new();
    if marker.complete {
        for (topic, partitions) in &mut *found {
            partitions.retain(|partition| {
                let leftover = marker.is_leftover(catalog, topic, *partition);
                if leftover {
                    leftovers.push(context.root.join(format!("{topic}-{partition}")));
                }
                !leftover
            });
        }
        found.retain(|_, partitions| !partitions.is_empty());
    }
    match context.read_only {
        true => Ok(()),
        false => marker::adopt(context.storage.as_ref(), &context.root, &leftovers),
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

/// What the checkpoint files say.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    pub(super) recovery_points: Offsets,
    pub(super) log_starts: Offsets,
    pub(super) cleaned: Offsets,
}

impl Checkpoints {
    /// Takes a topic out, whose offsets would be wrong for the next topic of that name.
    pub(super) fn forget(&mut self, context: &Context, name: &TopicName) -> Result<()> {
        let files = [
            (RECOVERY_POINTS, &mut self.recovery_points),
            (LOG_STARTS, &mut self.log_starts),
            (CLEANER_OFFSETS, &mut self.cleaned),
        ];
        for (file, offsets) in files {
            let mut kept = offsets.clone();
            kept.retain(|(topic, _), _| topic != name.as_str());
            if kept.len() != offsets.len() {
                // First the file: what could not be taken out of it must be found here by the next call.
                write_offsets(context.storage.as_ref(), &context.root.join(file), &kept)?;
                *offsets = kept;
            }
        }
        Ok(())
    }
}

impl Opened {
    fn hints(&self, topic: &TopicName, partition: u32, contiguous: bool) -> OpenHints {
        let key = (topic.to_string(), i32::try_from(partition).unwrap_or(i32::MAX));
        OpenHints {
            recovery_point: self.checkpoints.recovery_points.get(&key).copied(),
            log_start: self.checkpoints.log_starts.get(&key).copied(),
            clean: self.clean,
            contiguous,
            cleaned_to: self.checkpoints.cleaned.get(&key).copied(),
        }
    }

    fn insert(
        &self,
        context: &Arc<Context>,
        name: TopicName,
        id: Option<TopicId>,
        config: TopicConfig,
        hints: Vec<Option<OpenHints>>,
    ) -> Arc<TopicInner> {
        let index = self.topics.next_index();
        let topic = Arc::new(TopicInner::new(index, name, id, config, Arc::clone(context), hints));
        self.topics.insert(&topic);
        topic
    }
}

fn add_topics(context: &Arc<Context>, opened: &mut Opened, mut found: Found) -> Result<()> {
    let before = opened.catalog.topics.clone();
    let mut made = Vec::new();
    for (name, entry) in before.clone() {
        let dirs = found.remove(&name).unwrap_or_default();
        match entry.state {
            TopicState::Deleting => finish_deletion(context, opened, &name),
            TopicState::Creating => made.extend(finish_creation(context, opened, name, entry)),
            TopicState::Ready => add_ready(context, opened, name, entry, &dirs),
            TopicState::Foreign => add_foreign(context, opened, name, entry.config, &dirs),
        }
    }
    for (name, dirs) in found {
        add_foreign(context, opened, name, foreign_config(), &dirs);
    }
    if opened.catalog.topics != before {
        match opened.catalog.write(context.storage.as_ref()) {
            // No reason not to open: what this one could not note the next one does again.
            Err(error) if matches!(error.kind(), ErrorKind::Full { .. }) => {
                opened.catalog.topics = before;
                made.clear();
            }
            written => written?,
        }
    }
    for (name, entry) in made {
        let hints = (0..entry.config.partitions).map(|p| Some(opened.hints(&name, p, true))).collect();
        opened.insert(context, name, Some(entry.id), entry.config, hints);
    }
    Ok(())
}

fn add_ready(
    context: &Arc<Context>,
    opened: &mut Opened,
    name: TopicName,
    entry: CatalogEntry,
    dirs: &[u32],
) {
    let partitions = 0..entry.config.partitions;
    if let (Some(last), false) = (dirs.iter().max().filter(|p| **p >= partitions.end), context.read_only) {
        // Left of partitions that were being added. With records in them they are somebody else's, and stay.
        let _ = unmake_partitions(context, &name, partitions.end..last + 1);
    }
    let hints = partitions.clone().map(|p| Some(opened.hints(&name, p, true))).collect();
    let topic = opened.insert(context, name, Some(entry.id), entry.config, hints);
    for partition in partitions.filter(|p| !dirs.contains(p)) {
        let partition = i32::try_from(partition).unwrap_or(i32::MAX);
        let why = "its directory is missing".to_owned();
        if !context.read_only {
            topic.set_damaged(partition, why.clone());
        }
        opened.report.partitions.extend(topic.report(partition, vec![RecoveryEvent::Damaged { why }]));
    }
}

/// Of a topic that a broker made, and whose settings it keeps elsewhere: nothing of it is deleted for its age.
fn foreign_config() -> TopicConfig {
    TopicConfig::default().retention_ms(None)
}

/// A topic that a broker made: of its partitions it may keep some elsewhere.
fn add_foreign(context: &Arc<Context>, opened: &Opened, name: TopicName, config: TopicConfig, dirs: &[u32]) {
    let Some(last) = dirs.iter().max() else { return };
    let config = config.partitions(last + 1);
    if config.validate().is_err() {
        return;
    }
    let hints = (0..=*last).map(|p| dirs.contains(&p).then(|| opened.hints(&name, p, false))).collect();
    opened.insert(context, name, None, config, hints);
}

/// Goes on with a creation that was interrupted, or failed. The topic, which is there when the catalog was written.
fn finish_creation(
    context: &Context,
    opened: &mut Opened,
    name: TopicName,
    entry: CatalogEntry,
) -> Option<(TopicName, CatalogEntry)> {
    // A full disk now is no reason not to open.
    if context.read_only
        || opened.checkpoints.forget(context, &name).is_err()
        || make_partitions(context, &name, &entry.id, 0..entry.config.partitions).is_err()
    {
        return None;
    }
    let entry = CatalogEntry { state: TopicState::Ready, ..entry };
    opened.catalog.topics.insert(name.clone(), entry.clone());
    Some((name, entry))
}

/// Goes on with a deletion that was interrupted. The catalog is to be written then.
fn finish_deletion(context: &Context, opened: &mut Opened, name: &TopicName) {
    if context.read_only {
        return;
    }
    let Ok(left) = put_partitions_away(context, name) else { return };
    for dir in left {
        // What can not be removed now is tried again by the next open.
        let _ = remove_partition_dir(context.storage.as_ref(), &dir);
    }
    if opened.checkpoints.forget(context, name).is_ok() {
        opened.catalog.topics.remove(name);
    }
}

/// After a stop that was not clean: every partition is looked at before anything is served.
fn recover_all(context: &Context, opened: &mut Opened) -> Result<()> {
    let partitions: Vec<_> = opened
        .topics
        .sorted()
        .into_iter()
        .flat_map(|topic| {
            (0..i32::try_from(topic.partitions()).unwrap_or(0)).map(move |p| (Arc::clone(&topic), p))
        })
        .collect();
    let reports: Mutex<BTreeMap<(String, i32), PartitionReport>> = Mutex::default();
    in_parallel(context.threads, &partitions, |(topic, partition)| {
        let report = match topic.open(*partition) {
            Ok((_, report)) => report,
            Err(error) => match error.kind() {
                ErrorKind::Damaged { why, .. } => {
                    topic.report(*partition, vec![RecoveryEvent::Damaged { why: why.clone() }])
                }
                _ => None,
            },
        };
        let key = (topic.name.to_string(), *partition);
        report.into_iter().for_each(|report| drop(reports.lock().insert(key.clone(), report)));
        Ok(())
    })?;
    let known = |key: &(String, i32)| {
        opened.report.partitions.iter().any(|r| (r.topic.as_str(), r.partition) == (&key.0, key.1))
    };
    let reports = std::mem::take(&mut *reports.lock());
    let more: Vec<_> = reports.into_iter().filter(|(key, _)| !known(key)).map(|(_, report)| report).collect();
    opened.report.partitions.extend(more);
    Ok(())
}

/// Makes the directories and first files of partitions; those of an interrupted call are made anew.
pub(super) fn make_partitions(
    context: &Context,
    name: &TopicName,
    id: &TopicId,
    partitions: Range<u32>,
) -> Result<()> {
    if partitions.is_empty() {
        return Ok(());
    }
    let partitions: Vec<u32> = partitions.collect();
    in_parallel(context.threads, &partitions, |p| {
        make_partition(context, &partition_dir(context, name, *p), id)
    })?;
    context.storage.sync_dir(&context.root)
}

fn partition_dir(context: &Context, name: &TopicName, partition: u32) -> PathBuf {
    context.root.join(format!("{name}-{partition}"))
}

fn make_partition(context: &Context, dir: &Path, id: &TopicId) -> Result<()> {
    let storage = context.storage.as_ref();
    storage.create_dir(dir)?;
    write_new(storage, &dir.join("partition.metadata"), id.metadata().as_bytes())?;
    write_new(storage, &dir.join(LEADER_EPOCHS), epochs_text(&[(0, 0)]).as_bytes())?;
    for name in crate::log::first_segment_files() {
        match storage.open(&dir.join(name), Open::New) {
            Err(error) if !error.is_already_there() => return Err(error),
            _ => {}
        }
    }
    storage.sync_dir(dir)
}

/// Refuses to add partitions where directories of their names hold records of something else.
pub(super) fn check_free(context: &Context, name: &TopicName, partitions: Range<u32>) -> Result<()> {
    for path in partitions.map(|partition| partition_dir(context, name, partition)) {
        if context.storage.list(&path).is_ok_and(|files| holds_records(&files)) {
            let why = "it holds records that belong to no partition: move it away".to_owned();
            return Err(ErrorKind::NotAStore { path, why }.into());
        }
    }
    Ok(())
}

fn holds_records(files: &[Entry]) -> bool {
    files.iter().any(|file| file.name.ends_with(".log") && file.len > 0)
}

/// Takes back what [`make_partitions`] made and nobody has seen. Files of others stay, and so do their directories.
pub(super) fn unmake_partitions(context: &Context, name: &TopicName, partitions: Range<u32>) -> Result<()> {
    let storage = context.storage.as_ref();
    let absent = |result: Result<()>| match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    };
    for partition in partitions.rev() {
        let dir = partition_dir(context, name, partition);
        match storage.list(&dir) {
            Ok(files) if holds_records(&files) => continue,
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

/// Gives the directories of a topic names that say that they go, durably: Kafka's, `<topic>-<p>.<32 hex>-delete`, the
/// topic cut so that a file name holds it (G28). Returns the new names.
pub(super) fn put_partitions_away(context: &Context, name: &TopicName) -> Result<Vec<PathBuf>> {
    const FILE_NAME_MAX: usize = 255;
    let storage = context.storage.as_ref();
    let entries = list_root(storage, &context.root)?;
    let mut away = Vec::new();
    for (topic, partition) in entries.iter().filter_map(parse_dir).filter(|(topic, _)| topic == name) {
        let suffix = format!("-{partition}.{}{DELETED}", TopicId::random()?.hex());
        let topic = topic.as_str();
        let cut = topic.get(..FILE_NAME_MAX - suffix.len()).unwrap_or(topic);
        let to = context.root.join(format!("{cut}{suffix}"));
        storage.rename(&partition_dir(context, name, partition), &to)?;
        away.push(to);
    }
    storage.sync_dir(&context.root)?;
    Ok(away)
}

/// Whether a file holds records of a log, or did until a moment ago.
pub(super) fn holds_log(name: &str) -> bool {
    name.strip_suffix(DELETED_SUFFIX).unwrap_or(name).ends_with(LOG_SUFFIX)
}

/// How a directory's name ends whose topic was deleted.
const DELETED: &str = "-delete";

/// Removes what a deletion, ours or a broker's, left.
fn remove_deleted(context: &Context, entries: &[Entry]) {
    let deleted = |name: &str| {
        let hex = name.strip_suffix(DELETED).and_then(|name| name.rsplit_once('.'));
        hex.is_some_and(|(_, hex)| hex.len() == 32 && hex.bytes().all(|c| c.is_ascii_hexdigit()))
    };
    for entry in entries.iter().filter(|entry| entry.kind == EntryKind::Directory && deleted(&entry.name)) {
        // What can not be removed now is tried again by the next open.
        let _ = remove_partition_dir(context.storage.as_ref(), &context.root.join(&entry.name));
    }
}

/// Removes a partition's directory: as much of it as can be, if not all. First how many bytes of `.log` files went.
pub(super) fn remove_partition_dir(storage: &dyn Storage, dir: &Path) -> (u64, Result<()>) {
    let entries = match storage.list(dir) {
        Ok(entries) => entries,
        Err(error) => return (0, Err(error)),
    };
    let mut given_back = 0;
    let removed = each(entries.iter().map(|entry| {
        storage.remove_file(&dir.join(&entry.name))?;
        given_back += if holds_log(&entry.name) { entry.len } else { 0 };
        Ok(())
    }));
    (given_back, removed.and_then(|()| storage.remove_dir(dir)))
}
