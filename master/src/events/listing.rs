//! All that there is, as events, in parts.
//!
//! The index is walked once, and what was met is kept for a while for whoever asks for one part after the other; who asks meanwhile shares it. A
//! part is those objects whose keys hash to it. So any master can give any part, by a walk of its own where none is kept: whatever happened
//! between the walks is told from where the first of them began, and changes nothing where it was met already.

use super::{EventLog, Wanted};
use crate::engine::Engine;
use perilune_protocol::event::{Cursor, Event, EventFilter, NoCursor, What};
use perilune_protocol::rpc::watch::{ListAll, ListFeed, Listed};
use perilune_protocol::{FaultCode, Outcome, TenantId, Tso};
use perilune_state::objects::Object;
use perilune_state::segments::Phase;
use perilune_state::{MonotonicMs, State};
use std::fmt;
use std::ops::ControlFlow;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Where a list begins, as text.
pub(crate) const SNAPSHOT: &str = "snapshot";
/// Objects of a part, about.
const PART_OBJECTS: usize = 8192;
/// Most parts.
const PARTS_MAX: u32 = 1 << 16;
/// A list that was begun when there was more goes on in as many parts: so many times what fits, and so many in any case.
const PARTS_SPARE: u32 = 16;
const PARTS_LEFT: u32 = 256;
/// Walks that are kept: eight bytes for each object, and what has left since.
const WALKS_MAX: usize = 2;
/// Who begins to list shares a walk that is no older than this: all that happened since is told again.
const FRESH_MS: MonotonicMs = 10_000;
/// A walk is kept for so long after somebody asked for a part of it.
const LEASE_MS: MonotonicMs = 30_000;

/// Walks over the index that somebody may ask for more of.
#[derive(Default)]
pub(super) struct Walks(Mutex<Vec<Walk>>);

struct Walk {
    /// Nothing that happened before this place is missing.
    begin: Cursor,
    stamp: Tso,
    /// When it began, and when somebody asked for a part of it last.
    begun: MonotonicMs,
    used: MonotonicMs,
    parts: Vec<Arc<Vec<Arc<Object>>>>,
}

/// The part of a list that is to be told next. As text `snapshot`, where it begins, or `snapshot.PART.PARTS.CURSOR`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Listing {
    part: u32,
    parts: u32,
    /// Where its first part begins; none before that.
    begin: Option<Cursor>,
}

/// A part that is told, and what follows it.
pub(crate) struct Told {
    pub(crate) events: Vec<Event>,
    /// The next part; `None`: that was the last.
    pub(crate) next: Option<Listing>,
    /// Behind this place is what completes the list.
    pub(crate) begin: Cursor,
    /// Nothing that was decided later is in here: the list is exact with all up to this stamp.
    pub(crate) settled: Tso,
    /// Entries of the log that lie behind `begin`.
    pub(crate) behind: u64,
}

/// A part of a walk.
struct Part {
    begin: Cursor,
    stamp: Tso,
    objects: Arc<Vec<Arc<Object>>>,
    parts: u32,
}

impl Walks {
    fn lock(&self) -> MutexGuard<'_, Vec<Walk>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets those that nobody has asked for in a while.
    pub(super) fn sweep(&self, now: MonotonicMs) {
        self.lock().retain(|walk| now < walk.used + LEASE_MS);
    }
}

impl Engine {
    /// Answers the question. Blocks.
    ///
    /// # Errors
    /// [`FaultCode::InvalidParams`] for a part that there is not.
    pub(crate) fn list_all(&self, question: &ListAll) -> Outcome<Listed> {
        self.events().list(self.state(), question, &Arc::new(Wanted::new(question.filter.clone())?))
    }

    /// Answers the question. Blocks.
    ///
    /// # Errors
    /// As [`ListFeed`] says.
    pub(crate) fn list_feed(&self, ListFeed { feed, list }: &ListFeed) -> Outcome<Listed> {
        let known = self.directory();
        let wanted = Wanted::of_feed(self.feed_named(&known, list.filter.tenant, feed)?, list.filter.clone())?;
        self.events().list(self.state(), list, &Arc::new(wanted))
    }

    /// A part of what is wanted of all that there is. Blocks.
    ///
    /// # Errors
    /// As [`ListAll`] says, and those of reading behind the place where the list begins.
    pub(crate) fn list_from(&self, from: Listing, wanted: &Arc<Wanted>) -> Outcome<Told> {
        let Listing { part, parts, begin } = from;
        if let Some(begin) = begin {
            // What is to complete the list is still there.
            self.events().read(begin, 1)?;
        }
        let question = ListAll { filter: EventFilter::default(), everybody: true, part, parts, begin };
        let Listed { events, begin: walked, parts, settled: _ } = self.events().list(self.state(), &question, wanted)?;
        let begin = begin.unwrap_or(walked);
        let next = (part + 1 < parts).then_some(Listing { part: part + 1, parts, begin: Some(begin) });
        let reached = self.events().history.reached(|| None);
        Ok(Told { events, next, begin, settled: reached.stamp, behind: (reached.index + 1).saturating_sub(begin.index) })
    }
}

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SNAPSHOT)?;
        self.begin.map_or(Ok(()), |begin| write!(f, ".{}.{}.{begin}", self.part, self.parts))
    }
}

impl FromStr for Listing {
    type Err = NoCursor;

    fn from_str(text: &str) -> Result<Self, NoCursor> {
        if text == SNAPSHOT {
            return Ok(Self::default());
        }
        let fields: Vec<&str> = text.split('.').collect();
        let [SNAPSHOT, part, parts, begin] = fields[..] else { return Err(NoCursor) };
        let number = |text: &str| text.parse().map_err(|_| NoCursor);
        Ok(Self { part: number(part)?, parts: number(parts)?, begin: Some(begin.parse()?) })
    }
}

impl EventLog {
    /// A part of what `state` knows, which is that of this member. What is wanted says that, and not the question's filter. Blocks.
    pub(crate) fn list(&self, state: &State, question: &ListAll, wanted: &Arc<Wanted>) -> Outcome<Listed> {
        let (part, known) = (question.part, state.directory.known().clone());
        let wanted = wanted.as_of(&known)?;
        let Part { begin, stamp, objects, parts } = self.part(state, question)?;
        let mut events = Vec::new();
        let mut tell = |tenant: TenantId, what: What| {
            let event = Event { cursor: begin, commit_ts: stamp, tenant: Some(tenant), what };
            if wanted.wants(&known, &event.about()) {
                events.push(event);
            }
        };
        if part == 0 {
            for (node, (tenant, name)) in state.nodes.told_up() {
                tell(tenant, What::NodeUp { node, name });
            }
            let table = state.segments.table();
            for segment in table.iter().filter(|s| s.phase() != Phase::Gone) {
                tell(segment.tenant(), What::mounted(&segment.desc()));
                if let Some(grace_ms) = table.grace_ms(segment.id()) {
                    tell(segment.tenant(), What::Draining { segment: segment.id(), grace_ms });
                }
            }
        }
        for object in objects.iter() {
            let record = State::record_of(object);
            let (key, version) = (record.key.clone(), record.version);
            let (size, checksum, pin) = (record.size, record.checksum, record.pin);
            tell(record.tenant, What::Put { key: record.key, version, size, checksum, pin, replicas: record.replicas });
            if let Some(copy) = &object.cold {
                tell(record.tenant, What::Offloaded { key, version, vault: copy.vault, name: copy.name, stored: copy.stored });
            }
        }
        // Where copies lie was looked at just now.
        let settled = self.resolved().1;
        Ok(Listed { events, begin, settled, parts })
    }

    /// A part, of a walk that is kept or of a new one. Who asks meanwhile waits, and shares it.
    fn part(&self, state: &State, question: &ListAll) -> Outcome<Part> {
        let ListAll { part, parts, begin, .. } = question;
        let fits = u32::try_from(state.index.len().div_ceil(PART_OBJECTS)).unwrap_or(PARTS_MAX).clamp(1, PARTS_MAX);
        // Who begins is told what fits, whoever else cut a walk otherwise.
        let parts = if *parts == 0 { fits } else { *parts };
        let (now, first) = (self.clock.now(), self.history.first());
        let mut kept = self.walks.lock();
        kept.retain(|walk| now < walk.used + LEASE_MS && walk.begin.index >= first);
        let serves = |walk: &Walk| {
            let late_enough = match begin {
                Some(begin) => walk.begin >= *begin,
                None => now <= walk.begun + FRESH_MS,
            };
            late_enough && walk.parts.len() == parts as usize
        };
        // The newest of them: the less is told again.
        let nth = match kept.iter().rposition(serves) {
            Some(nth) => nth,
            None => {
                let most = PARTS_LEFT.max(fits.saturating_mul(PARTS_SPARE)).min(PARTS_MAX);
                if *part >= parts || parts > most {
                    let why = format!("part {part} of {parts}: parts are counted from 0, and at most {most} here: begin anew");
                    return Err(FaultCode::InvalidParams.with(why));
                }
                if kept.len() >= WALKS_MAX
                    && let Some(oldest) = (0..kept.len()).min_by_key(|nth| kept[*nth].used)
                {
                    kept.remove(oldest);
                }
                kept.push(self.walk(state, parts, now));
                kept.len() - 1
            }
        };
        let walk = &mut kept[nth];
        walk.used = now;
        let (stamp, begin, parts) = (walk.stamp, walk.begin, walk.parts.len() as u32);
        let Some(objects) = walk.parts.get(*part as usize).map(Arc::clone) else {
            return Err(FaultCode::InvalidParams.with(format!("part {part} of {parts}: parts are counted from 0")));
        };
        Ok(Part { begin, stamp, objects, parts })
    }

    fn walk(&self, state: &State, parts: u32, now: MonotonicMs) -> Walk {
        let (stamp, begin) = self.resolved();
        let mut met: Vec<Vec<Arc<Object>>> = vec![Vec::new(); parts as usize];
        state.index.for_each(&mut |object| {
            met[part_of(object, parts) as usize].push(Arc::clone(object));
            ControlFlow::Continue(())
        });
        Walk { begin, stamp, begun: now, used: now, parts: met.into_iter().map(Arc::new).collect() }
    }
}

fn part_of(object: &Object, parts: u32) -> u32 {
    // CRC-32C is at most 32 bits wide; the function answers in 64.
    let hash = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, object.key.as_ref().bytes) as u32;
    // Of the range of all hashes, this part.
    ((u64::from(hash) * u64::from(parts)) >> 32) as u32
}
