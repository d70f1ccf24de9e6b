//! A socket with a read buffer for answers that are lines and counted bytes, as Redis and memcached send them.

use super::Trouble;
use std::io::{IoSlice, Read, Write};
use std::net::TcpStream;

/// A connection on loopback.
pub(super) struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Bytes of `buffer` that were read and not taken.
    have: std::ops::Range<usize>,
}

impl Wire {
    pub(super) fn connect(port: u16) -> std::io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; 64 << 10], have: 0..0 })
    }

    /// Sends the parts in order, in as few system calls as the kernel allows.
    pub(super) fn send(&mut self, parts: &[&[u8]]) -> std::io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut left = &mut slices[..];
        while !left.is_empty() {
            let sent = self.stream.write_vectored(&left[..left.len().min(1024)])?;
            IoSlice::advance_slices(&mut left, sent);
        }
        Ok(())
    }

    /// The next line, without its end.
    pub(super) fn line(&mut self) -> Result<String, Trouble> {
        loop {
            let have = &self.buffer[self.have.clone()];
            if let Some(end) = have.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8_lossy(&have[..end]).into_owned();
                self.have.start += end + 2;
                return Ok(line);
            }
            if have.len() > 4096 {
                return Err("an answer without end of line".into());
            }
            self.buffer.copy_within(self.have.clone(), 0);
            self.have = 0..self.have.len();
            let got = self.stream.read(&mut self.buffer[self.have.end..])?;
            if got == 0 {
                return Err("the server closed the connection".into());
            }
            self.have.end += got;
        }
    }

    /// The next bytes.
    pub(super) fn bytes(&mut self, into: &mut [u8]) -> std::io::Result<()> {
        let at_hand = self.have.len().min(into.len());
        into[..at_hand].copy_from_slice(&self.buffer[self.have.start..self.have.start + at_hand]);
        self.have.start += at_hand;
        self.stream.read_exact(&mut into[at_hand..])
    }

    /// The next line, which must be this one.
    pub(super) fn expect(&mut self, line: &str) -> Result<(), Trouble> {
        let got = self.line()?;
        if got == line { Ok(()) } else { Err(format!("the server said `{got}` instead of `{line}`").into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_bytes_come_apart_wherever_the_kernel_cuts() {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 6];
            stream.read_exact(&mut asked).unwrap();
            for byte in b"$5\r\nhello\r\n+OK\r\n" {
                stream.write_all(&[*byte]).unwrap();
            }
            asked
        });
        let mut wire = Wire::connect(port).unwrap();
        wire.send(&[b"ask", b"", b"me!"]).unwrap();
        assert_eq!(wire.line().unwrap(), "$5");
        let mut value = [0; 5];
        wire.bytes(&mut value).unwrap();
        assert_eq!(&value, b"hello");
        wire.expect("").unwrap();
        assert!(wire.expect("+NO").unwrap_err().to_string().contains("+OK"));
        assert_eq!(&server.join().unwrap(), b"askme!");
        assert!(wire.line().is_err());
    }
}
