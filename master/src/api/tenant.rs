//! What callers may ask over HTTP who speak for one tenant: what there is of its keys, and what happens to them.

use super::{App, ticdc};
use perilune_protocol::principal::{Principal, Role};
use perilune_protocol::{FaultCode, Outcome};

/// Whether a caller may ask this; all else is the admin's.
///
/// # Errors
/// [`FaultCode::Forbidden`]; [`FaultCode::Unauthorized`] for a token that was revoked.
pub(super) fn may_ask(app: &App, principal: &Principal, path: &str) -> Outcome<()> {
    app.engine.is_current(principal)?;
    let allowed = match path {
        "/query_key" | "/batch_query_keys" | "/get_all_keys" | "/api/v2/events" => Role::Reader,
        _ if ticdc::is_stream(path) => Role::Reader,
        "/api/v1/remove_all" => Role::Writer,
        _ => return Err(FaultCode::Forbidden.with("the token of a tenant does not open this")),
    };
    if principal.role >= allowed {
        return Ok(());
    }
    let Principal { tenant, role, .. } = principal;
    Err(FaultCode::Forbidden.with(format!("the token of a {role} of tenant {tenant} does not allow this")))
}
