//! Programs that come as a server and a client: started, waited for, read.

use crate::pinned::{CLIENT_CORE, Process};
use crate::rivals::{Setting, Trouble, free_port};
use std::fs::{File, read_to_string};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long a server may take to start, and a client to measure.
const START: Duration = Duration::from_secs(30);
const MEASURE: Duration = Duration::from_secs(120);

/// Runs `count` pairs at once and returns what their clients printed. `server` and `client` make the commands from the number of the pair
/// and the port where the two meet.
pub(super) fn run(
    setting: &Setting<'_>,
    count: usize,
    server: impl Fn(usize, u16) -> Command,
    client: impl Fn(usize, u16) -> Command,
) -> Result<Vec<String>, Trouble> {
    let mut servers = Vec::new();
    for number in 0..count {
        let port = free_port()?;
        let file = setting.dir.join(format!("server-{number}.out"));
        let mut server = start(server(number, port), &file, setting.server_core.as_slice())?;
        let ready = server.wait_until("the server", START, || listens(port));
        ready.map_err(|e| told(e, &file))?;
        servers.push((server, port));
    }
    let core: &[usize] = if setting.server_core.is_some() { &[CLIENT_CORE] } else { &[] };
    let mut clients = Vec::new();
    for (number, (_, port)) in servers.iter().enumerate() {
        let file = setting.dir.join(format!("client-{number}.out"));
        clients.push((start(client(number, *port), &file, core)?, file));
    }
    clients.into_iter().map(|(client, file)| finish(client, &file)).collect()
}

fn start(mut command: Command, file: &PathBuf, cores: &[usize]) -> Result<Process, Trouble> {
    let out = File::create(file)?;
    command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    let name = command.get_program().to_string_lossy().into_owned();
    Process::start(&mut command, cores).map_err(|e| format!("starting {name}: {e}").into())
}

/// Waits for the end of a client and returns what it printed.
fn finish(mut client: Process, file: &PathBuf) -> Result<String, Trouble> {
    let mut status = None;
    let ended = |process: &mut Process, status: &mut Option<std::process::ExitStatus>| {
        *status = process.child().try_wait()?;
        Ok::<_, std::io::Error>(status.is_some())
    };
    let deadline = std::time::Instant::now() + MEASURE;
    while !ended(&mut client, &mut status)? {
        if std::time::Instant::now() > deadline {
            return Err(told(format!("the client was not done after {MEASURE:?}"), file));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    match status {
        Some(status) if status.success() => Ok(read_to_string(file)?),
        _ => Err(told("the client failed", file)),
    }
}

/// A failure, and the last lines that were printed before it.
fn told(what: impl std::fmt::Display, file: &PathBuf) -> Trouble {
    let text = read_to_string(file).unwrap_or_default();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("---")).collect();
    let last = lines[lines.len().saturating_sub(3)..].join(" / ");
    format!("{what}; it said: {last}").into()
}

/// Whether a socket of this machine listens at the port. Asking it by a connection would take the one that its client needs.
fn listens(port: u16) -> bool {
    let is_it = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let at = words.next().and_then(|at| at.rsplit_once(':')).and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
        at == Some(port) && words.nth(1) == Some("0A")
    };
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().any(|table| read_to_string(table).is_ok_and(|text| text.lines().any(is_it)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_listened_at_is_seen() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(listens(port));
        drop(listener);
        assert!(!listens(port));
    }

    #[test]
    fn what_a_client_says_is_returned_and_what_fails_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let setting = Setting { program: dir.path(), dir: dir.path(), peers: dir.path(), server_core: None };
        let shell = |script: String| {
            let mut command = Command::new("bash");
            command.args(["-c", &script]);
            command
        };
        let script = "import socket,sys,time; s=socket.create_server(('127.0.0.1',int(sys.argv[1]))); s.accept(); time.sleep(60)";
        let server = |_, port: u16| {
            let mut command = Command::new("python3");
            command.args(["-c", script, &port.to_string()]);
            command
        };
        let out = run(&setting, 2, server, |number, port| shell(format!("exec 3<>/dev/tcp/127.0.0.1/{port} && echo {number}"))).unwrap();
        assert_eq!(out, ["0\n", "1\n"]);
        let error = run(&setting, 1, server, |_, _| shell("echo why >&2; false".into())).unwrap_err().to_string();
        assert!(error.contains("why"), "{error}");
    }
}
