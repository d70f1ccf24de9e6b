//! The whole lasting state as a stream, and back.
//!
//! `[u32 length][postcard of Chunk]` repeated, little endian, ended by an empty chunk. The envelope (version, checksums,
//! index) is the log's. Segments come first, settings, then objects as they are met: an object that changes while the stream is
//! written may appear in either form, and the entries after the snapshot's index bring both to the same end, because
//! publishing goes by version, removal names its version, and a change of copies says for a segment what there is from then on.

use crate::apply::State;
use crate::effect::{Effect, ObjectRecord, ObjectRecordV2};
use crate::settings::SettingMap;
use perilune_protocol::{SegmentDesc, SegmentId, Tso};
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
}

#[derive(Serialize, Deserialize)]
struct SegmentRecord {
    desc: SegmentDesc,
    limit: u64,
    draining_grace_ms: Option<u64>,
}

fn head(state: &State) -> Chunk {
    let table = state.segments.table();
    let record = |s: &Arc<crate::segments::Segment>| SegmentRecord {
        desc: SegmentDesc::clone(&s.desc()),
        limit: s.space().limit(),
        draining_grace_ms: table.grace_ms(s.id()),
    };
    Chunk::Head { tso_limit: state.tso.limit(), segments: table.iter().map(record).collect() }
}

fn settings(state: &State) -> Chunk {
    Chunk::Settings(SettingMap::clone(&state.settings.map()))
}

/// What to write. Segments, limits and settings are taken when this is called, on the log's thread; objects while the closure runs.
pub fn writer(state: Arc<State>) -> impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static {
    let (head, settings) = (head(&state), settings(&state));
    move |out| {
        put(out, &head)?;
        put(out, &settings)?;
        let mut batch = Vec::with_capacity(CHUNK_OBJECTS);
        let mut outcome = Ok(());
        state.index.for_each(&mut |object| {
            batch.push(State::record_of(object));
            if batch.len() == CHUNK_OBJECTS {
                outcome = put(out, &Chunk::Objects(std::mem::take(&mut batch)));
            }
            if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        outcome?;
        put(out, &Chunk::Objects(batch))?;
        put(out, &Chunk::End)
    }
}

/// Replaces the state. After an error the state is unfit for use until another snapshot has been read.
pub fn read(state: &State, from: &mut dyn Read) -> io::Result<()> {
    state.forget_all();
    loop {
        match take(from)? {
            Chunk::End => return Ok(()),
            chunk => enter(state, chunk),
        }
    }
}

/// What `state` knows, in a state of its own: for a member that leads again, and must begin without what its last reign left behind.
/// Nothing may be applied to `state` meanwhile.
pub fn copy(state: &State) -> State {
    let fresh = State::new(state.rules);
    enter(&fresh, head(state));
    enter(&fresh, settings(state));
    state.index.for_each(&mut |object| {
        fresh.adopt(&State::record_of(object));
        ControlFlow::Continue(())
    });
    fresh
}

fn enter(state: &State, chunk: Chunk) {
    match chunk {
        Chunk::Head { tso_limit, segments } => {
            state.tso.raise_limit(tso_limit);
            for SegmentRecord { desc, limit, draining_grace_ms } in segments {
                let segment: SegmentId = desc.id;
                state.apply(Effect::Mount(desc), 0);
                state.apply(Effect::Window { segment, limit }, 0);
                if let Some(grace_ms) = draining_grace_ms {
                    state.apply(Effect::Drain { segment, grace_ms }, 0);
                }
            }
        }
        Chunk::ObjectsV2(records) => records.into_iter().for_each(|record| state.adopt(&record.into())),
        Chunk::Objects(records) => records.iter().for_each(|record| state.adopt(record)),
        Chunk::Settings(map) => state.settings.replace(map),
        Chunk::End => {}
    }
}

fn put(out: &mut dyn Write, chunk: &Chunk) -> io::Result<()> {
    let body = postcard::to_stdvec(chunk).map_err(io::Error::other)?;
    let len = u32::try_from(body.len()).map_err(io::Error::other)?;
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
