//! JSON as this face speaks it: strict when reading, spaced as Python's when writing.

use super::BODY_BYTES_MAX;
use super::refuse::Refusal;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::ser::Formatter;
use serde_json::{Map, Serializer, Value};
use std::io;
use utoipa::ToSchema;

/// The fields of a request: an object without strangers.
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    pub(super) fn read(body: Result<Bytes, BytesRejection>, allowed: &[&str]) -> Result<Self, Refusal> {
        let body = body.map_err(|e| match e.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                Refusal::new(e.status(), format!("the body is longer than {BODY_BYTES_MAX} bytes: put larger values through the library"))
            }
            other => Refusal::new(other, format!("the body cannot be read: {}", e.body_text())),
        })?;
        let bad = |text: String| Refusal::new(StatusCode::BAD_REQUEST, text);
        let value = serde_json::from_slice(&body).map_err(|e| bad(format!("Malformed JSON body: {e}")))?;
        let Value::Object(fields) = value else { return Err(bad("Request body must be a JSON object".into())) };
        if let Some(stranger) = fields.keys().find(|name| !allowed.contains(&name.as_str())) {
            return Err(bad(format!("Unknown field `{stranger}`: this request takes {}", allowed.join(", "))));
        }
        Ok(Self(fields))
    }

    /// A field that is there and not `null`.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// Takes a field out.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    /// An optional text; `Err` when it is something else.
    pub(super) fn text(&self, name: &str) -> Result<Option<&str>, Refusal> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Refusal::new(StatusCode::BAD_REQUEST, format!("Invalid {name}, must be a string"))),
        }
    }
}

/// Python's `json.dumps` puts a space after `:` and `,`.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { to.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { to.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
        to.write_all(b": ")
    }
}

/// A reply with fields in the order of the struct.
pub(super) fn reply(status: StatusCode, body: &impl Serialize) -> Response {
    let mut text = Vec::new();
    match body.serialize(&mut Serializer::with_formatter(&mut text, Spaced)) {
        Ok(()) => (status, [(header::CONTENT_TYPE, "application/json; charset=utf-8")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// `{"status": ...}`
#[derive(Serialize, ToSchema)]
#[schema(as = Done)]
pub(super) struct Status<'a> {
    pub(super) status: &'a str,
}

/// `{"status": "success"}`
pub(super) fn success() -> Response {
    reply(StatusCode::OK, &Status { status: "success" })
}
