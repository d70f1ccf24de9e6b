//! The few messages of etcd's `rpc.proto` that are needed, by hand: protocol buffers of numbered fields, lengths before bytes.

/// `PutRequest { key = 1, value = 2 }`.
pub(super) fn put(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.len() + value.len() + 8);
    field(&mut out, 1, key);
    field(&mut out, 2, value);
    out
}

/// `TxnRequest { repeated RequestOp success = 2 }` with `RequestOp { request_put = 2 }` each.
pub(super) fn txn(puts: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for put in puts {
        let mut op = Vec::with_capacity(put.len() + 4);
        field(&mut op, 2, put);
        field(&mut out, 2, &op);
    }
    out
}

/// Of `StatusResponse { header = 1 { member_id = 2 }, leader = 4 }` the member that answers and the one that leads.
pub(super) fn status(bytes: &[u8]) -> Option<(u64, u64)> {
    let header = find(bytes, 1)?;
    Some((find(header.bytes()?, 2)?.number()?, find(bytes, 4)?.number()?))
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    fn number(&self) -> Option<u64> {
        if let Self::Number(number) = self { Some(*number) } else { None }
    }

    fn bytes(&self) -> Option<&'a [u8]> {
        if let Self::Bytes(bytes) = self { Some(bytes) } else { None }
    }
}

fn field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    let mut len = bytes.len();
    while len >= 0x80 {
        out.push(len as u8 | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
    out.extend_from_slice(bytes);
}

/// The last field of this number. Total.
fn find(mut bytes: &[u8], number: u64) -> Option<Value<'_>> {
    let mut found = None;
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let value = match tag & 7 {
            0 => Value::Number(varint(&mut bytes)?),
            2 => {
                let len = usize::try_from(varint(&mut bytes)?).ok()?;
                let (value, rest) = bytes.split_at_checked(len)?;
                bytes = rest;
                Value::Bytes(value)
            }
            _ => return None,
        };
        if tag >> 3 == number {
            found = Some(value);
        }
    }
    found
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_look_as_protocol_buffers_do() {
        assert_eq!(put(b"ab", b"c"), [0x0a, 2, b'a', b'b', 0x12, 1, b'c']);
        assert_eq!(txn(&[put(b"a", b"b")]), [0x12, 8, 0x12, 6, 0x0a, 1, b'a', 0x12, 1, b'b']);
        assert_eq!(put(&[0; 300], b"")[..3], [0x0a, 0xac, 0x02]);
        // header { cluster_id = 1: 5, member_id = 2: 300 }, version = 2: "3", leader = 4: 300.
        let bytes = [0x0a, 5, 0x08, 5, 0x10, 0xac, 0x02, 0x12, 1, b'3', 0x20, 0xac, 0x02];
        assert_eq!(status(&bytes), Some((300, 300)));
        for cut in 0..bytes.len() {
            assert_eq!(status(&bytes[..cut]), None, "{cut}");
        }
    }
}
