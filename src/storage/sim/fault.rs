//! Errors on demand, and the count of what was asked of the disk.

use std::io;

/// Which operation is to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultOp {
    /// A write to a file.
    Write,
    /// Cutting or growing a file.
    SetLen,
    /// Making a file's content durable.
    SyncData,
    /// Making a directory's names durable.
    SyncDir,
    /// A rename.
    Rename,
    /// The making of a file or directory.
    Create,
    /// The removal of a file or directory.
    Remove,
    /// A read.
    Read,
    /// Opening a file that exists.
    Open,
    /// Any of them.
    Any,
}

/// How it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// ENOSPC: no space left.
    NoSpace,
    /// EIO: the device failed.
    Io,
    /// EMFILE: no descriptors left.
    TooManyFiles,
    /// EROFS: the file system became read-only.
    ReadOnly,
}

impl FaultKind {
    pub(super) fn error(self) -> io::Error {
        io::Error::from_raw_os_error(match self {
            FaultKind::NoSpace => 28,
            FaultKind::Io => 5,
            FaultKind::TooManyFiles => 24,
            FaultKind::ReadOnly => 30,
        })
    }
}

/// What a simulated disk was asked to do, failed calls included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpCounts {
    /// Files and directories made.
    pub creates: u64,
    /// Files opened that existed.
    pub opens: u64,
    /// Reads of files.
    pub reads: u64,
    /// Writes to files.
    pub writes: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Changes of a file's length.
    pub set_lens: u64,
    /// Syncs of files.
    pub syncs: u64,
    /// Syncs of directories.
    pub dir_syncs: u64,
    /// Renames.
    pub renames: u64,
    /// Files and directories removed.
    pub removes: u64,
}

impl OpCounts {
    pub(super) fn count(&mut self, op: FaultOp) {
        match op {
            FaultOp::Write => self.writes += 1,
            FaultOp::SetLen => self.set_lens += 1,
            FaultOp::SyncData => self.syncs += 1,
            FaultOp::SyncDir => self.dir_syncs += 1,
            FaultOp::Rename => self.renames += 1,
            FaultOp::Create => self.creates += 1,
            FaultOp::Remove => self.removes += 1,
            FaultOp::Read => self.reads += 1,
            FaultOp::Open => self.opens += 1,
            FaultOp::Any => {}
        }
    }
}

/// A planned failure.
#[derive(Debug)]
struct Fault {
    op: FaultOp,
    /// How many more operations until it strikes; 1 is the next.
    after: u64,
    kind: FaultKind,
    sticky: bool,
    /// Bytes that a failing write writes first.
    written: usize,
}

/// A failure that struck.
#[derive(Debug)]
pub(super) struct Struck {
    pub(super) kind: FaultKind,
    pub(super) written: usize,
}

#[derive(Debug, Default)]
pub(super) struct Faults(Vec<Fault>);

impl Faults {
    pub(super) fn add(&mut self, op: FaultOp, nth: u64, kind: FaultKind, sticky: bool, written: usize) {
        self.0.push(Fault { op, after: nth.max(1), kind, sticky, written });
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Counts an operation; tells whether it fails.
    pub(super) fn strike(&mut self, op: FaultOp) -> Option<Struck> {
        let mut struck = None;
        self.0.retain_mut(|fault| {
            if fault.op != op && fault.op != FaultOp::Any {
                return true;
            }
            if fault.after > 1 {
                fault.after -= 1;
                return true;
            }
            struck = Some(Struck { kind: fault.kind, written: fault.written });
            fault.sticky
        });
        struck
    }
}
