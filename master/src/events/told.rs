//! From an effect to an event.

use perilune_protocol::TenantId;
use perilune_protocol::event::What;
use perilune_state::Effect;
use perilune_state::effect::{EffectError, ObjectRecord};

/// What an effect that took effect means to those outside, and whose it is; `None` where it means nothing to them.
pub(crate) fn event(effect: &[u8]) -> Result<Option<(Option<TenantId>, What)>, EffectError> {
    let (tenant, what) = match Effect::decode(effect)? {
        Effect::Commit(record) => {
            let ObjectRecord { tenant, key, version, size, checksum, pin, replicas, wanted: _ } = record;
            (Some(tenant), What::Put { key, version, size, checksum, pin, replicas })
        }
        Effect::Remove { tenant, key, version, reason } => (Some(tenant), What::Removed { key, version, reason }),
        Effect::Replicas { tenant, key, version, add, drop } => (Some(tenant), What::Replicas { key, version, add, drop }),
        Effect::Cold { tenant, key, version, copy, there: true } => {
            (Some(tenant), What::Offloaded { key, version, vault: copy.vault, name: copy.name, stored: copy.stored })
        }
        Effect::Cold { tenant, key, version, copy, there: false } => {
            (Some(tenant), What::ColdLost { key, version, vault: copy.vault, name: copy.name })
        }
        Effect::Demote { tenant, key, version } => (Some(tenant), What::Demoted { key, version }),
        Effect::Mount(desc) => (Some(TenantId::default()), What::mounted(&desc)),
        Effect::Lend { tenant, desc } | Effect::LendAs { tenant, desc, .. } => (Some(tenant), What::mounted(&desc)),
        Effect::Drain { segment, grace_ms } => (Some(TenantId::default()), What::Draining { segment, grace_ms }),
        Effect::Unmount { segment } => (Some(TenantId::default()), What::Unmounted { segment }),
        Effect::Leaves { tenant, segment, grace_ms: Some(grace_ms) } => (Some(tenant), What::Draining { segment, grace_ms }),
        Effect::Leaves { tenant, segment, grace_ms: None } => (Some(tenant), What::Unmounted { segment }),
        Effect::Node { node, tenant, up: Some(name) } => (Some(tenant), What::NodeUp { node, name }),
        Effect::Node { node, tenant, up: None } => (Some(tenant), What::NodeDown { node }),
        Effect::Cleared { tenant } => (Some(tenant), What::Cleared),
        Effect::Window { .. }
        | Effect::TsoLimit(_)
        | Effect::Setting { .. }
        | Effect::Frames { .. }
        | Effect::Passed { .. }
        | Effect::Directory { .. }
        | Effect::Checkpoint(_) => return Ok(None),
    };
    Ok(Some((tenant, what)))
}
