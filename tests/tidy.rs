//! The rules of the house that a machine can check. Each failure names file, line and rule.
//!
//! - Rooms stand on floors; an import points down, never up, and never to a sibling (floor 0 apart).
//! - `unsafe` lives in `storage/mmap.rs`; the file system in `storage/`.
//! - Nothing unfinished, nothing commented out, no line or file too long to read, a doc comment atop each file.
//! - No test sleeps: it waits for an event, or moves a clock by hand.
//!
//! The floors and the file system bind what ships: code under `#[cfg(test)]` may look around. The other rules bind
//! everything. The text is read with a small lexer, not parsed; it relies on rustfmt's layout for test modules.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test reads the sources as they are")]

use std::fs;
use std::path::{Path, PathBuf};

/// Which rooms stand on which floor. A new room gets its place here.
const FLOORS: &[(u8, &[&str])] = &[
    (0, &["error", "limits", "types", "config", "time", "sync", "metrics"]),
    (1, &["record", "storage"]),
    (2, &["segment"]),
    (3, &["log"]),
    (4, &["topic"]),
    (5, &["group"]),
    (6, &["producer", "consumer"]),
    (7, &["store"]),
    (8, &["pool", "events", "stream", "connect", "inspect", "testing", "fuzzing"]),
    (9, &["bin"]),
];
const COLUMNS_MAX: usize = 120;
const FILE_LINES_MAX: usize = 600;
/// A file whose header says so, with the reason, may be longer.
const LONG_FILE: &str = "Long because";

#[test]
fn the_house_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut files = 0;
    for folder in ["src", "tests", "examples", "benches", "fuzz/fuzz_targets"] {
        for path in rust_files(&root.join(folder)) {
            let text = fs::read_to_string(&path).unwrap();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap();
            found.extend(check(name, &text));
            files += 1;
        }
    }
    assert!(files > 10, "only {files} files found under {}", root.display());
    assert!(found.is_empty(), "{} untidy places:\n{}", found.len(), found.join("\n"));
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// All that is wrong with one file, `path` being relative to the crate.
fn check(path: &str, text: &str) -> Vec<String> {
    let code = blank(text, Blank::StringsAndComments);
    let in_src = path.starts_with("src/");
    let test_file = !in_src || path.ends_with("/tests.rs") || path.contains("/tests/");
    let shipped = if test_file { blank_all(&code) } else { without_tests(&code) };
    let mut found = Vec::new();
    let mut say = |line: usize, rule: String| found.push(format!("{path}:{line}: {rule}"));

    if in_src {
        floors(path, &shipped, &mut say);
        file_system(path, &shipped, &mut say);
        unsafe_code(path, &code, &mut say);
        columns(text, &mut say);
        length(text, &shipped, &mut say);
    }
    header(path, text, &mut say);
    unfinished(&code, &mut say);
    commented_out(text, &mut say);
    let tests = if test_file { code.clone() } else { only_tests(&code, &shipped) };
    // A benchmark may wait for a quiet machine.
    for line in lines_with(&tests, "thread::sleep").into_iter().filter(|_| !path.starts_with("benches/")) {
        say(line, "a test sleeps: wait for an event or move a ManualClock".into());
    }
    found
}

// ───────── the rules

fn floor_of(room: &str) -> Option<u8> {
    FLOORS.iter().find(|(_, rooms)| rooms.contains(&room)).map(|(floor, _)| *floor)
}

fn floors(path: &str, shipped: &str, say: &mut impl FnMut(usize, String)) {
    let module = module_of(path);
    let Some(room) = module.first().copied() else { return }; // lib.rs sees all
    let Some(floor) = floor_of(room) else {
        return say(1, format!("{room} has no floor: give it one in tests/tidy.rs"));
    };
    let mut imports: Vec<(usize, String)> = names_after(shipped, "crate::");
    for (line, supers, name) in super_paths(shipped) {
        match module.len().checked_sub(supers) {
            Some(0) => imports.push((line, name)),
            None => say(line, "more super:: than floors".into()),
            Some(_) => {}
        }
    }
    for (line, name) in imports {
        match floor_of(&name) {
            _ if name == room || name == "self" => {}
            Some(below) if below < floor || floor == 0 && below == 0 => {}
            Some(above) => say(line, format!("{room} (floor {floor}) may not import {name} (floor {above})")),
            // A re-export of lib.rs would hide which room is meant. Rooms built on the public API use nothing else.
            None if floor >= 8 => {}
            None => say(line, format!("crate::{name} is no room: import it from the room it lives in")),
        }
    }
}

/// `src/log/flush.rs` is `[log, flush]`, `src/log/mod.rs` is `[log]`, `src/lib.rs` is `[]`.
fn module_of(path: &str) -> Vec<&str> {
    let inner = path.trim_start_matches("src/").trim_end_matches(".rs");
    inner.split('/').filter(|part| !matches!(*part, "mod" | "lib")).collect()
}

fn file_system(path: &str, shipped: &str, say: &mut impl FnMut(usize, String)) {
    if path.starts_with("src/storage/") {
        return;
    }
    for root in ["std::", "rustix::"] {
        for (line, name) in names_after(shipped, root) {
            if name == "fs" {
                say(line, format!("{root}fs outside storage/"));
            }
        }
    }
}

fn unsafe_code(path: &str, code: &str, say: &mut impl FnMut(usize, String)) {
    if path != "src/storage/mmap.rs" {
        for line in lines_with(code, "unsafe") {
            say(line, "unsafe outside storage/mmap.rs".into());
        }
    }
}

/// What stands inside a string does not count: a message stays in one piece, so that it can be searched for.
fn columns(text: &str, say: &mut impl FnMut(usize, String)) {
    for (i, line) in blank(text, Blank::Strings).lines().enumerate() {
        let width = line.chars().filter(|c| *c != BLANK).count();
        if width > COLUMNS_MAX {
            say(i + 1, format!("{width} columns, more than {COLUMNS_MAX}"));
        }
    }
}

fn length(text: &str, shipped: &str, say: &mut impl FnMut(usize, String)) {
    let tests = shipped.lines().filter(|line| line.chars().any(|c| c == TEST)).count();
    let lines = text.lines().count() - tests;
    let excused =
        text.lines().take_while(|line| line.starts_with("//!")).any(|line| line.contains(LONG_FILE));
    if lines > FILE_LINES_MAX && !excused {
        let why = format!("or say why in its header: \"{LONG_FILE} …\"");
        say(1, format!("{lines} lines without tests, more than {FILE_LINES_MAX}: split it, {why}"));
    }
}

fn header(path: &str, text: &str, say: &mut impl FnMut(usize, String)) {
    // A test file of a room is explained by the room; a fuzz target begins with its attributes.
    let exempt = path.starts_with("src/") && (path.ends_with("/tests.rs") || path.contains("/tests/"));
    let first = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with("#!["));
    if !exempt && !first.is_some_and(|line| line.starts_with("//! ")) {
        say(1, "no doc comment (//!) at the top".into());
    }
}

fn unfinished(code: &str, say: &mut impl FnMut(usize, String)) {
    for word in ["todo!", "unimplemented!", "dbg!"] {
        for line in lines_with(code, word) {
            say(line, format!("{word} left behind"));
        }
    }
}

/// A comment that ends as a statement or a block does is code. Doc comments may hold examples.
fn commented_out(text: &str, say: &mut impl FnMut(usize, String)) {
    for (i, line) in text.lines().enumerate() {
        let Some(comment) = line.trim_start().strip_prefix("//") else { continue };
        if comment.starts_with(['/', '!']) {
            continue;
        }
        let comment = comment.trim();
        let statement =
            comment.ends_with(';') && ["(", " = ", "::"].iter().any(|sign| comment.contains(sign));
        if statement || comment.ends_with('{') || matches!(comment, "}" | "};" | "})" | "});") {
            say(i + 1, "commented-out code".into());
        }
    }
}

// ───────── reading Rust without a parser

/// Stands for a blanked character of a string or a comment.
const BLANK: char = '\u{0}';
/// Stands for a blanked line of test code.
const TEST: char = '\u{1}';

#[derive(Clone, Copy, PartialEq)]
enum Blank {
    Strings,
    StringsAndComments,
}

/// The text with the insides of strings (and comments) blanked; every line keeps its number.
fn blank(text: &str, what: Blank) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    while i < chars.len() {
        let rest = &chars[i..];
        let (len, hide) = match rest {
            ['/', '/', ..] => (rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()), 0),
            ['/', '*', ..] => (block_comment(rest), 0),
            ['"', ..] => (quoted(rest), 1),
            ['r', '"' | '#', ..] if !continues_word(&chars, i) => match raw_string(rest) {
                Some(len) => (len, 1),
                None => (1, usize::MAX),
            },
            ['\'', '\\', ..] => (char_literal(rest), 1),
            ['\'', _, '\'', ..] => (3, 1),
            _ => (1, usize::MAX),
        };
        // `hide` 0: a comment, 1: a string, otherwise code.
        let hidden = hide == 1 || hide == 0 && what == Blank::StringsAndComments;
        out.extend(rest[..len].iter().map(|c| if hidden && *c != '\n' { BLANK } else { *c }));
        i += len;
    }
    out
}

fn continues_word(chars: &[char], i: usize) -> bool {
    // A byte string `br"…"` is a raw string too.
    let before = |n: usize| i.checked_sub(n).and_then(|at| chars.get(at)).copied().unwrap_or(' ');
    let word = |c: char| c.is_alphanumeric() || c == '_';
    word(before(1)) && (before(1) != 'b' || word(before(2)))
}

fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut i) = (0, 0);
    while i < rest.len() {
        match &rest[i..] {
            ['/', '*', ..] => (depth, i) = (depth + 1, i + 2),
            ['*', '/', ..] => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            return i;
        }
    }
    rest.len()
}

fn quoted(rest: &[char]) -> usize {
    let mut i = 1;
    while i < rest.len() {
        match rest[i] {
            '\\' => i += 2,
            '"' => return i + 1,
            _ => i += 1,
        }
    }
    rest.len()
}

fn raw_string(rest: &[char]) -> Option<usize> {
    let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
    if rest.get(1 + hashes) != Some(&'"') {
        return None; // r#identifier
    }
    let mut i = 2 + hashes;
    while i < rest.len() {
        let closing =
            rest[i] == '"' && rest[i + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes;
        if closing {
            return Some(i + 1 + hashes);
        }
        i += 1;
    }
    Some(rest.len())
}

fn char_literal(rest: &[char]) -> usize {
    let end = rest.iter().skip(3).position(|c| *c == '\'');
    end.map_or(1, |at| at + 4)
}

/// The code with the items under `#[cfg(test)]` replaced, line by line, by [`TEST`].
fn without_tests(code: &str) -> String {
    let mut out = Vec::new();
    let mut lines = code.lines();
    while let Some(line) = lines.next() {
        let attribute = line.trim_start();
        if !(attribute.starts_with("#[cfg(test)]") || attribute.starts_with("#[cfg(all(test")) {
            out.push(line.to_owned());
            continue;
        }
        let indent = &line[..line.len() - attribute.len()];
        out.push(TEST.to_string());
        // The item: its attributes, then up to a `;` or, on its own line at the same indent, the closing brace.
        for line in lines.by_ref() {
            out.push(TEST.to_string());
            let text = line.trim_end_matches(BLANK).trim_end();
            let closed = text.strip_prefix(indent).is_some_and(|t| matches!(t, "}" | "};" | ")" | ");"));
            let whole =
                !text.trim_start().starts_with("#[") && text.strip_prefix(indent).is_some_and(one_line_item);
            if closed || whole {
                break;
            }
        }
    }
    out.join("\n")
}

fn one_line_item(text: &str) -> bool {
    !text.starts_with([' ', '\t']) && (text.ends_with(';') || text.ends_with(','))
        || text.ends_with('}') && text.contains('{')
}

fn blank_all(code: &str) -> String {
    code.lines().map(|_| TEST.to_string()).collect::<Vec<_>>().join("\n")
}

/// The lines that [`without_tests`] took away.
fn only_tests(code: &str, shipped: &str) -> String {
    let keep =
        |(line, shipped): (&str, &str)| if shipped.contains(TEST) { line.to_owned() } else { String::new() };
    code.lines().zip(shipped.lines()).map(keep).collect::<Vec<_>>().join("\n")
}

/// Lines where `word` stands as a whole word (a word that ends in `!` is a macro's call).
fn lines_with(code: &str, word: &str) -> Vec<usize> {
    positions(code, word).into_iter().map(|at| line_of(code, at)).collect()
}

fn positions(code: &str, word: &str) -> Vec<usize> {
    let inside = |c: char| c.is_alphanumeric() || c == '_';
    let whole = |at: usize| {
        let before = code[..at].chars().next_back().is_some_and(inside);
        let after = code[at + word.len()..].chars().next().is_some_and(inside);
        !before && (!after || !word.ends_with(inside))
    };
    code.match_indices(word).map(|(at, _)| at).filter(|at| whole(*at)).collect()
}

fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

/// The first names after a root such as `crate::`, groups `{a, b::c}` and macros of our own told apart.
fn names_after(code: &str, root: &str) -> Vec<(usize, String)> {
    let mut names = Vec::new();
    for at in positions(code, root) {
        first_names(code, at + root.len(), &mut names);
    }
    names
}

/// Paths that begin with one or more `super::`: line, how many, and the name after them.
fn super_paths(code: &str) -> Vec<(usize, usize, String)> {
    const SUPER: &str = "super::";
    let mut paths = Vec::new();
    for at in positions(code, SUPER) {
        if code[..at].ends_with(SUPER) {
            continue; // counted with the first one
        }
        let mut end = at + SUPER.len();
        let mut supers = 1;
        while code[end..].starts_with(SUPER) {
            end += SUPER.len();
            supers += 1;
        }
        let mut names = Vec::new();
        first_names(code, end, &mut names);
        paths.extend(names.into_iter().map(|(line, name)| (line, supers, name)));
    }
    paths
}

fn first_names(code: &str, at: usize, names: &mut Vec<(usize, String)>) {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let rest = &code[at..];
    if let Some(group) = rest.strip_prefix('{') {
        let mut depth = 0;
        let mut fresh = true; // at the beginning of one element of the group itself
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => fresh = true,
                c if c.is_whitespace() => {}
                c if fresh && depth == 0 => {
                    let name = if c == '*' { "*".to_owned() } else { word(&group[i..]) };
                    names.push((line_of(code, at + 1 + i), name));
                    fresh = false;
                }
                _ => {}
            }
        }
        return;
    }
    let name = if rest.starts_with('*') { "*".to_owned() } else { word(rest) };
    if !rest[name.len()..].starts_with('!') {
        names.push((line_of(code, at), name));
    }
}

// ───────── the rules hold on what they must find, and on nothing else

/// A tidy file of that name with this body: what is found in it.
fn findings(path: &str, body: &str) -> Vec<String> {
    let found = check(path, &format!("//! Header.\n{body}\n"));
    found.into_iter().map(|f| f.strip_prefix(path).unwrap().to_owned()).collect()
}

#[track_caller]
fn assert_one(path: &str, body: &str, expected: &str) {
    let found = findings(path, body);
    let body = body.get(..200).unwrap_or(body);
    assert!(found.len() == 1 && found[0].contains(expected), "{path} {body:?}: {found:?}, not {expected:?}");
}

#[track_caller]
fn assert_none(path: &str, body: &str) {
    assert_eq!(findings(path, body), [""; 0], "{path} {body:?}");
}

#[test]
fn imports_that_point_up_are_found() {
    assert_one(
        "src/record/mod.rs",
        "use crate::log::Log;",
        ":2: record (floor 1) may not import log (floor 3)",
    );
    assert_one("src/record/mod.rs", "use crate::storage::File;", "may not import storage");
    assert_one("src/storage/disk.rs", "use crate::record::varint;", "may not import record");
    assert_one("src/producer/lane.rs", "use crate::consumer::Fetch;", "may not import consumer");
    assert_one("src/error.rs", "use crate::record::X;", "error (floor 0) may not import record");
    assert_one(
        "src/log/mod.rs",
        "use crate::{\n    error::Error,\n    topic::{a, store},\n};",
        ":4: log (floor 3)",
    );
    assert_one("src/log/mod.rs", "fn f() -> crate::store::Store {}", "may not import store");
    assert_one("src/log/mod.rs", "pub(in crate::topic) fn f() {}", "may not import topic");
    assert_one("src/log/mod.rs", "use super::topic::Catalog;", "may not import topic");
    assert_one("src/log/compact/plan.rs", "use super::super::super::store::X;", "may not import store");
    assert_one("src/log/flush.rs", "use super::super::{segment::S, group::G};", "may not import group");
    assert_one("src/log/flush.rs", "use super::super::super::x;", "more super::");
    assert_one("src/log/mod.rs", "use crate::Store;", "crate::Store is no room");
    assert_one("src/log/mod.rs", "use crate::*;", "crate::* is no room");
    assert_one("src/attic/mod.rs", "", "attic has no floor");
    let after_tests = "#[cfg(test)]\nmod tests {\n    use crate::store::S;\n}\nuse crate::topic::T;";
    assert_one("src/log/mod.rs", after_tests, ":6: log (floor 3) may not import topic");
    assert_one("src/log/mod.rs", "#[cfg(test)]\nmod tests;\nuse crate::topic::T;", ":4: log");
    assert_one("src/log/mod.rs", "#[cfg(test)]\nfn f() {\n    g();\n}\nuse crate::topic::T;", ":6: log");
}

#[test]
fn imports_that_point_down_are_fine() {
    assert_none(
        "src/log/flush.rs",
        "use crate::{error::Result, segment::Segment};\nuse super::append::Append;",
    );
    assert_none("src/log/flush.rs", "use crate::log::bell::Bell;\nuse super::super::storage::File;");
    assert_none("src/log/mod.rs", "#[cfg(test)]\nmod tests {\n    use crate::store::Store;\n}");
    assert_none("src/log/tests.rs", "use crate::store::Store;");
    assert_none("src/error.rs", "use crate::types::Offset;");
    assert_none("src/lib.rs", "pub use crate::store::Store;");
    assert_none("src/events/mod.rs", "use crate::Store;");
    assert_none("src/log/mod.rs", "// crate::store is above\nfn f() { g(\"crate::store\"); }");
    assert_none("src/log/mod.rs", "crate::ensure!(x);");
    assert_none("src/log/mod.rs", "/// See [`crate::store::Store`].\nfn f() {}");
}

#[test]
fn unsafe_and_files_stay_in_their_rooms() {
    assert_one("src/log/mod.rs", "fn f() { unsafe { g() } }", "unsafe outside");
    assert_one("src/log/mod.rs", "#[cfg(test)]\nmod tests {\n    unsafe fn f() {}\n}", "unsafe outside");
    assert_none("src/storage/mmap.rs", "unsafe fn f() {}");
    assert_none("src/log/mod.rs", "#![deny(unsafe_code)]\n// unsafe\nconst S: &str = r#\"unsafe \"x\" \"#;");
    assert_one("src/log/mod.rs", "use std::fs::File;", "std::fs outside");
    assert_one("src/log/mod.rs", "use std::{\n    fs,\n    io,\n};", ":3: std::fs outside");
    assert_one("src/log/mod.rs", "use rustix::fs::fdatasync;", "rustix::fs outside");
    assert_none("src/storage/disk.rs", "use std::fs::File;\nuse rustix::fs::fdatasync;");
    assert_none("src/log/mod.rs", "use std::io;\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}");
    assert_none("tests/x.rs", "use std::fs;\nunsafe fn f() {}");
}

#[test]
fn what_is_unfinished_is_found() {
    assert_one("src/log/mod.rs", "fn f() { todo!() }", "todo! left behind");
    assert_one("tests/x.rs", "fn f() { unimplemented!(\"x\") }", "unimplemented! left behind");
    assert_one("examples/x.rs", "fn f() { dbg!(1); }", "dbg! left behind");
    assert_none("src/log/mod.rs", "// todo!\nconst S: &str = \"dbg!\";\nfn f() { my_todo!() }");
    assert_one("src/log/mod.rs", "    // let x = f();", "commented-out");
    assert_one("src/log/mod.rs", "// if x {", "commented-out");
    assert_one("src/log/mod.rs", "    // }", "commented-out");
    assert_none("src/log/mod.rs", "// The end moves last;\n/// let x = f();\n//! a { b }\n// (see there)");
}

#[test]
fn what_is_too_long_is_found() {
    assert_one("src/log/mod.rs", &format!("// {}", "x".repeat(118)), "121 columns");
    assert_none("src/log/mod.rs", &format!("// {}", "ä".repeat(117)));
    assert_none("src/log/mod.rs", &format!("const S: &str = \"{}\";", "x".repeat(200)));
    let long = "const A: u8 = 0;\n".repeat(600);
    assert_one("src/log/mod.rs", &long, "602 lines without tests");
    assert_none("src/log/mod.rs", &format!("//! Long because the table is.\n{long}"));
    let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}", "    const A: u8 = 0;\n".repeat(600));
    assert_none("src/log/mod.rs", &tests);
}

#[test]
fn every_file_says_what_it_is() {
    assert_eq!(check("src/log/mod.rs", "fn f() {}\n"), ["src/log/mod.rs:1: no doc comment (//!) at the top"]);
    assert_eq!(check("tests/x.rs", "// A test.\n").len(), 1);
    assert_eq!(check("fuzz/fuzz_targets/x.rs", "#![no_main]\n//! Batches.\n"), [""; 0]);
    assert_eq!(check("src/log/tests.rs", "use super::*;\n"), [""; 0]);
}

#[test]
fn tests_do_not_sleep() {
    assert_one("tests/x.rs", "fn f() { std::thread::sleep(d); }", ":2: a test sleeps");
    assert_one("src/log/tests.rs", "fn f() { thread::sleep(d); }", "a test sleeps");
    assert_one(
        "src/log/mod.rs",
        "#[cfg(test)]\nmod tests {\n    fn f() { thread::sleep(d) }\n}",
        ":4: a test",
    );
    assert_none("src/log/mod.rs", "fn wait() { thread::sleep(d) }");
    assert_none("tests/x.rs", "// thread::sleep\nconst S: &str = \"thread::sleep\";");
}

#[test]
fn the_lexer_tells_code_from_text() {
    let hidden = |text| blank(text, Blank::StringsAndComments).replace(BLANK, "");
    assert_eq!(hidden("a /* b /* c */ d */ e // f\ng"), "a  e \ng");
    assert_eq!(hidden(r#"a("b\"c", 'd', '\'', '"') e"#), "a(, , , ) e");
    assert_eq!(hidden(r###"a r#"b"c"# br"d" for"x""###), "a  b for");
    assert_eq!(hidden("fn f<'a>(x: &'a str, y: &'static str)"), "fn f<'a>(x: &'a str, y: &'static str)");
    assert_eq!(hidden("r#type '\\u{1F}' b'\\n' x"), "r#type  b x");
    assert_eq!(hidden("\"a\\\nb\" c"), "\n c");
}
