use super::*;
use crate::error::ErrorKind;
use std::cell::Cell;
use std::os::unix::fs::PermissionsExt;

fn content(file: &dyn File) -> Vec<u8> {
    let mut bytes = vec![0; file.len().unwrap() as usize];
    let n = file.read_at(&mut bytes, 0).unwrap();
    bytes.truncate(n);
    bytes
}

fn refused(result: Result<Arc<dyn File>>, named: &Path) {
    match result.unwrap_err().kind() {
        ErrorKind::BadFile { file, .. } => assert_eq!(file, named),
        other => panic!("{other}"),
    }
}

#[test]
fn fifty_files_share_four_descriptors() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::new(4);
    let path = |i: usize| dir.path().join(format!("f{i}"));
    let files: Vec<_> = (0..50).map(|i| disk.open(&path(i), Open::New).unwrap()).collect();
    for (i, file) in files.iter().enumerate() {
        file.write_at(format!("file {i}").as_bytes(), 0).unwrap();
        file.sync_data().unwrap();
        assert!(disk.pool.open_count() <= 4);
    }
    for (i, file) in files.iter().enumerate().rev() {
        assert_eq!(content(&**file), format!("file {i}").as_bytes());
        assert!(disk.pool.open_count() <= 4);
    }
    // 40..50 are closed by now: renamed, replaced, removed, and moved with their directory.
    disk.rename(&path(40), &path(100)).unwrap();
    disk.rename(&path(41), &path(42)).unwrap();
    disk.remove_file(&path(43)).unwrap();
    disk.open(&path(43), Open::New).unwrap();
    let (old, new) = (dir.path().join("d"), dir.path().join("d.moved"));
    disk.create_dir(&old).unwrap();
    disk.rename(&path(44), &old.join("x")).unwrap();
    disk.rename(&old, &new).unwrap();
    disk.create_dir(&old).unwrap();
    disk.open(&old.join("x"), Open::New).unwrap();
    for (i, file) in files.iter().enumerate() {
        assert_eq!(content(&**file), format!("file {i}").as_bytes());
        file.write_at(b"F", 0).unwrap();
        file.sync_data().unwrap();
    }
    assert_eq!(std::fs::read(new.join("x")).unwrap(), b"File 44");
    assert_eq!(std::fs::read(path(42)).unwrap(), b"File 41");
    assert!(disk.pool.open_count() <= 4 + 2, "only the two without a name stay beside them");
    drop(files);
    assert_eq!((disk.pool.open_count(), disk.pool.name_count()), (0, 0));
}

#[test]
fn what_is_not_synced_stays_open() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::new(2);
    let open = |name: &str| disk.open(&dir.path().join(name), Open::Truncate).unwrap();
    let dirty: Vec<_> = ["a", "b", "c", "d"].map(open).into();
    dirty.iter().for_each(|file| file.write_at(b"x", 0).unwrap());
    let clean: Vec<_> = ["e", "f", "g"].map(|n| disk.open(&dir.path().join(n), Open::New).unwrap()).into();
    assert_eq!(disk.pool.open_count(), 4 + 1);
    dirty.iter().for_each(|file| file.sync_data().unwrap());
    assert_eq!(clean[0].len().unwrap(), 0);
    assert!(disk.pool.open_count() <= 2);
}

#[test]
fn a_file_put_in_the_place_of_a_closed_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::new(1);
    let path = dir.path().join("a");
    let file = disk.open(&path, Open::New).unwrap();
    let other = disk.open(&dir.path().join("b"), Open::New).unwrap();
    other.len().unwrap();
    std::fs::write(dir.path().join("c"), b"foreign").unwrap();
    std::fs::rename(dir.path().join("c"), &path).unwrap();
    assert!(matches!(file.len().unwrap_err().kind(), ErrorKind::BadFile { .. }));
    // Even that can be removed.
    disk.remove_file(&path).unwrap();
}

#[test]
fn many_threads_share_few_descriptors() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::new(3);
    let files: Vec<_> =
        (0..8).map(|i| disk.open(&dir.path().join(format!("{i}")), Open::New).unwrap()).collect();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (disk, files, dir) = (&disk, &files, dir.path());
            scope.spawn(move || {
                for round in 0..200 {
                    let file = &files[(round as usize * 3 + thread as usize) % files.len()];
                    file.write_at(&[thread as u8 + 1; 64], thread * 64).unwrap();
                    let mut back = [0; 64];
                    assert_eq!(file.read_at(&mut back, thread * 64).unwrap(), 64);
                    assert_eq!(back, [thread as u8 + 1; 64]);
                    if round % 8 == 0 {
                        file.sync_data().unwrap();
                        let name = dir.join(format!("t{thread}-{round}"));
                        let own = disk.open(&name, Open::New).unwrap();
                        disk.rename(&name, &dir.join(format!("t{thread}"))).unwrap();
                        assert_eq!(own.len().unwrap(), 0);
                    }
                }
            });
        }
    });
    files.iter().for_each(|file| file.sync_data().unwrap());
    drop(files);
    assert_eq!((disk.pool.open_count(), disk.pool.name_count()), (0, 0));
}

#[test]
fn links_and_devices_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::new(4);
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("target"), b"precious").unwrap();
    std::os::unix::fs::symlink(at("target"), at("soft")).unwrap();
    std::fs::write(at("twin"), b"precious").unwrap();
    std::fs::hard_link(at("twin"), at("hard")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
    for how in [Open::Read, Open::Write, Open::Truncate] {
        for name in ["soft", "hard", "pipe"] {
            if (how, name) != (Open::Read, "hard") {
                refused(disk.open(&at(name), how), &at(name));
            }
        }
    }
    assert!(disk.open(&at("soft"), Open::New).is_err());
    assert_eq!(std::fs::read(at("target")).unwrap(), b"precious");
    assert_eq!(std::fs::read(at("twin")).unwrap(), b"precious");
    let soft = disk.list(dir.path()).unwrap().into_iter().find(|e| e.name == "soft").unwrap();
    assert_eq!(soft.kind, EntryKind::Other);
}

#[test]
fn a_file_that_is_linked_while_it_is_written_is_reopened_to_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::new(1);
    let at = |name: &str| dir.path().join(name);
    let file = disk.open(&at("a"), Open::New).unwrap();
    file.write_at(b"sealed", 0).unwrap();
    file.sync_data().unwrap();
    assert!(disk.hard_link(&at("a"), &at("b")).unwrap());
    // Another file takes the only descriptor.
    disk.open(&at("c"), Open::New).unwrap();
    let mut bytes = [0; 6];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), 6);
    assert_eq!(&bytes, b"sealed");
    file.sync_data().unwrap();
    assert!(file.write_at(b"X", 0).is_err());
    assert_eq!(std::fs::read(at("b")).unwrap(), b"sealed");
}

#[test]
fn files_and_directories_are_private() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::new(4);
    disk.create_dir(&dir.path().join("d/e")).unwrap();
    disk.open(&dir.path().join("d/e/f"), Open::New).unwrap();
    let mode = |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("d"), mode("d/e"), mode("d/e/f")), (0o700, 0o700, 0o600));
}

#[test]
fn a_mapped_file_grows_and_is_not_cut_below_the_published_end() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::new(1);
    let file = disk.open(&dir.path().join("a"), Open::New).unwrap();
    file.write_at(b"abcdef", 0).unwrap();
    let map = file.map(1 << 20).unwrap().unwrap();
    map.publish(6);
    file.write_at(b"ghi", 6).unwrap();
    assert_eq!(map.slice(0..9), None);
    map.publish(9);
    assert_eq!(map.slice(3..9), Some(&b"defghi"[..]));
    assert!(file.set_len(8).is_err());
    file.set_len(9).unwrap();
    drop(map);
    file.set_len(0).unwrap();
}

#[test]
fn maps_are_capped() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::new(1);
    let file = disk.open(&dir.path().join("a"), Open::New).unwrap();
    let maps: Vec<_> = (0..MAPS_MAX).map(|_| file.map(1).unwrap().unwrap()).collect();
    assert!(file.map(1).unwrap().is_none());
    drop(maps);
    assert!(file.map(1).unwrap().is_some());
    // More than there is address space.
    assert!(file.map(1 << 60).unwrap().is_none());
}

#[test]
fn short_and_interrupted_writes_are_continued_and_none_is_an_error() {
    let (out, calls) = (Cell::new(Vec::<u8>::new()), Cell::new(0u64));
    let write = |iov: &[IoSlice<'_>], at: u64| {
        calls.set(calls.get() + 1);
        let mut sofar = out.take();
        assert_eq!(at, 100 + sofar.len() as u64);
        assert!(iov.len() <= PARTS_PER_CALL);
        if calls.get() % 3 == 0 {
            out.set(sofar);
            return Err(Errno::INTR);
        }
        let before = sofar.len();
        sofar.extend(iov.iter().flat_map(|s| s.iter().copied()).take(7));
        let n = sofar.len() - before;
        out.set(sofar);
        Ok(n)
    };
    let parts: Vec<Vec<u8>> = (0..150u8).map(|i| vec![i; usize::from(i % 11)]).collect();
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    write_parts(&parts, 100, write).unwrap();
    assert_eq!(out.take(), parts.concat());
    let error = write_parts(&[b"x"], 0, |_, _| Ok(0)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WriteZero);
    write_parts(&[b"", b""], 0, |_, _| panic!("nothing to write")).unwrap();
}

#[test]
fn errors_name_the_file_where_it_is_now() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::new(4);
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    disk.open(&a, Open::New).unwrap();
    let file = disk.open(&a, Open::Read).unwrap();
    disk.rename(&a, &b).unwrap();
    match file.write_at(b"x", 0).unwrap_err().kind() {
        ErrorKind::Io { path, op: "write", .. } => assert_eq!(path, &b),
        other => panic!("{other}"),
    }
}

/// Not a test of its own: what the child process of the next one runs.
#[test]
fn child() {
    let Ok(dir) = std::env::var("LOGSTEAD_TEST_EMFILE") else { return };
    let dir = Path::new(&dir);
    let limit = rustix::process::Rlimit { current: Some(40), maximum: Some(40) };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let disk = Disk::new(1_000);
    let files: Vec<_> = (0..200).map(|i| disk.open(&dir.join(format!("{i}")), Open::New).unwrap()).collect();
    for (i, file) in files.iter().enumerate() {
        file.write_at(&[i as u8], 0).unwrap();
        file.sync_data().unwrap();
    }
    // Fill what is left, so that a directory too finds none.
    let mut taken: Vec<StdFile> = Vec::new();
    while let Ok(file) = StdFile::open("/dev/null") {
        taken.push(file);
    }
    disk.sync_dir(dir).unwrap();
    assert!(files.iter().enumerate().all(|(i, file)| content(&**file) == [i as u8]));
    // Nothing clean is left to give up: the call fails, by name, and the rest goes on.
    let dirty: Vec<_> = files.iter().take_while(|file| file.write_at(b"d", 0).is_ok()).collect();
    let error = files[dirty.len()].write_at(b"d", 0).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::TooManyOpenFiles { .. }), "{error}");
    dirty.iter().for_each(|file| file.sync_data().unwrap());
    files[dirty.len()].write_at(b"d", 0).unwrap();
    drop(taken);
}

#[test]
fn out_of_descriptors_the_pool_shrinks() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "storage::disk::tests::child", "--test-threads=1"]);
    let out = command.env("LOGSTEAD_TEST_EMFILE", dir.path()).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 200);
}
