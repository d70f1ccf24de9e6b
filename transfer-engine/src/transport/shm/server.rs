//! Hands the descriptors of exported segments to processes of this host, and takes the right to use them back.

use crate::fault::EngineError;
use crate::lane::Wake;
use crate::memory::{Memory, host_id};
use crate::segment::Exports;
use crate::transport::shm::frame::{Answer, QUESTION_BYTES, Question};
use crate::transport::shm::sys::{CONTROL_BYTES, Control};
use crate::transport::{Server, tcp};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use perilune_protocol::{Endpoint, SegmentId};
use std::collections::HashMap;
use std::io::{ErrorKind, IoSlice, Read};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const LISTENER: u64 = 0;
const WAKE: u64 = 1;
const FIRST_CONN: u64 = 2;
/// How long a withdrawal waits for a copy of a process that was stopped in the middle of it.
const WITHDRAW_MAX: Duration = Duration::from_secs(10);

/// The right one connection has to one segment. Gone with the connection.
struct Grant {
    conn: u64,
    segment: SegmentId,
    control: Control,
}

/// A running server; stops, and removes its socket, when dropped.
pub(crate) struct ShmServer {
    path: PathBuf,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    /// Fired to stop, and when there is room for notices again.
    wake: Arc<Wake>,
    /// Set once by the owner before it fires `wake`, read by the thread after.
    stopping: AtomicBool,
    grants: Mutex<Vec<Grant>>,
}

impl Shared {
    fn grants(&self) -> MutexGuard<'_, Vec<Grant>> {
        self.grants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts to hand out `exports` at `path`.
pub(crate) fn serve(path: PathBuf, exports: Arc<Exports>) -> Result<ShmServer, EngineError> {
    let refused = |cause: std::io::Error| EngineError::Listen { at: path.display().to_string(), cause };
    let listener = listen(&path).map_err(refused)?;
    listener.set_nonblocking(true).map_err(refused)?;
    let shared =
        Arc::new(Shared { wake: Arc::new(Wake::new().map_err(refused)?), stopping: AtomicBool::new(false), grants: Mutex::default() });
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|e| refused(e.into()))?;
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER)).map_err(|e| refused(e.into()))?;
    epoll.add(shared.wake.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, WAKE)).map_err(|e| refused(e.into()))?;
    exports.mailbox.watch(Arc::clone(&shared.wake));
    let reactor = Reactor { epoll, listener, exports, shared: Arc::clone(&shared), conns: HashMap::new(), next: FIRST_CONN };
    let thread =
        thread::Builder::new().name("pl-shm-serve".to_owned()).stack_size(256 << 10).spawn(move || reactor.run()).map_err(refused)?;
    Ok(ShmServer { path, shared, thread: Some(thread) })
}

/// Binds the socket, readable by this user only from its first moment on. One that a dead process left is replaced.
fn listen(path: &Path) -> std::io::Result<UnixListener> {
    if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) && UnixStream::connect(path).is_err() {
        std::fs::remove_file(path)?;
    }
    // Made under another name first, so that nobody can connect before the mode is set.
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".{}", std::process::id()));
    let fresh = PathBuf::from(fresh);
    let _ = std::fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))?;
    let linked = std::fs::hard_link(&fresh, path);
    let _ = std::fs::remove_file(&fresh);
    linked.map(|()| listener)
}

impl Server for ShmServer {
    fn endpoint(&self) -> Endpoint {
        Endpoint::Shm { host: host_id().to_owned(), path: self.path.display().to_string() }
    }

    fn withdraw(&self, id: SegmentId) {
        let begun = Instant::now();
        let mut pause = Duration::from_micros(50);
        loop {
            // Held for a look only: everybody else goes on while we wait, and the end of a connection takes its grants away.
            let mut grants = self.shared.grants();
            grants.iter().filter(|grant| grant.segment == id).for_each(|grant| grant.control.withdraw());
            grants.retain(|grant| grant.segment != id || grant.control.busy());
            if !grants.iter().any(|grant| grant.segment == id) {
                return;
            }
            if begun.elapsed() > WITHDRAW_MAX {
                grants.retain(|grant| grant.segment != id);
                return tracing::error!("segment {id}: a process stopped in the middle of a copy may still finish it after the withdrawal");
            }
            drop(grants);
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(5));
        }
    }
}

impl Drop for ShmServer {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.wake.fire();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

struct Conn {
    stream: UnixStream,
    question: [u8; tcp::frame::QUESTION_BYTES],
    got: usize,
    /// A notice that waits for room; nothing is read behind it.
    waiting: Option<tcp::Waiting>,
}

impl Conn {
    /// Bytes of the question that is coming. The shorter kind, until its first bytes are known.
    fn wanted(&self) -> usize {
        if self.got >= 4 && self.question.starts_with(b"PLTQ") { self.question.len() } else { QUESTION_BYTES }
    }

    /// Answers a notice. One that has no room yet waits.
    fn notice(&mut self, exports: &Exports) -> Result<(), String> {
        let answer = match &self.waiting {
            Some(waiting) => waiting.answer(exports),
            None => {
                let (question, _) = tcp::frame::Question::decode(&self.question)?.ok_or("noise")?;
                match tcp::Waiting::new(&question, exports) {
                    Ok(waiting) => self.waiting.insert(waiting).answer(exports),
                    Err(refusal) => Some(refusal),
                }
            }
        };
        let Some(answer) = answer else { return Ok(()) };
        self.waiting = None;
        send(&self.stream, &answer.encode(), &[]).map_err(|e| e.to_string())
    }
}

struct Reactor {
    epoll: Epoll,
    listener: UnixListener,
    exports: Arc<Exports>,
    shared: Arc<Shared>,
    conns: HashMap<u64, Conn>,
    next: u64,
}

impl Reactor {
    fn run(mut self) {
        let mut events = [EpollEvent::empty(); 16];
        while !self.shared.stopping.load(Ordering::SeqCst) {
            let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(e) => return tracing::error!("the shared-memory server stopped: epoll: {e}"),
            };
            for event in &events[..count] {
                match event.data() {
                    LISTENER => self.accept(),
                    WAKE => self.make_room(),
                    number => {
                        let gone = event.events().intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR);
                        self.turn(number, gone);
                    }
                }
            }
        }
        self.shared.grants().iter().for_each(|grant| grant.control.withdraw());
    }

    fn accept(&mut self) {
        // Once per event: what is left is announced again.
        let stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return,
            Err(e) => {
                tracing::warn!("a shared-memory connection was not accepted: {e}");
                return thread::sleep(Duration::from_millis(10));
            }
        };
        let number = self.next;
        self.next += 1;
        let added =
            stream.set_nonblocking(true).and_then(|()| Ok(self.epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, number))?));
        if added.is_ok() {
            self.conns.insert(number, Conn { stream, question: [0; tcp::frame::QUESTION_BYTES], got: 0, waiting: None });
        }
    }

    /// Notices that wait may have room now.
    fn make_room(&mut self) {
        self.shared.wake.clear();
        let waiting: Vec<u64> = self.conns.iter().filter(|(_, conn)| conn.waiting.is_some()).map(|(number, _)| *number).collect();
        waiting.into_iter().for_each(|number| self.turn(number, false));
    }

    fn turn(&mut self, number: u64, gone: bool) {
        let Some(conn) = self.conns.get_mut(&number) else { return };
        let waited = conn.waiting.is_some();
        let turned = match waited {
            true if gone => Err("the peer closed it while its notice waited".to_owned()),
            true => conn.notice(&self.exports),
            false => read(conn, number, &self.exports, &self.shared),
        };
        let waits = conn.waiting.is_some();
        let interest = if waits { EpollFlags::empty() } else { EpollFlags::EPOLLIN };
        let polled = turned.and_then(|()| match waits == waited {
            true => Ok(()),
            false => self.epoll.modify(&conn.stream, &mut EpollEvent::new(interest, number)).map_err(|e| e.to_string()),
        });
        if let Err(cause) = polled {
            tracing::debug!(number, "shared-memory connection closed: {cause}");
            self.conns.remove(&number);
            self.shared.grants().retain(|grant| grant.conn != number);
        }
    }
}

/// Reads one question, as far as it came, and answers it.
fn read(conn: &mut Conn, number: u64, exports: &Exports, shared: &Shared) -> Result<(), String> {
    let wanted = conn.wanted();
    match conn.stream.read(&mut conn.question[conn.got..wanted]) {
        Ok(0) => return Err("the peer closed it".to_owned()),
        Ok(n) => conn.got += n,
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(()),
        Err(e) => return Err(e.to_string()),
    }
    if conn.got < conn.wanted() {
        return Ok(());
    }
    if std::mem::take(&mut conn.got) > QUESTION_BYTES {
        return conn.notice(exports);
    }
    let question = conn.question.first_chunk().and_then(Question::decode).ok_or("noise")?;
    answer(&conn.stream, number, question, exports, shared).map_err(|e| e.to_string())
}

fn answer(stream: &UnixStream, conn: u64, question: Question, exports: &Exports, shared: &Shared) -> std::io::Result<()> {
    let Question { segment, capability } = question;
    let export = match exports.find(segment).and_then(|export| export.check(capability, &[]).map(|()| export)) {
        Ok(export) => export,
        Err(failure) => return send(stream, &Answer::of(&failure).encode(), &[]),
    };
    let page = Memory::anonymous(CONTROL_BYTES).map_err(std::io::Error::other)?;
    let control = Control::map(page.file())?;
    shared.grants().push(Grant { conn, segment, control });
    // A withdrawal closes the gate first and looks through the grants then: it sees this grant, or we see the gate closed.
    if export.enter().is_none() {
        return send(stream, &Answer::UnknownSegment.encode(), &[]);
    }
    let granted = Answer::Granted { offset: export.memory.offset(), size: export.memory.len() };
    send(stream, &granted.encode(), &[export.memory.file().as_raw_fd(), page.file().as_raw_fd()])
}

fn send(stream: &UnixStream, bytes: &[u8], files: &[RawFd]) -> std::io::Result<()> {
    let rights = [ControlMessage::ScmRights(files)];
    let control: &[ControlMessage<'_>] = if files.is_empty() { &[] } else { &rights };
    let sent = sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT, None)?;
    if sent == bytes.len() { Ok(()) } else { Err(std::io::Error::from(ErrorKind::WriteZero)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::shm::frame::ANSWER_BYTES;
    use perilune_protocol::Capability;
    use std::io::Write;

    /// Guards against a stopped user of one segment that takes the whole node down while the segment is withdrawn.
    #[test]
    fn a_withdrawal_that_waits_for_a_copy_blocks_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let (exports, capability) = (Arc::new(Exports::default()), Capability::random());
        let server = serve(dir.path().join("s"), Arc::clone(&exports)).unwrap();
        let (stuck, other) = (SegmentId::random(), SegmentId::random());
        exports.insert(other, Memory::anonymous(4096).unwrap(), capability).unwrap();
        let page = Memory::anonymous(CONTROL_BYTES).unwrap();
        let copying = Control::map(page.file()).unwrap();
        assert!(copying.enter());
        server.shared.grants().push(Grant { conn: u64::MAX, segment: stuck, control: Control::map(page.file()).unwrap() });
        thread::scope(|scope| {
            let withdrawal = scope.spawn(|| server.withdraw(stuck));
            while copying.open() {
                thread::yield_now();
            }
            let begun = Instant::now();
            let mut socket = UnixStream::connect(&server.path).unwrap();
            socket.write_all(&Question { segment: other, capability }.encode()).unwrap();
            let mut answer = [0; ANSWER_BYTES];
            socket.read_exact(&mut answer).unwrap();
            assert!(matches!(Answer::decode(&answer), Some(Answer::Granted { size: 4096, .. })));
            server.withdraw(other);
            assert!(begun.elapsed() < WITHDRAW_MAX / 2);
            assert!(!withdrawal.is_finished(), "the copy is still under way");
            copying.leave();
            withdrawal.join().unwrap();
            assert!(begun.elapsed() < WITHDRAW_MAX / 2, "it returns as soon as the copy is over");
        });
    }
}
