//! Who may come in: who has the token of this node, and who has one of a tenant, which the masters say is good.

use super::refuse::Refusal;
use crate::NodeConfig;
use crate::master::{Caller, Master};
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use perilune_protocol::access::{Access, Token, bearer};
use perilune_protocol::principal::{Principal, Role};
use perilune_protocol::rpc::session::{Greet, Whose};
use perilune_protocol::tenant;
use perilune_protocol::{Fault, FaultCode, Outcome};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// So long what the masters said holds, of a token or of this node: a token that is revoked opens nothing any more after that.
const HOLDS: Duration = Duration::from_secs(2);
/// How long the masters are waited for.
const ASK: Duration = Duration::from_secs(5);
/// Questions to the masters at a time about tokens that were good a moment ago; and about others, of which so many wait: whoever makes tokens
/// up holds up strangers only.
const RENEWED_MAX: usize = 8;
const ASKING_MAX: usize = 8;
const WAITING_MAX: usize = 64;
/// Tokens that are remembered.
const KNOWN_MAX: usize = 1024;

/// Whose keys a request means.
#[derive(serde::Deserialize)]
struct Named {
    #[serde(default)]
    tenant_id: String,
}

/// The door of the store's routes.
pub(crate) struct Door {
    access: Arc<Access>,
    masters: Vec<String>,
    greet: Greet,
    /// What this node shows of itself.
    token: Option<Token>,
    /// The name of its tenant as a master said, where it only presents an id, and until when that holds. Held while one is asked.
    named: tokio::sync::Mutex<Option<(String, Instant)>>,
    /// Touched twice per request with such a token, never held while anybody is asked.
    known: Mutex<Known>,
    renewing: Semaphore,
    asking: Semaphore,
    /// Who asks about others and waits, and who is asked about.
    waiting: Semaphore,
}

/// What was said of tokens, and until when it holds. What was good is remembered after that, too.
#[derive(Default)]
struct Known(HashMap<String, (Instant, Outcome<()>)>);

impl Known {
    /// What holds of a token; or whether it was good before.
    fn of(&self, presented: &str) -> Result<Outcome<()>, bool> {
        match self.0.get(presented) {
            Some((holds, said)) if *holds > Instant::now() => Ok(said.clone()),
            known => Err(known.is_some_and(|(_, said)| said.is_ok())),
        }
    }

    fn insert(&mut self, presented: String, holds: Instant, said: Outcome<()>) {
        if self.0.len() >= KNOWN_MAX && !self.0.contains_key(&presented) {
            // Refused ones first; then what was not renewed; then, of tokens that are all in use, the one that was renewed first.
            let now = Instant::now();
            self.0.retain(|_, (_, said)| said.is_ok());
            if self.0.len() >= KNOWN_MAX {
                self.0.retain(|_, (holds, _)| *holds > now);
            }
            let oldest = self.0.iter().min_by_key(|(_, (holds, _))| *holds).map(|(token, _)| token.clone());
            if let Some(oldest) = oldest.filter(|_| self.0.len() >= KNOWN_MAX) {
                self.0.remove(&oldest);
            }
        }
        self.0.insert(presented, (holds, said));
    }
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
        Self {
            access: super::access(config),
            masters: config.masters.clone(),
            greet,
            token: config.token.clone(),
            named: tokio::sync::Mutex::default(),
            known: Mutex::default(),
            renewing: Semaphore::new(RENEWED_MAX),
            asking: Semaphore::new(ASKING_MAX),
            waiting: Semaphore::new(ASKING_MAX + WAITING_MAX),
        }
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

    /// A node has the keys of its own tenant only: whoever names another is not given what this one has under that key.
    async fn check_tenant(self: &Arc<Self>, uri: &Uri) -> Outcome<()> {
        if !uri.path().starts_with("/api/") {
            return Ok(());
        }
        let Query(Named { tenant_id }) = Query::try_from_uri(uri).map_err(|e| FaultCode::InvalidParams.with(e.body_text()))?;
        if tenant_id.is_empty() || tenant_id == self.greet.tenant || self.greet.tenant.is_empty() && tenant_id == self.name().await? {
            return Ok(());
        }
        Err(FaultCode::InvalidParams
            .with("this node has the keys of its own tenant only: leave tenant_id out, or ask a node of that tenant"))
    }

    /// What the tenant of this node is called, which presents an id: the masters know.
    async fn name(self: &Arc<Self>) -> Outcome<String> {
        let mut named = self.named.lock().await;
        if let Some((name, _)) = named.as_ref().filter(|(_, holds)| *holds > Instant::now()) {
            return Ok(name.clone());
        }
        let door = Arc::clone(self);
        let asked = tokio::task::spawn_blocking(move || door.masters(door.token.clone())?.call(&Whose {}, Instant::now() + ASK)).await;
        let name = asked.unwrap_or_else(|e| Err(FaultCode::Internal.with(format!("no master was asked whose this node is: {e}"))))?;
        Ok(named.insert((name, Instant::now() + HOLDS)).0.clone())
    }

    /// What the masters say of a token: that it is good, and one of this node's tenant.
    async fn vouched(self: &Arc<Self>, presented: String) -> Outcome<()> {
        let was_good = match self.lock().of(&presented) {
            Ok(said) => return said,
            Err(was_good) => was_good,
        };
        let (_place, turns) = match self.waiting.try_acquire() {
            _ if was_good => (None, &self.renewing),
            Ok(place) => (Some(place), &self.asking),
            Err(_) => return Err(FaultCode::Unreachable.with("too many tokens that are not known here are being looked at: ask again")),
        };
        let _turn = turns.acquire().await;
        // Whoever waited with the same one may have been told.
        if let Ok(said) = self.lock().of(&presented) {
            return said;
        }
        let (door, token) = (Arc::clone(self), presented.clone());
        let asked = tokio::task::spawn_blocking(move || door.ask(&token)).await;
        let said = asked.unwrap_or_else(|e| Err(FaultCode::Internal.with(format!("the token was not looked at: {e}"))));
        if !matches!(&said, Err(fault) if !is_verdict(fault)) {
            self.lock().insert(presented, Instant::now() + HOLDS, said.clone());
        }
        said
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Greets a master as the caller would.
    fn ask(&self, presented: &str) -> Outcome<()> {
        let token = Token::new(presented).map_err(|why| FaultCode::Unauthorized.with(why))?;
        self.masters(Some(token))?.reach(Instant::now() + ASK)
    }

    /// The masters, for who has this token.
    fn masters(&self, token: Option<Token>) -> Outcome<Master> {
        Master::new(self.masters.clone(), Caller { greet: self.greet.clone(), token }, None)
    }
}

/// Whether it is the token that is refused.
fn is_verdict(fault: &Fault) -> bool {
    matches!(fault.code, FaultCode::Unauthorized | FaultCode::Forbidden | FaultCode::TenantDeleted | FaultCode::TenantNotFound)
}

/// Lets in who may come in.
pub(super) async fn admitted(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    let admitted = match door.admit(request.uri().path(), request.headers()).await {
        Ok(()) => door.check_tenant(request.uri()).await,
        refused => refused,
    };
    match admitted {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_tokens_push_out_none_that_is_good() {
        let (mut known, later) = (Known::default(), Instant::now() + Duration::from_secs(60));
        let refused = || Err(FaultCode::Unauthorized.with("made up"));
        known.insert("good".into(), later, Ok(()));
        known.insert("lapsed".into(), Instant::now(), Ok(()));
        for nth in 0..3 * KNOWN_MAX {
            known.insert(format!("made up {nth}"), later, refused());
        }
        assert_eq!((known.of("good"), known.of("lapsed")), (Ok(Ok(())), Err(true)));
        assert!(known.0.len() <= KNOWN_MAX && known.of("made up 0") == Err(false));
        // So many good ones that not all find room: what lapsed goes, and then one at a time.
        for nth in 0..2 * KNOWN_MAX {
            known.insert(format!("good {nth}"), later + Duration::from_millis(nth as u64), Ok(()));
        }
        assert_eq!((known.0.len(), known.of("lapsed"), known.of("good")), (KNOWN_MAX, Err(false), Err(false)));
        assert_eq!(known.of(&format!("good {}", 2 * KNOWN_MAX - 1)), Ok(Ok(())));
        known.insert("good 2000".into(), later, refused());
        assert_eq!(known.of("good 2000"), Ok(refused()));
    }

    #[tokio::test]
    async fn a_good_token_waits_behind_none_that_is_made_up_and_a_long_queue_is_refused_at_once() {
        const GOOD: &str = "good-and-long-enough";
        // Nobody to ask: whoever has a turn is told so.
        let door = Arc::new(Door::new(&NodeConfig { masters: Vec::new(), ..NodeConfig::default() }));
        door.lock().insert(GOOD.into(), Instant::now(), Ok(()));
        let _asked = door.asking.acquire_many(ASKING_MAX as u32).await.unwrap();
        let strangers: Vec<_> =
            (0..ASKING_MAX + WAITING_MAX).map(|nth| tokio::spawn(at(&door, format!("made-up-and-long-enough-{nth}")))).collect();
        while door.waiting.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let refused = at(&door, "one-more-and-long-enough".into()).await.unwrap_err();
        assert!(refused.message.contains("ask again"), "{refused}");
        let asked = at(&door, GOOD.into()).await.unwrap_err();
        assert!(!is_verdict(&asked) && !asked.message.contains("ask again"), "{asked}");
        assert!(strangers.iter().all(|stranger| !stranger.is_finished()));
    }

    fn at(door: &Arc<Door>, token: String) -> impl Future<Output = Outcome<()>> + use<> {
        let door = Arc::clone(door);
        async move { door.vouched(token).await }
    }
}
