//! Kafka's own classes as a program to ask: `../shared/tools/kafka/oracle.sh`, when all that it needs is here.
//!
//! With `LOGSTEAD_ORACLE=required` in the environment its absence is a failure; otherwise it is said, and the test
//! passes. With `LOGSTEAD_ORACLE=never` it is not asked.

#![allow(dead_code, reason = "each test asks other things")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may panic and look around")]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// Kafka's releases that are asked, by the names that the oracle has for them.
pub(crate) const LINES: [&str; 2] = ["4.x", "3.9"];

/// How the oracle is asked, and for which line of Kafka releases.
#[derive(Clone, Debug)]
pub(crate) struct Oracle {
    tools: PathBuf,
    line: &'static str,
}

/// Where the folder lies that holds Kafka's tools and data.
pub(crate) fn shared() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared")
}

impl Oracle {
    /// The newest line, if it can be asked.
    pub(crate) fn find() -> Option<Oracle> {
        Oracle::of_line(LINES[0])
    }

    /// All lines that can be asked.
    pub(crate) fn all() -> Vec<Oracle> {
        LINES.into_iter().filter_map(Oracle::of_line).collect()
    }

    pub(crate) fn of_line(line: &'static str) -> Option<Oracle> {
        let tools = shared().join("tools/kafka");
        let wanted = std::env::var("LOGSTEAD_ORACLE").unwrap_or_default();
        let why = if wanted == "never" {
            "LOGSTEAD_ORACLE=never".to_owned()
        } else if !tools.join("oracle.sh").exists() {
            "../shared/tools/kafka is not here".to_owned()
        } else if !has_jars(line) {
            format!("Kafka {line} is not here: run ../shared/tools/kafka/setup.sh")
        } else if Command::new("java").arg("-version").stderr(Stdio::null()).status().is_err() {
            "there is no java".to_owned()
        } else {
            return Some(Oracle { tools, line });
        };
        assert!(wanted != "required", "required, but {why}");
        eprintln!("skipped: {why}");
        None
    }

    pub(crate) fn line(&self) -> &'static str {
        self.line
    }

    /// One of the scripts, ready to be given its arguments.
    pub(crate) fn script(&self, name: &str) -> Command {
        let mut command = Command::new(self.tools.join(name));
        command.args(["--kafka", self.line]);
        command
    }

    /// What `oracle.sh` answers: one JVM, however many directories are named.
    pub(crate) fn ask(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>, dirs: &[PathBuf]) -> String {
        let args: Vec<_> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        let output = self.script("oracle.sh").args(&args).args(dirs).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        // 1 of these two says that a directory is bad or torn, and they go on; the others have failed.
        let worst = i32::from(args.first().is_some_and(|command| command == "judge" || command == "dump"));
        let code = output.status.code();
        assert!(code.is_some_and(|code| code <= worst), "{args:?}: {}: {errors}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    /// One verdict a directory, in their order.
    pub(crate) fn judge(&self, flags: &[&str], dirs: &[PathBuf]) -> Vec<Value> {
        if dirs.is_empty() {
            return Vec::new();
        }
        let answer = self.ask(["judge"].iter().chain(flags), dirs);
        let verdicts: Vec<Value> = answer.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(verdicts.len(), dirs.len(), "one verdict a directory");
        verdicts
    }

    /// The lines that Kafka reads from each directory, in their order.
    pub(crate) fn view(&self, dirs: &[PathBuf]) -> Vec<Seen> {
        if dirs.is_empty() {
            return Vec::new();
        }
        split(&self.ask(["view"], dirs), dirs)
    }
}

/// What Kafka, or one of its clients, saw in one directory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// `record` lines, as they are.
    pub(crate) records: Vec<String>,
    /// `partition` lines.
    pub(crate) partitions: Vec<Value>,
    /// `committed` lines: offsets of groups.
    pub(crate) groups: Vec<Value>,
    /// `time` lines.
    pub(crate) times: Vec<Value>,
}

impl Seen {
    pub(crate) fn of(lines: &str) -> Seen {
        let mut seen = Seen::default();
        lines.lines().for_each(|line| seen.add(line));
        seen
    }

    fn add(&mut self, line: &str) {
        if line.starts_with(r#"{"type":"record""#) {
            self.records.push(line.to_owned());
            return;
        }
        let value: Value = serde_json::from_str(line).unwrap();
        match value["type"].as_str() {
            Some("partition") => self.partitions.push(value),
            Some("committed") => self.groups.push(value),
            Some("time") => self.times.push(value),
            _ => {}
        }
    }
}

/// Tells the lines of several directories apart: of each come the `partition` lines first, one for each partition.
fn split(answer: &str, dirs: &[PathBuf]) -> Vec<Seen> {
    let is_partition = |line: &&str| line.starts_with(r#"{"type":"partition""#);
    let mut lines = answer.lines().peekable();
    let mut all = Vec::new();
    for dir in dirs {
        let mut seen = Seen::default();
        for _ in partition_dirs(dir) {
            let line = lines.next_if(is_partition);
            seen.add(line.unwrap_or_else(|| panic!("{}: a partition is missing", dir.display())));
        }
        while let Some(line) = lines.next_if(|line| !is_partition(line)) {
            seen.add(line);
        }
        all.push(seen);
    }
    assert_eq!(lines.next(), None);
    all
}

/// Whether two readers, or a sender and a reader, say the same; where not, the first difference.
pub(crate) fn compare<'l>(
    expected: impl IntoIterator<Item = &'l String>,
    found: impl IntoIterator<Item = &'l String>,
) -> Result<(), String> {
    let (mut expected, mut found, mut same) = (expected.into_iter(), found.into_iter(), 0);
    loop {
        match (expected.next(), found.next()) {
            (None, None) => return Ok(()),
            (one, other) if one == other => same += 1,
            (one, other) => {
                let show = |line: Option<&String>| line.map_or("nothing more", |line| line).to_owned();
                return Err(format!("after {same} lines:\n  not {}\n  but {}", show(one), show(other)));
            }
        }
    }
}

/// The names of the partitions in a log directory, sorted.
pub(crate) fn partition_dirs(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    let names = entries.filter(|entry| entry.file_type().unwrap().is_dir());
    let mut names: Vec<String> = names.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.retain(|name| {
        let number = name.rsplit_once('-').is_some_and(|(_, p)| p.bytes().all(|b| b.is_ascii_digit()));
        number && !name.starts_with("__cluster_metadata-")
    });
    names.sort();
    names
}

/// What a verdict complains of, without the rest.
pub(crate) fn problems(verdict: &Value) -> String {
    let mut all = vec![format!("clean: {}, {}", verdict["clean"], verdict["problems"])];
    for partition in verdict["partitions"].as_array().into_iter().flatten() {
        if partition["ok"] != true {
            all.push(format!("  {}: {}", partition["partition"], partition["problems"]));
        }
    }
    all.join("\n")
}

/// Whether the jars of a line of Kafka releases were fetched.
fn has_jars(line: &str) -> bool {
    let home = std::env::var_os("KAFKA_ORACLE_HOME").map(PathBuf::from).or_else(|| {
        let cache = std::env::var_os("HOME")?;
        Some(Path::new(&cache).join(".cache/kafka-oracle"))
    });
    let first = line.trim_end_matches('x');
    let entries = home.into_iter().flat_map(|home| std::fs::read_dir(home).into_iter().flatten().flatten());
    entries.into_iter().any(|entry| {
        entry.file_name().to_string_lossy().starts_with(first) && entry.path().join(".jars").exists()
    })
}

/// Where a test works: in memory where that is to be had, since a test's syncs are worth nothing.
pub(crate) fn workplace() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let home = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("logstead-").tempdir_in(home).unwrap()
}

/// Keeps a directory that is the matter of a failure, and says where.
pub(crate) fn keep(dir: &Path, name: &str) -> PathBuf {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kafka").join(name);
    std::fs::create_dir_all(&kept).unwrap();
    let copied = Command::new("cp").arg("-a").arg(dir).arg(&kept).status();
    assert!(copied.is_ok_and(|status| status.success()), "{} can not be kept", dir.display());
    eprintln!("{} is kept in {}", dir.display(), kept.display());
    kept
}

/// Unpacks one of the archives of `../shared/data/kafka`; `None`, and a word about it, when they are not here.
pub(crate) fn unpacked(archive: &str, into: &Path) -> Option<PathBuf> {
    let archive = shared().join("data/kafka").join(archive);
    if !archive.exists() {
        eprintln!("skipped: {} is not here", archive.display());
        return None;
    }
    let home = into.join(archive.file_name().unwrap().to_str().unwrap().trim_end_matches(".tar.zst"));
    std::fs::create_dir(&home).unwrap();
    let tar =
        Command::new("tar").arg("-C").arg(&home).args(["--zstd", "-xSf"]).arg(&archive).status().unwrap();
    assert!(tar.success(), "{}", archive.display());
    Some(home)
}

/// All directories of that name below `home`, sorted.
pub(crate) fn named(home: &Path, name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![home.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                if entry.file_name() == name { found.push(entry.path()) } else { dirs.push(entry.path()) }
            }
        }
    }
    found.sort();
    found
}
