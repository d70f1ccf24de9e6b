//! Directories written by older versions open.

use crate::machine::{config, open, put_each};
use std::fs;
use std::path::Path;

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        let to = to.join(file.file_name());
        if file.file_type().unwrap().is_dir() {
            copy(&file.path(), &to);
        } else {
            fs::copy(file.path(), to).unwrap();
        }
    }
}

/// Makes the fixture of the present format: `cargo test -p perilune-master --test log make_old -- --ignored`. Once made, it is kept.
#[test]
#[ignore = "writes a fixture"]
fn make_old() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/old/log_v1");
    assert!(!dir.exists(), "the fixture of format 1 is never made again");
    let (log, _) = open(perilune_master::log::LogConfig { snapshot_entries: 10, ..config(&dir) });
    put_each(&log, (0..9).map(|n| format!("{n}=old")));
    crate::machine::until(&log, "a snapshot", |s| s.snapshots == 1);
    put_each(&log, (5..12).map(|n| format!("{n}=later")));
    log.close();
    fs::remove_file(dir.join("LOCK")).unwrap();
}

#[test]
fn a_directory_of_format_1_opens() {
    let dir = tempfile::tempdir().unwrap();
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/old/log_v1"), dir.path());
    let (log, table) = open(config(dir.path()));
    let expected = (0..12).map(|n| (n.to_string(), if n < 5 { "old" } else { "later" }.to_owned())).collect();
    assert_eq!(table.rows(), expected);
    assert_eq!(table.seen().len(), 7, "what the snapshot covers is not replayed");
    put_each(&log, ["new=1".into()]);
}
