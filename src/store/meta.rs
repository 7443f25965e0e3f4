//! `meta.properties`: what a broker asks of a directory before it takes it over.

use std::path::Path;

use crate::error::Result;
use crate::storage::{Storage, read_small, replace};
use crate::topic::catalog::TopicId;

pub(super) const FILE_NAME: &str = "meta.properties";

/// Writes the file if there is none, and tells whether that was so. A broker that adopts the directory replaces it by
/// its own.
pub(super) fn ensure(storage: &dyn Storage, root: &Path) -> Result<bool> {
    let path = root.join(FILE_NAME);
    if read_small(storage, &path)?.is_some() {
        return Ok(false);
    }
    let (cluster, directory) = (TopicId::random()?, TopicId::random()?);
    let text = format!("version=1\nnode.id=1\ncluster.id={cluster}\ndirectory.id={directory}\n");
    replace(storage, &path, text.as_bytes())?;
    Ok(true)
}
