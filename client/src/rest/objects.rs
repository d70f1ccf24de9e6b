//! Put, get, exist, remove.

use super::json::{self, Fields, Status};
use super::range::Asked;
use super::refuse::Refusal;
use super::{blocking, json::success};
use crate::node::Node;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use perilune_protocol::{FaultCode, ObjectKey, Outcome, PutConfig};
use serde::Serialize;
use serde_json::Value;
use std::sync::Arc;
use utoipa::ToSchema;

/// What `/api/put` reads.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read field by field")]
pub(super) struct Put {
    key: String,
    value: String,
}

/// A value is put under a key; a key that exists keeps the value it has.
#[utoipa::path(
    put, path = "/api/put", tag = "store",
    request_body = Put,
    responses((status = 200, description = "It can be read.", body = Status))
)]
pub(super) async fn put(State(node): State<Arc<Node>>, body: Result<Bytes, BytesRejection>) -> Response {
    blocking(node, move |node| -> Result<Response, Refusal> {
        let mut fields = Fields::read(body, &["key", "value"])?;
        let mut text = |name: &str| match fields.take(name) {
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(Refusal::new(StatusCode::BAD_REQUEST, format!("Missing key or value: `{name}` must be a string"))),
            None => Err(Refusal::new(StatusCode::BAD_REQUEST, "Missing key or value")),
        };
        let (key, value) = (text("key")?, text("value")?);
        let put = node.store.put(&ObjectKey::from(key), value.as_bytes(), &PutConfig::default());
        // A key that existed keeps its value, and that is a success.
        put.map(|_| success()).map_err(|fault| Refusal::of("PUT operation failed", &fault))
    })
    .await
}

/// The value of a key, or some of its bytes (`Range: bytes=0-99`): of what is only in a vault no more is fetched then than the pieces that
/// hold them.
#[utoipa::path(
    get, path = "/api/get/{*key}", tag = "store",
    params(
        ("key" = String, Path, description = "The key: all that follows, which may contain slashes and percent-escapes."),
        ("Range" = Option<String>, Header, description = "One range of bytes; of anything else the whole value is the answer.")
    ),
    responses(
        (status = 200, description = "Its bytes.", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 206, description = "Those bytes of it that `Content-Range` says.", body = Vec<u8>, content_type = "application/octet-stream")
    )
)]
pub(super) async fn get(State(node): State<Arc<Node>>, uri: Uri, headers: HeaderMap) -> Response {
    blocking(node, move |node| {
        let key = key(&uri, "/api/get/");
        let asked = headers.get(header::RANGE).and_then(|range| Asked::read(range.to_str().ok()?));
        let answer = match asked {
            None => node.store.get(&key).map(|bytes| (StatusCode::OK, bytes_are(), bytes).into_response()),
            Some(asked) => get_some(node, &key, asked),
        };
        match answer {
            Ok(answer) => answer,
            Err(fault) if fault.code == FaultCode::ObjectNotFound => Refusal::new(StatusCode::NOT_FOUND, "Key not found").into_response(),
            Err(fault) => Refusal::of("GET operation failed", &fault).into_response(),
        }
    })
    .await
}

fn bytes_are() -> [(header::HeaderName, &'static str); 2] {
    [(header::CONTENT_TYPE, "application/octet-stream"), (header::ACCEPT_RANGES, "bytes")]
}

fn get_some(node: &Node, key: &ObjectKey, asked: Asked) -> Outcome<Response> {
    let size = node.store.size(key)?;
    let range = asked.of(size);
    if range.is_empty() {
        let refused = Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, format!("The value has {size} bytes"));
        return Ok(([(header::CONTENT_RANGE, format!("bytes */{size}"))], refused).into_response());
    }
    let start = range.start;
    // Should another value be there by now, that is what is told.
    let part = node.store.get_range(key, range)?;
    let told = format!("bytes {start}-{}/{}", start + part.bytes.len() as u64 - 1, part.size);
    Ok((StatusCode::PARTIAL_CONTENT, bytes_are(), [(header::CONTENT_RANGE, told)], part.bytes).into_response())
}

#[derive(Serialize, ToSchema)]
pub(super) struct Known {
    exists: bool,
}

/// Whether a key can be read.
#[utoipa::path(
    get, path = "/api/exist/{*key}", tag = "store",
    params(("key" = String, Path, description = "The key: all that follows, which may contain slashes and percent-escapes.")),
    responses((status = 200, description = "Whether.", body = Known))
)]
pub(super) async fn exist(State(node): State<Arc<Node>>, uri: Uri) -> Response {
    blocking(node, move |node| {
        let key = key(&uri, "/api/exist/");
        match key.check().and_then(|()| node.store.exists(&[key])) {
            Ok(known) => json::reply(StatusCode::OK, &Known { exists: known == [true] }),
            Err(fault) => Refusal::of("Exist check failed", &fault).into_response(),
        }
    })
    .await
}

/// A key is removed, unless it is being read.
#[utoipa::path(
    delete, path = "/api/remove/{*key}", tag = "store",
    params(("key" = String, Path, description = "The key: all that follows, which may contain slashes and percent-escapes.")),
    responses((status = 200, description = "It is gone.", body = Status))
)]
pub(super) async fn remove(State(node): State<Arc<Node>>, uri: Uri) -> Response {
    blocking(node, move |node| {
        let removed: Result<(), _> = node.store.remove(&[key(&uri, "/api/remove/")], false).into_iter().collect();
        removed.map(|()| success()).map_err(|fault| Refusal::of("Remove operation failed", &fault))
    })
    .await
}

/// All keys are removed but those that are being read.
#[utoipa::path(
    delete, path = "/api/remove_all", tag = "store",
    responses((status = 200, description = "How many went.", body = Status))
)]
pub(super) async fn remove_all(State(node): State<Arc<Node>>) -> Response {
    blocking(node, |node| match node.store.remove_matching("", false) {
        Ok(count) => json::reply(StatusCode::OK, &Status { status: &format!("success removed {count} keys") }),
        Err(fault) => Refusal::of("RemoveAll operation failed", &fault).into_response(),
    })
    .await
}

/// The bytes of the path after `before`. A `%` that begins no escape stands for itself.
fn key(uri: &Uri, before: &str) -> ObjectKey {
    let mut rest = uri.path().strip_prefix(before).unwrap_or_default().as_bytes();
    let mut key = Vec::with_capacity(rest.len());
    while let [first, after @ ..] = rest {
        let escaped = match after {
            [high, low, ..] if *first == b'%' => char::from(*high).to_digit(16).zip(char::from(*low).to_digit(16)),
            _ => None,
        };
        let (byte, taken) = escaped.map_or((*first, 1), |(high, low)| ((high * 16 + low) as u8, 3));
        key.push(byte);
        rest = &rest[taken..];
    }
    ObjectKey::new(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_in_the_path_may_be_any_bytes() {
        let of = |path: &str| key(&path.parse::<Uri>().unwrap(), "/api/get/").as_bytes().to_vec();
        assert_eq!(of("/api/get/a/b//c"), b"a/b//c");
        assert_eq!(of("/api/get/a%2Fb%20c%00%ff"), b"a/b c\0\xff");
        assert_eq!(of("/api/get/100%25"), b"100%");
        assert_eq!(of("/api/get/100%"), b"100%");
        assert_eq!(of("/api/get/%zz%4"), b"%zz%4");
        assert_eq!(of("/api/get/%4%41"), b"%4A");
        assert_eq!(of("/api/get/a+b?c=d"), b"a+b");
    }
}
