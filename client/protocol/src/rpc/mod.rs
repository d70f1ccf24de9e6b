//! The sentences a client and a master say to each other, one file per subject.
//!
//! Every message is a batch where a batch makes sense; one object is a batch of one.
//! Bodies are postcard: compact, and total on any bytes.

pub mod cluster;
pub mod cold;
pub mod job;
pub mod member;
pub mod object;
pub mod segment;
pub mod session;
pub mod vault;
pub mod watch;
pub mod work;

use crate::frame::{self, Kind};
use crate::{Fault, FaultCode, Outcome};
use serde::de::{DeserializeOwned, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use std::marker::PhantomData;

/// A question and the type of its answer.
pub trait Call: Serialize + DeserializeOwned + Send {
    /// The stable number of the message. Never reused.
    const OP: u16;
    /// The name in logs and metrics.
    const NAME: &'static str;
    /// Whether an answer may rightly take longer than another leader takes to be elected, so that silence says nothing.
    const LONG: bool = false;
    /// What answers it.
    type Reply: Serialize + DeserializeOwned + Send;
}

/// Says in one line that `$question` is message `$op` and is answered by `$reply`.
macro_rules! call {
    ($question:ident = $op:literal $name:literal -> $reply:ty $(, $long:ident)?) => {
        impl $crate::rpc::Call for $question {
            const OP: u16 = $op;
            const NAME: &'static str = $name;
            $(const $long: bool = true;)?
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

/// Items of one question. A batch of more is refused while it is read, so that a short frame cannot stand for endless work.
pub const ITEMS_MAX: usize = 1 << 17;

/// Reads the items of a question: at most [`ITEMS_MAX`].
pub(crate) fn items<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    struct Items<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Items<T> {
        type Value = Vec<T>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {ITEMS_MAX} items")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Vec<T>, A::Error> {
            let mut items = Vec::new();
            while let Some(item) = from.next_element()? {
                if items.len() == ITEMS_MAX {
                    return Err(A::Error::custom(format!("more than {ITEMS_MAX} items: send smaller batches")));
                }
                items.push(item);
            }
            Ok(items)
        }
    }
    from.deserialize_seq(Items(PhantomData))
}

fn append<T: Serialize>(out: &mut Vec<u8>, value: &T) -> postcard::Result<()> {
    let taken = std::mem::take(out);
    *out = postcard::to_extend(value, taken)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::Exists;

    #[test]
    fn a_batch_has_a_limit_that_is_found_while_reading() {
        let mut body = Vec::new();
        append(&mut body, &Exists { keys: vec![crate::ObjectKey::new([]); ITEMS_MAX] }).unwrap();
        assert_eq!(decode::<Exists>(&body).unwrap().keys.len(), ITEMS_MAX);
        body.clear();
        append(&mut body, &Exists { keys: vec![crate::ObjectKey::new([]); ITEMS_MAX + 1] }).unwrap();
        assert_eq!(decode::<Exists>(&body).unwrap_err().code, FaultCode::InvalidParams);
        // A length that claims more than there is.
        assert_eq!(decode::<Exists>(&[0xff, 0xff, 0xff, 0xff, 0x0f]).unwrap_err().code, FaultCode::InvalidParams);
    }
}
