//! What callers may ask who speak for one tenant.

use perilune_protocol::principal::{Principal, Role};
use perilune_protocol::rpc::{Call, cluster, cold, object, segment, session, vault, watch, work};
use perilune_protocol::{FaultCode, Outcome};

/// What whoever looks and reads may ask.
const READS: &[u16] = &[
    session::Hello::OP,
    session::Greet::OP,
    session::Whose::OP,
    segment::Describe::OP,
    object::Locate::OP,
    object::Exists::OP,
    object::MatchPrefix::OP,
    object::ListKeys::OP,
    cold::Recall::OP,
    cold::ReadThrough::OP,
    cold::Saved::OP,
    cluster::Stat::OP,
    watch::Watch::OP,
    watch::ListAll::OP,
    watch::ListFeed::OP,
    watch::Follow::OP,
];
const WRITES: &[u16] = &[
    object::PutStart::OP,
    object::PutEnd::OP,
    object::PutRevoke::OP,
    object::Remove::OP,
    object::RemoveMatching::OP,
    cold::Offload::OP,
    cold::OffloadFrom::OP,
];
const LENDS: &[u16] = &[
    session::Register::OP,
    session::Heartbeat::OP,
    session::Beat::OP,
    segment::Mount::OP,
    segment::Unmount::OP,
    work::BeginRun::OP,
    work::TakeWork::OP,
    cluster::SyncStatus::OP,
    cold::TakeCold::OP,
    vault::VaultKeys::OP,
];

/// Whether a caller may ask this; all else is the admin's.
///
/// # Errors
/// [`FaultCode::Forbidden`].
pub(super) fn may_ask(principal: &Principal, op: u16) -> Outcome<()> {
    let role = principal.role;
    if READS.contains(&op) || role >= Role::Writer && WRITES.contains(&op) || role == Role::Node && LENDS.contains(&op) {
        return Ok(());
    }
    Err(FaultCode::Forbidden.with(format!("the token of a {role} of tenant {} does not allow this", principal.tenant)))
}
