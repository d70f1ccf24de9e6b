//! Disks of real masters fill up to the brim, and have room again: puts are refused with a reason, gets go on, and nobody restarts anything.

use crate::group::{CLUSTER, Process, Shared, all, at, leader, lends};
use crate::harness::{PROGRAM, fetch, metric, run, said, wait_for};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::statvfs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// As the groups of other tests.
const ALONE: u8 = 3;
const GROUP: u8 = 4;
const MIB: u64 = 1 << 20;

/// A master on a file system of its own of 16 MiB, which is gone with it.
struct Small {
    process: Process,
    dir: PathBuf,
}

impl Small {
    /// `None`, loudly, where none can be mounted.
    fn start(dir: &Path, group: u8, nth: usize, more: &[&str]) -> Option<Self> {
        let may = Command::new("unshare").args(["-rm", "mount", "-t", "tmpfs", "x"]).arg(dir).output();
        if !may.as_ref().is_ok_and(|o| o.status.success()) {
            println!("skipped: no file system can be mounted in a namespace of one's own here ({may:?})");
            return None;
        }
        let (data, ready) = (dir.join(format!("m{nth}")), dir.join(format!("ready-{nth}")));
        std::fs::create_dir(&data).unwrap();
        let mut command = Command::new("unshare");
        command.args(["-rm", "sh", "-ec", "mount -t tmpfs -o size=16m,mode=755 perilune-test \"$1\"; shift; exec \"$@\"", "sh"]).arg(&data);
        command.args([PROGRAM, "master", "--log-reserve", "4MiB", "--rpc", &at(group, 10_000 + nth), "--http", &at(group, 30_000 + nth)]);
        command.args(more).arg("--data-dir").arg(&data).arg("--ready-file").arg(&ready).stdin(Stdio::null()).stdout(Stdio::null());
        let process = Process(command.spawn().unwrap());
        wait_for("a master to be up", || ready.exists().then_some(()));
        let dir = PathBuf::from(format!("/proc/{}/root{}", process.0.id(), data.display()));
        Some(Self { process, dir })
    }

    /// Takes all room but so many bytes.
    fn fill(&self, but: u64) {
        let file = std::fs::File::options().create(true).append(true).open(self.dir.join("hog")).unwrap();
        let mut bytes = file.metadata().unwrap().len();
        let left = || statvfs(&self.dir).map(|s| s.blocks_available() * s.fragment_size()).unwrap();
        while left() > but {
            let more = ((left() - but) / 2).max(4096);
            fallocate(&file, FallocateFlags::empty(), bytes.cast_signed(), more.cast_signed()).unwrap();
            bytes += more;
        }
    }

    fn empty(&self) {
        std::fs::remove_file(self.dir.join("hog")).unwrap();
    }
}

/// Clients of a group, and a node that lends it memory.
struct Clients {
    masters: String,
    dir: PathBuf,
    /// Acknowledged.
    stored: usize,
    _node: (Process, Shared),
}

impl Clients {
    fn start(dir: &Path, masters: String) -> Self {
        let node = lends(&masters, dir, "node", "64MiB");
        Self { masters, dir: dir.into(), stored: 0, _node: node }
    }

    fn run(&self, args: &[&str]) -> Output {
        run(args.iter().copied().chain(["--master", &self.masters, "--deadline", "20s"]))
    }

    fn try_put(&self) -> Output {
        let file = self.dir.join("value");
        std::fs::write(&file, format!("value {}", self.stored)).unwrap();
        self.run(&["put", &format!("key-{}", self.stored), file.to_str().unwrap()])
    }

    fn put(&mut self) {
        let output = self.try_put();
        assert!(output.status.success(), "{}", said(&output));
        self.stored += 1;
    }

    /// Until it is taken.
    fn put_again(&mut self) {
        wait_for("a put to be taken again", || self.try_put().status.success().then_some(()));
        self.stored += 1;
    }

    fn is_refused(&self) {
        let output = self.try_put();
        let told = said(&output);
        assert_eq!(output.status.code(), Some(1), "{told}");
        for part in ["the disk of the log in", "/m", "4 MiB wanted", "--log-reserve"] {
            assert!(told.contains(part), "{told}");
        }
    }

    fn reads_all(&self) {
        for nth in 0..self.stored {
            let output = self.run(&["get", &format!("key-{nth}")]);
            assert!(output.status.success() && output.stdout == format!("value {nth}").as_bytes(), "key-{nth}: {}", said(&output));
        }
    }
}

fn crowded(group: u8, nth: usize) -> Option<u64> {
    metric(&fetch(&at(group, 30_000 + nth), "/metrics"), "perilune_log_disk_crowded")
}

#[test]
fn a_master_alone_refuses_puts_while_its_disk_is_full_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let Some(master) = Small::start(dir.path(), ALONE, 1, &[]) else { return };
    let http = at(ALONE, 30_001);
    let mut clients = Clients::start(dir.path(), at(ALONE, 10_001));
    (0..3).for_each(|_| clients.put());
    for round in 0..2 {
        master.fill(2 * MIB);
        wait_for("it to notice", || crowded(ALONE, 1).filter(|crowded| *crowded == 1));
        clients.is_refused();
        clients.reads_all();
        let removed = clients.run(&["rm", &format!("key-{}", clients.stored - 1), "--force"]);
        assert!(removed.status.success(), "removals go on: {}", said(&removed));
        clients.stored -= 1;
        master.fill(0);
        let health = || ureq::get(format!("http://{http}/health")).config().http_status_as_error(false).build().call().unwrap();
        let told = wait_for("it to say that it is full", || {
            let mut answer = health();
            let text = answer.body_mut().read_to_string().unwrap();
            (answer.status() == 503 && text.contains("nothing can be stored")).then_some(text)
        });
        assert!(told.contains("4 MiB wanted"), "{told}");
        clients.is_refused();
        clients.reads_all();
        let page = fetch(&http, "/metrics");
        assert!(metric(&page, "perilune_log_disk_free_bytes").is_some_and(|free| free < MIB / 2), "round {round}: {page}");
        master.empty();
        wait_for("it to have room", || crowded(ALONE, 1).filter(|crowded| *crowded == 0));
        clients.put();
        assert_eq!(health().status(), 200);
        clients.put();
    }
    clients.reads_all();
    drop(master.process);
}

#[test]
fn a_group_is_led_by_who_has_room_and_refuses_puts_only_when_nobody_has() {
    let dir = tempfile::tempdir().unwrap();
    let peers: Vec<String> = (1..=3).map(|n| format!("{n}={}/{}", at(GROUP, 20_000 + n), at(GROUP, 10_000 + n))).collect();
    let start = |nth: usize| {
        let listen = at(GROUP, 20_000 + nth);
        let more = ["--id", &nth.to_string(), "--peers", &peers.join(","), "--peer-listen", &listen, "--cluster", CLUSTER];
        Small::start(dir.path(), GROUP, nth, &more)
    };
    let Some(masters) = (1..=3).map(start).collect::<Option<Vec<_>>>() else { return };
    let mut clients = Clients::start(dir.path(), all(GROUP));
    // A leader is there, and knows the node.
    clients.put_again();
    let mut full = Vec::new();
    for _ in 0..2 {
        let leads = leader(GROUP);
        masters[leads - 1].fill(2 * MIB);
        full.push(leads);
        wait_for("another to lead", || Some(leader(GROUP)).filter(|leads| !full.contains(leads)));
        clients.put();
    }
    let last = leader(GROUP);
    masters[last - 1].fill(2 * MIB);
    wait_for("it to notice", || crowded(GROUP, last).filter(|crowded| *crowded == 1));
    clients.is_refused();
    clients.reads_all();
    masters.iter().for_each(|master| master.fill(0));
    wait_for("it to be full", || {
        metric(&fetch(&at(GROUP, 30_000 + last), "/metrics"), "perilune_log_disk_free_bytes").filter(|free| *free < MIB / 2)
    });
    clients.is_refused();
    clients.reads_all();
    masters[full[0] - 1].empty();
    masters[last - 1].empty();
    clients.put_again();
    masters[full[1] - 1].empty();
    clients.put();
    clients.reads_all();
    for nth in 1..=3 {
        wait_for("all of them to have room", || crowded(GROUP, nth).filter(|crowded| *crowded == 0));
    }
}
