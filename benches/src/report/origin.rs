//! Where a figure was taken: the machine, the kernel, the commit.

use perilune_protocol::ByteSize;
use serde::Serialize;
use std::process::Command;

/// The machine and the commit, beside every figure.
#[derive(Clone, Debug, Serialize)]
pub struct Origin {
    /// The processor's name.
    pub cpu: String,
    /// Processors.
    pub cpus: usize,
    /// Memory, in bytes.
    pub memory: u64,
    /// The kernel's release.
    pub kernel: String,
    /// The commit of the working directory, with `-dirty` when files differ; `unknown` outside a clone.
    pub commit: String,
    /// `release` or `debug`.
    pub build: &'static str,
}

impl Origin {
    /// Here and now.
    pub fn here() -> Self {
        let field = |file: &str, name: &str| {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            text.lines().find_map(|l| l.strip_prefix(name)?.trim_start().strip_prefix(':').map(|v| v.trim().to_owned()))
        };
        let kib = field("/proc/meminfo", "MemTotal").and_then(|v| v.split(' ').next()?.parse::<u64>().ok());
        let git = Command::new("git").args(["describe", "--always", "--dirty", "--exclude=*"]).output().ok().filter(|o| o.status.success());
        Self {
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".into()),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory: kib.unwrap_or(0) * 1024,
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease").map_or_else(|_| "unknown".into(), |k| k.trim().into()),
            commit: git.map_or_else(|| "unknown".into(), |o| String::from_utf8_lossy(&o.stdout).trim().into()),
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
        }
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let memory = ByteSize(self.memory);
        write!(f, "{} x {}, {memory} of memory, kernel {}, commit {}, {} build", self.cpus, self.cpu, self.kernel, self.commit, self.build)
    }
}
