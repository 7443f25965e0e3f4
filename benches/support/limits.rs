//! What the machine can do without the crate: plain writes, syncs and scans of the same number of bytes.
#![allow(unsafe_code, reason = "a map of a file that nobody changes meanwhile")]

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use memmap2::Mmap;

use super::{Random, rate};

/// Large enough for the page cache to take large folios, see `docs/where-the-time-goes.md`.
const BUFFER_BYTES: usize = 256 * 1024;
/// What one checksum covers in a mapped scan.
const PIECE_BYTES: usize = 1 << 20;

/// A file whose pages exist, and buffers to write over it.
pub struct Prewritten {
    path: PathBuf,
    file: File,
    buffer: Vec<u8>,
    bytes: u64,
}

impl Prewritten {
    /// Writes the file once and syncs it.
    pub fn new(dir: &Path, bytes: u64) -> Self {
        let path = dir.join("prewritten");
        let file = File::create(&path).unwrap();
        let mut random = Random::new(1);
        let buffer = (0..BUFFER_BYTES).map(|_| random.next() as u8).collect();
        let mut prewritten = Prewritten { path, file, buffer, bytes };
        prewritten.write(false);
        prewritten.file.sync_all().unwrap();
        prewritten
    }

    /// `write(2)` of prepared 256 KiB buffers from the start of the file; bytes per second.
    pub fn write(&mut self, checksum: bool) -> f64 {
        self.file.seek(SeekFrom::Start(0)).unwrap();
        let start = Instant::now();
        write_buffers(&mut self.file, &self.buffer, self.bytes, checksum);
        rate(self.bytes, start.elapsed())
    }

    /// The same into a file that does not exist yet, as a log's segment.
    pub fn write_fresh(&self) -> f64 {
        let path = self.path.with_extension("fresh");
        let mut file = File::create(&path).unwrap();
        let start = Instant::now();
        write_buffers(&mut file, &self.buffer, self.bytes, false);
        let time = start.elapsed();
        file.sync_data().unwrap();
        std::fs::remove_file(&path).unwrap();
        rate(self.bytes, time)
    }
}

fn write_buffers(file: &mut File, buffer: &[u8], bytes: u64, checksum: bool) {
    for _ in 0..bytes / BUFFER_BYTES as u64 {
        if checksum {
            std::hint::black_box(crc32c::crc32c(buffer));
        }
        file.write_all(buffer).unwrap();
    }
}

/// fdatasync after each append of 4 KiB to a growing file, for a while; syncs per second.
pub fn synced_appends(dir: &Path, time: Duration) -> f64 {
    let path = dir.join("synced");
    let mut file = File::create(&path).unwrap();
    let buffer = [7; 4096];
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < time {
        file.write_all(&buffer).unwrap();
        file.sync_data().unwrap();
        count += 1;
    }
    let rate = rate(count, start.elapsed());
    std::fs::remove_file(&path).unwrap();
    rate
}

/// Maps the files anew and goes over them with CRC-32C, a piece of 1 MiB at a time; bytes per second.
pub fn mapped_scan(paths: &[PathBuf]) -> f64 {
    let start = Instant::now();
    let mut bytes = 0;
    for path in paths {
        let map = map(path);
        for piece in map.chunks(PIECE_BYTES) {
            std::hint::black_box(crc32c::crc32c(piece));
        }
        bytes += map.len() as u64;
    }
    rate(bytes, start.elapsed())
}

/// Writes the files back, and reads them from the device and not from the page cache, with CRC-32C; bytes per second.
pub fn synced_and_read_back(paths: &[PathBuf]) -> f64 {
    let (start, mut bytes) = (Instant::now(), 0);
    let mut buffer = vec![0; BUFFER_BYTES];
    for path in paths {
        let mut file = File::open(path).unwrap();
        file.sync_data().unwrap();
        #[cfg(target_os = "linux")]
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        loop {
            let read = file.read(&mut buffer).unwrap();
            if read == 0 {
                break;
            }
            std::hint::black_box(crc32c::crc32c(&buffer[..read]));
            bytes += read as u64;
        }
    }
    rate(bytes, start.elapsed())
}

/// Writes the files back; bytes per second.
pub fn synced(paths: &[PathBuf]) -> f64 {
    let (start, mut bytes) = (Instant::now(), 0);
    for path in paths {
        let file = File::open(path).unwrap();
        file.sync_data().unwrap();
        bytes += file.metadata().unwrap().len();
    }
    rate(bytes, start.elapsed())
}

/// Removes a file and syncs its directory; times per second.
pub fn synced_removal(dir: &Path) -> f64 {
    let path = dir.join("removed");
    File::create(&path).unwrap().sync_all().unwrap();
    let dir = File::open(dir).unwrap();
    let start = Instant::now();
    std::fs::remove_file(&path).unwrap();
    dir.sync_all().unwrap();
    rate(1, start.elapsed())
}

/// From before a thread hands a number over to behind another that takes it, in nanoseconds, each time; the other
/// spins, or sleeps until it is woken.
pub fn hand_over(asleep: bool, count: u64, pause: impl Fn()) -> Vec<u64> {
    let (start, seen) = (Instant::now(), AtomicU64::new(0));
    let (spun, slept, bell) = (AtomicU64::new(0), Mutex::new(0), Condvar::new());
    let now = || start.elapsed().as_nanos() as u64;
    std::thread::scope(|scope| {
        let taker = scope.spawn(|| {
            let (mut last, mut delays) = (0, Vec::with_capacity(count as usize));
            for _ in 0..count {
                last = if asleep {
                    *bell.wait_while(slept.lock().unwrap(), |sent| *sent == last).unwrap()
                } else {
                    while spun.load(Ordering::Acquire) == last {
                        std::hint::spin_loop();
                    }
                    spun.load(Ordering::Acquire)
                };
                delays.push(now() - last);
                seen.fetch_add(1, Ordering::Release);
            }
            delays
        });
        for i in 0..count {
            if asleep {
                *slept.lock().unwrap() = now();
                bell.notify_one();
            } else {
                spun.store(now(), Ordering::Release);
            }
            while seen.load(Ordering::Acquire) <= i {
                std::thread::yield_now();
            }
            pause();
        }
        taker.join().unwrap()
    })
}

/// Checks `piece` bytes at random places of mapped files of about one size; reads per second.
pub fn mapped_random(maps: &[Mmap], piece: usize, reads: u64) -> f64 {
    let mut random = Random::new(3);
    let start = Instant::now();
    for _ in 0..reads {
        let map = &maps[random.below(maps.len() as u64) as usize];
        let at = random.below((map.len() - piece) as u64) as usize;
        std::hint::black_box(crc32c::crc32c(&map[at..at + piece]));
    }
    rate(reads, start.elapsed())
}

pub fn map(path: &Path) -> Mmap {
    let file = File::open(path).unwrap();
    // SAFETY: a benchmark's own file, which nobody writes to or cuts while it is mapped.
    unsafe { Mmap::map(&file).unwrap() }
}
