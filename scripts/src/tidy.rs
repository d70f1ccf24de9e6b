//! House rules that no lint knows: rooms stay small, files say what they are, `unsafe` lives in few places.
//!
//! What a lint does know is left to it: `// SAFETY:` beside every unsafe block is clippy's `undocumented_unsafe_blocks`,
//! so here we only see to it that no crate forgets to switch the workspace's lints on.

use crate::Problems;
use crate::source::{Source, code_only, files, has_word};
use std::path::Path;

/// Lines a room may have.
const ROOM_LINES_MAX: usize = 500;

/// Rooms that may be larger, each with its reason.
const LARGE_ROOMS: &[(&str, &str)] = &[];

/// Files beside the houses of unsafe ([`may_be_unsafe`]) that need the word, each with its reason.
const UNSAFE_FILES: &[(&str, &str)] = &[
    ("client/src/store.rs", "`Store::register` passes the engine's promise about a caller's buffer on"),
    ("transfer-engine/src/engine.rs", "`Engine::submit` and `register` ask a promise of the caller; nothing unsafe happens there"),
];

/// Marks of unfinished work. Written in halves so that this file does not find itself.
const UNFINISHED: [&str; 4] = [concat!("FIX", "ME"), concat!("TO", "DO"), concat!("todo", "!("), concat!("unimplemented", "!(")];

/// Beginnings of paths that exist on one machine only.
const PRIVATE_PATHS: [&str; 4] = [concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/wo", "rk/"), concat!("/Us", "ers/")];

/// Checks the tree below `root`.
pub fn check(root: &Path) -> Problems {
    match files(root) {
        Ok(sources) => [check_sources(&sources), stale_exceptions(&sources)].concat(),
        Err(e) => vec![format!("{}: {e}", root.display())],
    }
}

fn check_sources(sources: &[Source]) -> Problems {
    let mut problems = Problems::new();
    for source in sources {
        text_rules(source, &mut problems);
        if source.path.ends_with(".rs") {
            rust_rules(source, &mut problems);
            reached(source, sources, &mut problems);
        }
        if source.path.ends_with("Cargo.toml") && source.text.contains("[package]") && !source.text.contains("[lints]\nworkspace = true") {
            problems.push(format!("{}: does not switch the workspace's lints on: add `[lints]` with `workspace = true`", source.path));
        }
    }
    problems
}

fn stale_exceptions(sources: &[Source]) -> Problems {
    let listed = LARGE_ROOMS.iter().chain(UNSAFE_FILES).map(|(path, _)| path);
    let stale = listed.filter(|path| !sources.iter().any(|s| s.path == **path));
    stale.map(|path| format!("scripts/src/tidy.rs: makes an exception for {path}, which does not exist")).collect()
}

fn text_rules(source: &Source, problems: &mut Problems) {
    if source.path == "Cargo.lock" || source.path == "LICENSE" {
        return;
    }
    for (number, line) in source.text.lines().enumerate().map(|(n, line)| (n + 1, line)) {
        let at = || format!("{}:{number}", source.path);
        if let Some(mark) = UNFINISHED.iter().find(|mark| has_word(line, mark.trim_end_matches("!(")) && line.contains(**mark)) {
            problems.push(format!("{}: `{mark}`: finish it or file an issue", at()));
        }
        if let Some(path) = PRIVATE_PATHS.iter().find(|path| starts_a_path(line, path)) {
            problems.push(format!("{}: a path below {path} exists on one machine only", at()));
        }
        if line.ends_with([' ', '\t']) && !source.path.ends_with(".md") {
            problems.push(format!("{}: blanks at the end of the line", at()));
        }
    }
}

/// Whether `path` stands in `line` as the beginning of an absolute path, not in the middle of another.
fn starts_a_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-~})*".contains(c)))
}

fn rust_rules(source: &Source, problems: &mut Problems) {
    let path = &source.path;
    if !source.text.starts_with("//! ") {
        problems.push(format!("{path}: begins without a `//!` line that says what the room is for"));
    }
    let lines = source.text.lines().count();
    let large = LARGE_ROOMS.iter().any(|(large, _)| large == path);
    match (lines > ROOM_LINES_MAX, large) {
        (true, false) => problems.push(format!("{path}: {lines} lines, a room has at most {ROOM_LINES_MAX}: split it by idea")),
        (false, true) => problems.push(format!("{path}: small again ({lines} lines): drop its exception in scripts/src/tidy.rs")),
        _ => {}
    }
    let listed = UNSAFE_FILES.iter().any(|(listed, _)| listed == path);
    let is_unsafe = has_word(&code_only(&source.text), "unsafe");
    if is_unsafe && !listed && !may_be_unsafe(path) {
        problems.push(format!("{path}: `unsafe` outside its houses: move it into a `sys.rs` or into stdx, behind a safe function"));
    } else if listed && !is_unsafe {
        problems.push(format!("{path}: no longer unsafe: drop its exception in scripts/src/tidy.rs"));
    }
}

/// The houses of unsafe: files named `sys.rs`, rooms named `sys`, the lock-free parts, the C border, and the tests of the engine's unsafe calls.
fn may_be_unsafe(path: &str) -> bool {
    path.ends_with("/sys.rs")
        || path.contains("/sys/")
        || ["transfer-engine/stdx/", "ffi/src/", "transfer-engine/tests/"].iter().any(|house| path.starts_with(house))
}

/// A file that no `mod` line names is never compiled; it rots unseen.
fn reached(source: &Source, sources: &[Source], problems: &mut Problems) {
    let path = source.path.as_str();
    let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
    let (home, name) =
        if file == "mod.rs" { folder.rsplit_once('/').unwrap_or(("", folder)) } else { (folder, file.trim_end_matches(".rs")) };
    let is_root = ["lib.rs", "main.rs", "build.rs"].contains(&file)
        || ["/tests", "/examples", "/benches", "/bin", "/fuzz_targets"].iter().any(|end| folder.ends_with(end) && file != "mod.rs");
    if is_root {
        return;
    }
    let parents = [format!("{home}/mod.rs"), format!("{home}/lib.rs"), format!("{home}/main.rs"), format!("{home}.rs")];
    let mut parents = sources.iter().filter(|s| parents.contains(&s.path));
    let by_name = parents.any(|parent| has_word(&code_only(&parent.text), &format!("mod {name}")));
    // Test binaries share a folder by `#[path = "../shared/mod.rs"]`.
    let tail = path.rmatch_indices('/').nth(1).map_or(path, |(at, _)| &path[at..]);
    let by_path =
        || sources.iter().any(|s| s.path.ends_with(".rs") && s.text.contains("#[path = \"") && s.text.contains(&format!("{tail}\"]")));
    if !by_name && !by_path() {
        problems.push(format!("{path}: no `mod {name};` names it, so it is never compiled"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(path: &str, text: &str) -> Problems {
        let parent = Source { path: "a/src/lib.rs".into(), text: "//! Top.\nmod room;\nmod sys;\n".into() };
        check_sources(&[parent, Source { path: path.into(), text: text.into() }])
    }

    #[test]
    fn a_tidy_room_passes() {
        assert_eq!(problems("a/src/room.rs", "//! A room; `unsafe` is only spoken of.\nfn f() {}\n"), Problems::new());
        assert_eq!(problems("a/src/sys.rs", "//! Calls.\nfn f() { unsafe {} }\n"), Problems::new());
        assert_eq!(problems("a/src/room/sys/lib.rs", "//! Calls.\nfn f() { unsafe {} }\n"), Problems::new());
    }

    #[test]
    fn every_rule_is_able_to_fail() {
        let long = "//! Long.\n".to_owned() + &"\n".repeat(ROOM_LINES_MAX);
        let mark = UNFINISHED[0];
        let private = PRIVATE_PATHS[0];
        for (path, text, want) in [
            ("a/src/room.rs", "fn f() {}\n", "begins without"),
            ("a/src/room.rs", long.as_str(), "lines, a room has at most"),
            ("a/src/room.rs", "//! R.\nfn f() { unsafe {} }\n", "outside its houses"),
            ("a/src/lost.rs", "//! R.\n", "never compiled"),
            ("a/src/room.rs", &format!("//! R.\n// {mark} later\n"), "finish it"),
            ("docs/x.md", &format!("see {private}someone\n"), "one machine only"),
            ("a/src/room.rs", "//! R. \n", "blanks"),
            ("a/Cargo.toml", "[package]\nname = \"a\"\n", "lints"),
        ] {
            let found = problems(path, text);
            assert!(found.len() == 1 && found[0].contains(want), "{path} {text:?}: {found:?}");
        }
        assert_eq!(problems("docs/x.md", &format!("master/src{}x\n", PRIVATE_PATHS[2])), Problems::new());
    }
}
