//! The lock of a directory: one descriptor that holds a `flock` and a POSIX record lock.
//!
//! The two ignore each other on Linux: the first keeps out another store, the second a broker. A POSIX lock goes away
//! when *any* descriptor of the file is closed in the process, so a lock file is opened once in a process, and never
//! through [`Storage::open`](super::Storage::open).
#![allow(clippy::disallowed_types, reason = "the room of the disk")]

use std::collections::HashSet;
use std::fs::{File, Metadata, symlink_metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags};

use super::{LockGuard, bad_file};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Mutex, OnceLock};

/// A broker unlinks its lock file when it stops: then what was locked is no longer what the path names.
const ATTEMPTS: usize = 10;

/// Device and inode.
type FileId = (u64, u64);

/// The lock files that this process holds. Its mutex covers every open and close of one.
fn held() -> &'static Mutex<HashSet<FileId>> {
    static HELD: OnceLock<Mutex<HashSet<FileId>>> = OnceLock::new();
    HELD.get_or_init(Mutex::default)
}

/// Holds both locks until it is dropped.
#[derive(Debug)]
struct DirLock {
    file: Option<File>,
    id: FileId,
}

impl LockGuard for DirLock {}

impl Drop for DirLock {
    fn drop(&mut self) {
        let mut held = held().lock();
        if let Some(file) = self.file.take() {
            // By name, not by the close alone: a child between its fork and exec still shares the descriptor.
            let _ = rustix::fs::flock(&file, FlockOperation::Unlock);
        }
        held.remove(&self.id);
    }
}

/// Takes the lock whose file is `path`, or says who holds it. Waits for no one.
pub(super) fn lock(path: &Path) -> Result<Box<dyn LockGuard>> {
    let mut held = held().lock();
    for _ in 0..ATTEMPTS {
        match symlink_metadata(path) {
            Ok(meta) => {
                check(path, &meta)?;
                if held.contains(&id_of(&meta)) {
                    return Err(locked(path, "this process"));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io(path, "stat", &error)),
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)
            .map(File::from)
            .map_err(|errno| Error::io(path, "open", &errno.into()))?;
        let meta = file.metadata().map_err(|error| Error::io(path, "stat", &error))?;
        let id = id_of(&meta);
        if held.contains(&id) {
            // Moved here since the look above. Closing this descriptor would drop the lock held through the other.
            std::mem::forget(file);
            return Err(locked(path, "this process"));
        }
        if meta.nlink() == 0 {
            continue;
        }
        check(path, &meta)?;
        take_both(path, &file)?;
        match symlink_metadata(path) {
            Ok(now) if id_of(&now) == id => {}
            _ => continue,
        }
        // Only a hint for whoever finds it locked: a full disk must not keep a store from opening.
        let _ = file.set_len(0).and_then(|()| file.write_at(holder_line().as_bytes(), 0));
        held.insert(id);
        return Ok(Box::new(DirLock { file: Some(file), id }));
    }
    Err(locked(path, "a process that keeps replacing it"))
}

fn take_both(path: &Path, file: &File) -> Result<()> {
    let exclusive = FlockOperation::NonBlockingLockExclusive;
    // Elsewhere the two kinds can stand in each other's way, and the POSIX lock alone does.
    if cfg!(target_os = "linux") {
        match rustix::fs::flock(file, exclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(locked(path, &read_holder(file))),
            Err(errno) => return Err(Error::io(path, "flock", &errno.into())),
        }
    }
    match rustix::fs::fcntl_lock(file, exclusive) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) if cfg!(target_os = "linux") => {
            Err(locked(path, "another process (a Kafka broker?)"))
        }
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => Err(locked(path, &read_holder(file))),
        Err(errno) => Err(Error::io(path, "fcntl lock", &errno.into())),
    }
}

fn id_of(meta: &Metadata) -> FileId {
    (meta.dev(), meta.ino())
}

fn check(path: &Path, meta: &Metadata) -> Result<()> {
    match (meta.is_file(), meta.nlink()) {
        (true, 0 | 1) => Ok(()),
        (true, links) => Err(bad_file(path, format!("{links} hard links: refused"))),
        (false, _) => Err(bad_file(path, "not a regular file: refused")),
    }
}

fn holder_line() -> String {
    let name = std::env::current_exe().ok();
    let name = name.as_deref().and_then(Path::file_name).unwrap_or_default();
    format!("pid {} ({})\n", std::process::id(), name.to_string_lossy())
}

fn read_holder(file: &File) -> String {
    let mut bytes = [0; 256];
    let read = file.read_at(&mut bytes, 0).unwrap_or(0);
    let line = String::from_utf8_lossy(&bytes[..read]);
    match line.lines().next().map(str::trim) {
        Some(line) if !line.is_empty() && !line.contains(|c: char| c.is_control()) => line.to_owned(),
        _ => "another process".to_owned(),
    }
}

#[cold]
fn locked(path: &Path, holder: &str) -> Error {
    ErrorKind::Locked { path: path.to_owned(), holder: holder.to_owned() }.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::path::PathBuf;
    use std::process::{Child, Command, Stdio};

    fn holder(path: &Path) -> String {
        let error = lock(path).unwrap_err();
        match error.kind() {
            ErrorKind::Locked { holder, path: named } => {
                assert_eq!(named, path);
                holder.clone()
            }
            _ => panic!("{error}"),
        }
    }

    /// Not a test of its own: what the child process runs. Says `held` or why not, and waits for its input to end.
    #[test]
    fn child() {
        let Ok(path) = std::env::var("LOGSTEAD_TEST_LOCK") else { return };
        let path = PathBuf::from(path);
        let posix_only = std::env::var("LOGSTEAD_TEST_POSIX").is_ok();
        let (guard, file);
        let said = if posix_only {
            file = File::options().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
            rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
            "held".to_owned()
        } else {
            guard = lock(&path);
            guard.as_ref().map_or_else(ToString::to_string, |_| "held".to_owned())
        };
        println!("\n>{said}");
        std::io::stdout().flush().unwrap();
        let _ = std::io::stdin().read_line(&mut String::new());
    }

    fn spawn(path: &Path, posix_only: bool) -> (Child, String) {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "storage::lock::tests::child", "--nocapture", "--test-threads=1"]);
        command.env("LOGSTEAD_TEST_LOCK", path).stdin(Stdio::piped()).stdout(Stdio::piped());
        if posix_only {
            command.env("LOGSTEAD_TEST_POSIX", "1");
        }
        let mut child = command.spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
        let first =
            said.by_ref().map(Result::unwrap).find_map(|l| l.strip_prefix('>').map(str::to_owned)).unwrap();
        // Read to the end, or the child's last words hit a closed pipe.
        std::thread::spawn(move || said.count());
        (child, first)
    }

    fn stop(mut child: Child) {
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }

    #[test]
    fn a_second_opener_of_this_process_is_refused_and_breaks_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".lock");
        let guard = lock(&path).unwrap();
        assert_eq!(holder(&path), "this process");
        // The POSIX lock outlived the attempt: the child finds both.
        let (child, said) = spawn(&path, false);
        assert!(said.contains(&format!("pid {}", std::process::id())), "{said}");
        stop(child);
        drop(guard);
        drop(lock(&path).unwrap());
    }

    #[test]
    fn another_process_is_named_and_frees_the_lock_by_dying() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".lock");
        let (mut child, said) = spawn(&path, false);
        assert_eq!(said, "held");
        assert!(holder(&path).starts_with(&format!("pid {}", child.id())));
        child.kill().unwrap();
        child.wait().unwrap();
        drop(lock(&path).unwrap());
    }

    #[test]
    fn a_broker_that_holds_only_the_posix_lock_keeps_us_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".lock");
        std::fs::File::create(&path).unwrap();
        let (child, said) = spawn(&path, true);
        assert_eq!(said, "held");
        assert_eq!(holder(&path), "another process (a Kafka broker?)");
        assert_eq!(
            path.symlink_metadata().unwrap().len(),
            0,
            "nothing is written before both locks are held"
        );
        stop(child);
        drop(lock(&path).unwrap());
    }

    #[test]
    fn links_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (path, target) = (dir.path().join(".lock"), dir.path().join("target"));
        std::os::unix::fs::symlink(&target, &path).unwrap();
        assert!(matches!(lock(&path).unwrap_err().kind(), ErrorKind::BadFile { .. }));
        assert!(!target.exists());
        let hard = dir.path().join("hard");
        File::create(&target).unwrap();
        std::fs::hard_link(&target, &hard).unwrap();
        assert!(matches!(lock(&hard).unwrap_err().kind(), ErrorKind::BadFile { .. }));
    }

    #[test]
    fn an_unlinked_lock_file_is_not_a_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".lock");
        let first = lock(&path).unwrap();
        rustix::fs::unlink(&path).unwrap();
        let second = lock(&path).unwrap();
        assert_eq!(holder(&path), "this process");
        drop((first, second));
    }
}
