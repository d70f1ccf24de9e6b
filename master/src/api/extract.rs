//! Query strings and bodies, read the same way everywhere.

use super::App;
use axum::extract::FromRequestParts;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::http::request::Parts;
use perilune_protocol::principal::Principal;
use perilune_protocol::{FaultCode, ObjectKey, Outcome, TenantId};
use std::convert::Infallible;

/// The query string as it was sent, and for whom its caller speaks, unless that is the admin. Parameters nobody asks for are ignored; of a
/// repeated one the first counts.
pub(super) struct Query(String, Option<Principal>);

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(parts.uri.query().unwrap_or_default().to_owned(), parts.extensions.get().cloned()))
    }
}

impl Query {
    /// A parameter, undecoded.
    pub(super) fn raw(&self, name: &str) -> Option<&str> {
        self.0.split('&').find_map(|pair| {
            let (found, value) = pair.split_once('=').unwrap_or((pair, ""));
            (found == name).then_some(value)
        })
    }

    /// A parameter, decoded as forms are.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.raw(name).map(|raw| String::from_utf8_lossy(&decode(raw, true)).into_owned())
    }

    /// A switch: `true` or `1`, `false` or `0`; absent is off.
    pub(super) fn switch(&self, name: &str) -> Outcome<bool> {
        match self.text(name).as_deref() {
            None | Some("" | "0" | "false") => Ok(false),
            Some("1" | "true") => Ok(true),
            Some(other) => Err(FaultCode::InvalidParams.with(format!("{name}={other} is neither true, 1, false nor 0"))),
        }
    }

    /// For whom its caller speaks; `None`: the admin.
    pub(super) fn principal(&self) -> Option<&Principal> {
        self.1.as_ref()
    }

    /// The tenant that `tenant_id` names; where it names none that of the caller, or `default`.
    pub(super) fn tenant(&self, app: &App) -> Outcome<TenantId> {
        let named = self.text("tenant_id").unwrap_or_default();
        match &self.1 {
            Some(principal) if !named.is_empty() && named != principal.tenant => {
                Err(FaultCode::Forbidden.with(format!("the token is one of tenant {} and not of {named:.200?}", principal.tenant)))
            }
            Some(principal) => app.engine.tenant(&principal.tenant),
            None => app.engine.tenant(&named),
        }
    }
}

/// The status and the words for a body that was not read, which may have up to `limit` bytes.
pub(super) fn unread(rejection: &BytesRejection, limit: usize) -> (StatusCode, String) {
    let why = match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => format!("the body is longer than {limit} bytes"),
        _ => rejection.body_text(),
    };
    (rejection.status(), why)
}

/// What a key in a query string may mean, likeliest first: decoded as forms are, decoded with `+` as itself, as it stands.
///
/// Mooncake's clients do not encode keys, everybody else's do, and either way the key must be found.
pub(super) fn readings(raw: &str) -> Vec<ObjectKey> {
    let mut readings = Vec::with_capacity(3);
    for bytes in [decode(raw, true), decode(raw, false), raw.as_bytes().to_vec()] {
        let key = ObjectKey::new(bytes);
        if !readings.contains(&key) {
            readings.push(key);
        }
    }
    readings
}

/// Undoes percent encoding, and `+` for space where forms do. What is no escape stays as it is.
fn decode(raw: &str, plus_is_space: bool) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        let escaped = match (first, tail) {
            (b'%', [high, low, ..]) => digit(*high).zip(digit(*low)),
            _ => None,
        };
        if let Some((high, low)) = escaped {
            out.push(high << 4 | low);
            rest = &tail[2..];
        } else if *first == b'+' && plus_is_space {
            out.push(b' ');
        } else {
            out.push(*first);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(raw: &str) -> Vec<String> {
        readings(raw).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_key_is_read_in_every_way_it_may_be_meant() {
        assert_eq!(keys("k1"), ["k1"]);
        assert_eq!(keys("a%2Fb%20c"), ["a/b c", "a%2Fb%20c"]);
        assert_eq!(keys("a+b"), ["a b", "a+b"]);
        assert_eq!(keys("a+b%21"), ["a b!", "a+b!", "a+b%21"]);
    }

    #[test]
    fn what_is_no_escape_stays() {
        for raw in ["%", "%4", "%zz", "50%", "%%%"] {
            assert_eq!(decode(raw, true), raw.as_bytes(), "{raw}");
        }
        assert_eq!(decode("%41%", true), b"A%");
        assert_eq!(decode("%ff%00", true), [0xff, 0]);
    }

    #[test]
    fn parameters_are_found_by_whole_name() {
        let query = Query("xkey=1&key=a%26b&key=2&flag&empty=".to_owned(), None);
        assert_eq!(query.text("key").as_deref(), Some("a&b"));
        assert_eq!(query.raw("flag"), Some(""));
        assert_eq!(query.raw("ke"), None);
        assert!(query.switch("key").is_err() && query.switch("empty") == Ok(false) && query.switch("xkey") == Ok(true));
    }
}
