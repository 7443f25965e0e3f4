//! What every disk promises, asked of the real one and of both simulated ones.

use super::*;

fn each(test: impl Fn(&dyn Storage, &Path)) {
    let dir = tempfile::tempdir().unwrap();
    test(&Disk::new(4), dir.path());
    for sim in [SimDisk::new(1), SimDisk::in_memory()] {
        sim.create_dir(Path::new("/store")).unwrap();
        test(&sim, Path::new("/store"));
    }
}

fn content(file: &dyn File) -> Vec<u8> {
    let mut bytes = vec![0xee; file.len().unwrap() as usize + 1];
    let n = file.read_at(&mut bytes, 0).unwrap();
    bytes.truncate(n);
    bytes
}

#[test]
fn reads_and_writes_are_whole() {
    each(|disk, dir| {
        let file = disk.open(&dir.join("a"), Open::New).unwrap();
        file.write_at(b"world", 6).unwrap();
        file.write_all_at(&[b"he", b"", b"llo", b" "], 0).unwrap();
        assert_eq!(content(&*file), b"hello world");
        let many: Vec<Vec<u8>> = (0..200u8).map(|i| vec![i; 1 + usize::from(i) * 37]).collect();
        let parts: Vec<&[u8]> = many.iter().map(Vec::as_slice).collect();
        file.write_all_at(&parts, 3).unwrap();
        assert_eq!(content(&*file)[3..], parts.concat());
        file.write_at(b"", 1 << 30).unwrap();
        assert_eq!(file.len().unwrap(), 3 + parts.concat().len() as u64);
        let mut small = [0; 4];
        assert_eq!(file.read_at(&mut small, 0).unwrap(), 4);
        assert_eq!(file.read_at(&mut small, 1 << 40).unwrap(), 0);
        assert_eq!(&small, b"hel\0");
    });
}

#[test]
fn lengths_are_cut_and_grown_with_zeros() {
    each(|disk, dir| {
        let file = disk.open(&dir.join("a"), Open::New).unwrap();
        file.write_at(&[7; 10_000], 0).unwrap();
        file.set_len(5_000).unwrap();
        file.set_len(9_000).unwrap();
        let bytes = content(&*file);
        assert!(bytes[..5_000].iter().all(|b| *b == 7) && bytes[5_000..].iter().all(|b| *b == 0));
        assert_eq!(bytes.len(), 9_000);
        file.write_at(b"x", 20_000).unwrap();
        assert_eq!(content(&*file)[9_000..20_000], [0; 11_000]);
        for sync in [file.sync_data(), file.drop_cache(), disk.sync_dir(dir)] {
            sync.unwrap();
        }
        file.read_ahead(1..u64::MAX);
        file.read_ahead(u64::MAX..u64::MAX);
        assert_eq!(content(&*file).len(), 20_001);
        assert!(file.modified_ms().unwrap() > 0);
    });
}

#[test]
fn opens_do_what_they_say() {
    each(|disk, dir| {
        let path = dir.join("a");
        assert!(disk.open(&path, Open::Read).unwrap_err().is_not_found());
        assert!(disk.open(&path, Open::Write).unwrap_err().is_not_found());
        disk.open(&path, Open::New).unwrap().write_at(b"abc", 0).unwrap();
        assert!(disk.open(&path, Open::New).is_err());
        let read = disk.open(&path, Open::Read).unwrap();
        assert_eq!(content(&*read), b"abc");
        assert!(read.write_at(b"x", 0).is_err() && read.set_len(0).is_err());
        disk.open(&path, Open::Write).unwrap().write_at(b"X", 1).unwrap();
        assert_eq!(content(&*read), b"aXc");
        disk.open(&path, Open::Truncate).unwrap();
        assert_eq!(content(&*read), b"");
        disk.open(&dir.join("b"), Open::Truncate).unwrap();
        let error = disk.open(dir, Open::Read).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::BadFile { .. }), "{error}");
        assert!(disk.open(dir, Open::Write).unwrap_err().is_corrupt());
    });
}

#[test]
fn names_are_listed_renamed_and_removed() {
    each(|disk, dir| {
        let deep = dir.join("t-0").join("x").join("y");
        disk.create_dir(&deep).unwrap();
        disk.create_dir(&deep).unwrap();
        let at = |name: &str| dir.join("t-0").join(name);
        disk.open(&at("a"), Open::New).unwrap().write_at(b"abc", 0).unwrap();
        let mut names = disk.list(&dir.join("t-0")).unwrap();
        names.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let seen: Vec<_> = names.iter().map(|e| (e.name.as_str(), e.kind, e.len, e.links)).collect();
        assert_eq!(seen, [("a", EntryKind::File, 3, 1), ("x", EntryKind::Directory, 0, 1)]);
        assert!(disk.create_dir(&at("a")).is_err());
        assert!(disk.create_dir(&at("a").join("b")).is_err());
        assert!(disk.list(&at("none")).unwrap_err().is_not_found());
        assert!(disk.remove_file(&at("none")).unwrap_err().is_not_found());
        assert!(disk.rename(&at("none"), &at("b")).unwrap_err().is_not_found());
        assert!(disk.sync_dir(&at("none")).is_err());
        assert!(disk.remove_file(&at("x")).is_err() && disk.remove_dir(&at("x")).is_err());
        assert!(disk.remove_dir(&at("a")).is_err() && disk.rename(&at("a"), &at("x")).is_err());
        assert!(disk.rename(&at("x"), &at("x").join("y").join("z")).is_err());
        disk.remove_dir(&deep).unwrap();
        disk.rename(&at("a"), &at("x").join("b")).unwrap();
        disk.rename(&dir.join("t-0"), &dir.join("t-0.gone")).unwrap();
        let moved = dir.join("t-0.gone").join("x").join("b");
        assert_eq!(content(&*disk.open(&moved, Open::Read).unwrap()), b"abc");
        disk.rename(&moved, &moved).unwrap();
        disk.remove_file(&moved).unwrap();
        disk.remove_dir(&dir.join("t-0.gone").join("x")).unwrap();
        disk.remove_dir(&dir.join("t-0.gone")).unwrap();
        assert_eq!(disk.list(dir).unwrap(), []);
    });
}

#[test]
fn a_handle_outlives_its_name() {
    each(|disk, dir| {
        let (a, b) = (dir.join("a"), dir.join("b"));
        let first = disk.open(&a, Open::New).unwrap();
        first.write_at(b"first", 0).unwrap();
        let second = disk.open(&b, Open::New).unwrap();
        second.write_at(b"second", 0).unwrap();
        disk.rename(&a, &b).unwrap();
        assert_eq!((content(&*first), content(&*second)), (b"first".to_vec(), b"second".to_vec()));
        disk.remove_file(&b).unwrap();
        disk.open(&b, Open::New).unwrap().write_at(b"third", 0).unwrap();
        first.write_at(b"F", 0).unwrap();
        first.sync_data().unwrap();
        assert_eq!((content(&*first), content(&*second)), (b"First".to_vec(), b"second".to_vec()));
        assert_eq!(content(&*disk.open(&b, Open::Read).unwrap()), b"third");
    });
}

#[test]
fn a_second_name_shares_the_file_which_is_only_read_from_then_on() {
    each(|disk, dir| {
        let (a, b) = (dir.join("a"), dir.join("b"));
        let first = disk.open(&a, Open::New).unwrap();
        first.write_at(b"shared", 0).unwrap();
        assert!(disk.hard_link(&dir.join("none"), &b).unwrap_err().is_not_found());
        assert!(disk.hard_link(&a, &b).unwrap());
        assert!(disk.hard_link(&a, &b).unwrap_err().is_already_there());
        let entries = disk.list(dir).unwrap();
        assert!(
            entries.iter().all(|entry| entry.links == 2 && entry.file == entries[0].file && entry.len == 6)
        );
        for how in [Open::Write, Open::Truncate] {
            for name in [&a, &b] {
                assert!(disk.open(name, how).unwrap_err().is_corrupt(), "{how:?}");
            }
        }
        assert_eq!(content(&*disk.open(&b, Open::Read).unwrap()), b"shared");
        disk.remove_file(&a).unwrap();
        assert_eq!((content(&*first), disk.list(dir).unwrap()[0].links), (b"shared".to_vec(), 1));
        disk.open(&b, Open::Write).unwrap().write_at(b"S", 0).unwrap();
        // Over a name of its own a file stays as it is.
        disk.open(&dir.join("c"), Open::New).unwrap();
        disk.rename(&b, &dir.join("c")).unwrap();
        assert_eq!(content(&*disk.open(&dir.join("c"), Open::Read).unwrap()), b"Shared");
        let canonical = disk.canonical(&dir.join("c")).unwrap();
        assert_eq!(canonical, disk.canonical(dir).unwrap().join("c"));
        assert!(disk.canonical(&a).unwrap_err().is_not_found());
    });
}

#[test]
fn a_lock_is_held_once() {
    each(|disk, dir| {
        let path = dir.join(".lock");
        let guard = disk.lock(&path).unwrap();
        let error = disk.lock(&path).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Locked { .. }), "{error}");
        drop(guard);
        drop(disk.lock(&path).unwrap());
        assert_eq!(disk.list(dir).unwrap().len(), 1);
    });
}
