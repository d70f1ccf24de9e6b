//! The two halves of a socket: frames out, frames in, neither for ever.

use perilune_protocol::frame::{self, FrameError, HEADER_BYTES, Kind};
use perilune_protocol::{Fault, FaultCode};
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// A blocked read or write looks at its deadline this often. Set once on the socket, so that a lone call costs no `poll`.
pub(crate) const STEP: Duration = Duration::from_millis(100);
/// Bytes of the read buffer between large answers.
const BUFFER_BYTES: usize = 64 << 10;
/// A buffer that grew beyond this is given back when it is empty.
const BUFFER_KEPT_BYTES: usize = 1 << 20;

/// Why bytes could not be sent.
pub(crate) enum SendError {
    /// The deadline passed before the first byte left: the stream is still whole.
    NothingSent,
    /// The stream ends inside a frame and must be closed.
    Broken(String),
}

/// Sends all of `bytes`. The socket has [`STEP`] as its write timeout. While it takes none, `is_over` tells
/// whether to give up.
pub(crate) fn send(mut socket: &TcpStream, bytes: &[u8], is_over: impl Fn() -> bool) -> Result<(), SendError> {
    let mut sent = 0;
    while sent < bytes.len() {
        match socket.write(&bytes[sent..]) {
            Ok(0) => return Err(SendError::Broken("the connection takes no more bytes".into())),
            Ok(n) => sent += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if timed_out(&e) => {
                if is_over() {
                    return Err(if sent == 0 {
                        SendError::NothingSent
                    } else {
                        SendError::Broken("the master stopped reading in the middle of a question".into())
                    });
                }
            }
            Err(e) => return Err(SendError::Broken(e.to_string())),
        }
    }
    Ok(())
}

/// An answer as it came.
pub(crate) struct Answer {
    pub(crate) id: u64,
    pub(crate) op: u16,
    pub(crate) body: Vec<u8>,
}

/// The read half: bytes that came and were not yet taken. `buffer[start..end]` is filled.
pub(crate) struct Reader {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Reader {
    pub(crate) fn new() -> Self {
        Self { buffer: vec![0; BUFFER_BYTES], start: 0, end: 0 }
    }

    /// The next answer, or `None` when the deadline passes first; what came so far is kept.
    /// An error means that nothing more can be read from this stream.
    pub(crate) fn next(&mut self, socket: &TcpStream, deadline: Instant) -> Result<Option<Answer>, Fault> {
        loop {
            if let Some(answer) = self.take().map_err(damaged)? {
                return Ok(Some(answer));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || (left < STEP && !readable_within(socket, left).map_err(lost)?) {
                return Ok(None);
            }
            self.make_room();
            let mut source = socket;
            match source.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Err(FaultCode::Unreachable.with("the master closed the connection")),
                Ok(n) => self.end += n,
                Err(e) if timed_out(&e) || e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(lost(e)),
            }
        }
    }

    fn take(&mut self) -> Result<Option<Answer>, FrameError> {
        let Some((header, body, taken)) = frame::split(&self.buffer[self.start..self.end])? else { return Ok(None) };
        if header.kind != Kind::Answer {
            return Err(FrameError::Kind(0));
        }
        let answer = Answer { id: header.id, op: header.op, body: body.to_vec() };
        self.start += taken;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.buffer.len() > BUFFER_KEPT_BYTES {
                self.buffer = vec![0; BUFFER_BYTES];
            }
        }
        Ok(Some(answer))
    }

    /// Room for more bytes. The buffer only doubles when it is full of bytes that really came:
    /// a length that a peer merely announces costs nothing.
    fn make_room(&mut self) {
        if self.end < self.buffer.len() && (self.start == 0 || self.buffer.len() - self.start >= HEADER_BYTES) {
            return;
        }
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.end * 2 > self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
    }
}

fn timed_out(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn lost(e: io::Error) -> Fault {
    FaultCode::Unreachable.with(e.to_string())
}

fn damaged(error: FrameError) -> Fault {
    match error {
        FrameError::Version(_) => FaultCode::InvalidVersion.with(format!("{error}: use releases that belong together")),
        FrameError::Magic => FaultCode::NotSupported.with("it does not speak Perilune's protocol: is this the port of another service?"),
        _ => FaultCode::Unreachable.with(format!("a damaged answer: {error}")),
    }
}

fn readable_within(socket: &TcpStream, left: Duration) -> io::Result<bool> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    // Rounded up, so that a wait of less than a millisecond does not spin.
    let timeout = PollTimeout::try_from(left.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], timeout) {
        Ok(n) => Ok(n > 0),
        Err(nix::errno::Errno::EINTR) => Ok(true),
        Err(e) => Err(e.into()),
    }
}
