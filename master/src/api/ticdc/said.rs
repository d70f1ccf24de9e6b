//! What callers say: bodies of JSON whatever the content type says, names in paths, the namespace.

use super::BODY_BYTES_MAX;
use super::error::Refusal;
use crate::api::App;
use crate::api::extract::{Query, unread};
use crate::feeds::Code;
use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use perilune_state::directory::{FeedRecord, Known, is_feed_name};
use serde::Deserialize;
use serde_json::error::Category;
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// The namespace of whoever names none.
pub(super) const DEFAULT_NAMESPACE: &str = "default";

/// What a feed is to be, or to become. What is not known is ignored, and `null` says nothing.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = ChangefeedConfig)]
pub(super) struct Asked {
    /// Of which tenant.
    pub(super) namespace: String,
    /// Its name; a random one where there is none.
    pub(super) changefeed_id: String,
    /// Events after this stamp; 0: from now on.
    pub(super) start_ts: u64,
    /// Events up to this one; 0: without end.
    pub(super) target_ts: u64,
    /// `blackhole://`, `file:///PATH`, `s3://BUCKET/PREFIX?...`, `http(s)://...`.
    pub(super) sink_uri: String,
    /// How; what is left out has its default, or stays.
    #[schema(value_type = crate::feeds::ReplicaConfig)]
    pub(super) replica_config: Map<String, Value>,
    /// Other clusters cannot be asked.
    pub(super) pd_addrs: Vec<String>,
}

/// How a feed goes on.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = ResumeChangefeedConfig)]
pub(super) struct Resume {
    /// From this stamp; 0: from where it was.
    pub(super) overwrite_checkpoint_ts: u64,
    pub(super) pd_addrs: Vec<String>,
}

/// A body, whatever the content type says.
pub(super) struct Body(pub(super) Bytes);

impl FromRequest<App> for Body {
    type Rejection = Refusal;

    async fn from_request(request: Request, app: &App) -> Result<Self, Refusal> {
        Bytes::from_request(request, app).await.map(Self).map_err(|e| Refusal::unread(unread(&e, BODY_BYTES_MAX)))
    }
}

/// Reads a body.
pub(super) fn parse<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, Refusal> {
    let wrong = |why: String| Refusal::from(Code::ApiInvalidParam.with(format!("invalid api parameter: {why}")));
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(wrong("EOF".into()));
    }
    let mut said: Map<String, Value> = serde_json::from_slice(body).map_err(|e| match e.classify() {
        Category::Eof => wrong("unexpected EOF".into()),
        _ => wrong(e.to_string()),
    })?;
    said.retain(|_, value| !value.is_null());
    T::deserialize(Value::Object(said)).map_err(|e| wrong(e.to_string()))
}

/// Only this cluster is known.
pub(super) fn own_cluster(pd_addrs: &[String]) -> Result<(), Refusal> {
    if pd_addrs.is_empty() {
        return Ok(());
    }
    let why = "failed to get PDClient to connect PD, please recheck: feeds of other clusters are not built: leave pd_addrs out";
    Err(Code::GetPdClientFailed.with(why).into())
}

/// Which namespace is meant: that of the caller, where it names none and speaks for a tenant.
pub(super) fn namespace(query: &Query) -> String {
    let named = query.text("namespace").filter(|name| !name.is_empty());
    named.or_else(|| query.principal().map(|principal| principal.tenant.clone())).unwrap_or_else(|| DEFAULT_NAMESPACE.into())
}

/// The feed that a path names.
pub(super) fn feed<'a>(known: &'a Known, query: &Query, name: &str) -> Result<&'a FeedRecord, Refusal> {
    let namespace = namespace(query);
    if !is_feed_name(name) {
        return Err(Refusal::parameter("changefeed_id", name));
    }
    let found = known.named(&namespace).and_then(|tenant| known.feed_named(tenant.id, name));
    found.ok_or_else(|| Refusal::not_exists(&namespace, name))
}

/// A name in a path that axum has decoded.
pub(super) type Name = axum::extract::Path<String>;
