//! Fault numbers, their names, and the last sentence.

use perilune_protocol::{Fault, FaultCode};
use perilune_transfer_engine::{EngineError, MemoryError, TransferError, TransferErrorKind};
use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::sync::OnceLock;

/// What a call came to: `PERILUNE_OK`, or one of the negative faults.
pub type PeriluneStatus = i32;

/// Done.
pub const PERILUNE_OK: i32 = 0;
/// Not done yet: the status of a transfer that is still under way.
pub const PERILUNE_PENDING: i32 = 1;
/// A defect of perilune itself.
pub const PERILUNE_INTERNAL_ERROR: i32 = -1;
/// No such segment.
pub const PERILUNE_SEGMENT_NOT_FOUND: i32 = -101;
/// The segment exists already.
pub const PERILUNE_SEGMENT_ALREADY_EXISTS: i32 = -102;
/// The node is not registered.
pub const PERILUNE_CLIENT_NOT_FOUND: i32 = -103;
/// No segment has room, and nothing could be evicted.
pub const PERILUNE_NO_AVAILABLE_HANDLE: i32 = -200;
/// The other side speaks another version.
pub const PERILUNE_INVALID_VERSION: i32 = -300;
/// An argument is wrong: NULL, too long, closed, unknown.
pub const PERILUNE_INVALID_PARAMS: i32 = -600;
/// The caller may not do this.
pub const PERILUNE_ILLEGAL_CLIENT: i32 = -601;
/// The put is not, or no longer, in progress.
pub const PERILUNE_INVALID_WRITE: i32 = -700;
/// No copy can be read at the moment.
pub const PERILUNE_REPLICA_IS_NOT_READY: i32 = -703;
/// No such object.
pub const PERILUNE_OBJECT_NOT_FOUND: i32 = -704;
/// The object exists already, or is being put.
pub const PERILUNE_OBJECT_ALREADY_EXISTS: i32 = -705;
/// A reader holds a lease on the object.
pub const PERILUNE_OBJECT_HAS_LEASE: i32 = -706;
/// The lease ran out before the read was done.
pub const PERILUNE_LEASE_EXPIRED: i32 = -707;
/// The bytes could not be moved.
pub const PERILUNE_TRANSFER_FAIL: i32 = -800;
/// The bytes that arrived are not the bytes that were put.
pub const PERILUNE_CHECKSUM_MISMATCH: i32 = -801;
/// The other process could not be reached.
pub const PERILUNE_RPC_FAIL: i32 = -900;
/// The other process did not answer in time.
pub const PERILUNE_RPC_TIMEOUT: i32 = -901;
/// Not possible in the present state.
pub const PERILUNE_UNAVAILABLE_IN_CURRENT_STATUS: i32 = -1010;
/// This build or this server does not offer it.
pub const PERILUNE_NOT_SUPPORTED: i32 = -1012;
/// The master does not lead its group.
pub const PERILUNE_NOT_LEADER: i32 = -1490;
/// The caller did not say who it is, or not rightly.
pub const PERILUNE_UNAUTHORIZED: i32 = -1491;
/// The tenant is over its budget: nothing is added.
pub const PERILUNE_TENANT_OVERDUE: i32 = -1492;
/// The tenant has as much as it may have, and nothing of it can leave.
pub const PERILUNE_QUOTA_EXCEEDED: i32 = -1493;
/// The tenant was dropped.
pub const PERILUNE_TENANT_DELETED: i32 = -1494;
/// No such tenant.
pub const PERILUNE_TENANT_NOT_FOUND: i32 = -1495;
/// What followed a cursor is not kept any more.
pub const PERILUNE_OUT_OF_RANGE: i32 = -1496;
/// The log or the data directory of a master failed.
pub const PERILUNE_PERSISTENT_FAIL: i32 = -1503;

thread_local! {
    /// The sentence of the last fault of this thread.
    static LAST: RefCell<CString> = RefCell::default();
}

/// Keeps the sentence of a fault for `perilune_last_error` and gives its number.
pub(crate) fn remember(fault: &Fault) -> i32 {
    let text = CString::new(fault.message.replace('\0', "?")).unwrap_or_default();
    LAST.with(|last| last.replace(text));
    fault.code.number()
}

/// What went wrong in the last call of this thread that failed: a sentence that says what, where, and what to do. Empty when none did.
/// The text belongs to the library and is valid until the next call of this thread fails.
#[unsafe(no_mangle)]
pub extern "C" fn perilune_last_error() -> *const c_char {
    LAST.with(|last| last.borrow().as_ptr())
}

/// The name of a status, such as `OBJECT_NOT_FOUND`; `UNKNOWN` for numbers that are none. The text is static.
#[unsafe(no_mangle)]
pub extern "C" fn perilune_fault_name(status: PeriluneStatus) -> *const c_char {
    static NAMES: OnceLock<Vec<(i32, CString)>> = OnceLock::new();
    let names =
        NAMES.get_or_init(|| FaultCode::ALL.iter().map(|code| (code.number(), CString::new(code.as_str()).unwrap_or_default())).collect());
    match status {
        PERILUNE_OK => c"OK".as_ptr(),
        PERILUNE_PENDING => c"PENDING".as_ptr(),
        other => names.iter().find(|(number, _)| *number == other).map_or(c"UNKNOWN".as_ptr(), |(_, name)| name.as_ptr()),
    }
}

/// The release of this library, such as `0.1.0`. The text is static.
#[unsafe(no_mangle)]
pub extern "C" fn perilune_version() -> *const c_char {
    static VERSION: OnceLock<CString> = OnceLock::new();
    VERSION.get_or_init(|| CString::new(env!("CARGO_PKG_VERSION")).unwrap_or_default()).as_ptr()
}

/// What the engine refused, as a fault.
pub(crate) fn of_engine(error: &EngineError) -> Fault {
    let code = match error {
        EngineError::AlreadyExported(_) => FaultCode::SegmentExists,
        EngineError::BadBuffer { .. } | EngineError::Overlap { .. } | EngineError::NotRegistered(_) | EngineError::Setting(_) => {
            FaultCode::InvalidParams
        }
        EngineError::Listen { .. } | EngineError::System { .. } | EngineError::Refused { .. } | EngineError::NoRdma(_) => {
            FaultCode::WrongState
        }
        EngineError::NotExported(_) => FaultCode::SegmentNotFound,
    };
    code.with(error.to_string())
}

/// Why memory could not be had, as a fault.
pub(crate) fn of_memory(error: &MemoryError) -> Fault {
    let code = match error {
        MemoryError::Unreadable(_) => FaultCode::Forbidden,
        MemoryError::System { .. } => FaultCode::WrongState,
        _ => FaultCode::InvalidParams,
    };
    code.with(error.to_string())
}

/// Why a transfer failed, as a fault.
pub(crate) fn of_transfer(error: &TransferError) -> Fault {
    let code = match error.kind {
        TransferErrorKind::PeerUnreachable => FaultCode::Unreachable,
        TransferErrorKind::Timeout => FaultCode::Timeout,
        TransferErrorKind::Denied => FaultCode::Forbidden,
        TransferErrorKind::UnknownSegment => FaultCode::SegmentNotFound,
        TransferErrorKind::BadRequest => FaultCode::InvalidParams,
        TransferErrorKind::Cancelled => FaultCode::WrongState,
        TransferErrorKind::PeerGone | TransferErrorKind::Failed => FaultCode::TransferFailed,
    };
    code.with(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::ffi::CStr;

    const NUMBERS: [i32; 29] = [
        PERILUNE_INTERNAL_ERROR,
        PERILUNE_SEGMENT_NOT_FOUND,
        PERILUNE_SEGMENT_ALREADY_EXISTS,
        PERILUNE_CLIENT_NOT_FOUND,
        PERILUNE_NO_AVAILABLE_HANDLE,
        PERILUNE_INVALID_VERSION,
        PERILUNE_INVALID_PARAMS,
        PERILUNE_ILLEGAL_CLIENT,
        PERILUNE_INVALID_WRITE,
        PERILUNE_REPLICA_IS_NOT_READY,
        PERILUNE_OBJECT_NOT_FOUND,
        PERILUNE_OBJECT_ALREADY_EXISTS,
        PERILUNE_OBJECT_HAS_LEASE,
        PERILUNE_LEASE_EXPIRED,
        PERILUNE_TRANSFER_FAIL,
        PERILUNE_CHECKSUM_MISMATCH,
        PERILUNE_RPC_FAIL,
        PERILUNE_RPC_TIMEOUT,
        PERILUNE_UNAVAILABLE_IN_CURRENT_STATUS,
        PERILUNE_NOT_SUPPORTED,
        PERILUNE_NOT_LEADER,
        PERILUNE_UNAUTHORIZED,
        PERILUNE_TENANT_OVERDUE,
        PERILUNE_QUOTA_EXCEEDED,
        PERILUNE_TENANT_DELETED,
        PERILUNE_TENANT_NOT_FOUND,
        PERILUNE_OUT_OF_RANGE,
        PERILUNE_PERSISTENT_FAIL,
        PERILUNE_OK,
    ];

    #[test]
    fn every_fault_of_the_protocol_has_its_constant() {
        let ours: HashSet<i32> = NUMBERS.into_iter().collect();
        let theirs: HashSet<i32> = FaultCode::ALL.iter().map(|code| code.number()).chain([PERILUNE_OK]).collect();
        assert_eq!(ours, theirs);
    }

    #[test]
    fn the_header_calls_them_by_the_names_they_have() {
        let header = include_str!("../include/perilune.h");
        for number in NUMBERS.into_iter().chain([PERILUNE_PENDING]) {
            // SAFETY: the text is static.
            let name = unsafe { CStr::from_ptr(perilune_fault_name(number)) }.to_str().unwrap();
            assert!(header.contains(&format!("#define PERILUNE_{name} {number}\n")), "{name} {number}");
        }
        // SAFETY: the text is static.
        assert_eq!(unsafe { CStr::from_ptr(perilune_fault_name(-12345)) }, c"UNKNOWN");
    }
}
