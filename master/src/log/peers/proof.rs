//! Members that have a token prove it to each other after their greetings, without sending it. What they say afterwards is neither encrypted
//! nor signed: that takes TLS.
//!
//! ```text
//! caller                                listener
//!        ◄─────────────────────────────── nonce
//!   nonce, HMAC("caller", both hellos, both nonces) ───►
//!        ◄─────────────────────────────── HMAC("listener", the same)
//! ```

use super::hello::HELLO_BYTES;
use super::invalid;
use perilune_protocol::access::Token;
use std::io::{self, Read, Write};
use uuid::Uuid;

const NONCE: usize = 16;
const PROOF: usize = 32;

/// What both have said: the caller's hello and the listener's.
pub(super) struct Said<'a>(pub(super) &'a [u8; HELLO_BYTES], pub(super) &'a [u8; HELLO_BYTES]);

/// The side that calls.
pub(super) fn as_caller(stream: &mut (impl Read + Write), token: &Token, said: &Said<'_>) -> io::Result<()> {
    let (mine, mut theirs, mut proof) = (nonce(), [0; NONCE], [0; PROOF]);
    stream.read_exact(&mut theirs)?;
    let all: [&[u8]; 4] = [said.0, said.1, &mine, &theirs];
    stream.write_all(&[&mine[..], &token.prove("caller", &all)].concat())?;
    stream.read_exact(&mut proof)?;
    if token.is_proven(&proof, "listener", &all) {
        Ok(())
    } else {
        Err(invalid("the member that was called does not know the token of this group"))
    }
}

/// The side that is called. It proves nothing to who has not: anybody may call, and guess at home from what he was shown.
pub(super) fn as_listener(stream: &mut (impl Read + Write), token: &Token, said: &Said<'_>) -> io::Result<()> {
    let (mine, mut theirs, mut proof) = (nonce(), [0; NONCE], [0; PROOF]);
    stream.write_all(&mine)?;
    stream.read_exact(&mut theirs)?;
    stream.read_exact(&mut proof)?;
    let all: [&[u8]; 4] = [said.0, said.1, &theirs, &mine];
    if !token.is_proven(&proof, "caller", &all) {
        return Err(invalid("a caller does not know the token of this group"));
    }
    stream.write_all(&token.prove("listener", &all))
}

/// Random, and never drawn twice.
fn nonce() -> [u8; NONCE] {
    *Uuid::new_v4().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn meet(caller: &str, listener: &str) -> (io::Result<()>, io::Result<()>) {
        let token = |text: &str| Token::new(text).unwrap();
        let (mut one, mut other) = UnixStream::pair().unwrap();
        let (first, second) = ([1; HELLO_BYTES], [2; HELLO_BYTES]);
        std::thread::scope(|scope| {
            // It hangs up when it returns.
            let called = scope.spawn(move || as_listener(&mut other, &token(listener), &Said(&first, &second)));
            let outcome = as_caller(&mut one, &token(caller), &Said(&first, &second));
            drop(one);
            (outcome, called.join().unwrap())
        })
    }

    #[test]
    fn who_knows_the_token_is_let_in_and_nobody_else() {
        let (right, wrong) = ("0123456789abcdef", "0123456789abcdeF");
        assert!(matches!(meet(right, right), (Ok(()), Ok(()))));
        let (caller, listener) = meet(wrong, right);
        assert!(listener.unwrap_err().to_string().contains("does not know"));
        assert_eq!(caller.unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "nothing is proven to who does not know it");
    }
}
