//! A new master asks a running group to take it in, before its data directory is made.

use crate::api::forward;
use crate::api::join::{Join, Joined};
use crate::log::{Member, Members};
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use perilune_protocol::FaultCode;
use perilune_protocol::access::Token;
use serde::Deserialize;
use serde_json::Value;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How long a group may be without a leader.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// What a running group said.
pub(crate) struct Group {
    pub(crate) cluster: Uuid,
    pub(crate) members: Members,
}

/// Asks each of `masters`, HTTP addresses, until one has this master taken in. It is one of the group then, whatever happens here next.
pub(crate) async fn ask(masters: &[String], token: Option<&Token>, cluster: Option<Uuid>, member: &Member) -> Result<Group, String> {
    let join = Join { cluster_id: cluster.map(|id| id.to_string()), member: member.clone() };
    let body = serde_json::to_vec(&join).map_err(|e| e.to_string())?;
    let began = Instant::now();
    loop {
        let mut absent = Vec::new();
        let mut elects = false;
        for master in masters {
            match call(master, token, "POST", "/member/join", body.clone()).await {
                Ok((200, said)) => return read(master, &said),
                Ok((907 | 906, said)) => {
                    elects = true;
                    absent.push(format!("{master}: {}", error_in(&said)));
                }
                Ok((status, said)) => return Err(format!("{master} refuses: {} (HTTP {status})", error_in(&said))),
                Err(why) => absent.push(why),
            }
        }
        if !elects || began.elapsed() > PATIENCE {
            return Err(format!("no master takes this one in; is one up, and is this its HTTP address? {}", absent.join("; ")));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The cluster of whichever of `masters` answers: whose data directory belongs to another is told so before it opens it. `me` was taken in
/// before, and may have been removed since.
pub(crate) async fn cluster(masters: &[String], token: Option<&Token>, me: u64) -> Option<Uuid> {
    #[derive(Deserialize)]
    struct List {
        cluster_id: Uuid,
        members: Vec<One>,
    }
    #[derive(Deserialize)]
    struct One {
        peer_id: u64,
    }
    for master in masters {
        match call(master, token, "GET", "/member/list", Vec::new()).await {
            Ok((200, said)) => {
                let list: List = serde_json::from_slice(&said).ok()?;
                if !list.members.iter().any(|m| m.peer_id == me) {
                    tracing::warn!(
                        "{master} does not count master {me} among the group: if it was removed, join with a new --id and --data-dir"
                    );
                }
                return Some(list.cluster_id);
            }
            Ok((status, _)) => tracing::warn!("{master} answers HTTP {status} and does not say of which cluster it is"),
            Err(why) => tracing::info!("{why}"),
        }
    }
    None
}

async fn call(master: &str, token: Option<&Token>, method: &str, path: &str, body: Vec<u8>) -> Result<(u16, Bytes), String> {
    let mut request = Request::builder().method(method).uri(path).header(CONTENT_TYPE, "application/json");
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {}", token.secret()));
    }
    let request = request.body(Body::from(body)).map_err(|e| e.to_string())?;
    let answer = forward::send(master, request).await.map_err(|fault| match fault.code {
        FaultCode::NotLeader => fault.message,
        _ => format!("{master}: {}", fault.message),
    })?;
    let status = answer.status().as_u16();
    let said = to_bytes(answer.into_body(), ANSWER_BYTES_MAX).await.map_err(|e| format!("{master}: its answer broke off: {e}"))?;
    Ok((status, said))
}

fn read(master: &str, said: &[u8]) -> Result<Group, String> {
    let strange = |why: String| format!("{master} does not answer as a master of this release: {why}");
    let joined: Joined = serde_json::from_slice(said).map_err(|e| strange(e.to_string()))?;
    let cluster = joined.cluster_id.parse().map_err(|e: uuid::Error| strange(e.to_string()))?;
    Ok(Group { cluster, members: Members::decode(&joined.members).map_err(strange)? })
}

/// The sentence of a refusal, or whatever was said instead.
fn error_in(said: &[u8]) -> String {
    let value: Option<Value> = serde_json::from_slice(said).ok();
    match value.as_ref().and_then(|v| v["error"].as_str()) {
        Some(error) => error.to_owned(),
        None => String::from_utf8_lossy(&said[..said.len().min(200)]).into_owned(),
    }
}
