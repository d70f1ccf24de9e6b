//! Three real masters, a store node and a load: the leader is killed, and stopped, and nobody notices.

use crate::harness::{PROGRAM, finish, perilune, remove_segments, said, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

pub(crate) const CLUSTER: &str = "6f0f5a0e-3c1c-4a5e-9d55-0d4f1c7a2b11";

/// Killed when dropped.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.0.id().cast_signed());
        kill(pid, signal).unwrap();
        // Whoever takes its place needs its ports. Still to be waited for, so its number is nobody else's.
        if signal == Signal::SIGKILL {
            waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).unwrap();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Addresses of its own for each group, so that ports can be told before anyone listens on them.
pub(crate) fn at(group: u8, port: usize) -> String {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    format!("127.{}.{low}.{}:{port}", high.max(1), 200 + group)
}

/// Which group the masters of this test are.
const GROUP: u8 = 0;

/// One of three that seal secrets with one key.
pub(crate) fn master(group: u8, dir: &Path, nth: usize) -> Process {
    let key = dir.join("secret.key");
    std::fs::write(&key, "5".repeat(64)).unwrap();
    master_with(group, dir, nth, &["--secret-key-file", key.to_str().unwrap()])
}

/// The same with flags of its own, and no key for secrets.
pub(crate) fn master_with(group: u8, dir: &Path, nth: usize, flags: &[&str]) -> Process {
    let peers: Vec<String> = (1..=3).map(|n| format!("{n}={}/{}", at(group, 20_000 + n), at(group, 10_000 + n))).collect();
    let ready = dir.join(format!("ready-{nth}"));
    let _ = std::fs::remove_file(&ready);
    let mut command = perilune();
    command.args(["master", "--id", &nth.to_string(), "--peers", &peers.join(","), "--peer-listen", &at(group, 20_000 + nth)]);
    command.env("PERILUNE_META_TOKEN", crate::pools::TOKEN);
    command.args(["--cluster", CLUSTER, "--rpc", &at(group, 10_000 + nth), "--http", &at(group, 30_000 + nth)]);
    command.arg("--data-dir").arg(dir.join(format!("m{nth}"))).arg("--ready-file").arg(&ready).args(flags).stdout(Stdio::null());
    let mut process = Process(command.spawn().unwrap());
    wait_for("a master to be up", || {
        assert_eq!(process.0.try_wait().unwrap(), None, "master {nth} of {PROGRAM} ended");
        ready.exists().then_some(())
    });
    process
}

/// Where clients of a group call.
pub(crate) fn all(group: u8) -> String {
    (1..=3).map(|nth| at(group, 10_000 + nth)).collect::<Vec<_>>().join(",")
}

/// Which master of a group leads.
pub(crate) fn leader(group: u8) -> usize {
    wait_for("a leader", || (1..=3).find(|nth| role(group, *nth).as_deref() == Some("leader")))
}

fn role(group: u8, nth: usize) -> Option<String> {
    let config = ureq::Agent::config_builder().timeout_global(Some(std::time::Duration::from_millis(300))).build();
    let agent: ureq::Agent = config.into();
    agent.get(format!("http://{}/role", at(group, 30_000 + nth))).call().ok()?.body_mut().read_to_string().ok()
}

pub(crate) struct Shared(pub(crate) PathBuf);

impl Drop for Shared {
    fn drop(&mut self) {
        remove_segments(&self.0);
    }
}

/// A node that lends memory of this size, once the masters know of it: ready it is also while it waits for one that leads.
pub(crate) fn lends(masters: &str, dir: &Path, name: &str, size: &str) -> (Process, Shared) {
    let (shared, ready) = (Shared(dir.join(name)), dir.join(format!("ready-{name}")));
    let mut store = perilune();
    store.args(["store", "--master", masters, "--http", "127.0.0.1:0", "--segment-size", size]);
    store.arg("--data-dir").arg(&shared.0).arg("--ready-file").arg(&ready).stdout(Stdio::null());
    let store = Process(store.spawn().unwrap());
    let addresses: serde_json::Value = wait_for("a node", || serde_json::from_slice(&std::fs::read(&ready).ok()?).ok());
    let transfer = addresses["transfer"].as_str().unwrap();
    wait_for("the memory to be lent", || {
        let segments = finish(perilune().args(["segments", "--json", "--master", masters]));
        String::from_utf8_lossy(&segments.stdout).contains(transfer).then_some(())
    });
    (store, shared)
}

#[test]
fn leaders_are_killed_and_stopped_under_load_and_every_acknowledged_block_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut masters: Vec<Process> = (1..=3).map(|nth| master(GROUP, dir.path(), nth)).collect();
    let all = all(GROUP);
    let _node = lends(&all, dir.path(), "node", "2GiB");

    let acked = dir.path().join("acked");
    let mut replay = perilune();
    replay.args([
        "replay",
        "--generate",
        "1000000",
        "--speed",
        "max",
        "--block-size",
        "4KiB",
        "--workers",
        "1",
        "--deadline",
        "30s",
        "--json",
    ]);
    replay.args(["--master", &all, "--acked"]).arg(&acked).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut replay = Process(replay.spawn().unwrap());
    let lines = || std::fs::read_to_string(&acked).map_or(0, |text| text.lines().count());
    let goes_on = |replay: &mut Process| {
        let aim = lines() + 200;
        wait_for("more blocks to be acknowledged", || {
            assert_eq!(replay.0.try_wait().unwrap(), None, "the load met an error, or ended");
            (lines() >= aim).then_some(())
        });
    };
    goes_on(&mut replay);
    for _ in 0..2 {
        let killed = leader(GROUP);
        masters[killed - 1].signal(Signal::SIGKILL);
        goes_on(&mut replay);
        masters[killed - 1] = master(GROUP, dir.path(), killed);
        goes_on(&mut replay);
        let stopped = leader(GROUP);
        masters[stopped - 1].signal(Signal::SIGSTOP);
        goes_on(&mut replay);
        masters[stopped - 1].signal(Signal::SIGCONT);
        goes_on(&mut replay);
    }
    drop(replay);
    let check = perilune()
        .args(["replay", "--check"])
        .arg(&acked)
        .args(["--expect-all", "--deadline", "30s", "--json", "--master", &all])
        .output()
        .unwrap();
    assert!(check.status.success(), "{}", said(&check));
    let check: serde_json::Value = serde_json::from_slice(&check.stdout).unwrap();
    assert!(check["acknowledged"].as_u64() >= Some(1000) && check["verified"] == check["acknowledged"], "{check}");
}
