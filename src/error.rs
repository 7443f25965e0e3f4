//! The one error of the crate: a cloneable pointer over a kind that names what, where and the next step.
//!
//! Long because every kind has its text and its next step beside it.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What every fallible call of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed.
///
/// One pointer, cheap to clone: a failed sync is handed to everyone who waited for it. Match on [`Error::kind`].
#[derive(Clone)]
pub struct Error(Arc<ErrorKind>);

/// What happened, in words made of plain data.
///
/// `std::io::Error` can not be cloned, so its kind and code are kept, not itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No topic of that name exists.
    #[error("topic {topic:?} does not exist: create it with Store::create_topic")]
    UnknownTopic {
        /// The name asked for.
        topic: String,
    },
    /// The topic was deleted; one of the same name that was made since is another.
    #[error("topic {topic:?} was deleted: ask Store::topic for the one that has the name now")]
    TopicDeleted {
        /// Its name.
        topic: String,
    },
    /// A topic of that name exists already.
    #[error("topic {topic:?} exists already: open it with Store::topic")]
    TopicExists {
        /// The name asked for.
        topic: String,
    },
    /// The name breaks Kafka's rule for topic names, or is of a topic that is not for this.
    #[error("topic {topic:?} is refused: {why}")]
    InvalidTopic {
        /// The name asked for.
        topic: String,
        /// Which part of the rule.
        why: &'static str,
    },
    /// The topic has fewer partitions.
    #[error(
        "topic {topic:?} has partitions 0..{partitions}, not {partition}: add some with Store::alter_topic"
    )]
    UnknownPartition {
        /// The topic.
        topic: String,
        /// The partition asked for.
        partition: i32,
        /// How many there are.
        partitions: u32,
    },
    /// A setting is out of range or contradicts another one.
    #[error("{name} = {value}: {why}")]
    InvalidConfig {
        /// Kafka's name of the setting, or ours where Kafka has none.
        name: &'static str,
        /// The value given.
        value: String,
        /// The rule.
        why: &'static str,
    },
    /// The record, or the batch it makes, is larger than the limit.
    #[error(
        "a record of {bytes} bytes is over the limit of {limit} ({setting}): make it smaller or raise the limit"
    )]
    RecordTooLarge {
        /// Its size as stored, at most.
        bytes: usize,
        /// The limit.
        limit: usize,
        /// The setting that holds the limit.
        setting: &'static str,
    },
    /// The record itself can not be stored.
    #[error("the record can not be stored: {why}")]
    InvalidRecord {
        /// What is wrong with it.
        why: &'static str,
    },
    /// Records are further from now than the topic allows.
    #[error(
        "{topic}: the timestamps of records {records:?} are too far from now ({now_ms}): see message.timestamp.before.max.ms and .after.max.ms"
    )]
    InvalidTimestamp {
        /// The topic.
        topic: String,
        /// Which records of the call, counted from 0.
        records: Vec<u32>,
        /// The time they were compared with.
        now_ms: i64,
    },
    /// No record at that offset: it is gone, or not committed yet.
    #[error("{topic}-{partition}: offset {requested} is outside {}..={}: seek to one of them", valid.start, valid.end)]
    OffsetOutOfRange {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The offset asked for.
        requested: i64,
        /// First offset kept, and the one after the last committed record (which may be asked for).
        valid: Range<i64>,
    },
    /// A compare-and-append found another end.
    #[error(
        "expected {topic}-{partition} to end at {expected}, it ends at {actual}: read what is new and decide again"
    )]
    OffsetMismatch {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The end given by the caller.
        expected: i64,
        /// The end found.
        actual: i64,
    },
    /// A batch does not go on where its producer's last one ended: one in between is missing.
    #[error(
        "{topic}-{partition}: producer {producer_id} sent sequence number {actual} where {expected} comes next: a batch in between was not stored; use a new producer"
    )]
    OutOfOrderSequence {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The producer.
        producer_id: i64,
        /// The number that comes next.
        expected: i32,
        /// The number of the batch.
        actual: i32,
    },
    /// A batch of an epoch that is over: its producer, or the coordinator of its transaction, was replaced.
    #[error(
        "{topic}-{partition}: epoch {epoch} of producer {producer_id} is over, it is {current} now: use the producer that has it"
    )]
    InvalidProducerEpoch {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The producer.
        producer_id: i64,
        /// The epoch of the batch.
        epoch: i32,
        /// The epoch that the log knows.
        current: i32,
    },
    /// A batch outside of a transaction, of a producer that has one open.
    #[error("{topic}-{partition}: producer {producer_id} has a transaction open: end it first")]
    InvalidTxnState {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The producer.
        producer_id: i64,
    },
    /// The producer's name was given to another one since.
    #[error("producer {producer:?} was opened again since: use that one, or give this one another name")]
    ProducerFenced {
        /// Its name.
        producer: String,
    },
    /// Bytes on disk are not what was written.
    #[error("{} is damaged at byte {position} (offsets {}..{}): {why}; reading can go on at offset {resume_at}", file.display(), offsets.start, offsets.end)]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// Where in the file.
        position: u64,
        /// The offsets that can not be read.
        offsets: Range<i64>,
        /// The next offset that can be read.
        resume_at: i64,
        /// What is wrong there.
        why: String,
    },
    /// A file other than a log is not what was written.
    #[error("{} is not readable: {why}", file.display())]
    BadFile {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A batch of a format that no Kafka has written.
    #[error("{} holds a batch of format {magic} at byte {position}: formats 0, 1 and 2 are read; restore the file, or seek behind the segment", file.display())]
    UnsupportedMagic {
        /// The file.
        file: PathBuf,
        /// Where in the file.
        position: u64,
        /// The format.
        magic: i8,
    },
    /// A batch is compressed with a codec that this build leaves out.
    #[error("codec {codec} is not in this build: enable the feature {codec:?} of logstead")]
    CodecMissing {
        /// The codec, and the feature that brings it.
        codec: &'static str,
    },
    /// A sync failed, or a write that could not be taken back: what is not committed may be lost, and nothing more is
    /// accepted.
    #[error(
        "{topic}-{partition} takes no more records: a sync failed ({why}), offsets from {from} on are not safe; call Store::recover or reopen the store"
    )]
    Poisoned {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The first offset that is not committed.
        from: i64,
        /// The error of the sync.
        why: String,
    },
    /// A partition whose files can not be served.
    #[error("{topic}-{partition} is damaged: {why}; put its files right, then call Store::recover")]
    Damaged {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// What was found.
        why: String,
    },
    /// The file system is full, or a quota is reached.
    #[error("no space left for {}: free space, then call again or reopen the store", path.display())]
    Full {
        /// The file that could not grow.
        path: PathBuf,
    },
    /// The store holds as much as it may, and nothing of it may go.
    #[error(
        "the store holds {used_bytes} bytes and may hold {max_store_bytes} (max_store_bytes){}: shorten retention, call Store::delete_records, or raise the limit",
        held.iter().map(|held| format!("; {held}")).collect::<String>()
    )]
    StoreFull {
        /// [`StoreOptions::max_store_bytes`](crate::StoreOptions::max_store_bytes).
        max_store_bytes: u64,
        /// Bytes of records it holds.
        used_bytes: u64,
        /// The partitions that hold most of it, and why they do.
        held: Arc<[HeldSpace]>,
    },
    /// Records are to be deleted of a topic that is only compacted.
    #[error("records of {topic} can not be deleted: its cleanup.policy is {policy:?}; add delete to it")]
    NotDeletable {
        /// The topic.
        topic: String,
        /// Its `cleanup.policy`.
        policy: String,
    },
    /// The producer's memory stayed full.
    #[error(
        "buffer.memory stayed full for {waited:?}: the disk is slower than the senders; send again later, or raise it"
    )]
    BufferFull {
        /// How long the call waited.
        waited: Duration,
    },
    /// A wait ended before what it waited for.
    #[error(
        "timed out after {waited:?}: what was begun goes on; flush waits for it, Delivery::wait_timeout again and again"
    )]
    TimedOut {
        /// How long the call waited.
        waited: Duration,
    },
    /// Another store, or a broker, has the directory open.
    #[error("{} is in use by {holder}: close it there, or open it with open_read_only", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// Who holds it, as far as it can be told.
        holder: String,
    },
    /// The directory holds something else.
    #[error("{:?} is not a log directory: {why}", path.display())]
    NotAStore {
        /// The directory.
        path: PathBuf,
        /// What was found.
        why: String,
    },
    /// No checkpoint of the store can be put there.
    #[error("no checkpoint can be put into {}: {why}; give an empty or a new directory", path.display())]
    NotACheckpoint {
        /// The directory.
        path: PathBuf,
        /// What was found.
        why: String,
    },
    /// A topic can not move between a store and a broker's directory without a loss, or not at all.
    #[error("topic {topic:?} does not move between the store and {}: {why}", path.display())]
    TransferRefused {
        /// The topic.
        topic: String,
        /// The broker's directory.
        path: PathBuf,
        /// What stands in the way, and what to do about it.
        why: String,
    },
    /// The store was opened read-only, or the file system is.
    #[error("{} is read-only: open the store with Store::open, on a file system that can be written", path.display())]
    ReadOnly {
        /// What was to be changed.
        path: PathBuf,
    },
    /// The process has no file descriptors left.
    #[error("too many open files at {}: raise the limit, or lower max_open_files", path.display())]
    TooManyOpenFiles {
        /// The file that could not be opened.
        path: PathBuf,
    },
    /// The consumer reads from other partitions.
    #[error("{topic}-{partition} is not assigned to this consumer: call assign first")]
    NotAssigned {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
    },
    /// A partition has no position, and `auto.offset.reset` is none.
    #[error("{topic}-{partition} has no position and auto.offset.reset is none: seek first")]
    NoPosition {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
    },
    /// The consumer was made without a group.
    #[error("the consumer belongs to no group: make it with Store::group, or set group.id")]
    NoGroup,
    /// The consumer did not poll in time and is a member of its group no more; others may read its partitions.
    #[error(
        "{member} was removed from group {group:?}: it did not poll for max.poll.interval.ms; poll again to join anew, from what was committed"
    )]
    RemovedFromGroup {
        /// The group.
        group: String,
        /// The member's id.
        member: String,
    },
    /// Another consumer took the place of a static member.
    #[error("another consumer of group {group:?} has group.instance.id {instance_id:?} now: close this one")]
    FencedInstance {
        /// The group.
        group: String,
        /// The id of both.
        instance_id: String,
    },
    /// A commit of a partition that the group did not give to this consumer, or gave to another since.
    #[error(
        "group {group:?}: {topic}-{partition} is not this consumer's (any more): whoever has it reads on from the last commit"
    )]
    NotOwner {
        /// The group.
        group: String,
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
    },
    /// A consumer knows none of the assignors that the other members know.
    #[error(
        "group {group:?}: not all members know one of {strategies}: give all the same partition.assignment.strategy"
    )]
    InconsistentStrategies {
        /// The group.
        group: String,
        /// What the consumer knows.
        strategies: String,
    },
    /// The group has members, who would not notice the change.
    #[error("group {group:?} has members ({}): close their consumers first", members.join(", "))]
    GroupNotEmpty {
        /// The group.
        group: String,
        /// The ids of the members.
        members: Vec<String>,
    },
    /// Nothing is known of the group.
    #[error("group {group:?} does not exist: Store::group_names lists those that do")]
    UnknownGroup {
        /// The group.
        group: String,
    },
    /// The text beside an offset is too long.
    #[error(
        "group {group:?}, {topic}-{partition}: {bytes} bytes of metadata, and offset.metadata.max.bytes is 4096: make it shorter"
    )]
    OffsetMetadataTooLarge {
        /// The group.
        group: String,
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// Its length.
        bytes: usize,
    },
    /// What a group committed of a partition can not be told: the record of it is, or may be, damaged.
    #[error("group {group:?}, {topic}-{partition}: the committed offset can not be told, {} is damaged at byte {position} ({why}); seek and commit, or reset the group, to go on", file.display())]
    OffsetsDamaged {
        /// The group.
        group: String,
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The file.
        file: PathBuf,
        /// Where in the file.
        position: u64,
        /// What is known of it.
        why: String,
    },
    /// An assignor's answer can not be followed.
    #[error(
        "group {group:?}: the assignor {assignor:?} {why}; everyone keeps what they have until it is mended"
    )]
    InvalidAssignment {
        /// The group.
        group: String,
        /// The assignor's name.
        assignor: String,
        /// What is wrong with the answer.
        why: String,
    },
    /// The handle, or its store, was closed.
    #[error("closed: the store, or this handle of it, was closed; open it again")]
    Closed,
    /// Another thread woke the consumer.
    #[error("woken by Waker::wake: poll again to go on")]
    Woken,
    /// A call from inside a delivery hook that would wait for the hook's own batch.
    #[error(
        "{call} was called from inside of what it would wait for (a delivery hook, a rebalance listener, a handler): hand the work to another thread"
    )]
    WouldWaitForItself {
        /// The call.
        call: &'static str,
    },
    /// The handler of a worker pool could not do a record, and the pool stops then.
    #[error(
        "group {group:?}: the handler failed {attempts} times at {topic}-{partition}, offset {offset}: {why}; mend the cause and run the pool again, or have OnError skip or dead-letter such records"
    )]
    HandlerFailed {
        /// The group.
        group: String,
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The record, which is not committed.
        offset: i64,
        /// How often it was tried.
        attempts: u32,
        /// What the handler said last.
        why: String,
    },
    /// The operating system refused.
    #[error("{op} {}: {kind}{}", path.display(), code.map(|c| format!(" (os error {c})")).unwrap_or_default())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The operation.
        op: &'static str,
        /// The kind of error.
        kind: std::io::ErrorKind,
        /// The operating system's number.
        code: Option<i32>,
    },
}

/// A partition that holds space, and what keeps it: see [`ErrorKind::StoreFull`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeldSpace {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// Bytes of its segments.
    pub bytes: u64,
    /// Why its oldest segment stays, in words.
    pub why: String,
}

impl HeldSpace {
    pub(crate) fn new(topic: &str, partition: i32, bytes: u64, why: String) -> Self {
        HeldSpace { topic: topic.to_owned(), partition, bytes, why }
    }
}

impl fmt::Display for HeldSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{} has {} of them ({})", self.topic, self.partition, self.bytes, self.why)
    }
}

impl Error {
    /// What happened.
    pub fn kind(&self) -> &ErrorKind {
        &self.0
    }

    /// Whether the same call may succeed later without any repair. After [`ErrorKind::TooManyOpenFiles`] and
    /// [`ErrorKind::TimedOut`] of an append or a send the records may be stored already.
    pub fn is_retriable(&self) -> bool {
        matches!(
            self.kind(),
            ErrorKind::Full { .. }
                | ErrorKind::StoreFull { .. }
                | ErrorKind::BufferFull { .. }
                | ErrorKind::TimedOut { .. }
                | ErrorKind::TooManyOpenFiles { .. }
                | ErrorKind::Woken
                | ErrorKind::Locked { .. }
                | ErrorKind::RemovedFromGroup { .. }
        )
    }

    /// Whether bytes on disk are not what was written.
    pub fn is_corrupt(&self) -> bool {
        matches!(
            self.kind(),
            ErrorKind::Corrupt { .. }
                | ErrorKind::BadFile { .. }
                | ErrorKind::Damaged { .. }
                | ErrorKind::OffsetsDamaged { .. }
        )
    }

    #[cold]
    pub(crate) fn io(path: &Path, op: &'static str, error: &std::io::Error) -> Self {
        const EMFILE: i32 = 24;
        const ENFILE: i32 = 23;
        let path = path.to_owned();
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::Full { path },
            std::io::ErrorKind::ReadOnlyFilesystem => ErrorKind::ReadOnly { path },
            kind => match error.raw_os_error() {
                Some(EMFILE | ENFILE) => ErrorKind::TooManyOpenFiles { path },
                code => ErrorKind::Io { path, op, kind, code },
            },
        }
        .into()
    }

    pub(crate) fn is_already_there(&self) -> bool {
        matches!(self.kind(), ErrorKind::Io { kind: std::io::ErrorKind::AlreadyExists, .. })
    }

    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self.kind(), ErrorKind::Io { kind: std::io::ErrorKind::NotFound, .. })
    }
}

/// Goes through all of it, whatever fails on the way; the first error is the answer.
pub(crate) fn each(results: impl Iterator<Item = Result<()>>) -> Result<()> {
    let mut answer = Ok(());
    for result in results {
        answer = answer.and(result);
    }
    answer
}

impl From<ErrorKind> for Error {
    #[cold]
    fn from(kind: ErrorKind) -> Self {
        Error(Arc::new(kind))
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for Error {}

const _: () = assert!(size_of::<Error>() == size_of::<usize>());
