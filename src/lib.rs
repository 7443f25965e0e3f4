//! An embedded commit log: topics, partitions, producers and consumers in your program, with Apache Kafka's own
//! files on disk. Synchronous; no server, no runtime, no port.
//!
//! ```
//! use std::time::Duration;
//! use logstead::{Record, Store, TopicConfig};
//! # let dir = tempfile::tempdir().unwrap();
//! # let dir = dir.path().join("data");
//!
//! let store = Store::open(&dir)?;
//! store.create_topic("flights", TopicConfig::default().partitions(4))?;
//!
//! let producer = store.producer()?;
//! let receipt = producer.send(Record::to("flights").key("N14228").value("EWR,IAH"))?.wait()?;
//!
//! let mut consumer = store.consumer()?;
//! consumer.assign_all(["flights"])?;
//! consumer.seek_to_beginning()?;
//! for record in &consumer.poll(Duration::ZERO)? {
//!     assert_eq!((record.offset(), record.key()), (receipt.offset, Some(b"N14228".as_slice())));
//! }
//! store.close()?;
//! # Ok::<(), logstead::Error>(())
//! ```
//!
//! # What it does
//!
//! - A record whose delivery completed with [`Acks::All`] on a [`Durability::Disk`] topic (both are the default) is
//!   synced: it survives a power cut.
//! - Consumers see committed records only: nobody acts on a record that a crash can take back.
//! - A store opens after any crash, and [`Store::recovery_report`] tells what was cut.
//! - A batch is checked before a record of it is handed out; damage is an error that says where reading can go on.
//! - The directory is laid out as a Kafka `log.dir`: Kafka's tools read it, a broker can take it over, and one that a
//!   broker made opens here.
//!
//! # What it does not
//!
//! It is not a server, not an async runtime, not a queue with deletion of single messages, not a database. Linux
//! comes first; macOS is meant to work; Windows is not promised.
//!
//! # The walk of a record
//!
//! In: [`Producer::send`] → the partition of its key → the open batch of that partition → compressed and checksummed
//! → one write behind the last batch, which gives it its offset → synced together with those of all who wait → the
//! high watermark passes it → its [`Delivery`] completes and readers wake.
//!
//! Out: [`Consumer::poll`] → a fair round over partitions → the segment and the batch that hold the position →
//! checked, unpacked once → [`Records`], which own what they lie in → [`RecordRef`]s that borrow from them.
//!
//! Which promise holds when, and who is told of a failure: [`guide::acks`]. When records are deleted:
//! [`guide::retention`]; how the last record of each key is kept: [`guide::compaction`]. Consumers that share topics,
//! and remember how far they are: [`Group`], and [`guide::groups`].
//!
//! # Features
//!
//! `lz4` and `zstd` (default), `snappy`, `gzip`: the codecs. `bytes`: keys and values as `bytes::Bytes`. `testing`: the
//! simulated disk and the clock that is moved by hand, for tests of programs that use this crate. `metrics`, `tracing`:
//! figures and spans for a recorder and a subscriber, see [`guide::metrics`].

#![cfg_attr(docsrs, feature(doc_cfg))]

mod config;
mod consumer;
mod error;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod fuzzing;
mod group;
mod limits;
mod log;
mod metrics;
mod pool;
mod producer;
mod record;
mod segment;
mod storage;
mod store;
mod sync;
mod time;
mod topic;
mod types;

pub use config::{
    AssignmentStrategy, AutoOffsetReset, Cleanup, ConsumerConfig, IsolationLevel, Partitioner,
    ProducerConfig, TopicConfig,
};
pub use consumer::{Batches, Consumer, RebalanceListener, Waker};
pub use error::{Error, ErrorKind, HeldSpace, Result};
pub use group::{
    Assignor, Group, GroupDescription, GroupLag, GroupSpec, GroupState, MemberDescription, MemberSpec,
    OffsetAndMetadata, OffsetMove, PartitionIndex, PartitionLag, ResetPlan, ResetTo, TopicSpec,
};
pub use log::{
    AgedBy, BatchRef, CompactionReport, Fate, Finding, GroupPositions, PartitionReport, RecordRef, Records,
    RecordsIter, RecoveryEvent, SharedRecord, VerifyReport,
};
pub use metrics::{SyncTimes, Traffic};
pub use pool::{
    Breaker, HandlerError, InHand, OnError, OrderBy, PartitionProgress, PoolConfig, PoolProgress, Stopper,
    WorkerPool,
};
pub use producer::{Delivery, Producer, Receipt, Writer};
pub use record::{ControlType, Header, HeaderIter, Headers, header};
#[cfg(feature = "testing")]
pub use storage::{CrashPoint, FaultKind, FaultOp, OpCounts, SimDisk};
pub use store::{
    Checkpoint, Figures, Maintained, Maintenance, PartitionRetention, PartitionStats, ProducerDescription,
    RecoveryReport, RetentionReport, RetentionRun, SegmentRetention, Stats, Store, StoreOptions, TopicStats,
    Transfer,
};
pub use time::{Clock, ManualClock, SystemClock};
pub use topic::{BatchReceipt, Partition, Record, Scan, To, Topic};
pub use types::{Acks, Compression, Durability, Offset, ReadOnly, TimestampType, TopicPartition};

/// Chapters that belong to no single item.
pub mod guide {
    #[doc = include_str!("../docs/acks.md")]
    pub mod acks {}
    #[doc = include_str!("../docs/compaction.md")]
    pub mod compaction {}
    #[doc = include_str!("../docs/exactly-once.md")]
    pub mod exactly_once {}
    #[doc = include_str!("../docs/groups.md")]
    pub mod groups {}
    #[doc = include_str!("../docs/kafka.md")]
    pub mod kafka {}
    #[doc = include_str!("../docs/metrics.md")]
    pub mod metrics {}
    #[doc = include_str!("../docs/retention.md")]
    pub mod retention {}
    #[doc = include_str!("../docs/worker-pool.md")]
    pub mod worker_pool {}
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadMe;

const _: () = {
    const fn shared<T: Send + Sync + 'static>() {}
    const fn sent<T: Send + 'static>() {}
    shared::<Store>();
    shared::<Topic>();
    shared::<Partition>();
    shared::<Producer>();
    shared::<Waker>();
    shared::<Error>();
    shared::<Records>();
    shared::<WorkerPool>();
    shared::<Stopper>();
    shared::<SharedRecord>();
    shared::<Group>();
    shared::<ResetPlan>();
    sent::<Consumer>();
    sent::<Delivery>();
};
