//! One connection of the serving side: questions in, answers out, bytes straight between socket and segment.

use crate::fault::{Failure, TransferErrorKind};
use crate::observe::Meter;
use crate::request::Op;
use crate::segment::{Export, Exports};
use crate::transport::tcp::frame::{ANSWER_BYTES, Answer, Question, Status};
use crate::transport::tcp::staging::Staging;
use crate::transport::tcp::sys::{Gather, Scatter, copy_to_export};
use perilune_protocol::Extent;
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Holds the longest head (64 + 4096 x 16 bytes). Grows to that only for connections that send one.
const STAGING: usize = 8 << 10;
const STAGING_LONG: usize = 72 << 10;
/// Calls of one turn, so that a busy connection does not delay the others.
const CALLS: usize = 4;
/// No further question is read while this many answers, or parts of answers, wait to be sent.
const ANSWERS_MAX: usize = 1024;
const PARTS_MAX: usize = 16 << 10;
/// The longest wait of a notice, in milliseconds.
const PATIENCE_MAX: u64 = 3_600_000;

/// Why a connection is closed.
pub(super) type Closed = String;

/// A write whose bytes are coming.
struct Incoming {
    question: Question,
    export: Arc<Export>,
    got: u64,
}

/// An answer on its way out, with the bytes of a read behind it.
struct Outgoing {
    head: [u8; ANSWER_BYTES],
    payload: Option<(Arc<Export>, Vec<Extent>)>,
    len: u64,
    sent: u64,
}

enum Inbound {
    Question,
    Payload(Incoming),
    /// The bytes of a write that was refused.
    Unwanted {
        left: u64,
    },
    /// A notice that waits for room; nothing is read behind it.
    Notice(Waiting),
}

/// A notice whose sender is known to have the right.
pub(in crate::transport) struct Waiting {
    id: u64,
    number: u32,
    until: Instant,
}

impl Waiting {
    /// Checks a question that must be a notice; an answer when it is refused.
    pub(in crate::transport) fn new(question: &Question, exports: &Exports) -> Result<Self, Answer> {
        let Question { op, id, segment, capability, bytes, .. } = *question;
        let mut right = false;
        let checked = exports.find(segment).and_then(|export| {
            right = export.capability == capability;
            export.check(capability, &[])
        });
        let patience = Duration::from_millis(bytes.min(PATIENCE_MAX));
        match (checked, op) {
            (Ok(()), Op::Notify(number)) => Ok(Self { id, number, until: Instant::now() + patience }),
            (Ok(()), _) => Err(Answer { status: Status::OutOfBounds, id, bytes: 0 }),
            (Err(failure), _) => Err(Answer { status: Status::of(&failure, right), id, bytes: 0 }),
        }
    }

    /// The answer, once it has its place or is too late. Until then the mailbox calls when it has room.
    pub(in crate::transport) fn answer(&self, exports: &Exports) -> Option<Answer> {
        let status = if Instant::now() >= self.until { Status::NoRoom } else { Status::Done };
        (status == Status::NoRoom || exports.mailbox.put(self.number)).then_some(Answer { status, id: self.id, bytes: 0 })
    }
}

pub(super) struct Conn {
    socket: OwnedFd,
    inbound: Inbound,
    staging: Staging,
    long: bool,
    outbound: VecDeque<Outgoing>,
    parts: usize,
}

impl Conn {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket, inbound: Inbound::Question, staging: Staging::new(STAGING), long: false, outbound: VecDeque::new(), parts: 0 }
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether something waits for room in the socket.
    pub(super) fn wants_room(&self) -> bool {
        !self.outbound.is_empty()
    }

    /// Whether more questions may be read.
    pub(super) fn wants_more(&self) -> bool {
        self.outbound.len() < ANSWERS_MAX && self.parts < PARTS_MAX && !self.waits()
    }

    /// Transfers that have begun and not ended.
    pub(super) fn under_way(&self) -> u64 {
        let reads = self.outbound.iter().filter(|out| out.payload.is_some()).count();
        reads as u64 + u64::from(matches!(self.inbound, Inbound::Payload(_)))
    }

    /// Whether a notice waits for room.
    pub(super) fn waits(&self) -> bool {
        matches!(self.inbound, Inbound::Notice(_))
    }

    /// Sends and receives what can be now, within the limits of one turn.
    pub(super) fn turn(&mut self, exports: &Exports, meter: &Meter) -> Result<(), Closed> {
        self.send(meter)?;
        for _ in 0..CALLS {
            // Questions that were read ahead come first: no event will announce them again.
            self.digest(exports, meter)?;
            self.send(meter)?;
            if !self.wants_more() || !self.receive(meter)? {
                break;
            }
        }
        // While answers wait, room in the socket will call again; without any, nothing would, so all that was read must be used up.
        loop {
            self.send(meter)?;
            let before = self.staging.data().len();
            if self.wants_room() {
                return Ok(());
            }
            self.digest(exports, meter)?;
            if self.staging.data().len() == before {
                return Ok(());
            }
        }
    }

    /// One call into place. False when the socket is empty.
    fn receive(&mut self, meter: &Meter) -> Result<bool, Closed> {
        let mut scratch: [u8; 16 << 10];
        let mut scatter = Scatter::new();
        let mut early = 0;
        let mut passage = None;
        match &self.inbound {
            Inbound::Notice(_) => return Ok(false),
            Inbound::Question => scatter.bytes(self.staging.room()),
            Inbound::Unwanted { left } => {
                scratch = [0; 16 << 10];
                let len = scratch.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                scatter.bytes(&mut scratch[..len]);
                early = scatter.len();
            }
            Inbound::Payload(Incoming { question, export, got }) => {
                let entered = passage.insert(export.enter().ok_or("the segment was withdrawn during a write")?);
                scatter.export(export, entered, &question.extents, *got);
                early = scatter.len();
                if early == question.bytes - got {
                    scatter.bytes(self.staging.room());
                }
            }
        }
        let wanted = scatter.len();
        let got = match scatter.receive(self.socket.as_fd()) {
            Ok(0) if wanted > 0 => return Err("the peer closed it".to_owned()),
            Ok(got) => got,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(e) if e.kind() == ErrorKind::Interrupted => return Ok(true),
            Err(e) => return Err(e.to_string()),
        };
        drop(passage);
        let early = early.min(got);
        self.staging.filled((got - early) as usize);
        self.placed(early, meter);
        Ok(got == wanted)
    }

    /// Counts bytes of a write that are in place, and answers when they are all there.
    fn placed(&mut self, n: u64, meter: &Meter) {
        match std::mem::replace(&mut self.inbound, Inbound::Question) {
            // Neither has bytes behind it.
            before @ (Inbound::Question | Inbound::Notice(_)) => self.inbound = before,
            Inbound::Payload(incoming) if incoming.got + n >= incoming.question.bytes => {
                meter.done(Op::Write, incoming.question.bytes);
                self.answer(Answer { status: Status::Done, id: incoming.question.id, bytes: 0 }, None);
            }
            Inbound::Payload(incoming) => self.inbound = Inbound::Payload(Incoming { got: incoming.got + n, ..incoming }),
            Inbound::Unwanted { left } if left <= n => {}
            Inbound::Unwanted { left } => self.inbound = Inbound::Unwanted { left: left - n },
        }
    }

    /// Uses what was read ahead, as far as answers have room.
    fn digest(&mut self, exports: &Exports, meter: &Meter) -> Result<(), Closed> {
        loop {
            let data = self.staging.data();
            match &self.inbound {
                Inbound::Question => {
                    if !self.wants_more() {
                        return Ok(());
                    }
                    match Question::decode(data)? {
                        Some((question, head)) => {
                            self.staging.consume(head);
                            self.asked(question, exports, meter);
                        }
                        None => {
                            self.lengthen();
                            return Ok(());
                        }
                    }
                }
                Inbound::Payload(Incoming { question, export, got }) => {
                    let n = data.len().min(usize::try_from(question.bytes - got).unwrap_or(usize::MAX));
                    if n == 0 {
                        return Ok(());
                    }
                    let passage = export.enter().ok_or("the segment was withdrawn during a write")?;
                    if !export.memory.intact() {
                        return Err("the object behind the segment was cut short".to_owned());
                    }
                    copy_to_export(&data[..n], export, &passage, &question.extents, *got);
                    drop(passage);
                    self.staging.consume(n);
                    self.placed(n as u64, meter);
                }
                Inbound::Unwanted { left } => {
                    let n = data.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    if n == 0 {
                        return Ok(());
                    }
                    self.staging.consume(n);
                    self.placed(n as u64, meter);
                }
                Inbound::Notice(waiting) => {
                    let Some(answer) = waiting.answer(exports) else { return Ok(()) };
                    match answer.status.outcome() {
                        Ok(()) => meter.done(Op::Notify(0), 0),
                        Err(failure) => meter.failed(Op::Notify(0), failure.kind),
                    }
                    self.inbound = Inbound::Question;
                    self.answer(answer, None);
                }
            }
        }
    }

    /// A question with thousands of extents does not fit the usual buffer.
    fn lengthen(&mut self) {
        if !self.long && self.staging.room().is_empty() {
            let mut longer = Staging::new(STAGING_LONG);
            let data = self.staging.data();
            longer.room()[..data.len()].copy_from_slice(data);
            longer.filled(data.len());
            (self.staging, self.long) = (longer, true);
        }
    }

    /// Everything is checked here, before a byte moves.
    fn asked(&mut self, question: Question, exports: &Exports, meter: &Meter) {
        let Question { op, id, bytes, .. } = question;
        if let Op::Notify(_) = op {
            return match Waiting::new(&question, exports) {
                Ok(waiting) => self.inbound = Inbound::Notice(waiting),
                Err(refusal) => {
                    if let Err(failure) = refusal.status.outcome() {
                        meter.failed(op, failure.kind);
                    }
                    self.answer(refusal, None);
                }
            };
        }
        let mut right_capability = false;
        let checked = exports.find(question.segment).and_then(|export| {
            right_capability = export.capability == question.capability;
            export.check(question.capability, &question.extents)?;
            Ok(export)
        });
        match (checked, op) {
            (Ok(export), Op::Read) => self.answer(Answer { status: Status::Done, id, bytes }, Some((export, question.extents))),
            (Ok(export), _) => self.inbound = Inbound::Payload(Incoming { question, export, got: 0 }),
            (Err(failure), _) => {
                meter.failed(op, failure.kind);
                self.answer(Answer { status: Status::of(&failure, right_capability), id, bytes: 0 }, None);
                if op == Op::Write {
                    self.inbound = Inbound::Unwanted { left: bytes };
                }
            }
        }
    }

    fn answer(&mut self, answer: Answer, payload: Option<(Arc<Export>, Vec<Extent>)>) {
        let parts = payload.as_ref().map_or(0, |(_, extents)| extents.len());
        self.parts += parts;
        self.outbound.push_back(Outgoing { head: answer.encode(), payload, len: ANSWER_BYTES as u64 + answer.bytes, sent: 0 });
    }

    /// Sends answers together, as long as their bytes are of one segment: its gate is held during the call.
    fn send(&mut self, meter: &Meter) -> Result<(), Closed> {
        for _ in 0..CALLS {
            let Some(first) = self.outbound.front() else { return Ok(()) };
            let export = self.outbound.iter().find_map(|out| out.payload.as_ref()).map(|(export, _)| Arc::clone(export));
            let passage = export.as_ref().map(|export| export.enter());
            if first.sent == 0
                && matches!(passage, Some(None))
                && let Some((gone, _)) = &first.payload
                && export.as_ref().is_some_and(|export| Arc::ptr_eq(export, gone))
            {
                // Nothing of the answer left yet, so it can still say what happened.
                drop(passage);
                self.refuse_first(meter);
                continue;
            }
            let mut gather = Gather::new();
            for out in &self.outbound {
                if gather.full() {
                    break;
                }
                let head_left = &out.head[out.sent.min(ANSWER_BYTES as u64) as usize..];
                match (&out.payload, &export, &passage) {
                    (None, ..) => gather.bytes(head_left),
                    (Some((own, extents)), Some(export), Some(Some(passage))) if Arc::ptr_eq(own, export) => {
                        gather.bytes(head_left);
                        gather.export(own, passage, extents, out.sent.saturating_sub(ANSWER_BYTES as u64));
                    }
                    _ => break,
                }
            }
            if gather.is_empty() {
                return Err("the segment was withdrawn during a read".to_owned());
            }
            let sent = gather.send(self.socket.as_fd());
            drop(passage);
            match sent {
                Ok(sent) => self.sent(sent, meter),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e.to_string()),
            }
        }
        Ok(())
    }

    fn refuse_first(&mut self, meter: &Meter) {
        if let Some(first) = self.outbound.front_mut()
            && let Ok(Answer { id, .. }) = Answer::decode(&first.head)
        {
            let failure = Failure::new(TransferErrorKind::UnknownSegment, "");
            meter.failed(Op::Read, failure.kind);
            self.parts -= first.payload.as_ref().map_or(0, |(_, extents)| extents.len());
            let answer = Answer { status: Status::of(&failure, true), id, bytes: 0 };
            *first = Outgoing { head: answer.encode(), payload: None, len: ANSWER_BYTES as u64, sent: 0 };
        }
    }

    fn sent(&mut self, mut sent: u64, meter: &Meter) {
        while let Some(first) = self.outbound.front_mut() {
            let now = sent.min(first.len - first.sent);
            first.sent += now;
            sent -= now;
            if first.sent < first.len {
                return;
            }
            if let Some((_, extents)) = &first.payload {
                self.parts -= extents.len();
                meter.done(Op::Read, first.len - ANSWER_BYTES as u64);
            }
            self.outbound.pop_front();
        }
    }
}
