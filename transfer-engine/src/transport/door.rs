//! Where a server's connections come in. When the process has no descriptor left it closes for a moment instead of being announced again
//! and again.

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// How long it stays closed.
const PAUSE: Duration = Duration::from_millis(100);

/// A listener that an epoll announces under a number.
pub(super) struct Door {
    listener: TcpListener,
    number: u64,
    /// It is not announced, because there was no descriptor for a new connection.
    closed: bool,
}

impl Door {
    pub(super) fn open(at: SocketAddr, epoll: &Epoll, number: u64) -> io::Result<Self> {
        let listener = TcpListener::bind(at)?;
        listener.set_nonblocking(true)?;
        epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, number))?;
        Ok(Self { listener, number, closed: false })
    }

    /// Where it really is.
    pub(super) fn at(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The next connection that came; it blocks. `whose` says in the log which connections stay away.
    pub(super) fn next(&mut self, epoll: &Epoll, whose: &str) -> Option<TcpStream> {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => return Some(stream),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return None,
                Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                Err(e) => {
                    tracing::warn!("no new {whose} connections for {} ms: {e}", PAUSE.as_millis());
                    self.set_closed(epoll, true);
                    return None;
                }
            }
        }
    }

    /// How long to wait at most before [`Door::reopen`].
    pub(super) fn pause(&self) -> Option<Duration> {
        self.closed.then_some(PAUSE)
    }

    /// After each wait.
    pub(super) fn reopen(&mut self, epoll: &Epoll) {
        if self.closed {
            self.set_closed(epoll, false);
        }
    }

    fn set_closed(&mut self, epoll: &Epoll, closed: bool) {
        let flags = if closed { EpollFlags::empty() } else { EpollFlags::EPOLLIN };
        if epoll.modify(&self.listener, &mut EpollEvent::new(flags, self.number)).is_ok() {
            self.closed = closed;
        }
    }
}
