//! Where the time goes: stacks of whoever uses the CPU, taken many times a second, as a flame graph or in pprof's format.

mod modules;
mod names;
pub mod proto;
mod run;
mod sampler;
mod sys;

use crate::status::text;
use axum::body::Body;
use axum::extract::RawQuery;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use run::{Form, Order};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;

const SECONDS: RangeInclusive<u64> = 1..=600;
const FREQUENCY: RangeInclusive<i32> = 1..=1000;
const PROTOBUF: &str = "application/protobuf";

/// A process has one profiling timer, and one profile, of the CPU or of the heap, at a time. Guards nothing else, so relaxed.
static PROFILING: AtomicBool = AtomicBool::new(false);

/// A status and a sentence.
pub(crate) type Refusal = (StatusCode, String);

/// The right to make the one profile.
pub(crate) struct Turn(());

impl Turn {
    /// # Errors
    /// When another profile is being made.
    pub(crate) fn take() -> Result<Self, Refusal> {
        if PROFILING.swap(true, Ordering::Relaxed) {
            return Err((StatusCode::INTERNAL_SERVER_ERROR, "Already in Profiling".into()));
        }
        Ok(Self(()))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        PROFILING.store(false, Ordering::Relaxed);
    }
}

/// Where the time of the CPU goes: an SVG, or pprof's protobuf where the request's own type (or `Accept`) is that.
#[utoipa::path(
    get, path = "/debug/pprof/profile", tag = "process",
    params(
        ("seconds" = Option<u64>, Query, description = "How long to look; 10 if nothing is said.", minimum = 1, maximum = 600),
        ("frequency" = Option<i32>, Query, description = "How often in a second; 99 if nothing is said.", minimum = 1, maximum = 1000),
    ),
    responses(
        (status = 200, description = "The profile.", content((String = "image/svg+xml"), (Vec<u8> = "application/octet-stream"))),
        (status = 400, description = "No such number, or out of range.", body = String, content_type = "text/plain"),
        (status = 500, description = "Another profile is being made.", body = String, content_type = "text/plain"),
    )
)]
pub(crate) async fn profile(RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    answer(&query.unwrap_or_default(), &headers).await.unwrap_or_else(|(status, why)| text(status, why))
}

async fn answer(query: &str, headers: &HeaderMap) -> Result<Response, Refusal> {
    let seconds = number(query, "seconds", 10, &SECONDS)?;
    let frequency = number(query, "frequency", 99, &FREQUENCY)?;
    let is_protobuf = |name: HeaderName| headers.get(name).is_some_and(|value| value.as_bytes() == PROTOBUF.as_bytes());
    let form = if is_protobuf(header::CONTENT_TYPE) || is_protobuf(header::ACCEPT) { Form::Protobuf } else { Form::Svg };
    let turn = Turn::take()?;
    let (tell, told) = oneshot::channel();
    let order = Order { duration: Duration::from_secs(seconds), frequency: frequency.unsigned_abs(), form };
    let failed = |why: String| (StatusCode::INTERNAL_SERVER_ERROR, format!("no profile could be made: {why}\n"));
    let thread = std::thread::Builder::new().name("profile".into()).spawn(move || {
        let made = run::run(&order, || tell.is_closed());
        drop(turn);
        // Whoever asked may have gone.
        let _ = tell.send(made);
    });
    thread.map_err(|e| failed(e.to_string()))?;
    let made = told.await.map_err(|_| failed("its thread ended".into()))?.map_err(|e| failed(e.to_string()))?;
    let content_type = match form {
        Form::Svg => "image/svg+xml",
        Form::Protobuf => "application/octet-stream",
    };
    Ok(attachment("cpu_profile", content_type, made))
}

pub(crate) fn attachment(name: &str, content_type: &'static str, bytes: Vec<u8>) -> Response {
    let disposition = format!("attachment; filename=\"{name}\"");
    ([(header::CONTENT_TYPE, content_type.to_owned()), (header::CONTENT_DISPOSITION, disposition)], Body::from(bytes)).into_response()
}

/// A parameter: its default where it is absent, and refused in the words of whoever reads numbers.
fn number<T>(query: &str, name: &str, default: T, range: &RangeInclusive<T>) -> Result<T, Refusal>
where
    T: FromStr<Err: Display> + PartialOrd,
{
    let given = query.split('&').find_map(|pair| pair.split_once('=').filter(|(found, _)| *found == name));
    let Some((_, value)) = given else { return Ok(default) };
    let value = value.parse().map_err(|e: T::Err| (StatusCode::BAD_REQUEST, e.to_string()))?;
    if range.contains(&value) { Ok(value) } else { Err((StatusCode::BAD_REQUEST, format!("invalid {name}"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_no_number_or_too_much_is_refused_before_anything_begins() {
        for (query, words) in [
            ("seconds=x", "invalid digit found in string"),
            ("seconds=", "cannot parse integer from empty string"),
            ("seconds=-1", "invalid digit found in string"),
            ("seconds=99999999999999999999", "number too large to fit in target type"),
            ("frequency=1e3", "invalid digit found in string"),
            ("frequency=3000000000", "number too large to fit in target type"),
            ("seconds=0", "invalid seconds"),
            ("seconds=601", "invalid seconds"),
            ("frequency=0", "invalid frequency"),
            ("seconds=1&frequency=-99", "invalid frequency"),
            ("frequency=1001&seconds=1", "invalid frequency"),
        ] {
            let refusal = answer(query, &HeaderMap::new()).await.unwrap_err();
            assert_eq!(refusal, (StatusCode::BAD_REQUEST, words.to_owned()), "{query}");
        }
    }
}
