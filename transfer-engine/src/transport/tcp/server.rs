//! Serves exported segments to TCP peers: one thread, one epoll, any number of connections, none of which can delay the others.

use crate::fault::EngineError;
use crate::lane::{Wake, milliseconds};
use crate::observe::Meter;
use crate::segment::Exports;
use crate::transport::Server;
use crate::transport::door::Door;
use crate::transport::tcp::conn::Conn;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use perilune_protocol::{Endpoint, SegmentId};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

const LISTENER: u64 = 0;
const WAKE: u64 = 1;
const FIRST_CONN: u64 = 2;
const EVENTS: usize = 64;
/// Told whether asked for or not.
const GONE: EpollFlags = EpollFlags::EPOLLHUP.union(EpollFlags::EPOLLERR);

/// A running server; stops when dropped.
pub(crate) struct TcpServer {
    at: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    /// Fired to stop, and when there is room for notices again.
    wake: Arc<Wake>,
    /// Set once by the owner before it fires `wake`, read by the thread after.
    stopping: AtomicBool,
}

/// Starts to serve `exports` at `at`.
pub(crate) fn serve(at: SocketAddr, exports: Arc<Exports>, meter: Arc<Meter>) -> Result<TcpServer, EngineError> {
    let refused = |cause: std::io::Error| EngineError::Listen { at: at.to_string(), cause };
    let shared = Arc::new(Shared { wake: Arc::new(Wake::new().map_err(refused)?), stopping: AtomicBool::new(false) });
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|e| refused(e.into()))?;
    let door = Door::open(at, &epoll, LISTENER).map_err(refused)?;
    let real = door.at().map_err(refused)?;
    epoll.add(shared.wake.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, WAKE)).map_err(|e| refused(e.into()))?;
    exports.mailbox.watch(Arc::clone(&shared.wake));
    let reactor = Reactor { epoll, door, exports, meter, shared: Arc::clone(&shared), conns: HashMap::new(), next: FIRST_CONN };
    let thread =
        thread::Builder::new().name("pl-tcp-serve".to_owned()).stack_size(256 << 10).spawn(move || reactor.run()).map_err(refused)?;
    Ok(TcpServer { at: real, shared, thread: Some(thread) })
}

impl Server for TcpServer {
    fn endpoint(&self) -> Endpoint {
        Endpoint::Tcp(self.at.to_string())
    }

    fn withdraw(&self, _id: SegmentId) {
        // Every byte passes the gate of its export, which is closed by now.
    }
}

impl Drop for TcpServer {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.wake.fire();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Served {
    conn: Conn,
    interest: EpollFlags,
    /// Transfers that it was counted with.
    under_way: u64,
}

struct Reactor {
    epoll: Epoll,
    door: Door,
    exports: Arc<Exports>,
    meter: Arc<Meter>,
    shared: Arc<Shared>,
    conns: HashMap<u64, Served>,
    next: u64,
}

impl Reactor {
    fn run(mut self) {
        let mut events = [EpollEvent::empty(); EVENTS];
        while !self.shared.stopping.load(Ordering::SeqCst) {
            let timeout = self.door.pause().map_or(EpollTimeout::NONE, |pause| EpollTimeout::from(milliseconds(pause)));
            let count = match self.epoll.wait(&mut events, timeout) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(e) => return tracing::error!("the TCP server at {:?} stopped: epoll: {e}", self.door.at()),
            };
            self.door.reopen(&self.epoll);
            for event in &events[..count] {
                match event.data() {
                    LISTENER => self.accept(),
                    WAKE => self.make_room(),
                    number if event.events().intersects(GONE) => self.end_if_waiting(number),
                    number => self.turn(number),
                }
            }
        }
    }

    /// Notices that wait may have room now.
    fn make_room(&mut self) {
        self.shared.wake.clear();
        let waiting: Vec<u64> = self.conns.iter().filter(|(_, served)| served.conn.waits()).map(|(number, _)| *number).collect();
        waiting.into_iter().for_each(|number| self.turn(number));
    }

    /// A connection that waits for room does not look at its socket, which would be announced again and again.
    fn end_if_waiting(&mut self, number: u64) {
        if self.conns.get(&number).is_some_and(|served| served.conn.waits()) {
            self.end(number);
        } else {
            self.turn(number);
        }
    }

    fn turn(&mut self, number: u64) {
        let Some(served) = self.conns.get_mut(&number) else { return };
        if let Err(cause) = served.conn.turn(&self.exports, &self.meter) {
            tracing::debug!(number, "transfer connection closed: {cause}");
            return self.end(number);
        }
        let before = std::mem::replace(&mut served.under_way, served.conn.under_way());
        self.meter.serves(before, served.under_way);
        let mut interest = EpollFlags::empty();
        interest.set(EpollFlags::EPOLLIN, served.conn.wants_more());
        interest.set(EpollFlags::EPOLLOUT, served.conn.wants_room());
        if interest != served.interest {
            served.interest = interest;
            if self.epoll.modify(served.conn.socket(), &mut EpollEvent::new(interest, number)).is_err() {
                self.end(number);
            }
        }
    }

    fn end(&mut self, number: u64) {
        if let Some(ended) = self.conns.remove(&number) {
            self.meter.serves(ended.under_way, 0);
        }
    }

    fn accept(&mut self) {
        while let Some(stream) = self.door.next(&self.epoll, "transfer") {
            let number = self.next;
            self.next += 1;
            let added = stream
                .set_nonblocking(true)
                .and_then(|()| stream.set_nodelay(true))
                .and_then(|()| Ok(self.epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, number))?));
            match added {
                Ok(()) => {
                    self.conns.insert(number, Served { conn: Conn::new(stream.into()), interest: EpollFlags::EPOLLIN, under_way: 0 });
                }
                Err(e) => tracing::warn!("a transfer connection could not be served: {e}"),
            }
        }
    }
}
