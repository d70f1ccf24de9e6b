//! `perilune_engine_transfer` and `perilune_batch_*`: transfers that are run, and transfers that are waited for.

use crate::border::{Out, guard, slice, slice_mut, take_handle};
use crate::engine::{ENGINES, PeriluneEngine, PeriluneSegment, SEGMENTS};
use crate::fault::{PERILUNE_OK, PERILUNE_PENDING, PeriluneStatus, of_transfer, remember};
use crate::handle::Table;
use perilune_protocol::{Extent, Fault, FaultCode, Outcome};
use perilune_transfer_engine::{LocalSlice, Op, Request, Ticket, TransferError};
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// `op` of a transfer: from the segment into local memory.
pub const PERILUNE_READ: u32 = 0;
/// `op` of a transfer: from local memory into the segment.
pub const PERILUNE_WRITE: u32 = 1;

/// How long transfers may take when 0 is passed, in milliseconds.
const DEADLINE_MS: u64 = 10_000;

/// One transfer between a stretch of a segment and local memory.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PeriluneTransfer {
    /// PERILUNE_READ or PERILUNE_WRITE.
    pub op: u32,
    /// The remote side.
    pub segment: *mut PeriluneSegment,
    /// The first byte, from the start of the segment.
    pub offset: u64,
    /// The local side. Read into: nobody else may use it until the transfer is done.
    pub local: *mut c_void,
    /// Bytes, at least 1.
    pub length: usize,
}

/// Transfers that were submitted together.
pub struct PeriluneBatch {
    _opaque: [u8; 0],
}

enum Batch {
    Running(Ticket),
    Done(Vec<Result<(), TransferError>>),
    /// A defect of the engine ended it; only seen after a panic.
    Broken,
}

struct HeldBatch {
    count: usize,
    /// Whoever waits holds the lock all the time, so freeing a batch waits for the waiter: the bytes are at rest when free returns.
    state: Mutex<Batch>,
}

static BATCHES: Table<HeldBatch> = Table::new("batch");

/// Runs `count` transfers and waits for all. `statuses`, when it is not NULL, receives the status of each. Returns PERILUNE_OK when all
/// went well, else the fault of the first that did not. When it returns, no local memory is touched any more. `deadline_ms` is for all
/// together; 0 means 10 000.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn perilune_engine_transfer(
    engine: *mut PeriluneEngine,
    transfers: *const PeriluneTransfer,
    count: usize,
    deadline_ms: u64,
    statuses: *mut PeriluneStatus,
) -> PeriluneStatus {
    guard(|| {
        // SAFETY: the caller's promise about `statuses` and `transfers`.
        let (transfers, statuses) = unsafe {
            (slice("transfers", transfers, count)?, slice_mut("statuses", statuses, if statuses.is_null() { 0 } else { count })?)
        };
        let outcomes = submit(engine, transfers, deadline_ms)?.wait();
        for (status, outcome) in statuses.iter_mut().zip(&outcomes) {
            *status = number(outcome);
        }
        first_fault(&outcomes)
    })
}

/// Starts `count` transfers and writes a handle of the batch to `batch`. Local memory must stay valid until every transfer is done or
/// the batch is freed. `deadline_ms` is for all together; 0 means 10 000. When this fails, nothing was started.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn perilune_batch_submit(
    engine: *mut PeriluneEngine,
    transfers: *const PeriluneTransfer,
    count: usize,
    deadline_ms: u64,
    batch: *mut *mut PeriluneBatch,
) -> PeriluneStatus {
    guard(|| {
        let out = Out::required("batch", batch)?;
        // SAFETY: the caller's promise about `transfers`.
        let ticket = submit(engine, unsafe { slice("transfers", transfers, count) }?, deadline_ms)?;
        let handle = BATCHES.open(HeldBatch { count, state: Mutex::new(Batch::Running(ticket)) });
        // SAFETY: the caller's promise about `batch`.
        unsafe { out.set(handle) };
        Ok(())
    })
}

/// The status of transfer `index` of a batch, without waiting: PERILUNE_PENDING, PERILUNE_OK, or its fault.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn perilune_batch_status(batch: *mut PeriluneBatch, index: usize) -> PeriluneStatus {
    let mut pending = false;
    let status = guard(|| {
        let held = BATCHES.get(batch)?;
        if index >= held.count {
            return Err(FaultCode::InvalidParams.with(format!("transfer {index} of a batch of {}", held.count)));
        }
        // Another thread waits for the batch, so it is not done.
        let Ok(mut state) = held.state.try_lock() else {
            pending = true;
            return Ok(());
        };
        if let Batch::Running(ticket) = &mut *state {
            match ticket.poll() {
                Some(outcomes) => *state = Batch::Done(outcomes),
                None => {
                    pending = true;
                    return Ok(());
                }
            }
        }
        let outcomes = outcomes(&state)?;
        outcomes.get(index).map_or(Ok(()), |outcome| outcome.as_ref().map_err(of_transfer).copied())
    });
    if pending { PERILUNE_PENDING } else { status }
}

/// Waits until every transfer of a batch is done. Returns PERILUNE_OK when all went well, else the fault of the first that did not.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn perilune_batch_wait(batch: *mut PeriluneBatch) -> PeriluneStatus {
    guard(|| {
        let held = BATCHES.get(batch)?;
        let mut state = held.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = match std::mem::replace(&mut *state, Batch::Broken) {
            Batch::Running(ticket) => Batch::Done(ticket.wait()),
            other => other,
        };
        first_fault(outcomes(&state)?)
    })
}

/// Forgets a batch and leaves NULL in `batch`. Transfers that are not done are given up. When it returns, no local memory is touched
/// any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn perilune_batch_free(batch: *mut *mut PeriluneBatch) -> PeriluneStatus {
    guard(|| {
        // SAFETY: the caller's promise about `batch`.
        let held = BATCHES.close(unsafe { take_handle(batch) }?)?;
        // Dropping the ticket gives up what is not done.
        *held.state.lock().unwrap_or_else(PoisonError::into_inner) = Batch::Broken;
        Ok(())
    })
}

fn submit(engine: *mut PeriluneEngine, transfers: &[PeriluneTransfer], deadline_ms: u64) -> Outcome<Ticket> {
    let held = ENGINES.get(engine)?;
    let requests = transfers
        .iter()
        .enumerate()
        .map(|(at, transfer)| request(transfer).map_err(|fault| Fault { message: format!("transfer {at}: {}", fault.message), ..fault }));
    let requests = requests.collect::<Outcome<Vec<Request>>>()?;
    let deadline = Duration::from_millis(if deadline_ms == 0 { DEADLINE_MS } else { deadline_ms });
    // SAFETY: that local memory stays valid until the transfers are done is what both callers ask of C.
    Ok(unsafe { held.engine.submit(requests, deadline) })
}

fn request(transfer: &PeriluneTransfer) -> Outcome<Request> {
    let PeriluneTransfer { op, segment, offset, local, length } = *transfer;
    let op = match op {
        PERILUNE_READ => Op::Read,
        PERILUNE_WRITE => Op::Write,
        other => return Err(FaultCode::InvalidParams.with(format!("op is {other}: it must be PERILUNE_READ (0) or PERILUNE_WRITE (1)"))),
    };
    if local.is_null() || length == 0 || isize::try_from(length).is_err() {
        let what = if local.is_null() { "local is NULL".to_owned() } else { format!("length is {length}") };
        return Err(FaultCode::InvalidParams.with(format!("{what}: pass at least one byte of memory")));
    }
    let segment = SEGMENTS.get(segment)?;
    Ok(Request {
        op,
        segment: (*segment).clone(),
        extents: vec![Extent { offset, len: length as u64 }],
        local: vec![LocalSlice::from_raw(local.cast(), length)],
    })
}

fn outcomes(state: &Batch) -> Outcome<&[Result<(), TransferError>]> {
    match state {
        Batch::Done(outcomes) => Ok(outcomes),
        Batch::Running(_) | Batch::Broken => Err(FaultCode::WrongState.with("the batch was freed or broken off")),
    }
}

fn number(outcome: &Result<(), TransferError>) -> PeriluneStatus {
    outcome.as_ref().map_or_else(|e| remember(&of_transfer(e)), |()| PERILUNE_OK)
}

fn first_fault(outcomes: &[Result<(), TransferError>]) -> Outcome<()> {
    outcomes.iter().find_map(|outcome| outcome.as_ref().err()).map_or(Ok(()), |e| Err(of_transfer(e)))
}
