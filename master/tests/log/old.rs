//! Directories written by older versions open.

use crate::machine::{config, open, put_each};
use perilune_master::log::{Change, LogConfig, Member, Members, Role};
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use uuid::Uuid;

pub(crate) fn copy(from: &Path, to: &Path) {
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
    let (log, _) = open(LogConfig { snapshot_entries: 10, ..config(&dir) });
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

/// A voter and a learner that is elsewhere.
fn of_group_1(dir: &Path) -> LogConfig {
    let listen = Arc::new(TcpListener::bind(("127.0.0.1", 0)).unwrap());
    let own = Member { id: 1, address: "127.0.0.1:1".into(), service: "client:1".into(), ..Member::default() };
    let (members, cluster) = (Members::begin(vec![own]).unwrap(), Some(Uuid::from_u128(0x0a1b)));
    LogConfig { members, cluster, listen: Some(listen), ..config(dir) }
}

fn learner() -> Member {
    Member { id: 7, address: "127.0.0.1:7".into(), service: "client:7".into(), ..Member::default() }
}

/// The same as later releases add it.
fn learner_2() -> Member {
    Member { http: "people:7".into(), rises: true, ..learner() }
}

/// Makes the fixture of a member of a group: `cargo test -p perilune-master --test log make_group -- --ignored`. Once made, it is kept.
#[test]
#[ignore = "writes a fixture"]
fn make_group() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/old/group_v2");
    assert!(!dir.exists(), "the fixture is never made again");
    let (log, _) = open(of_group_1(&dir));
    put_each(&log, (0..5).map(|n| format!("{n}=old")));
    log.change(Change::AddLearner(learner_2())).wait().unwrap();
    put_each(&log, (5..9).map(|n| format!("{n}=later")));
    log.close();
    fs::remove_file(dir.join("LOCK")).unwrap();
}

#[test]
fn a_directory_of_a_group_opens() {
    for (fixture, learner) in [("group_v1", learner()), ("group_v2", learner_2())] {
        let dir = tempfile::tempdir().unwrap();
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/old").join(fixture), dir.path());
        let (log, table) = open(of_group_1(dir.path()));
        let mut standing = log.watch();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(standing.wait_for(|s| s.role == Role::Leader)).unwrap();
        assert_eq!(table.rows().len(), 9);
        let members = log.members();
        assert_eq!((members.voters(), members.get(7), members.index), (&[1][..], Some(&learner), 7));
        put_each(&log, ["new=1".into()]);
    }
}

#[test]
fn a_group_of_one_of_format_1_can_be_joined() {
    let dir = tempfile::tempdir().unwrap();
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/old/log_v1"), dir.path());
    let (log, _) = open(config(dir.path()));
    // Nobody could reach it.
    let fault = log.change(Change::AddLearner(learner())).wait().unwrap_err();
    assert!(fault.message.contains("start it with one"), "{fault}");
    log.close();
    let settings = LogConfig { cluster: None, ..of_group_1(dir.path()) };
    let own = settings.members.get(1).cloned();
    let (log, _) = open(settings);
    assert_eq!(log.members().get(1), own.as_ref());
    let members = log.change(Change::AddLearner(learner())).wait().unwrap();
    assert_eq!(members.iter().count(), 2);
    put_each(&log, ["new=1".into()]);
}
