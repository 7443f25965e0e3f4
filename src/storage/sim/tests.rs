use super::*;
use crate::error::ErrorKind;
use crate::storage::{File, Open, Storage};
use std::collections::BTreeSet;

const A: &str = "/d/a";

fn disk() -> SimDisk {
    let disk = SimDisk::new(1);
    disk.create_dir(Path::new("/d")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk
}

fn durable(disk: &SimDisk) -> SimDisk {
    disk.crash_points().last().unwrap().states(1, 0).next().unwrap()
}

fn contents(disk: &SimDisk, limit: usize) -> BTreeSet<Option<Vec<u8>>> {
    let point = disk.crash_points().pop().unwrap();
    point.states(limit, 1).map(|disk| disk.read_file(A).ok()).collect()
}

fn new_file(disk: &SimDisk, bytes: &[u8]) -> Arc<dyn File> {
    let file = disk.open(Path::new(A), Open::New).unwrap();
    file.write_at(bytes, 0).unwrap();
    file
}

fn sync_all(disk: &SimDisk, file: &dyn File) {
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
}

#[test]
fn what_is_not_synced_can_be_lost_and_what_is_can_not() {
    let disk = disk();
    let file = new_file(&disk, b"one");
    let states = contents(&disk, 1000);
    assert!(
        states.contains(&None) && states.contains(&Some(vec![])) && states.contains(&Some(b"one".to_vec()))
    );
    // The content alone does not save the name, nor the name the content.
    file.sync_data().unwrap();
    assert_eq!(contents(&disk, 1000), BTreeSet::from([None, Some(b"one".to_vec())]));
    disk.sync_dir(Path::new("/d")).unwrap();
    assert_eq!(contents(&disk, 1000), BTreeSet::from([Some(b"one".to_vec())]));
    file.write_at(b"two", 3).unwrap();
    assert!(contents(&disk, 1000).iter().flatten().all(|bytes| bytes.starts_with(b"one")));
    assert_eq!(durable(&disk).read_file(A).unwrap(), b"one");
    assert_eq!(disk.kill().read_file(A).unwrap(), b"onetwo");
    // Killed is not synced.
    assert_eq!(durable(&disk.kill()).read_file(A).unwrap(), b"one");
}

#[test]
fn a_name_without_its_directory_synced_can_be_lost() {
    let disk = disk();
    let file = new_file(&disk, b"x");
    sync_all(&disk, &*file);
    let b = Path::new("/d/b");
    disk.rename(Path::new(A), b).unwrap();
    let names = |disk: &SimDisk| -> BTreeSet<Vec<PathBuf>> {
        disk.crash_points().pop().unwrap().states(99, 0).map(|d| d.files()).collect()
    };
    assert_eq!(names(&disk), BTreeSet::from([vec![PathBuf::from(A)], vec![b.to_owned()]]));
    disk.remove_file(b).unwrap();
    // The removal of a name that never became durable is not there without the rename.
    assert_eq!(names(&disk), BTreeSet::from([vec![PathBuf::from(A)], vec![b.to_owned()], vec![]]));
    disk.sync_dir(Path::new("/d")).unwrap();
    assert_eq!(names(&disk), BTreeSet::from([vec![]]));
}

#[test]
fn a_second_name_is_lost_without_its_directory_synced_and_keeps_the_content_when_the_first_goes() {
    let disk = disk();
    let file = new_file(&disk, b"x");
    sync_all(&disk, &*file);
    disk.create_dir(Path::new("/e")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    let b = Path::new("/e/b");
    assert!(disk.hard_link(Path::new(A), b).unwrap());
    let names = |disk: &SimDisk| -> BTreeSet<Vec<PathBuf>> {
        disk.crash_points().pop().unwrap().states(99, 0).map(|d| d.files()).collect()
    };
    let both = vec![PathBuf::from(A), b.to_owned()];
    assert_eq!(names(&disk), BTreeSet::from([vec![PathBuf::from(A)], both.clone()]));
    disk.sync_dir(Path::new("/e")).unwrap();
    assert_eq!(names(&disk), BTreeSet::from([both.clone()]));
    disk.remove_file(Path::new(A)).unwrap();
    assert_eq!(names(&disk), BTreeSet::from([both, vec![b.to_owned()]]));
    drop(file);
    assert_eq!(durable(&disk).read_file(b).unwrap(), b"x");
    for disk in disk.crash_points().pop().unwrap().states(99, 0) {
        let links = disk.list(Path::new("/e")).unwrap()[0].links;
        assert_eq!(links, disk.files().len() as u64);
    }
    disk.set_hard_links(false);
    assert!(!disk.hard_link(b, Path::new(A)).unwrap());
}

#[test]
fn changes_of_different_names_are_lost_independently() {
    let disk = disk();
    for name in ["/d/1", "/d/2", "/d/3"] {
        disk.open(Path::new(name), Open::New).unwrap();
    }
    let states: BTreeSet<_> =
        disk.crash_points().pop().unwrap().states(1000, 0).map(|disk| disk.files()).collect();
    assert_eq!(states.len(), 8);
}

#[test]
fn writes_are_torn_reordered_and_replaced_by_garbage() {
    let disk = disk();
    let file = new_file(&disk, b"");
    sync_all(&disk, &*file);
    file.write_at(&[1; 5000], 0).unwrap();
    file.write_at(&[2; 5000], 5000).unwrap();
    let states: Vec<Vec<u8>> = contents(&disk, 10_000).into_iter().flatten().collect();
    let has = |what: &dyn Fn(&[u8]) -> bool| states.iter().any(|bytes| what(bytes));
    assert!(has(&|b| b.is_empty()) && has(&|b| b.len() == 10_000 && b[4999] == 1 && b[5000] == 2));
    assert!(has(&|b| b.len() == 10_000 && b[..5000] == [0; 5000] && b[5000..] == [2; 5000]), "reordered");
    assert!(has(&|b| b == [0; 5000]), "length without content");
    assert!(has(&|b| b == [1; 4096]), "torn at a page");
    assert!(has(&|b| b == [1; 512]), "torn at a sector");
    assert!(
        has(&|b| b.len() == 5000 && b[..4096] == [0; 4096] && b[4096..] == [1; 904]),
        "torn from the front"
    );
    assert!(has(&|b| b.iter().any(|b| *b > 2)), "garbage");
}

#[test]
fn a_cut_can_be_lost_too() {
    let disk = disk();
    let file = new_file(&disk, b"abcdef");
    sync_all(&disk, &*file);
    file.set_len(2).unwrap();
    assert_eq!(contents(&disk, 99), BTreeSet::from([Some(b"ab".to_vec()), Some(b"abcdef".to_vec())]));
    disk.open(Path::new(A), Open::Truncate).unwrap();
    file.sync_data().unwrap();
    assert_eq!(contents(&disk, 99), BTreeSet::from([Some(vec![])]));
}

/// The table of what Linux does after a failed sync.
#[test]
fn a_failed_sync_loses_what_no_later_sync_brings_back() {
    let failed = || {
        let disk = disk();
        let file = new_file(&disk, &[1; 4096]);
        sync_all(&disk, &*file);
        file.write_at(&[2; 4096], 4096).unwrap();
        disk.fail_nth(FaultOp::SyncData, 1, FaultKind::NoSpace, false);
        let error = file.sync_data().unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Io { .. }), "never the harmless Full: {error}");
        (disk, file)
    };
    let whole = [[1; 4096], [2; 4096]].concat();
    let holed = [[1; 4096], [0; 4096]].concat();

    // Synced again: fine by the call, still read, and gone.
    let (disk, file) = failed();
    file.sync_data().unwrap();
    assert_eq!(disk.read_file(A).unwrap(), whole);
    assert_eq!(contents(&disk, 99), BTreeSet::from([Some(holed.clone())]));

    // Written again in place: the same.
    let (disk, file) = failed();
    file.write_at(&[2; 4096], 4096).unwrap();
    file.sync_data().unwrap();
    assert_eq!(contents(&disk, 99), BTreeSet::from([Some(holed.clone())]));

    // Cut to the last durable byte, then written: saved.
    let (disk, file) = failed();
    file.set_len(4096).unwrap();
    file.write_at(&[2; 4096], 4096).unwrap();
    file.sync_data().unwrap();
    assert_eq!(contents(&disk, 99), BTreeSet::from([Some(whole.clone())]));

    // The cache dropped: the loss is seen, and what is written then is saved.
    let (disk, file) = failed();
    file.drop_cache().unwrap();
    assert_eq!(disk.read_file(A).unwrap(), holed);
    file.write_at(&[2; 4096], 4096).unwrap();
    file.sync_data().unwrap();
    assert_eq!(contents(&disk, 99), BTreeSet::from([Some(whole)]));
}

#[test]
fn a_failed_directory_sync_saves_no_name() {
    let disk = disk();
    new_file(&disk, b"x");
    disk.fail_nth(FaultOp::SyncDir, 1, FaultKind::Io, false);
    assert!(disk.sync_dir(Path::new("/d")).is_err());
    assert!(durable(&disk).files().is_empty());
}

#[test]
fn equal_seeds_make_equal_crashes() {
    let run = |seed| {
        let disk = disk();
        let file = new_file(&disk, b"");
        for i in 0..20u64 {
            file.write_at(&[i as u8; 1000], i * 900).unwrap();
        }
        let point = disk.crash_points().pop().unwrap();
        let states: Vec<u64> = point.states(40, seed).map(|disk| disk.content_hash()).collect();
        assert_eq!(states.len(), 40);
        (states, (0..20).map(|i| disk.crash(seed + i).content_hash()).collect::<Vec<_>>())
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

#[test]
fn states_are_different_and_limited() {
    let disk = disk();
    let file = new_file(&disk, b"x");
    for _ in 0..3 {
        file.write_at(b"x", 0).unwrap();
    }
    // Four times the same byte: kept, zero, or garbage, or no file, or an empty one.
    let point = disk.crash_points().pop().unwrap();
    let hashes: Vec<u64> = point.states(1000, 0).map(|disk| disk.content_hash()).collect();
    assert_eq!(hashes.len(), hashes.iter().collect::<BTreeSet<_>>().len());
    assert!(hashes.len() >= 4, "{}", hashes.len());
    assert_eq!(point.states(2, 0).count(), 2);
}

#[test]
fn every_operation_has_a_number_and_a_state_before_it() {
    let disk = disk();
    let begin = disk.op_count();
    disk.record_states(true);
    let file = new_file(&disk, b"abc");
    sync_all(&disk, &*file);
    disk.rename(Path::new(A), Path::new("/d/b")).unwrap();
    disk.remove_file(Path::new("/d/b")).unwrap();
    let points = disk.crash_points();
    let ops: Vec<u64> = points.iter().map(|point| point.op() - begin).collect();
    assert_eq!(ops, [0, 1, 2, 3, 4, 5, 6]);
    let all = |i: usize| points[i].states(2, 0).last().unwrap();
    assert_eq!(all(0).files(), Vec::<PathBuf>::new());
    assert_eq!(all(1).read_file(A).unwrap(), b"");
    assert_eq!(all(2).read_file(A).unwrap(), b"abc");
    assert_eq!(all(5).files(), [PathBuf::from("/d/b")]);
    assert!(all(6).files().is_empty());
    let counts = disk.counts();
    assert_eq!((counts.writes, counts.syncs, counts.renames, counts.removes), (1, 1, 1, 1));
    assert_eq!((counts.creates, counts.dir_syncs, counts.bytes_written), (2, 2, 3));
}

#[test]
fn recovery_itself_can_be_cut_off() {
    let disk = disk();
    let file = new_file(&disk, b"abc");
    sync_all(&disk, &*file);
    let found = disk.crash(3);
    let again = found.open(Path::new(A), Open::Write).unwrap();
    again.write_at(b"def", 3).unwrap();
    assert_eq!(durable(&found).read_file(A).unwrap(), b"abc");
    again.sync_data().unwrap();
    assert_eq!(durable(&found).read_file(A).unwrap(), b"abcdef");
    assert_eq!(disk.read_file(A).unwrap(), b"abc");
}

#[test]
fn crashes_release_locks() {
    let disk = disk();
    let lock = Path::new("/d/.lock");
    let guard = disk.lock(lock).unwrap();
    assert!(disk.clone().lock(lock).is_err());
    drop(disk.crash(0).lock(lock).unwrap());
    drop(disk.kill().lock(lock).unwrap());
    drop(guard);
}

#[test]
fn faults_strike_when_planned() {
    let disk = disk();
    let file = new_file(&disk, b"abc");
    disk.fail_nth(FaultOp::Write, 2, FaultKind::NoSpace, false);
    file.write_at(b"1", 3).unwrap();
    let error = file.write_at(b"2", 4).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Full { .. }), "{error}");
    file.write_at(b"3", 4).unwrap();
    disk.fail_nth(FaultOp::Read, 1, FaultKind::Io, true);
    assert!(file.read_at(&mut [0], 0).is_err() && file.read_at(&mut [0], 0).is_err());
    disk.clear_faults();
    assert_eq!(file.read_at(&mut [0; 9], 0).unwrap(), 5);
    disk.fail_nth(FaultOp::Open, 1, FaultKind::TooManyFiles, false);
    let error = disk.open(Path::new(A), Open::Read).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::TooManyOpenFiles { .. }), "{error}");
    disk.fail_nth(FaultOp::Create, 1, FaultKind::ReadOnly, false);
    let error = disk.open(Path::new("/d/n"), Open::New).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::ReadOnly { .. }), "{error}");
    let calls: [(FaultOp, &dyn Fn() -> Result<()>); 5] = [
        (FaultOp::Rename, &|| disk.rename(Path::new(A), Path::new("/d/b"))),
        (FaultOp::Remove, &|| disk.remove_file(Path::new(A))),
        (FaultOp::SetLen, &|| file.set_len(0)),
        (FaultOp::SyncDir, &|| disk.sync_dir(Path::new("/d"))),
        (FaultOp::Any, &|| file.sync_data()),
    ];
    for (op, call) in calls {
        disk.fail_nth(op, 1, FaultKind::Io, false);
        assert!(call().is_err(), "{op:?}");
        assert_eq!(disk.read_file(A).unwrap(), b"abc13");
    }
}

#[test]
fn a_failing_write_may_be_short() {
    let disk = disk();
    let file = new_file(&disk, b"abc");
    disk.fail_write_short(1, FaultKind::Io, 2);
    assert!(file.write_all_at(&[b"d", b"efg"], 3).is_err());
    assert_eq!(disk.read_file(A).unwrap(), b"abcde");
}

#[test]
fn a_full_disk_takes_what_fits_and_goes_on_when_space_returns() {
    for disk in [SimDisk::new(0), SimDisk::in_memory()] {
        disk.create_dir(Path::new("/d")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        disk.set_capacity(Some(10));
        let file = new_file(&disk, b"12345678");
        let error = file.write_at(b"abcd", 8).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Full { .. }), "{error}");
        assert_eq!(disk.read_file(A).unwrap(), b"12345678ab");
        file.write_at(b"XX", 0).unwrap();
        assert!(file.set_len(11).is_err());
        file.set_len(8).unwrap();
        file.write_at(b"ab", 8).unwrap();
        disk.set_capacity(None);
        file.write_at(b"cd", 10).unwrap();
        // The space of a removed file comes back with its last handle.
        disk.set_capacity(Some(12));
        disk.remove_file(Path::new(A)).unwrap();
        let other = disk.open(Path::new("/d/b"), Open::New).unwrap();
        assert!(other.write_at(b"z", 0).is_err());
        drop(file);
        other.write_at(b"z", 0).unwrap();
    }
}

#[test]
fn rot_is_on_the_device_too() {
    let disk = disk();
    let file = new_file(&disk, b"abc");
    sync_all(&disk, &*file);
    disk.rot(A, 1, 0x01).unwrap();
    assert_eq!(disk.read_file(A).unwrap(), b"acc");
    assert_eq!(durable(&disk).read_file(A).unwrap(), b"acc");
    assert!(disk.rot(A, 3, 1).is_err());
}

#[test]
fn planted_files_are_durable() {
    let disk = SimDisk::new(9);
    disk.write_file("x/y/z", b"planted").unwrap();
    disk.write_file("/x/y/z", b"again").unwrap();
    let found = durable(&disk);
    assert_eq!(found.files(), [PathBuf::from("/x/y/z")]);
    assert_eq!(found.read_file("x/y/z").unwrap(), b"again");
    assert_eq!(disk.op_count(), 0);
    assert_eq!(found.content_hash(), disk.content_hash());
}

#[test]
fn a_disk_in_memory_frees_what_is_removed() {
    let disk = SimDisk::in_memory();
    disk.create_dir(Path::new("/d")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    let file = new_file(&disk, &[1; 10_000]);
    disk.remove_file(Path::new(A)).unwrap();
    assert_eq!(disk.0.lock().state.files.len(), 1);
    drop(file);
    assert_eq!(disk.0.lock().state.files.len(), 0);
}

#[test]
fn absurd_positions_are_refused() {
    let disk = disk();
    let file = new_file(&disk, b"abc");
    assert!(file.write_at(b"x", u64::MAX).is_err() && file.write_at(b"x", 1 << 50).is_err());
    assert!(file.set_len(u64::MAX).is_err());
    assert_eq!(file.read_at(&mut [0], u64::MAX).unwrap(), 0);
}
