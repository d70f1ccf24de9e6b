//! What a test says on the server's input, a line each.

use crate::faults::{Fault, Kind};
use crate::serve::Server;
use std::time::Duration;

const HELP: &str = "key add AK SK | key remove AK | fault (slow MS | late MS | refuse STATUS | die BYTES | lose) COUNT [TEXT in `METHOD /path?query`] | \
                    faults | faults off | requests | requests forget";

/// Does what a line says; answers `ok`, JSON, or `error: ...`.
pub(crate) fn obey(server: &Server, line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let done = match words[..] {
        ["key", "add", ak, sk] => Some(server.keys.add(ak, sk)),
        ["key", "remove", ak] => Some(server.keys.remove(ak)),
        ["faults", "off"] => Some(server.faults.clear()),
        ["requests", "forget"] => Some(server.record.forget()),
        ["faults"] => return server.faults.left().to_string(),
        ["requests"] => return server.record.json(),
        ["fault", ref fault @ ..] => read(fault).map(|fault| server.faults.add(fault)),
        _ => None,
    };
    done.map_or_else(|| format!("error: `{line}` is none of: {HELP}"), |()| "ok".to_owned())
}

fn read(words: &[&str]) -> Option<Fault> {
    let (kind, rest) = match *words {
        ["slow", ms, ref rest @ ..] => (Kind::Slow(Duration::from_millis(ms.parse().ok()?)), rest),
        ["late", ms, ref rest @ ..] => (Kind::Late(Duration::from_millis(ms.parse().ok()?)), rest),
        ["refuse", status, ref rest @ ..] => (Kind::Refuse(status.parse().ok()?), rest),
        ["die", bytes, ref rest @ ..] => (Kind::Die(bytes.parse().ok()?), rest),
        ["lose", ref rest @ ..] => (Kind::Lose, rest),
        _ => return None,
    };
    let (count, text) = rest.split_first()?;
    Some(Fault { kind, left: count.parse().ok()?, text: text.join(" ") })
}
