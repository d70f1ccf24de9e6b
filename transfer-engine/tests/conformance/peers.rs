//! Peers that die, fall silent, come back, or talk nonsense: real processes and real sockets.

use crate::rig::{LONG, Rig, Way, at, desc, kind_of, pattern};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use perilune_protocol::{Capability, Endpoint, SegmentId};
use perilune_transfer_engine::{Engine, Job, Memory, Segment, TransferErrorKind, host_id};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const CHILD: &str = "PERILUNE_TEST_CHILD";
const ID: SegmentId = SegmentId(uuid::Uuid::from_u128(7));
const CAPABILITY: Capability = Capability(9);
const LEN: u64 = 16 << 20;

/// Not a test of its own: the body of the child processes below.
#[test]
fn child() {
    let Ok(listen) = std::env::var(CHILD) else { return };
    let (port, socket) = listen.split_once(' ').unwrap();
    let builder = Engine::builder().listen_tcp(SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap())));
    let builder = if socket.is_empty() { builder } else { builder.listen_shm(socket.into()) };
    let engine = builder.build().unwrap();
    engine.export(ID, Memory::anonymous(LEN).unwrap(), CAPABILITY).unwrap();
    let at = engine.endpoints().into_iter().find_map(|e| if let Endpoint::Tcp(at) = e { Some(at) } else { None }).unwrap();
    println!("\nserving {at}");
    // Until the parent closes our input or kills us.
    let _ = std::io::stdin().read(&mut [0]);
}

/// A serving process; killed when dropped.
struct Peer {
    child: Child,
    at: String,
}

impl Peer {
    fn start(port: u16, socket: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["peers::child", "--exact", "--nocapture"])
            .env(CHILD, format!("{port} {socket}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let at = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("serving ").map(str::to_owned)).unwrap();
        Self { child, at }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Stops it, and waits until each of its threads has.
    fn stop(&self) {
        self.signal(Signal::SIGSTOP);
        let stopped = |task: std::io::Result<std::fs::DirEntry>| {
            let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
            stat.rsplit(')').next().unwrap().trim_start().starts_with('T')
        };
        while !std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap().all(stopped) {
            std::thread::yield_now();
        }
    }

    fn tcp(&self, client: &Engine) -> Segment {
        client.connect(&desc(ID, LEN, CAPABILITY, vec![Endpoint::Tcp(self.at.clone())]))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn shm_at(path: &str) -> Endpoint {
    Endpoint::Shm { host: host_id().to_owned(), path: path.to_owned() }
}

#[test]
fn a_killed_peer_is_noticed_at_once_and_found_again_when_it_is_back() {
    let peer = Peer::start(0, "");
    let client = Engine::builder().lanes(1).build().unwrap();
    let segment = peer.tcp(&client);
    let mut buffer = vec![0; LEN as usize];
    assert_eq!(client.run(&mut [Job::read(&segment, at(0, buffer.len()), &mut buffer)], LONG), [Ok(())]);
    // Stopped first, so that the read is surely under way when it is killed.
    peer.signal(Signal::SIGSTOP);
    let (at_peer, port) = (peer.at.clone(), peer.at.rsplit(':').next().unwrap().parse().unwrap());
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let outcome = client.run(&mut [Job::read(&segment, at(0, LEN as usize), &mut buffer)], LONG);
            (outcome, Instant::now())
        });
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(50) {
            std::thread::yield_now();
        }
        assert!(!reader.is_finished());
        let killed = Instant::now();
        drop(peer);
        let (outcome, failed) = reader.join().unwrap();
        assert!(failed - killed < LONG / 2, "noticed after {:?}", failed - killed);
        let message = outcome[0].as_ref().unwrap_err().to_string();
        assert!(message.contains(&at_peer) && message.contains("read of bytes 0..16777216"), "{message}");
        assert_eq!(kind_of(outcome), TransferErrorKind::PeerGone);
    });
    let mut small = [0; 8];
    assert_eq!(kind_of(client.run(&mut [Job::read(&segment, at(0, 8), &mut small)], LONG)), TransferErrorKind::PeerUnreachable);
    let _back = Peer::start(port, "");
    assert_eq!(client.run(&mut [Job::write(&segment, at(0, 8), b"restored")], LONG), [Ok(())]);
    assert_eq!(client.run(&mut [Job::read(&segment, at(0, 8), &mut small)], LONG), [Ok(())]);
    assert_eq!(&small, b"restored");
}

#[test]
fn a_peer_that_restarted_while_nobody_looked_is_found_again() {
    let first = Peer::start(0, "");
    let port = first.at.rsplit(':').next().unwrap().parse().unwrap();
    let client = Engine::builder().lanes(1).build().unwrap();
    let segment = first.tcp(&client);
    assert_eq!(client.run(&mut [Job::write(&segment, at(0, 3), b"one")], LONG), [Ok(())]);
    drop(first);
    let _second = Peer::start(port, "");
    assert_eq!(client.run(&mut [Job::write(&segment, at(0, 3), b"two")], LONG), [Ok(())]);
}

#[test]
fn notices_find_a_peer_that_restarted_and_say_when_there_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s").display().to_string();
    let peer = Peer::start(0, &path);
    let port = peer.at.rsplit(':').next().unwrap().parse().unwrap();
    let client = Engine::builder().lanes(1).build().unwrap();
    let ways = [peer.tcp(&client), client.connect(&desc(ID, LEN, CAPABILITY, vec![shm_at(&path)]))];
    ways.iter().for_each(|segment| client.notify(segment, 1, LONG).unwrap());
    peer.stop();
    std::thread::scope(|scope| {
        let waiting: Vec<_> = ways.iter().map(|segment| scope.spawn(|| client.notify(segment, 2, LONG))).collect();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(50) {
            std::thread::yield_now();
        }
        assert!(waiting.iter().all(|sender| !sender.is_finished()), "nobody answers");
        drop(peer);
        for sender in waiting {
            let error = sender.join().unwrap().unwrap_err();
            assert_eq!(error.kind, TransferErrorKind::PeerGone, "{error}");
        }
    });
    for segment in &ways {
        assert_eq!(client.notify(segment, 3, LONG).unwrap_err().kind, TransferErrorKind::PeerUnreachable);
    }
    let _back = Peer::start(port, &path);
    ways.iter().for_each(|segment| client.notify(segment, 4, LONG).unwrap());
}

#[test]
fn a_silent_peer_ends_at_the_deadline_and_disturbs_nobody_else() {
    let (silent, lively) = (Peer::start(0, ""), Peer::start(0, ""));
    let client = Engine::builder().lanes(1).build().unwrap();
    let (dead, alive) = (silent.tcp(&client), lively.tcp(&client));
    assert_eq!(client.run(&mut [Job::write(&dead, at(0, 3), b"one")], LONG), [Ok(())]);
    silent.signal(Signal::SIGSTOP);
    let deadline = Duration::from_secs(1);
    let begun = Instant::now();
    let (mut buffer, mut other) = ([7; 64], [0; 64]);
    let large = pattern(1, LEN as usize);
    let outcomes = client.run(
        &mut [
            Job::read(&dead, at(0, 64), &mut buffer),
            Job::write(&dead, at(0, large.len()), &large),
            Job::read(&alive, at(0, 64), &mut other),
        ],
        deadline,
    );
    let took = begun.elapsed();
    assert!(took >= deadline && took < LONG, "{took:?}");
    for outcome in &outcomes[..2] {
        let error = outcome.as_ref().unwrap_err();
        assert_eq!(error.kind, TransferErrorKind::Timeout);
        assert!(error.to_string().contains("the deadline passed after"), "{error}");
    }
    assert_eq!(outcomes[2], Ok(()));
    silent.signal(Signal::SIGCONT);
    assert_eq!(client.run(&mut [Job::write(&dead, at(0, 3), b"two")], LONG), [Ok(())], "it works again when it wakes up");
    assert_eq!(buffer, [7; 64], "an answer that came too late touches nothing");
}

#[test]
fn shared_memory_of_a_killed_process_is_given_up_for_its_successor() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("peer.sock");
    let path = socket.to_str().unwrap();
    let peer = Peer::start(0, path);
    let client = Engine::builder().build().unwrap();
    let segment = client.connect(&desc(ID, LEN, CAPABILITY, vec![shm_at(path)]));
    assert_eq!(client.run(&mut [Job::write(&segment, at(0, 3), b"one")], LONG), [Ok(())]);
    drop(peer);
    let killed = Instant::now();
    let mut buffer = [0; 3];
    let error = loop {
        match client.run(&mut [Job::read(&segment, at(0, 3), &mut buffer)], LONG).remove(0) {
            Ok(()) => assert!(killed.elapsed() < LONG, "the death must be noticed"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind, TransferErrorKind::PeerGone, "{error}");
    let _again = Peer::start(0, path);
    let begun = Instant::now();
    while client.run(&mut [Job::read(&segment, at(0, 3), &mut buffer)], LONG)[0].is_err() {
        assert!(begun.elapsed() < LONG, "the successor must be found");
    }
    assert_eq!(buffer, [0; 3], "the successor's own memory");
}

#[test]
fn where_shared_memory_does_not_work_tcp_does() {
    let dir = tempfile::tempdir().unwrap();
    let peer = Peer::start(0, "");
    let client = Engine::builder().build().unwrap();
    let nobody = shm_at(dir.path().join("nobody.sock").to_str().unwrap());
    let elsewhere = Endpoint::Shm { host: "another boot".to_owned(), path: "/nowhere".to_owned() };
    let segment = client.connect(&desc(ID, LEN, CAPABILITY, vec![nobody, elsewhere, Endpoint::Tcp(peer.at.clone())]));
    assert_eq!(client.run(&mut [Job::write(&segment, at(0, 3), b"one")], LONG), [Ok(())]);
    drop(peer);
    let outcome = client.run(&mut [Job::write(&segment, at(0, 3), b"one")], LONG);
    assert!(outcome[0].as_ref().unwrap_err().to_string().contains("nobody.sock"), "{outcome:?}");
}

/// Guards against a stopped process that holds its lane for a quarter of a second again and again.
#[test]
fn a_silent_socket_is_tried_once_and_tcp_is_used_meanwhile() {
    let rig = Rig::new(Way::Tcp);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("silent.sock");
    let silent = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let segment = rig.described(|desc| desc.endpoints.insert(0, shm_at(path.to_str().unwrap())));
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(700) {
        assert_eq!(rig.client.run(&mut [Job::write(&segment, at(0, 3), b"one")], LONG), [Ok(())]);
    }
    silent.set_nonblocking(true).unwrap();
    assert!(silent.accept().is_ok());
    assert!(silent.accept().is_err(), "it was tried again within 700 ms");
}

#[test]
fn nonsense_closes_its_connection_and_touches_nothing() {
    let rig = Rig::new(Way::Tcp);
    let [Endpoint::Tcp(address)] = &rig.server.endpoints()[..] else { panic!("one TCP endpoint") };
    // Idle ones stay open during all of it.
    let idle: Vec<TcpStream> = (0..64).map(|_| TcpStream::connect(address).unwrap()).collect();
    for seed in 0..200u64 {
        let mut noise = pattern(seed, 1 + (seed as usize * 37) % 3000);
        if seed % 2 == 0 {
            let head = noise.len().min(5);
            noise[..head].copy_from_slice(&b"PLTQ\x01"[..head]);
        }
        let mut socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        // The server may close before all of it is sent.
        let _ = socket.write_all(&noise);
        let _ = socket.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        assert!(answer.is_empty(), "seed {seed}");
    }
    let mut all = vec![1; 1 << 20];
    assert!(rig.memory.read_at(0, &mut all));
    assert!(all.iter().all(|&b| b == 0));
    assert_eq!(rig.client.run(&mut [Job::write(&rig.segment, at(0, 3), b"one")], LONG), [Ok(())]);
    drop(idle);
}

#[test]
fn an_object_cut_short_fails_instead_of_killing_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let name = format!("perilune-cut-{}", std::process::id());
    let memory = Memory::create(&name, 1 << 20).unwrap();
    let server = Engine::builder().listen_shm(dir.path().join("s")).listen_tcp("127.0.0.1:0".parse().unwrap()).build().unwrap();
    server.export(ID, Arc::clone(&memory), CAPABILITY).unwrap();
    let client = Engine::builder().build().unwrap();
    let mut ways: Vec<Segment> = Vec::new();
    for endpoint in server.endpoints() {
        ways.push(client.connect(&desc(ID, 1 << 20, CAPABILITY, vec![endpoint])));
    }
    let mut buffer = vec![0; 4096];
    for segment in &ways {
        assert_eq!(client.run(&mut [Job::read(segment, at(1 << 19, 4096), &mut buffer)], LONG), [Ok(())]);
    }
    std::fs::OpenOptions::new().write(true).open(format!("/dev/shm/{name}")).unwrap().set_len(4096).unwrap();
    for segment in &ways {
        for (op, mut job) in [Job::read(segment, at(1 << 19, 4096), &mut buffer.clone()), Job::write(segment, at(1 << 19, 4096), &buffer)]
            .into_iter()
            .enumerate()
        {
            let outcome = client.run(std::slice::from_mut(&mut job), LONG);
            assert!(outcome[0].is_err(), "{op}");
        }
    }
    Memory::unlink(&name).unwrap();
}

#[test]
fn an_engine_that_cannot_listen_says_where() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap();
    let error = Engine::builder().listen_tcp(at).build().unwrap_err();
    assert!(error.to_string().contains(&at.to_string()), "{error}");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _first = Engine::builder().listen_shm(path.clone()).build().unwrap();
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    assert!(Engine::builder().listen_shm(path).build().is_err(), "somebody listens there");
    assert!(Engine::builder().lanes(0).build().is_err());
    assert!(Engine::builder().deadline(Duration::ZERO).build().is_err());
}
