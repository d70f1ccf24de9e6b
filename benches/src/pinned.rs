//! Processes on chosen cores, and the processor time they used: what makes two measurements comparable.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::time::ClockId;
use nix::unistd::Pid;
use std::io;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// The core of the side that asks.
pub const CLIENT_CORE: usize = 0;
/// The core of the side that answers.
pub const SERVER_CORE: usize = 1;

/// Whether this machine has a core for each side.
pub fn has_both_cores() -> bool {
    sched_getaffinity(Pid::from_raw(0)).is_ok_and(|set| [CLIENT_CORE, SERVER_CORE].iter().all(|core| set.is_set(*core).unwrap_or(false)))
}

/// Says in a sentence where the sides were.
pub fn sentence(pinned: bool) -> String {
    if pinned {
        format!("Client on core {CLIENT_CORE}, servers on core {SERVER_CORE}.")
    } else {
        format!("NOT PINNED: cores {CLIENT_CORE} and {SERVER_CORE} are not both ours, latencies are not comparable.")
    }
}

/// Keeps this thread, and all that it starts from now on, on these cores.
pub fn stay_on(cores: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    cores.iter().try_for_each(|core| set.set(*core))?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// Processor time of a process so far, all its threads together; zero once it is gone.
pub fn cpu_time(pid: u32) -> Duration {
    let Ok(raw) = i32::try_from(pid) else { return Duration::ZERO };
    ClockId::pid_cpu_clock_id(Pid::from_raw(raw)).and_then(|clock| clock.now()).map_or(Duration::ZERO, Duration::from)
}

/// A process we started; ends with this value.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Starts `command` on these cores, or on those of this thread when there are none. A child inherits its cores,
    /// so this thread goes there for a moment and returns to its own.
    pub fn start(command: &mut Command, cores: &[usize]) -> io::Result<Self> {
        let before = sched_getaffinity(Pid::from_raw(0))?;
        if !cores.is_empty() {
            stay_on(cores)?;
        }
        let child = command.spawn();
        sched_setaffinity(Pid::from_raw(0), &before)?;
        Ok(Self(child?))
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Sends it a signal. One that is to stop has stopped when this returns: until all its threads have heard of it, it goes on answering.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).map_err(io::Error::other)?);
        kill(pid, signal)?;
        if signal == Signal::SIGSTOP {
            waitpid(pid, Some(WaitPidFlag::WUNTRACED))?;
        }
        Ok(())
    }

    /// Its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Waits until `ready` says yes; fails when the process ends before, or `limit` has passed.
    pub fn wait_until(&mut self, what: &str, limit: Duration, mut ready: impl FnMut() -> bool) -> io::Result<()> {
        let deadline = Instant::now() + limit;
        while !ready() {
            if let Some(status) = self.0.try_wait()? {
                return Err(io::Error::other(format!("{what} ended before it was ready: {status}")));
            }
            if Instant::now() > deadline {
                return Err(io::Error::other(format!("{what} was not ready after {limit:?}")));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Politely first; a process that does not end within two seconds is killed.
        let _ = self.signal(Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(2);
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Wall and processor time of a stretch of work, on both sides.
#[derive(Debug)]
pub struct Meter {
    client: u32,
    servers: Vec<u32>,
    started: Instant,
    client_before: Duration,
    servers_before: Duration,
}

impl Meter {
    /// Starts measuring.
    pub fn start(client: u32, servers: &[u32]) -> Self {
        let servers_before = servers.iter().map(|pid| cpu_time(*pid)).sum();
        Self { client, servers: servers.into(), client_before: cpu_time(client), servers_before, started: Instant::now() }
    }

    /// Wall time, processor time of the client, processor time of the servers.
    pub fn stop(self) -> (Duration, Duration, Duration) {
        let wall = self.started.elapsed();
        let servers: Duration = self.servers.iter().map(|pid| cpu_time(*pid)).sum();
        (wall, cpu_time(self.client).saturating_sub(self.client_before), servers.saturating_sub(self.servers_before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Stdio;

    #[test]
    fn a_process_is_measured_and_ends_with_its_value() {
        let mut process = Process::start(Command::new("sh").args(["-c", "while :; do :; done"]).stdout(Stdio::null()), &[]).unwrap();
        let pid = process.pid();
        process.wait_until("a busy shell", Duration::from_secs(20), || cpu_time(pid) > Duration::from_millis(20)).unwrap();
        drop(process);
        assert_eq!(cpu_time(pid), Duration::ZERO);
        let mut brief = Process::start(&mut Command::new("true"), &[]).unwrap();
        assert!(brief.wait_until("`true`", Duration::from_secs(20), || false).unwrap_err().to_string().contains("ended before"));
    }
}
