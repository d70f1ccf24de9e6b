//! The sentences a client and a master say to each other, one file per subject.
//!
//! Every message is a batch where a batch makes sense; one object is a batch of one.
//! Bodies are postcard: compact, and total on any bytes.

pub mod cluster;
pub mod object;
pub mod segment;
pub mod session;

use crate::frame::{self, Kind};
use crate::{Fault, FaultCode, Outcome};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A question and the type of its answer.
pub trait Call: Serialize + DeserializeOwned + Send {
    /// The stable number of the message. Never reused.
    const OP: u16;
    /// The name in logs and metrics.
    const NAME: &'static str;
    /// What answers it.
    type Reply: Serialize + DeserializeOwned + Send;
}

/// Says in one line that `$question` is message `$op` and is answered by `$reply`.
macro_rules! call {
    ($question:ident = $op:literal $name:literal -> $reply:ty) => {
        impl $crate::rpc::Call for $question {
            const OP: u16 = $op;
            const NAME: &'static str = $name;
            type Reply = $reply;
        }
    };
}
pub(crate) use call;

/// Appends a question to `out`.
pub fn encode_question<C: Call>(out: &mut Vec<u8>, id: u64, question: &C) -> Result<(), Fault> {
    frame::encode(out, Kind::Question, C::OP, id, |out| append(out, question))
}

/// Appends the answer to the question `id` to `out`.
pub fn encode_answer<R: Serialize>(out: &mut Vec<u8>, op: u16, id: u64, answer: &Outcome<R>) -> Result<(), Fault> {
    frame::encode(out, Kind::Answer, op, id, |out| append(out, answer))
}

/// Reads a body.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Fault> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(FaultCode::InvalidParams.with(format!("{} stray bytes after the message", rest.len()))),
        Err(e) => Err(FaultCode::InvalidParams.with(format!("the message cannot be read: {e}"))),
    }
}

fn append<T: Serialize>(out: &mut Vec<u8>, value: &T) -> postcard::Result<()> {
    let taken = std::mem::take(out);
    *out = postcard::to_extend(value, taken)?;
    Ok(())
}
