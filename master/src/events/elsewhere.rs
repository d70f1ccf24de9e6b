//! What this member's log begins behind, as another member tells it. One that joined with a snapshot has only what followed that: when it comes
//! to lead, the others still have what came before.

use super::{Page, ReadError};
use crate::api::forward;
use crate::engine::Engine;
use axum::body::Body;
use axum::http::{Method, StatusCode, header};
use futures_util::StreamExt;
use perilune_protocol::event::{Cursor, Streamed};
use perilune_protocol::{Fault, FaultCode, Outcome, Tso};
use std::time::Duration;
use tokio::time::timeout;

/// How it is asked to answer: with [`Streamed`].
const FRAMES: &str = "application/vnd.perilune.events";
/// A member is waited for no longer.
const PATIENCE: Duration = Duration::from_secs(3);
/// A page has no more; it is read from some hundred kilobytes of a log.
const PAGE_BYTES_MAX: usize = 64 << 20;

impl Engine {
    /// The events from a place on, of this member's log or of another's.
    ///
    /// # Errors
    /// [`FaultCode::OutOfRange`] when no member that answers has them; as [`super::EventLog::read`].
    pub(crate) async fn read_events(&self, from: Cursor, most_bytes: usize) -> Outcome<Page> {
        let log = self.events().clone();
        match self.events().reading(from.index, move || log.read(from, most_bytes)).await? {
            Err(ReadError::OutOfRange { .. }) => self.read_elsewhere(from).await,
            read => Ok(read?),
        }
    }

    /// The same, of another member's log.
    ///
    /// # Errors
    /// As [`Engine::read_events`].
    pub(super) async fn read_elsewhere(&self, from: Cursor) -> Outcome<Page> {
        // One that lags behind the place tells nothing, which is no answer.
        self.ask_others(&from.to_string(), |page| page.next > from).await
    }

    /// The place behind all events up to a stamp, in whichever member's log; the end, where there are no later ones yet.
    ///
    /// # Errors
    /// [`FaultCode::OutOfRange`] when no member that answers has all with a higher stamp.
    pub(crate) async fn place_after(&self, stamp: Tso) -> Outcome<Cursor> {
        match self.events().aside(move |log| log.at(stamp)).await {
            Err(fault) if fault.code == FaultCode::OutOfRange => {
                let page = self.ask_others(&stamp.0.to_string(), |_| true).await?;
                Ok(page.events.first().map_or(page.next, |first| Cursor { place: 0, stamp: Tso(0), ..first.cursor }))
            }
            place => place,
        }
    }

    /// What the first member answers that has it.
    async fn ask_others(&self, from: &str, answers: impl Fn(&Page) -> bool) -> Outcome<Page> {
        let members = self.inner.log.members();
        let mut why = String::new();
        for (member, _) in members.iter().filter(|(member, _)| member.id != self.inner.config.member && !member.http.is_empty()) {
            let asked = timeout(PATIENCE, self.ask_member(&member.http, from)).await;
            match asked.unwrap_or_else(|_| Err(FaultCode::Timeout.with(format!("nothing within {PATIENCE:?}")))) {
                Ok(page) if answers(&page) => return Ok(page),
                Ok(_) => why += &format!("; master {} has not come so far", member.id),
                Err(fault) if fault.code == FaultCode::OutOfRange => {}
                Err(fault) => why += &format!("; master {} may have it and cannot be asked: {}", member.id, fault.message),
            }
        }
        Err(FaultCode::OutOfRange.with(format!(
            "what followed this place is not kept any more, by no master that can be asked: begin with a snapshot, or at the oldest place if what \
             is missing does not matter{why}"
        )))
    }

    async fn ask_member(&self, http: &str, from: &str) -> Outcome<Page> {
        let request = forward::request(Method::GET, &format!("/api/v2/events?from={from}"), self.inner.config.token.as_ref());
        let request = request.header(header::ACCEPT, FRAMES).body(Body::empty());
        let answer = forward::send(http, request.map_err(|e| strange(&e))?).await?;
        match answer.status() {
            StatusCode::OK => first_page(answer.into_body()).await,
            StatusCode::GONE => Err(FaultCode::OutOfRange.with("not kept")),
            status => Err(strange(&status)),
        }
    }
}

/// The first page of a stream of frames.
async fn first_page(body: Body) -> Outcome<Page> {
    let (mut pieces, mut bytes, mut events) = (body.into_data_stream(), Vec::new(), Vec::new());
    let mut read = 0;
    while let Some(piece) = pieces.next().await {
        bytes.extend_from_slice(&piece.map_err(|e| strange(&e))?);
        while let Some((length, rest)) = bytes[read..].split_first_chunk::<4>()
            && let Some(frame) = rest.get(..u32::from_le_bytes(*length) as usize)
        {
            read += length.len() + frame.len();
            match postcard::from_bytes(frame).map_err(|e| strange(&e))? {
                Streamed::Event(mut event) => {
                    event.cursor.stamp = event.commit_ts;
                    events.push(event);
                }
                Streamed::Mark(mark) => {
                    let next = mark.next.parse().map_err(|e| strange(&e))?;
                    return Ok(Page { events, next, resolved: mark.resolved });
                }
                Streamed::Ended(fault) => return Err(fault),
            }
        }
        if bytes.len() > PAGE_BYTES_MAX {
            return Err(strange(&"a page without an end"));
        }
    }
    Err(strange(&"it was broken off"))
}

fn strange(what: &dyn std::fmt::Display) -> Fault {
    FaultCode::Unreachable.with(format!("its answer is no page of events: {what}"))
}
