//! Every cap of the crate in one place, with the relations between them checked at compile time.

use std::time::Duration;

/// Bytes of a record batch's header, before its records.
pub(crate) const BATCH_HEADER_BYTES: usize = 61;

/// Largest batch ever accepted from a file or a caller: `max.message.bytes` can not be raised beyond it.
pub(crate) const BATCH_BYTES_MAX: usize = 100 * 1024 * 1024;

/// What one compressed batch may grow by when it is unpacked, whatever its headers claim.
pub(crate) const DECOMPRESS_BUDGET_BYTES: usize = 16 * 1024 * 1024;

/// Headers of one record.
pub(crate) const HEADERS_MAX: usize = 1_000;

/// Largest `.log` file: positions are 31 bits in Kafka's index.
pub(crate) const SEGMENT_BYTES_MAX: u64 = i32::MAX as u64;

/// Bytes of what a group notes with an offset: Kafka's `offset.metadata.max.bytes`.
pub(crate) const OFFSET_METADATA_BYTES_MAX: usize = 4_096;

/// Bytes of a group's name, a client's and a static member's: a member's id, one of them and a number, must fit into
/// the 32,767 bytes of a text in Kafka's records.
pub(crate) const GROUP_TEXT_BYTES_MAX: usize = 32_000;

/// Bytes of a batch of committed offsets: far below what any topic takes.
pub(crate) const OFFSETS_BATCH_BYTES: usize = 256 * 1024;

/// Characters of a topic name (Kafka's `Topic.java`).
pub(crate) const TOPIC_NAME_CHARS_MAX: usize = 249;

/// Partitions of one topic.
pub(crate) const PARTITIONS_MAX: u32 = 10_000;

/// Bytes of a `Disk` topic's partition that may be written and not yet synced.
pub(crate) const UNSYNCED_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Full batches of a producer that go out with one write. A file that grows takes 128 KiB at a time twice as fast per
/// byte as 16 KiB: the page cache gets larger pieces, and fewer calls.
pub(crate) const GATHER_BYTES: usize = 128 * 1024;

/// How often a reader that sleeps beside a writer of another process looks for more, where the system does not report
/// changes: 100 looks a second cost less than a thousandth of a core, and a person does not feel the delay.
pub(crate) const FOLLOW_INTERVAL: Duration = Duration::from_millis(10);

/// How far the wall clock may run ahead of the steady one, from one look to the next, and still make records old: a
/// virtual machine that was paused, a time server's correction. What it can take too early is no more than this.
pub(crate) const CLOCK_TOLERANCE: Duration = Duration::from_secs(300);

/// Timestamps further in the future than this are no time at which a record can be said to be old: retention goes by
/// the time of writing. Kafka 4 refuses such records (`message.timestamp.after.max.ms`).
pub(crate) const FUTURE_MS: i64 = 3_600_000;

/// Largest small file (checkpoint, metadata, catalog) that is read whole.
pub(crate) const SMALL_FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

const _: () = {
    assert!(BATCH_BYTES_MAX as u64 <= SEGMENT_BYTES_MAX);
    assert!(BATCH_HEADER_BYTES < BATCH_BYTES_MAX);
    assert!(UNSYNCED_BYTES_MAX < SEGMENT_BYTES_MAX);
};
