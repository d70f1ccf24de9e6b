//! Stored effects told without reading all of them.

use crate::effect::{Effect, VERSION};
use perilune_protocol::{TenantId, Tso};

/// What most effects are, put and remove, in their stored form: for whoever only passes them on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance<'a> {
    /// Whose.
    pub tenant: TenantId,
    /// Which.
    pub key: &'a [u8],
    /// Which version of it.
    pub version: Tso,
    /// It is visible from now on; otherwise it is gone.
    pub is_put: bool,
    /// All but the tenant, as it is stored: of a put the fields of [`crate::effect::ObjectRecord`] until `replicas`, of what is gone `key`, `version` and `reason`.
    pub rest: &'a [u8],
}

impl Effect {
    /// What can be told of a stored effect without reading all of it. `None`: it is to be read.
    pub fn glance(bytes: &[u8]) -> Option<Glance<'_>> {
        let (is_put, body) = match bytes {
            // It ends with how many copies were wanted, in one byte.
            [3..=VERSION, 0, body @ .., _] => (true, body),
            [3..=VERSION, 1, body @ ..] => (false, body),
            _ => return None,
        };
        let (tenant, rest) = postcard::take_from_bytes(body).ok()?;
        let (key, behind) = postcard::take_from_bytes(rest).ok()?;
        let (version, _) = postcard::take_from_bytes(behind).ok()?;
        Some(Glance { tenant, key, version, is_put, rest })
    }
}
