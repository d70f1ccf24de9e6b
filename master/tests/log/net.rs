//! A network of real TCP connections between members that a test can cut: each member is reached through a proxy, which learns from the
//! greeting who calls.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// Magic, version, cluster id, from, to, sum: who calls stands at byte 28.
const HELLO: usize = 48;

#[derive(Default)]
struct State {
    /// Where the members really listen at the moment.
    targets: BTreeMap<u64, SocketAddr>,
    /// From whom to whom nothing passes.
    cut: BTreeSet<(u64, u64)>,
    open: Vec<((u64, u64), TcpStream)>,
    /// Connections to this member end after so many bytes, so many times.
    limits: BTreeMap<u64, (usize, usize)>,
}

/// Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Net(Arc<Mutex<State>>);

impl Net {
    /// The address by which the others reach this member, for good. The thread behind it ends with the process.
    pub(crate) fn address_of(&self, member: u64) -> String {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let net = self.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let net = net.clone();
                std::thread::spawn(move || net.pass(stream, member));
            }
        });
        address
    }

    /// Where this member listens from now on; nowhere when it is down.
    pub(crate) fn set_target(&self, member: u64, at: Option<SocketAddr>) {
        let mut state = self.0.lock().unwrap();
        match at {
            Some(at) => drop(state.targets.insert(member, at)),
            None => drop(state.targets.remove(&member)),
        }
    }

    pub(crate) fn target(&self, member: u64) -> SocketAddr {
        self.0.lock().unwrap().targets[&member]
    }

    /// Nothing passes between this member and the others.
    pub(crate) fn isolate(&self, member: u64, others: impl IntoIterator<Item = u64>) {
        for other in others.into_iter().filter(|o| *o != member) {
            self.cut(member, other);
            self.cut(other, member);
        }
    }

    /// Nothing passes from one to the other.
    pub(crate) fn cut(&self, from: u64, to: u64) {
        let mut state = self.0.lock().unwrap();
        state.cut.insert((from, to));
        for (_, stream) in state.open.extract_if(.., |(pair, _)| *pair == (from, to)) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub(crate) fn heal(&self) {
        self.0.lock().unwrap().cut.clear();
    }

    /// The next `times` connections to `member` that carry as much break after `bytes`.
    pub(crate) fn limit(&self, member: u64, bytes: usize, times: usize) {
        self.0.lock().unwrap().limits.insert(member, (bytes, times));
    }

    pub(crate) fn limits_left(&self, member: u64) -> usize {
        self.0.lock().unwrap().limits.get(&member).map_or(0, |(_, times)| *times)
    }

    fn pass(&self, mut stream: TcpStream, to: u64) {
        let mut hello = [0; HELLO];
        if stream.read_exact(&mut hello).is_err() {
            return;
        }
        let from = u64::from_le_bytes(hello[28..36].try_into().unwrap());
        let target = {
            let state = self.0.lock().unwrap();
            state.targets.get(&to).copied().filter(|_| !state.cut.contains(&(from, to)))
        };
        let Some(mut behind) = target.and_then(|at| TcpStream::connect(at).ok()) else { return };
        {
            let mut state = self.0.lock().unwrap();
            if state.cut.contains(&(from, to)) {
                return;
            }
            state.open.push(((from, to), stream.try_clone().unwrap()));
            state.open.push(((from, to), behind.try_clone().unwrap()));
        }
        let (mut back_from, mut back_to) = (behind.try_clone().unwrap(), stream.try_clone().unwrap());
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut back_from, &mut back_to);
            let _ = back_to.shutdown(Shutdown::Both);
        });
        let mut carried = 0;
        let mut buffer = vec![0; 64 << 10];
        let mut next = behind.write_all(&hello).map(|()| 0);
        while let Ok(n) = next.and_then(|_| stream.read(&mut buffer)) {
            carried += n;
            if n == 0 || self.is_over_limit(to, carried) {
                break;
            }
            next = behind.write_all(&buffer[..n]).map(|()| n);
        }
        let _ = (stream.shutdown(Shutdown::Both), behind.shutdown(Shutdown::Both));
    }

    fn is_over_limit(&self, to: u64, carried: usize) -> bool {
        let mut state = self.0.lock().unwrap();
        match state.limits.get_mut(&to) {
            Some((bytes, times)) if *times > 0 && carried > *bytes => {
                *times -= 1;
                true
            }
            _ => false,
        }
    }
}
