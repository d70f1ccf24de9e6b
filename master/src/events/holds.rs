//! Who still needs what happened since when. Kept as settings of the group, so that every leader knows.
//!
//! What happened is kept as far as is set, whether somebody needs it or not; a hold keeps nothing beyond that. It says who would miss something,
//! and is refused where they already do.

use crate::engine::Engine;
use perilune_protocol::{FaultCode, Millis, Outcome, Tso};
use perilune_state::Effect;
use perilune_state::settings::JOB_RECORD;
use std::time::Duration;

/// Somebody needs everything with a higher stamp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Who.
    pub name: String,
    /// The last one that is not needed any more.
    pub stamp: Tso,
    /// Until when that counts, in milliseconds since 1970.
    pub until_ms: u64,
}

const HOLD: &str = "hold.";
/// So long a name.
const NAME_BYTES_MAX: usize = 256;

fn key(name: &str) -> String {
    format!("{JOB_RECORD}{HOLD}{name}")
}

impl Hold {
    fn read(key: &str, value: &str) -> Option<Self> {
        let name = key.strip_prefix(JOB_RECORD)?.strip_prefix(HOLD)?;
        let (stamp, until_ms) = value.split_once(' ')?;
        Some(Self { name: name.into(), stamp: Tso(stamp.parse().ok()?), until_ms: until_ms.parse().ok()? })
    }
}

impl Engine {
    /// `name` needs everything with a higher stamp than this, for so long. Replaces what was said under that name. Gives the stamp up to which
    /// something may be gone.
    ///
    /// # Errors
    /// [`FaultCode::OutOfRange`] when some of it is gone already; when nothing can be stored.
    pub async fn hold(&self, name: &str, stamp: Tso, ttl: Duration) -> Outcome<Tso> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(FaultCode::InvalidParams.with(format!("a name of {} bytes; 1 to {NAME_BYTES_MAX} will do", name.len())));
        }
        let events = std::sync::Arc::clone(self.events());
        let oldest = tokio::task::spawn_blocking(move || events.oldest()).await;
        let (safe, _) = oldest.map_err(|e| FaultCode::Internal.with(e.to_string()))??;
        if stamp < safe {
            return Err(FaultCode::OutOfRange
                .with(format!("what happened since {} is not kept any more: {} is the first that is", stamp.0, safe.0)));
        }
        let value = format!("{} {}", stamp.0, self.wall_ms().saturating_add(Millis::from(ttl).0));
        self.commit(&Effect::Setting { key: key(name), value: Some(value) }).await.map(|()| safe)
    }

    /// `name` needs nothing any more.
    ///
    /// # Errors
    /// When nothing can be stored.
    pub async fn release(&self, name: &str) -> Outcome<()> {
        let key = key(name);
        if self.state().settings.get(&key).is_none() {
            return Ok(());
        }
        self.commit(&Effect::Setting { key, value: None }).await
    }

    /// Who needs what, as far as it still counts.
    pub fn holds(&self) -> Vec<Hold> {
        let now = self.wall_ms();
        let map = self.state().settings.map();
        map.iter().filter_map(|(key, value)| Hold::read(key, value)).filter(|hold| hold.until_ms > now).collect()
    }
}
