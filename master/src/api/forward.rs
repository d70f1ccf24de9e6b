//! Sends a request that only the leader can carry out on to it, and its answer back.
//!
//! A request is sent on once: it carries a mark, and whoever receives a marked one and does not lead refuses it.

use super::App;
use super::face::Face;
use crate::engine::{Group, Leader};
use crate::log::Member;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use perilune_probe::STAGE;
use perilune_protocol::access::Token;
use perilune_protocol::{Fault, FaultCode, Outcome};
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

type Sender = http1::SendRequest<Body>;

/// The longest body that is sent on.
const BODY_BYTES_MAX: usize = 1 << 20;
/// The longest answer that another master is asked for.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// How long the leader may take to be reached.
const CONNECT: Duration = Duration::from_secs(1);
/// How long it may take to answer: removing everything takes its time.
const ANSWER: Duration = Duration::from_secs(60);
/// Names the master that sent a request on.
const MARK: HeaderName = HeaderName::from_static("x-perilune-forwarded");
/// What concerns one connection, not the request; and what is set anew.
const NOT_SENT_ON: [HeaderName; 10] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::HOST,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Lets the leader carry out what only it can, whichever master is asked.
pub(super) async fn forwarded<F: Face>(State(app): State<App>, request: Request, next: Next) -> Response {
    let Some(group) = app.group.as_ref().filter(|_| F::acts(&request)) else { return next.run(request).await };
    let (mut leader, patience) = match group.settled().await {
        Ok(Leader::Here) => return next.run(request).await,
        Ok(Leader::There(leader)) => (leader, Instant::now() + group.patience()),
        Err(fault) => return F::refuse(&fault),
    };
    if let Some(from) = request.headers().get(MARK) {
        let why = format!("master {from:?} takes this one for the leader, which it is not: master {} is", leader.id);
        return F::refuse(&FaultCode::NotLeader.with(why));
    }
    let (mut parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, BODY_BYTES_MAX).await else {
        return (StatusCode::PAYLOAD_TOO_LARGE, format!("a body of more than {BODY_BYTES_MAX} bytes is not sent on to the leader\n"))
            .into_response();
    };
    drop_hops(&mut parts.headers);
    parts.headers.insert(MARK, group.me().into());
    // Until one takes it, nothing was asked of anybody.
    loop {
        let lost = match reach_leader(&leader, group).await {
            Ok(sender) => {
                let request = Request::from_parts(parts.clone(), Body::from(body.clone()));
                match ask_leader(&leader, group, sender, request).await {
                    Ok(mut answer) => {
                        drop_hops(answer.headers_mut());
                        return answer;
                    }
                    Err(fault) if fault.code == FaultCode::NotLeader => fault,
                    Err(fault) => return F::refuse(&fault),
                }
            }
            Err(fault) => fault,
        };
        if timeout_at(patience, group.succeeded(&leader)).await.is_err() {
            return F::refuse(&lost);
        }
        leader = match group.settled().await {
            Ok(Leader::Here) => return next.run(Request::from_parts(parts, Body::from(body))).await,
            Ok(Leader::There(leader)) => leader,
            Err(fault) => return F::refuse(&fault),
        };
    }
}

async fn ask_leader(leader: &Member, group: &Group, sender: Sender, request: Request) -> Outcome<Response> {
    tokio::select! {
        biased;
        answer = ask(&leader.http, sender, request) => answer,
        () = group.succeeded(leader) => {
            let why = format!("master {} was asked and leads no more, what was asked may be done", leader.id);
            Err(FaultCode::Timeout.with(why))
        }
    }
}

async fn reach_leader(leader: &Member, group: &Group) -> Outcome<Sender> {
    if leader.http.is_empty() {
        return Err(FaultCode::NotLeader.with(format!("master {} leads and has not said yet where its HTTP is", leader.id)));
    }
    tokio::select! {
        reached = reach(&leader.http) => reached,
        () = group.succeeded(leader) => Err(FaultCode::NotLeader.with(format!("master {} leads no more", leader.id))),
    }
}

fn drop_hops(headers: &mut HeaderMap) {
    for name in NOT_SENT_ON {
        headers.remove(name);
    }
}

/// One request on a connection of its own. [`FaultCode::NotLeader`] when nobody is there, [`FaultCode::Timeout`] when it may have been
/// carried out and nobody said so.
pub(crate) async fn send(to: &str, request: Request) -> Outcome<Response> {
    ask(to, reach(to).await?, request).await
}

/// Asks another master something, and reads its answer as JSON.
///
/// # Errors
/// As [`send`]; [`FaultCode::NotLeader`] with what it said where that is no such answer.
pub(crate) async fn call<T: DeserializeOwned>(to: &str, token: Option<&Token>, method: Method, path: &str, body: Vec<u8>) -> Outcome<T> {
    let strange = |e: String| FaultCode::NotLeader.with(format!("{to}: {e}"));
    let request = request(method, path, token).header(header::CONTENT_TYPE, "application/json");
    let answer = send(to, request.body(Body::from(body)).map_err(|e| strange(e.to_string()))?).await?;
    let status = answer.status();
    let body = to_bytes(answer.into_body(), ANSWER_BYTES_MAX).await.map_err(|e| strange(e.to_string()))?;
    if status != StatusCode::OK {
        return Err(strange(String::from_utf8_lossy(&body).into_owned()));
    }
    serde_json::from_slice(&body).map_err(|e| strange(e.to_string()))
}

/// What a master asks another, as itself.
pub(crate) fn request(method: Method, path: &str, token: Option<&Token>) -> request::Builder {
    let request = Request::builder().method(method).uri(path);
    match token {
        Some(token) => request.header(header::AUTHORIZATION, format!("Bearer {}", token.secret())),
        None => request,
    }
}

async fn reach(to: &str) -> Outcome<Sender> {
    let absent = |why: String| absent(to, &why);
    let stream = timeout(CONNECT, TcpStream::connect(to)).await;
    let stream = stream.map_err(|_| absent(format!("no connection within {CONNECT:?}")))?.map_err(|e| absent(e.to_string()))?;
    let _ = stream.set_nodelay(true);
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| absent(e.to_string()))?;
    // Ends with the answer, or when it is dropped.
    tokio::spawn(connection);
    Ok(sender)
}

fn absent(to: &str, why: &str) -> Fault {
    FaultCode::NotLeader.with(format!("nobody answers at {to}: {why}"))
}

async fn ask(to: &str, mut sender: Sender, mut request: Request) -> Outcome<Response> {
    let host = HeaderValue::from_str(to).map_err(|e| FaultCode::NotLeader.with(format!("{to:?} is no host: {e}")))?;
    request.headers_mut().insert(header::HOST, host);
    let broken = |why: String| FaultCode::Timeout.with(format!("the answer of {to} did not come, what was asked may be done: {why}"));
    let answer = timeout(ANSWER, sender.send_request(request)).await;
    let answer = answer.map_err(|_| broken(format!("nothing within {ANSWER:?}")))?.map_err(|e| broken(e.to_string()))?;
    if answer.headers().contains_key(STAGE) {
        return Err(absent(to, "it does not run, not yet or not any more"));
    }
    Ok(answer.map(Body::new))
}
