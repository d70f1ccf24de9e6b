//! A `perilune dev` of our own on free ports, and one command run to its end.
#![allow(dead_code, reason = "each test binary uses its part")]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Only what hangs takes so long, even in an emulated guest.
const PATIENCE: Duration = Duration::from_secs(300);

/// The binary under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_perilune");

/// The binary, without settings of whoever runs the tests.
pub(crate) fn perilune() -> Command {
    let mut command = Command::new(PROGRAM);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PERILUNE_")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// Runs the binary to its end.
pub(crate) fn run<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Output {
    finish(perilune().args(args))
}

/// Runs a command to its end; one that never ends is killed, and the test fails.
pub(crate) fn finish(command: &mut Command) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let read = |pipe: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            pipe.unwrap().read_to_end(&mut bytes).map(|_| bytes).unwrap()
        })
    };
    let stdout = read(child.stdout.take().map(|pipe| Box::new(pipe) as _));
    let stderr = read(child.stderr.take().map(|pipe| Box::new(pipe) as _));
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            let said = String::from_utf8_lossy(&stdout.join().unwrap()).into_owned();
            panic!("{command:?} still runs after {PATIENCE:?}: {said}");
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    Output { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

/// What a command said, for messages and comparisons.
pub(crate) fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Waits until `done` gives something; panics with `what` when it never does.
pub(crate) fn wait_for<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A running `perilune dev`; stopped, and its memory freed, when dropped.
pub(crate) struct Dev {
    child: Child,
    data: PathBuf,
    log: PathBuf,
    pub(crate) rpc: String,
    pub(crate) http: String,
    pub(crate) rest: String,
}

impl Dev {
    /// Starts one with its data in `dir`.
    pub(crate) fn start(dir: &Path) -> Self {
        Self::start_with(dir, &["--segment-size", "64MiB"])
    }

    pub(crate) fn start_with(dir: &Path, flags: &[&str]) -> Self {
        let data = dir.join("data");
        let (ready, log) = (dir.join("ready"), dir.join("log"));
        let _ = std::fs::remove_file(&ready);
        let said = File::options().create(true).append(true).open(&log).unwrap();
        let mut command = perilune();
        command.args(["dev", "--rpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--rest", "127.0.0.1:0"]).args(flags);
        command.arg("--data-dir").arg(&data).arg("--ready-file").arg(&ready).stdout(Stdio::null()).stderr(said);
        let mut child = command.spawn().unwrap();
        let addresses: Value = wait_for("perilune dev to be ready", || {
            let ended = child.try_wait().unwrap();
            assert_eq!(ended, None, "perilune dev ended instead of serving: {}", std::fs::read_to_string(&log).unwrap());
            std::fs::read(&ready).ok().map(|text| serde_json::from_slice(&text).unwrap())
        });
        let of = |name: &str| addresses[name].as_str().unwrap().to_owned();
        Self { child, data, log, rpc: of("rpc"), http: of("http"), rest: of("rest") }
    }

    /// What it has said, and those before it on the same data.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Runs a command against this one.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        run(args.iter().copied().chain(["--master", &self.rpc]))
    }

    /// Runs a command that must succeed, and gives what it printed.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same with `--json`: each line read.
    pub(crate) fn json(&self, args: &[&str]) -> Vec<Value> {
        let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
        self.ok(&args).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts anew on the data of this one, which was killed.
    pub(crate) fn start_again(mut self, dir: &Path, flags: &[&str]) -> Self {
        // The memory now belongs to the new process.
        self.data = PathBuf::new();
        Self::start_with(dir, flags)
    }

    /// SIGTERM, and the exit code.
    pub(crate) fn stop(&mut self) -> Option<i32> {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM).unwrap();
        wait_for("perilune dev to stop", || self.child.try_wait().unwrap()).code()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        remove_segments(&self.data);
        if std::thread::panicking() {
            eprintln!("{}", std::fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

/// Segments outlive their process on purpose; those of a test are ours to remove.
pub(crate) fn remove_segments(data: &Path) {
    let record = std::fs::read(data.join("store/node.json")).unwrap_or_default();
    let record: Value = serde_json::from_slice(&record).unwrap_or_default();
    for segment in record["body"]["segments"].as_array().into_iter().flatten() {
        if let Some(object) = segment["object"].as_str() {
            let _ = std::fs::remove_file(Path::new("/dev/shm").join(object));
        }
    }
}

/// What an address answers to a GET.
pub(crate) fn fetch(address: &str, path: &str) -> String {
    ureq::get(format!("http://{address}{path}")).call().unwrap().body_mut().read_to_string().unwrap()
}

/// The number of a name, with its labels, on a page of metrics.
pub(crate) fn metric(page: &str, name: &str) -> Option<u64> {
    page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// Bytes of reads and writes that a node asked for (`asked`) or counted for its peers (`served`), on its page of metrics.
pub(crate) fn moved(page: &str, transport: &str, end: &str) -> Option<u64> {
    let of = |operation: &str| {
        metric(page, &format!("perilune_transfer_bytes_total{{end=\"{end}\",operation=\"{operation}\",transport=\"{transport}\"}}"))
    };
    Some(of("read")? + of("write")?)
}
