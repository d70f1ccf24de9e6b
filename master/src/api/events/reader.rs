//! Page after page of what somebody wants: parts of all that there is, and then what happens.

use super::refused;
use crate::engine::Engine;
use crate::events::{Listing, SNAPSHOT, Told, Wanted};
use crate::work::aside;
use perilune_protocol::event::{Cursor, Event, Mark, Shown};
use perilune_protocol::principal::Principal;
use perilune_protocol::rpc::watch::{From, Watched};
use perilune_protocol::{Fault, FaultCode, Outcome, Tso};
use serde::Serialize;
use serde_json::Value;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of the log that are read for a page.
const PAGE_BYTES: usize = 256 << 10;

/// Reads for one request.
pub(super) struct Reader {
    engine: Engine,
    wanted: Arc<Wanted>,
    /// For whom it reads; `None`: the admin.
    principal: Option<Principal>,
}

/// Where somebody wants to begin.
pub(super) enum Begin {
    List(Listing),
    At(From),
}

/// Where to go on. As text it is what callers say as `from`.
#[derive(Clone, Copy)]
pub(super) enum Next {
    List(Listing),
    Behind(Cursor),
}

impl fmt::Display for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::List(listing) => listing.fmt(f),
            Self::Behind(cursor) => cursor.fmt(f),
        }
    }
}

/// What is told at once.
pub(super) struct Page {
    pub(super) events: Vec<Event>,
    pub(super) next: Next,
    resolved: Tso,
    behind: u64,
    /// Of a part of all that there is.
    settled: Option<Tso>,
}

/// A page as JSON.
#[derive(Serialize)]
pub(super) struct ShownPage<'a> {
    events: Vec<Shown<'a>>,
    next: String,
    #[serde(flatten)]
    progress: Progress,
}

/// How far a page comes, as JSON.
#[derive(Serialize)]
pub(super) struct Progress {
    resolved: Tso,
    behind: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    settled: Option<Tso>,
}

impl Reader {
    pub(super) fn new(engine: Engine, wanted: Arc<Wanted>, principal: Option<Principal>) -> Self {
        Self { engine, wanted, principal }
    }

    /// The page that somebody begins with.
    pub(super) async fn first(&mut self, begin: Begin, wait: Duration) -> Outcome<Page> {
        let next = match begin {
            Begin::List(listing) => Next::List(listing),
            Begin::At(from) => Next::Behind(self.engine.events().begin(from).await?),
        };
        self.page(next, wait).await
    }

    /// The page behind another: what there is of it at once, what happens when it does or the wait is over.
    pub(super) async fn page(&mut self, next: Next, wait: Duration) -> Outcome<Page> {
        // A stream lasts: the token may be revoked, and the rules of a feed may change.
        self.principal.as_ref().map_or(Ok(()), |principal| self.engine.is_current(principal))?;
        self.wanted = self.wanted.as_of(&self.engine.directory())?;
        match next {
            Next::Behind(cursor) => {
                let Watched { events, next, resolved, behind } = self.engine.events().page(cursor, &self.wanted, PAGE_BYTES, wait).await?;
                Ok(Page { events, next: Next::Behind(next), resolved, behind, settled: None })
            }
            Next::List(listing) => {
                let (engine, wanted) = (self.engine.clone(), Arc::clone(&self.wanted));
                let Told { events, next, begin, settled, behind } = aside(move || engine.list_from(listing, &wanted)).await??;
                let next = next.map_or(Next::Behind(begin), Next::List);
                Ok(Page { events, next, resolved: Tso(0), behind, settled: Some(settled) })
            }
        }
    }

    /// What is answered to whoever is told no; with the places to go on from, where his is no more.
    pub(super) async fn refused(&self, fault: &Fault) -> Value {
        let mut said = refused(fault);
        if fault.code == FaultCode::OutOfRange {
            said["snapshot"] = SNAPSHOT.into();
            said["oldest"] = self.engine.events().begin(From::Oldest).await.map_or(Value::Null, |oldest| oldest.to_string().into());
        }
        said
    }
}

impl Page {
    /// Whether it tells what there is, rather than what happens.
    pub(super) fn is_listed(&self) -> bool {
        self.settled.is_some()
    }

    /// Some of its events, or all.
    pub(super) fn show<'a>(&self, events: &'a [Event]) -> impl Iterator<Item = Shown<'a>> + use<'a> {
        let is_listed = self.is_listed();
        events.iter().map(move |event| match Shown::from(event) {
            // Whoever went on there would miss the rest of what there is.
            shown if is_listed => Shown { cursor: String::new(), ..shown },
            shown => shown,
        })
    }

    pub(super) fn shown(&self) -> ShownPage<'_> {
        ShownPage { events: self.show(&self.events).collect(), next: self.next.to_string(), progress: self.progress() }
    }

    pub(super) fn progress(&self) -> Progress {
        let Self { resolved, behind, settled, .. } = *self;
        Progress { resolved, behind, settled }
    }

    pub(super) fn mark(&self) -> Mark {
        let Self { next, resolved, behind, settled, .. } = self;
        Mark { next: next.to_string(), resolved: *resolved, behind: *behind, settled: *settled }
    }
}
