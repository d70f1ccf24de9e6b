//! The whole lasting state as a stream, and back.
//!
//! `[u32 length][postcard of Chunk]` repeated, little endian, ended by an empty chunk. The envelope (version, checksums,
//! index) is the log's. The directory comes first, then segments, settings, and objects as they are met: an object that changes while the stream is
//! written may appear in either form, and the entries after the snapshot's index bring both to the same end, because
//! publishing goes by version, removal names its version, and a change of copies says for a segment what there is from then on.

use crate::MonotonicMs;
use crate::alloc::Opened;
use crate::apply::{Rules, State, places};
use crate::checkpoints::Recorded;
use crate::directory::{Known, StoredFeeds, StoredPools, StoredTables, StoredVaults};
use crate::effect::{ColdCopy, Effect, ObjectRecord, ObjectRecordV2};
use crate::moot::Noted;
use crate::objects::puts::GivenUp;
use crate::objects::{Key, Replica};
use crate::reign::Overlap;
use crate::segments::nodes::Told;
use crate::settings::SettingMap;
use perilune_protocol::{ColdName, ObjectKey, ReplicaPlace, SegmentDesc, SegmentId, TenantId, Tso, VaultId, WriterId};
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::sync::Arc;

/// Objects per chunk.
const CHUNK_OBJECTS: usize = 1024;
/// No honest chunk is longer.
const CHUNK_BYTES_MAX: u32 = 64 << 20;

#[derive(Serialize, Deserialize)]
enum Chunk {
    Head {
        tso_limit: Tso,
        segments: Vec<SegmentRecord>,
    },
    /// As they were written until effects of version 2.
    ObjectsV2(Vec<ObjectRecordV2>),
    End,
    Settings(SettingMap),
    Objects(Vec<ObjectRecord>),
    /// Follows the segments it is about.
    Windows {
        /// The log's clock, in milliseconds.
        elapsed: u64,
        windows: Vec<(SegmentId, Vec<Opened>)>,
    },
    /// What left lately.
    Departed(Vec<ReplicaPlace>),
    Directory(Box<Known>),
    /// Segments as in `Head`, lent to others than `default`.
    Lent(Vec<(TenantId, SegmentRecord)>),
    /// Follows the directory it is a part of.
    Pools(StoredPools),
    /// Segments as in `Lent`, with what their nodes present.
    LentAs(Vec<(TenantId, String, SegmentRecord)>),
    /// Follows the directory it is a part of.
    Vaults(StoredVaults),
    /// Objects that have a copy in a vault.
    Cold(Vec<(ObjectRecord, ColdCopy)>),
    /// Follows the directory it is a part of.
    Tables(StoredTables),
    /// Follows the end, where releases that know none look no further: what came to nothing of all that may be in here.
    Moot(Noted),
    /// Follows the directory it is a part of.
    Feeds(StoredFeeds),
    /// Follows the directory.
    Checkpoints(Recorded),
    /// As well: who is heard.
    Up(Told),
    /// As well: puts that somebody else than their writers ended.
    Aborted(Vec<AbortedRecord>),
}

#[derive(Clone, Serialize, Deserialize)]
struct AbortedRecord {
    tenant: TenantId,
    key: ObjectKey,
    version: Tso,
    writer: WriterId,
}

#[derive(Serialize, Deserialize)]
struct SegmentRecord {
    desc: SegmentDesc,
    /// As it was until effects of version 4, which know windows; since then 0.
    limit: u64,
    draining_grace_ms: Option<u64>,
}

/// Every segment, whose it is, and what its node presents.
fn segments(state: &State) -> Vec<(TenantId, String, SegmentRecord)> {
    let table = state.segments.table();
    let record = |s: &Arc<crate::segments::Segment>| {
        let record = SegmentRecord { desc: SegmentDesc::clone(&s.desc()), limit: 0, draining_grace_ms: table.grace_ms(s.id()) };
        (s.tenant(), s.unique_id().map_or_else(String::new, |id| id.to_string()), record)
    };
    table.iter().map(record).collect()
}

/// The chunks that name all segments.
fn lent(state: &State) -> impl Iterator<Item = Chunk> {
    let (mut plain, mut lent, mut lent_as) = (Vec::new(), Vec::new(), Vec::new());
    for (tenant, unique_id, record) in segments(state) {
        match unique_id.as_str() {
            "" if tenant == TenantId::default() => plain.push(record),
            "" => lent.push((tenant, record)),
            _ => lent_as.push((tenant, unique_id, record)),
        }
    }
    let head = Chunk::Head { tso_limit: state.tso.limit(), segments: plain };
    let lent = (!lent.is_empty()).then_some(Chunk::Lent(lent));
    [head].into_iter().chain(lent).chain((!lent_as.is_empty()).then_some(Chunk::LentAs(lent_as)))
}

fn windows(state: &State) -> Chunk {
    let windows = state.segments.table().iter().map(|s| (s.id(), s.space().window())).collect();
    Chunk::Windows { elapsed: state.elapsed(), windows }
}

/// What left lately, or is about to be told to have left.
fn departed(state: &State) -> impl Iterator<Item = Chunk> {
    let gone: Vec<Replica> = state.departed.noted().into_iter().map(|(_, replica)| replica).collect();
    let starts = (0..gone.len()).step_by(CHUNK_OBJECTS);
    starts.map(move |start| Chunk::Departed(places(&gone[start..gone.len().min(start + CHUNK_OBJECTS)])))
}

fn aborted(state: &State) -> impl Iterator<Item = Chunk> {
    let record = |gone: GivenUp| {
        let (tenant, key) = (gone.key.as_ref().tenant, gone.key.to_object_key());
        AbortedRecord { tenant, key, version: gone.version, writer: gone.writer }
    };
    let records: Vec<_> = state.puts.aborted().into_iter().map(record).collect();
    let starts = (0..records.len()).step_by(CHUNK_OBJECTS);
    starts.map(move |start| Chunk::Aborted(records[start..records.len().min(start + CHUNK_OBJECTS)].to_vec()))
}

fn settings(state: &State) -> Chunk {
    Chunk::Settings(SettingMap::clone(&state.settings.map()))
}

/// All but objects and what left. Where nobody has tenants, pools, vaults, tables or checkpoints, releases that know none read it.
fn whole(state: &State) -> Vec<Chunk> {
    let known = Known::clone(&state.directory.known());
    let [pools, vaults, tables] =
        [known.stored_pools().map(Chunk::Pools), known.stored_vaults().map(Chunk::Vaults), known.stored_tables().map(Chunk::Tables)];
    let feeds = known.stored_feeds().map(Chunk::Feeds);
    let directory = (known.revision > 0).then(|| Chunk::Directory(Box::new(known)));
    let checkpoints = state.checkpoints.stored().map(Chunk::Checkpoints);
    directory
        .into_iter()
        .chain(pools)
        .chain(vaults)
        .chain(tables)
        .chain(feeds)
        .chain(checkpoints)
        .chain(lent(state))
        .chain([windows(state), settings(state)])
        .collect()
}

/// What to write. Segments, windows and settings are taken when this is called, on the log's thread; objects while the closure runs, and what
/// left meanwhile after them.
pub fn writer(state: Arc<State>) -> impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static {
    let first = whole(&state);
    move |out| {
        first.iter().try_for_each(|chunk| put(out, chunk))?;
        let (mut batch, mut cold) = (Vec::with_capacity(CHUNK_OBJECTS), Vec::new());
        let mut outcome = Ok(());
        state.index.for_each(&mut |object| {
            let record = State::record_of(object);
            match &object.cold {
                None => batch.push(record),
                Some(copy) => cold.push((record, ColdCopy::clone(copy))),
            }
            if batch.len() == CHUNK_OBJECTS {
                outcome = put(out, &Chunk::Objects(std::mem::take(&mut batch)));
            }
            if cold.len() == CHUNK_OBJECTS {
                outcome = put(out, &Chunk::Cold(std::mem::take(&mut cold)));
            }
            if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        outcome?;
        put(out, &Chunk::Objects(batch))?;
        // Where nobody has a vault, releases that know none read it.
        if !cold.is_empty() {
            put(out, &Chunk::Cold(cold))?;
        }
        departed(&state).try_for_each(|chunk| put(out, &chunk))?;
        put(out, &Chunk::End)?;
        put(out, &Chunk::Moot(state.moot.noted()))?;
        put(out, &Chunk::Up(state.nodes.told_up()))?;
        // Where nobody aborted a put, releases that know none read it.
        aborted(&state).try_for_each(|chunk| put(out, &chunk))
    }
}

/// The state that was written, as is learned `now`.
pub fn read(from: &mut dyn Read, rules: Rules, now: MonotonicMs) -> io::Result<State> {
    let state = State::new(rules);
    loop {
        match take(from)? {
            Chunk::End => break,
            chunk => enter(&state, chunk, now),
        }
    }
    loop {
        match take(from) {
            Ok(chunk) => enter(&state, chunk, now),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(state),
            Err(e) => return Err(e),
        }
    }
}

/// What a snapshot has of the cold tier.
#[derive(Default)]
pub struct Saved {
    /// Objects in it.
    pub objects: u64,
    /// The uploads that are copies of them, in their order, and where each lies.
    pub names: Vec<(ColdName, VaultId)>,
}

/// Which uploads a snapshot names, as whoever reads it would.
pub fn saved(from: &mut dyn Read) -> io::Result<Saved> {
    let mut saved = Saved::default();
    loop {
        match take(from)? {
            Chunk::End => break,
            Chunk::ObjectsV2(records) => saved.objects += records.len() as u64,
            Chunk::Objects(records) => saved.objects += records.len() as u64,
            Chunk::Cold(records) => {
                saved.objects += records.len() as u64;
                saved.names.extend(records.into_iter().map(|(_, copy)| (copy.name, copy.vault)));
            }
            _ => {}
        }
    }
    saved.names.sort_unstable();
    saved.names.dedup();
    Ok(saved)
}

/// Passes on what was written, for whoever begins again without the memory that was lent: no segment is there, and an object is what it is in a
/// vault, or nothing.
pub fn without_memory(from: &mut dyn Read, to: &mut dyn Write) -> io::Result<()> {
    let gone = |record: ObjectRecord| ObjectRecord { replicas: Vec::new(), ..record };
    let mut ended = false;
    loop {
        let mut chunk = match take(from) {
            Err(e) if ended && e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            chunk => chunk?,
        };
        match &mut chunk {
            Chunk::Head { segments, .. } => segments.clear(),
            Chunk::Windows { windows, .. } => windows.clear(),
            Chunk::Lent(_) | Chunk::LentAs(_) | Chunk::Departed(_) => continue,
            Chunk::ObjectsV2(records) => chunk = Chunk::Objects(records.drain(..).map(|old| gone(old.into())).collect()),
            Chunk::Objects(records) => records.iter_mut().for_each(|record| record.replicas.clear()),
            Chunk::Cold(records) => records.iter_mut().for_each(|(record, _)| record.replicas.clear()),
            Chunk::End => ended = true,
            _ => {}
        }
        put(to, &chunk)?;
    }
}

/// What `state` knows, in a state of its own that can lead, with those of its objects that could not be given the space they claim.
pub fn copy(state: &Arc<State>) -> (State, Vec<Overlap>) {
    let fresh = fill(State::loose(state.rules), Arc::clone(state))();
    let overlaps = fresh.claim_all();
    (fresh, overlaps)
}

/// A copy that follows. What is applied to `state` after this was called and before the closure has returned may be in it, and is to be applied
/// to it as well.
pub fn copier(state: Arc<State>) -> impl FnOnce() -> State {
    fill(State::new(state.rules), state)
}

fn fill(mut fresh: State, state: Arc<State>) -> impl FnOnce() -> State {
    fresh.moot = Arc::clone(&state.moot);
    fresh.nodes.replace_told(state.nodes.told_up());
    aborted(&state).for_each(|chunk| enter(&fresh, chunk, 0));
    let first = whole(&state);
    move || {
        first.into_iter().for_each(|chunk| enter(&fresh, chunk, 0));
        let segments = fresh.segments.table();
        fresh.index.reserve(state.index.len());
        state.index.for_each(&mut |object| {
            fresh.adopt_copy(object, &segments);
            ControlFlow::Continue(())
        });
        drop(segments);
        for (noted, replica) in state.departed.noted() {
            fresh.departed.note(&fresh.replicas_of(places(&[replica])), noted);
        }
        fresh
    }
}

fn enter(state: &State, chunk: Chunk, now: MonotonicMs) {
    match chunk {
        Chunk::Head { tso_limit, segments } => {
            state.tso.raise_limit(tso_limit);
            segments.into_iter().for_each(|record| mount(state, TenantId::default(), "", record, now));
        }
        Chunk::Lent(segments) => segments.into_iter().for_each(|(tenant, record)| mount(state, tenant, "", record, now)),
        Chunk::LentAs(segments) => segments.into_iter().for_each(|(tenant, id, record)| mount(state, tenant, &id, record, now)),
        Chunk::ObjectsV2(records) => records.into_iter().for_each(|record| state.adopt(record.into(), None)),
        Chunk::Objects(records) => records.into_iter().for_each(|record| state.adopt(record, None)),
        Chunk::Cold(records) => records.into_iter().for_each(|(record, copy)| state.adopt(record, Some(copy))),
        Chunk::Windows { elapsed, windows } => {
            let table = state.segments.table();
            for (segment, window) in windows {
                let Some(space) = table.get(segment).map(|segment| segment.space()) else { continue };
                for Opened { frames, inherited } in window {
                    space.open(&[frames]);
                    if let Some(at) = inherited {
                        space.inherit(&[frames], at);
                    }
                }
            }
            state.set_elapsed(elapsed);
        }
        Chunk::Departed(gone) => state.departed.note(&state.replicas_of(gone), now),
        Chunk::Settings(map) => state.settings.replace(map),
        Chunk::Directory(known) => state.directory.replace(*known),
        Chunk::Pools(pools) => state.directory.replace_pools(pools),
        Chunk::Tables(tables) => state.directory.replace_tables(tables),
        Chunk::Feeds(feeds) => state.directory.replace_feeds(feeds),
        Chunk::Vaults(vaults) => state.directory.replace_vaults(vaults),
        Chunk::Moot(noted) => {
            state.tso.raise_limit(noted.stamp());
            state.moot.replace(noted);
        }
        Chunk::Checkpoints(recorded) => state.checkpoints.replace(recorded),
        Chunk::Up(told) => state.nodes.replace_told(told),
        Chunk::Aborted(records) => records.into_iter().for_each(|AbortedRecord { tenant, key, version, writer }| {
            state.puts.note_aborted(GivenUp { key: Key::new(tenant, key), version, writer, aborted: true });
        }),
        Chunk::End => {}
    }
}

fn mount(state: &State, tenant: TenantId, unique_id: &str, record: SegmentRecord, now: MonotonicMs) {
    let SegmentRecord { desc, limit, draining_grace_ms } = record;
    let segment: SegmentId = desc.id;
    state.apply(Effect::lend(tenant, unique_id, desc), now);
    state.apply(Effect::Window { segment, limit }, now);
    if let Some(grace_ms) = draining_grace_ms {
        state.apply(Effect::Drain { segment, grace_ms }, now);
    }
}

fn put(out: &mut dyn Write, chunk: &Chunk) -> io::Result<()> {
    let body = postcard::to_stdvec(chunk).map_err(io::Error::other)?;
    let len = u32::try_from(body.len()).map_err(io::Error::other)?;
    if len > CHUNK_BYTES_MAX {
        return Err(io::Error::other(format!("a snapshot chunk would have {len} bytes, which nobody reads")));
    }
    out.write_all(&len.to_le_bytes())?;
    out.write_all(&body)
}

fn take(from: &mut dyn Read) -> io::Result<Chunk> {
    let mut len = [0; 4];
    from.read_exact(&mut len)?;
    let len = u32::from_le_bytes(len);
    if len > CHUNK_BYTES_MAX {
        return Err(io::Error::other(format!("a snapshot chunk of {len} bytes")));
    }
    // Grows with what is really there, not with what the length claims.
    let mut body = Vec::new();
    from.take(u64::from(len)).read_to_end(&mut body)?;
    postcard::from_bytes(&body).map_err(|e| io::Error::other(format!("a snapshot chunk cannot be read: {e}")))
}
