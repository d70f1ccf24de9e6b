//! Who may come in: who has the token of this node, and who has one of a tenant, which the masters say is good.

use super::refuse::Refusal;
use crate::NodeConfig;
use crate::master::{Caller, Master};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use perilune_protocol::access::{Access, Token, bearer};
use perilune_protocol::principal::{Principal, Role};
use perilune_protocol::rpc::session::Greet;
use perilune_protocol::tenant;
use perilune_protocol::{Fault, FaultCode, Outcome};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// So long what the masters said of a token holds: a token that is revoked opens nothing any more after that.
const HOLDS: Duration = Duration::from_secs(2);
/// How long the masters are waited for.
const ASK: Duration = Duration::from_secs(5);
/// Questions to the masters at a time: whoever makes tokens up holds up strangers only.
const ASKING_MAX: usize = 8;
/// Tokens that are remembered.
const KNOWN_MAX: usize = 1024;

/// The door of the store's routes.
pub(crate) struct Door {
    access: Arc<Access>,
    masters: Vec<String>,
    greet: Greet,
    /// What was said of tokens, and until when it holds. Touched once per request with such a token, never held while anybody is asked.
    known: Mutex<HashMap<String, (Instant, Outcome<()>)>>,
    asking: Semaphore,
}

impl Door {
    pub(crate) fn new(config: &NodeConfig) -> Self {
        let own = config.token.as_ref().and_then(|token| Principal::claimed(token.secret()));
        // A token that says nothing of its tenant, for a node that does not either, is one for `default`.
        let named = match (config.tenant.as_str(), config.unique_id.as_str()) {
            ("", "") => own.map_or_else(|| tenant::DEFAULT.into(), |own| own.tenant),
            (name, _) => name.to_owned(),
        };
        let agent = format!("perilune-store {} for a caller", env!("CARGO_PKG_VERSION"));
        let greet = Greet { agent, tenant: named, unique_id: config.unique_id.clone(), ..Greet::default() };
        let (known, asking) = (Mutex::default(), Semaphore::new(ASKING_MAX));
        Self { access: super::access(config), masters: config.masters.clone(), greet, known, asking }
    }

    /// Whether a request may come in.
    async fn admit(self: &Arc<Self>, path: &str, headers: &HeaderMap) -> Outcome<()> {
        let header = |name: &str| headers.get(name).map(|value| value.as_bytes());
        self.access.admit_page(header)?;
        let authorization = header("authorization");
        let Err(refused) = self.access.admit_header(authorization) else { return Ok(()) };
        let Some((presented, role)) = bearer(authorization).and_then(|token| Some((token.to_owned(), Principal::claimed(token)?.role)))
        else {
            return Err(refused);
        };
        // Nobody claims to be less than it is, so nobody need be asked about these.
        let allowed = match path {
            path if path.starts_with("/api/get/") || path.starts_with("/api/exist/") => Role::Reader,
            path if path == "/api/put" || path.starts_with("/api/remove") => Role::Writer,
            _ => return Err(FaultCode::Forbidden.with("the token of a tenant does not open this")),
        };
        if role < allowed {
            return Err(FaultCode::Forbidden.with(format!("the token of a {role} does not allow this")));
        }
        self.vouched(presented).await
    }

    /// What the masters say of a token: that it is good, and one of this node's tenant.
    async fn vouched(self: &Arc<Self>, presented: String) -> Outcome<()> {
        if let Some(said) = self.remembered(&presented) {
            return said;
        }
        let _turn = self.asking.acquire().await;
        // Whoever waited with the same one may have been told.
        if let Some(said) = self.remembered(&presented) {
            return said;
        }
        let (door, token) = (Arc::clone(self), presented.clone());
        let asked = tokio::task::spawn_blocking(move || door.ask(&token)).await;
        let said = asked.unwrap_or_else(|e| Err(FaultCode::Internal.with(format!("the token was not looked at: {e}"))));
        let holds = match &said {
            Err(fault) if !is_verdict(fault) => return said,
            _ => Instant::now() + HOLDS,
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(presented, (holds, said.clone()));
        said
    }

    fn remembered(&self, presented: &str) -> Option<Outcome<()>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(presented).filter(|(holds, _)| *holds > Instant::now()).map(|(_, said)| said.clone())
    }

    /// Greets a master as the caller would.
    fn ask(&self, presented: &str) -> Outcome<()> {
        let token = Token::new(presented).map_err(|why| FaultCode::Unauthorized.with(why))?;
        let caller = Caller { greet: self.greet.clone(), token: Some(token) };
        Master::new(self.masters.clone(), caller, None)?.reach(Instant::now() + ASK)
    }
}

/// Whether it is the token that is refused.
fn is_verdict(fault: &Fault) -> bool {
    matches!(fault.code, FaultCode::Unauthorized | FaultCode::Forbidden | FaultCode::TenantDeleted | FaultCode::TenantNotFound)
}

/// Lets in who may come in.
pub(super) async fn admitted(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    match door.admit(request.uri().path(), request.headers()).await {
        Ok(()) => next.run(request).await,
        Err(fault) => {
            let refusal = Refusal::of("refused", &fault);
            if fault.code == FaultCode::Unauthorized {
                return ([(header::WWW_AUTHENTICATE, "Bearer")], refusal).into_response();
            }
            refusal.into_response()
        }
    }
}
