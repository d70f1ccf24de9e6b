//! One worker: takes the next request when it is due, looks up, reads, writes, verifies.

use super::{Run, Speed, Tally, blocks_per_call, key_of};
use crate::trace::Request;
use perilune_client::Put;
use perilune_protocol::{Fault, FaultCode, ObjectKey, PutConfig};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// After so many lookups in a row without a master, each of them tried for its whole deadline, the replay ends.
const UNANSWERED_MAX: u32 = 3;

/// Works until no request is left, or going on is pointless.
pub(super) fn work(run: &Run<'_>) -> Tally {
    let mut tally = Tally::default();
    let mut buffer = Vec::new();
    while !run.stop.load(Ordering::Relaxed) {
        let Some(request) = run.requests.get(run.next.fetch_add(1, Ordering::Relaxed)) else { break };
        wait_until_due(run, request, &mut tally);
        serve(run, request, &mut tally, &mut buffer);
        run.progress.inc(1);
    }
    tally
}

fn wait_until_due(run: &Run<'_>, request: &Request, tally: &mut Tally) {
    let Speed::Times(times) = run.options.speed else { return };
    let since_first = request.timestamp.saturating_sub(run.requests[0].timestamp);
    let due = Duration::from_secs_f64(since_first as f64 / 1000.0 / times);
    while let Some(early) = due.checked_sub(run.started.elapsed()).filter(|early| !early.is_zero()) {
        if run.stop.load(Ordering::Relaxed) {
            return;
        }
        std::thread::sleep(early.min(Duration::from_millis(200)));
    }
    let late = run.started.elapsed().saturating_sub(due).as_millis();
    tally.late_ms = tally.late_ms.max(u64::try_from(late).unwrap_or(u64::MAX));
}

fn serve(run: &Run<'_>, request: &Request, tally: &mut Tally, buffer: &mut Vec<u8>) {
    let ids = &request.hash_ids;
    let keys: Vec<ObjectKey> = ids.iter().map(|id| key_of(&run.options.prefix, *id)).collect();
    let asked = Instant::now();
    let found = match run.store.match_prefix(&keys) {
        Ok(found) => found,
        Err(fault) => {
            tally.fault("lookup", &fault);
            tally.minute(request.timestamp).faults += 1;
            return note_silence(run, &fault);
        }
    };
    tally.lookup.record(asked.elapsed());
    run.unanswered.store(0, Ordering::Relaxed);
    let hits = usize::try_from(found).unwrap_or(usize::MAX).min(ids.len());
    tally.requests += 1;
    tally.blocks += ids.len() as u64;
    tally.hits += hits as u64;
    let before = (tally.read_bytes, tally.written_bytes, tally.full + tally.faults.values().sum::<u64>());

    let mut missing = Vec::new();
    for ids in ids[..hits].chunks(blocks_per_call(run.options.block_size)) {
        read(run, ids, tally, buffer, &mut missing);
    }
    missing.extend_from_slice(&ids[hits..]);
    for ids in missing.chunks(blocks_per_call(run.options.block_size)) {
        write(run, ids, tally, buffer);
    }

    let after = (tally.read_bytes, tally.written_bytes, tally.full + tally.faults.values().sum::<u64>());
    let minute = tally.minute(request.timestamp);
    minute.requests += 1;
    minute.blocks += ids.len() as u64;
    minute.hits += hits as u64;
    minute.read_bytes += after.0 - before.0;
    minute.written_bytes += after.1 - before.1;
    minute.faults += after.2 - before.2;
}

/// Reads blocks that were found and verifies their bytes; those that are gone meanwhile go to `missing`.
fn read(run: &Run<'_>, ids: &[u64], tally: &mut Tally, buffer: &mut Vec<u8>, missing: &mut Vec<u64>) {
    let size = run.options.block_size;
    buffer.resize(ids.len() * size, 0);
    let mut items: Vec<(ObjectKey, &mut [u8])> =
        ids.iter().map(|id| key_of(&run.options.prefix, *id)).zip(buffer.chunks_exact_mut(size)).collect();
    let asked = Instant::now();
    let outcomes = run.store.get_batch_into(&mut items);
    tally.get.record(asked.elapsed());
    for ((id, (key, bytes)), outcome) in ids.iter().zip(&items).zip(outcomes) {
        match outcome {
            Ok(len) if len != size => {
                tally.wrong(format!("{key} has {len} bytes, {size} were put; another block size under the same --prefix?"))
            }
            Ok(_) => match run.payload.first_wrong(*id, bytes) {
                None => tally.read_bytes += size as u64,
                Some(at) => tally.wrong(format!("{key} is wrong from byte {at}")),
            },
            Err(fault) if fault.code == FaultCode::ObjectNotFound => {
                tally.vanished += 1;
                missing.push(*id);
            }
            Err(fault) => tally.fault("get", &fault),
        }
    }
}

/// Writes blocks; those acknowledged are noted before anything else happens.
fn write(run: &Run<'_>, ids: &[u64], tally: &mut Tally, buffer: &mut Vec<u8>) {
    let size = run.options.block_size;
    buffer.resize(ids.len() * size, 0);
    for (id, block) in ids.iter().zip(buffer.chunks_exact_mut(size)) {
        run.payload.fill(*id, block);
    }
    let items: Vec<(ObjectKey, &[u8])> = ids.iter().map(|id| key_of(&run.options.prefix, *id)).zip(buffer.chunks_exact(size)).collect();
    let asked = Instant::now();
    let outcomes = run.store.put_batch(&items, &PutConfig::default());
    tally.put.record(asked.elapsed());
    let stored: Vec<u64> = ids.iter().zip(&outcomes).filter(|(_, o)| matches!(o, Ok(Put::Stored))).map(|(id, _)| *id).collect();
    if let Some(Err(error)) = run.acked_file.as_ref().map(|file| file.note(&stored)) {
        stop(run, error.to_string());
    }
    run.acked.lock().unwrap_or_else(PoisonError::into_inner).extend(&stored);
    tally.stored += stored.len() as u64;
    tally.written_bytes += (stored.len() * size) as u64;
    for outcome in outcomes {
        match outcome {
            Ok(Put::Stored) => {}
            Ok(Put::Existed) => tally.existed += 1,
            Err(fault) if fault.code == FaultCode::NoSpace => tally.full += 1,
            Err(fault) => tally.fault("put", &fault),
        }
    }
}

/// A master that stays silent ends the replay: each further request would only wait for its deadline.
fn note_silence(run: &Run<'_>, fault: &Fault) {
    if !matches!(fault.code, FaultCode::Unreachable | FaultCode::Timeout) {
        return;
    }
    if run.unanswered.fetch_add(1, Ordering::Relaxed) + 1 >= UNANSWERED_MAX {
        stop(run, format!("{UNANSWERED_MAX} lookups in a row found no master: {fault}"));
    }
}

fn stop(run: &Run<'_>, why: String) {
    // The first reason stands.
    let _ = run.why_stopped.set(why);
    run.stop.store(true, Ordering::Relaxed);
}
