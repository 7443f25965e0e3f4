//! `meta.properties`: what a broker asks of a directory before it takes it over.

use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::storage::{Storage, read_small, replace};
use crate::topic::catalog::TopicId;

pub(super) const FILE_NAME: &str = "meta.properties";

/// Writes the file if there is none. A broker that adopts the directory replaces it by its own.
pub(super) fn ensure(storage: &dyn Storage, root: &Path) -> Result<()> {
    let path = root.join(FILE_NAME);
    if read_small(storage, &path)?.is_some() {
        return Ok(());
    }
    // A new store in a directory whose own name may not be durable yet, whoever made it: where the file is, it is.
    sync_above(storage, root)?;
    let (cluster, directory) = (TopicId::random()?, TopicId::random()?);
    let text = format!("version=1\nnode.id=1\ncluster.id={cluster}\ndirectory.id={directory}\n");
    replace(storage, &path, text.as_bytes())
}

/// Makes the name of a directory durable, and those of the directories that it lies in.
pub(super) fn sync_above(storage: &dyn Storage, root: &Path) -> Result<()> {
    for dir in root.ancestors().skip(1) {
        match storage.sync_dir(dir) {
            Err(error) if !is_not_ours(&error) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Whether a directory above can not be synced by us at all, whoever made what is in it.
fn is_not_ours(error: &Error) -> bool {
    use std::io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    let ErrorKind::Io { kind, .. } = error.kind() else { return false };
    matches!(kind, InvalidInput | PermissionDenied | ReadOnlyFilesystem | Unsupported)
}
