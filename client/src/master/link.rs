//! One connection to a master and the calls in flight on it.
//!
//! No thread belongs to a connection. A caller writes its own question. Whoever waits and finds the read half at home takes it
//! and reads until its own answer came, putting others' answers into their slots; then it brings the read half home and wakes
//! one parked caller to go on. So a lone call is one write and one read on the caller's own thread.

use super::Caller;
use super::silence::{Look, Silence};
use super::wire::{self, Answer, Reader, STEP, SendError};
use perilune_protocol::rpc::session::{Authenticate, Greet, Hello, Welcome};
use perilune_protocol::rpc::{self, Call};
use perilune_protocol::{Fault, FaultCode, Outcome};
use std::collections::HashMap;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// A connection, from hello to the first error. After an error every call fails; a new connection is somebody else's business.
pub(crate) struct Link {
    address: String,
    socket: TcpStream,
    /// Whether somebody's frame is being written.
    writing: Mutex<bool>,
    /// Told when `writing` turns false.
    written: Condvar,
    calls: Mutex<Calls>,
    /// Taken once per call, by anyone; only uniqueness matters, so relaxed.
    next_id: AtomicU64,
}

struct Calls {
    waiting: HashMap<u64, Slot>,
    /// `None` while a caller reads.
    reader: Option<Reader>,
    /// When the last answer came, to whomever; hello does not count.
    heard: Option<Instant>,
    /// Set once, by whoever met the error.
    broken: Option<Fault>,
}

struct Slot {
    op: u16,
    thread: Thread,
    /// Only a parked caller can be handed the read half; one that still writes will look for itself.
    parked: bool,
    body: Option<Vec<u8>>,
}

impl Link {
    /// Connects to the master named `address`, says who calls if that may be asked for, and says hello.
    ///
    /// # Errors
    /// [`FaultCode::Unreachable`] when another attempt may succeed; any other code when it will not.
    pub(crate) fn open(address: &str, resolved: &[SocketAddr], caller: &Caller, deadline: Instant) -> Outcome<(Self, Welcome)> {
        let at = |what: &dyn std::fmt::Display| FaultCode::Unreachable.with(format!("master {address}: {what}"));
        let mut failure = at(&"the name has no address");
        for target in resolved {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            match TcpStream::connect_timeout(target, left) {
                Ok(socket) => {
                    let link = Self::over(address.to_owned(), socket).map_err(|e| at(&e))?;
                    let refused = |f: Fault| f.code.with(format!("master {address} refused: {}", f.message));
                    if let Some(token) = &caller.token {
                        link.call(&Authenticate { token: token.secret().to_owned() }, deadline)?.map_err(refused)?;
                    }
                    let Greet { agent, tenant, user, unique_id } = &caller.greet;
                    // Masters of earlier releases know hello only.
                    let welcome = if user.is_empty() && unique_id.is_empty() {
                        link.call(&Hello { agent: agent.clone(), tenant: tenant.clone() }, deadline)?
                    } else {
                        link.call(&caller.greet, deadline)?
                    };
                    let welcome = welcome.map_err(refused)?;
                    link.lock().heard = None;
                    return Ok((link, welcome));
                }
                Err(e) => failure = at(&e),
            }
        }
        Err(failure)
    }

    fn over(address: String, socket: TcpStream) -> std::io::Result<Self> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(STEP))?;
        socket.set_write_timeout(Some(STEP))?;
        let calls = Calls { waiting: HashMap::new(), reader: Some(Reader::new()), heard: None, broken: None };
        Ok(Self {
            address,
            socket,
            writing: Mutex::new(false),
            written: Condvar::new(),
            calls: Mutex::new(calls),
            next_id: AtomicU64::new(1),
        })
    }

    /// Asks, and waits for the answer until `deadline`.
    ///
    /// # Errors
    /// The outer fault is the connection's: [`FaultCode::Unreachable`] when it broke (the master may or may not have acted),
    /// [`FaultCode::Timeout`] when no answer came in time. The inner one is the master's own answer.
    pub(crate) fn call<C: Call>(&self, question: &C, deadline: Instant) -> Result<Outcome<C::Reply>, Fault> {
        self.call_looking(question, Look::nowhere(deadline))
    }

    /// The same, and looks elsewhere while no answer comes to anybody. [`FaultCode::Unreachable`] when the link is abandoned.
    pub(crate) fn call_looking<C: Call>(&self, question: &C, look: Look<'_>) -> Result<Outcome<C::Reply>, Fault> {
        let silence = Silence::begin(look);
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut frame = Vec::with_capacity(256);
        if let Err(fault) = rpc::encode_question(&mut frame, id, question) {
            return Ok(Err(fault));
        }
        self.enter(id, C::OP)?;
        self.send(id, &frame, C::NAME, &silence)?;
        let body = self.wait(id, C::NAME, &silence)?;
        rpc::decode(&body).map_err(|fault| {
            let fault = FaultCode::InvalidVersion.with(format!("the answer to {} cannot be read: {}", C::NAME, fault.message));
            self.fail(&fault);
            self.name(&fault)
        })
    }

    fn lock(&self) -> MutexGuard<'_, Calls> {
        // Nothing that can panic runs under this lock half-way through a change.
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn name(&self, fault: &Fault) -> Fault {
        fault.code.with(format!("master {}: {}", self.address, fault.message))
    }

    fn enter(&self, id: u64, op: u16) -> Result<(), Fault> {
        let mut calls = self.lock();
        if let Some(fault) = &calls.broken {
            return Err(self.name(fault));
        }
        calls.waiting.insert(id, Slot { op, thread: thread::current(), parked: false, body: None });
        Ok(())
    }

    /// When the last answer came, to whomever; `None` before the first.
    pub(crate) fn heard(&self) -> Option<Instant> {
        self.lock().heard
    }

    /// Gives the connection up: somebody else is to be asked.
    pub(crate) fn abandon(&self, why: &str) {
        self.fail(&FaultCode::Unreachable.with(why));
    }

    fn send(&self, id: u64, frame: &[u8], name: &str, silence: &Silence<'_>) -> Result<(), Fault> {
        self.send_in_turn(frame, silence).map_err(|error| {
            self.lock().waiting.remove(&id);
            match error {
                SendError::NothingSent => self.late(name),
                SendError::Broken(why) => {
                    let fault = FaultCode::Unreachable.with(why);
                    self.fail(&fault);
                    self.name(&fault)
                }
            }
        })
    }

    fn send_in_turn(&self, frame: &[u8], silence: &Silence<'_>) -> Result<(), SendError> {
        let writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let left = silence.end(self.heard()).saturating_duration_since(Instant::now());
        let (mut writing, _) = self.written.wait_timeout_while(writing, left, |busy| *busy).unwrap_or_else(PoisonError::into_inner);
        if *writing {
            return Err(SendError::NothingSent);
        }
        *writing = true;
        drop(writing);
        let sent = wire::send(&self.socket, frame, || {
            let heard = self.heard();
            silence.look(heard);
            Instant::now() >= silence.end(heard)
        });
        *self.writing.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.written.notify_one();
        sent
    }

    fn wait(&self, id: u64, name: &str, silence: &Silence<'_>) -> Result<Vec<u8>, Fault> {
        loop {
            let mut calls = self.lock();
            if let Some(body) = calls.waiting.get_mut(&id).and_then(|slot| slot.body.take()) {
                self.leave(calls, id);
                return Ok(body);
            }
            if let Some(fault) = calls.broken.clone() {
                self.leave(calls, id);
                return Err(self.name(&fault));
            }
            let heard = calls.heard;
            if Instant::now() >= silence.end(heard) {
                self.leave(calls, id);
                return Err(self.late(name));
            }
            // Under the lock, so that an answer that comes meanwhile is not missed; waits for nobody.
            let until = silence.look(heard);
            if let Some(reader) = calls.reader.take() {
                drop(calls);
                if let Some(body) = self.read_until(id, reader, until) {
                    return Ok(body);
                }
            } else {
                if let Some(slot) = calls.waiting.get_mut(&id) {
                    slot.parked = true;
                }
                drop(calls);
                thread::park_timeout(until.saturating_duration_since(Instant::now()));
                if let Some(slot) = self.lock().waiting.get_mut(&id) {
                    slot.parked = false;
                }
            }
        }
    }

    /// Reads for everyone until the answer to `id` came, the stream broke, or the deadline passed.
    fn read_until(&self, id: u64, mut reader: Reader, deadline: Instant) -> Option<Vec<u8>> {
        loop {
            match reader.next(&self.socket, deadline) {
                Ok(Some(Answer { id: of, op, body })) => {
                    let mut calls = self.lock();
                    calls.heard = Some(Instant::now());
                    let Some(slot) = calls.waiting.get_mut(&of) else {
                        continue; // its caller gave up
                    };
                    if slot.op != op {
                        drop(calls);
                        self.fail(&FaultCode::Unreachable.with(format!("a damaged answer: message {op} to question {of}")));
                        return None;
                    }
                    if of == id {
                        calls.reader = Some(reader);
                        self.leave(calls, id);
                        return Some(body);
                    }
                    slot.body = Some(body);
                    slot.thread.unpark();
                }
                Ok(None) => {
                    self.lock().reader = Some(reader);
                    return None;
                }
                Err(fault) => {
                    self.fail(&fault);
                    return None;
                }
            }
        }
    }

    /// Forgets the call, and wakes somebody to read when nobody does.
    fn leave(&self, mut calls: MutexGuard<'_, Calls>, id: u64) {
        calls.waiting.remove(&id);
        Self::wake(&calls, id);
    }

    /// Somebody other than the caller of `id` is to read, when nobody does.
    fn wake(calls: &Calls, id: u64) {
        if calls.reader.is_some()
            && let Some((_, next)) = calls.waiting.iter().find(|(of, slot)| **of != id && slot.parked && slot.body.is_none())
        {
            next.thread.unpark();
        }
    }

    /// Ends the connection: every call in flight and every later one fails with `fault`.
    fn fail(&self, fault: &Fault) {
        let mut calls = self.lock();
        if calls.broken.is_none() {
            calls.broken = Some(fault.clone());
        }
        for slot in calls.waiting.values() {
            slot.thread.unpark();
        }
        drop(calls);
        // An error here means that it is closed already.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    fn late(&self, name: &str) -> Fault {
        FaultCode::Timeout.with(format!("master {} did not answer {name} in time", self.address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::master::fake::{self, Peer};
    use perilune_protocol::ObjectKey;
    use perilune_protocol::rpc::object::MatchPrefix;
    use std::sync::mpsc::channel;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    fn open_or_fail(address: &str) -> Outcome<Link> {
        Link::open(address, &[address.parse().unwrap()], &fake::caller(), soon()).map(|(link, _)| link)
    }

    fn open(address: &str) -> Link {
        open_or_fail(address).unwrap()
    }

    /// A question that says which it is.
    fn question(n: usize) -> MatchPrefix {
        MatchPrefix { keys: vec![ObjectKey::from("k"); n] }
    }

    #[test]
    fn answers_in_any_order_find_their_callers() {
        const CALLERS: usize = 24;
        let address = fake::master(|mut peer: Peer| {
            peer.hello().unwrap();
            for _round in 0..20 {
                let mut asked: Vec<_> = (0..CALLERS).map(|_| peer.ask().unwrap()).collect();
                asked.reverse();
                for asked in asked {
                    let n = asked.read::<MatchPrefix>().keys.len() as u64;
                    peer.answer(&asked, Ok(n));
                }
            }
        });
        let link = open(&address);
        thread::scope(|scope| {
            for n in 0..CALLERS {
                let link = &link;
                scope.spawn(move || {
                    for _round in 0..20 {
                        assert_eq!(link.call(&question(n), soon()).unwrap(), Ok(n as u64));
                    }
                });
            }
        });
    }

    #[test]
    fn a_reader_that_gives_up_hands_the_reading_on() {
        let (go, wait) = channel::<()>();
        let wait = Mutex::new(wait);
        let address = fake::master(move |mut peer: Peer| {
            peer.hello().unwrap();
            let asked = [peer.ask().unwrap(), peer.ask().unwrap()];
            wait.lock().unwrap().recv().unwrap();
            let patient = asked.iter().find(|asked| asked.read::<MatchPrefix>().keys.len() == 2).unwrap();
            peer.answer(patient, Ok(2u64));
            // Stays until the client leaves.
            assert!(peer.ask().is_none());
        });
        let link = open(&address);
        thread::scope(|scope| {
            let hasty = scope.spawn(|| link.call(&question(1), Instant::now() + Duration::from_millis(50)));
            let patient = scope.spawn(|| link.call(&question(2), soon()));
            assert_eq!(hasty.join().unwrap().unwrap_err().code, FaultCode::Timeout);
            go.send(()).unwrap();
            assert_eq!(patient.join().unwrap().unwrap(), Ok(2));
        });
        drop(link);
    }

    #[test]
    fn a_caller_whose_time_is_over_does_not_wait_for_a_question_that_is_stuck() {
        let address = fake::master(|mut peer: Peer| {
            peer.hello().unwrap();
            thread::sleep(Duration::from_secs(20)); // reads nothing; ends with the test's process
        });
        let link = open(&address);
        thread::scope(|scope| {
            let huge = MatchPrefix { keys: vec![ObjectKey::new(vec![0; 32 << 20])] };
            let stuck = scope.spawn(|| link.call(&{ huge }, Instant::now() + Duration::from_secs(3)));
            while !*link.writing.lock().unwrap() && !stuck.is_finished() {
                thread::yield_now();
            }
            let fault = link.call(&question(1), Instant::now() + Duration::from_millis(50)).unwrap_err();
            assert_eq!(fault.code, FaultCode::Timeout);
            assert!(!stuck.is_finished());
            assert_eq!(stuck.join().unwrap().unwrap_err().code, FaultCode::Unreachable);
        });
    }

    #[test]
    fn an_answer_may_come_byte_by_byte_and_the_next_with_it() {
        let address = fake::master(|mut peer: Peer| {
            peer.hello().unwrap();
            let asked = [peer.ask().unwrap(), peer.ask().unwrap()];
            let mut out = Vec::new();
            for asked in &asked {
                let text = "x".repeat(100_000 * asked.read::<MatchPrefix>().keys.len());
                rpc::encode_answer(&mut out, asked.op, asked.id, &Err::<u64, _>(FaultCode::Internal.with(text))).unwrap();
            }
            let (slowly, rest) = out.split_at(50);
            slowly.iter().for_each(|byte| peer.send(&[*byte]));
            peer.send(rest);
        });
        let link = open(&address);
        thread::scope(|scope| {
            for n in [1, 2] {
                let link = &link;
                scope.spawn(move || {
                    let fault = link.call(&question(n), soon()).unwrap().unwrap_err();
                    assert_eq!(fault.message.len(), n * 100_000);
                });
            }
        });
    }

    #[test]
    fn a_broken_stream_fails_every_call_and_every_later_one() {
        let breaks: [fn(&mut Peer, &fake::Asked); 4] = [
            |_, _| {}, // closes
            |peer, asked| peer.send(&fake::damaged(asked)),
            |peer, asked| peer.send(&fake::damaged(asked)[..40]),
            |peer, _| peer.send(b"PRLN\x01 but not a header, only as long as one"),
        ];
        for (nth, break_it) in breaks.into_iter().enumerate() {
            let address = fake::master(move |mut peer: Peer| {
                peer.hello().unwrap();
                let asked = [peer.ask().unwrap(), peer.ask().unwrap(), peer.ask().unwrap()];
                break_it(&mut peer, &asked[0]);
            });
            let link = open(&address);
            thread::scope(|scope| {
                for n in 0..3 {
                    let (link, address) = (&link, &address);
                    scope.spawn(move || {
                        let fault = link.call(&question(n), soon()).unwrap_err();
                        assert_eq!(fault.code, FaultCode::Unreachable, "break {nth}: {fault}");
                        assert!(fault.message.contains(address.as_str()), "{fault}");
                    });
                }
            });
            assert_eq!(link.call(&question(9), soon()).unwrap_err().code, FaultCode::Unreachable);
        }
    }

    #[test]
    fn who_speaks_otherwise_is_told_apart() {
        let newer = fake::master(|mut peer: Peer| {
            let asked = peer.ask().unwrap();
            let mut out = Vec::new();
            rpc::encode_answer(&mut out, asked.op, asked.id, &Ok(fake::welcome())).unwrap();
            out[4] = 2;
            peer.send(&out);
        });
        let other = fake::master(|mut peer: Peer| peer.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"));
        let refuses = fake::master(|mut peer: Peer| {
            let asked = peer.ask().unwrap();
            peer.answer(&asked, Err::<u64, _>(FaultCode::Forbidden.with("no such tenant")));
        });
        for (address, code, word) in [
            (newer, FaultCode::InvalidVersion, "version 2"),
            (other, FaultCode::NotSupported, "another service"),
            (refuses, FaultCode::Forbidden, "no such tenant"),
        ] {
            let fault = open_or_fail(&address).err().unwrap();
            assert_eq!(fault.code, code, "{fault}");
            assert!(fault.message.contains(word) && fault.message.contains(&address), "{fault}");
        }
    }

    #[test]
    fn a_question_larger_than_a_frame_is_refused_and_harms_nothing() {
        let address = fake::master(|mut peer: Peer| {
            peer.hello().unwrap();
            let asked = peer.ask().unwrap();
            peer.answer(&asked, Ok(1u64));
        });
        let link = open(&address);
        let huge = MatchPrefix { keys: vec![ObjectKey::new(vec![0; 80 << 20])] };
        assert_eq!(link.call(&huge, soon()).unwrap().unwrap_err().code, FaultCode::InvalidParams);
        assert_eq!(link.call(&question(1), soon()).unwrap(), Ok(1));
    }
}
