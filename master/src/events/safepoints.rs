//! Service safepoints: who still needs what happened since when. Kept as settings of the group, so that every master knows.
//!
//! What happened is kept for a while in any case ([`Keeps::whoever`](crate::log::Keeps)); what somebody needs stays longer, up to
//! [`Keeps::most`](crate::log::Keeps). Each master looks at them when it cuts its log; the leader forgets those whose time is over.

use super::ReadError;
use crate::engine::Engine;
use crate::work::aside;
use perilune_protocol::{Fault, FaultCode, Millis, Outcome, Tso};
use perilune_state::Effect;
use perilune_state::settings::{JOB_RECORD, SettingMap};
use std::time::Duration;

/// Somebody needs everything with a higher stamp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Safepoint {
    /// Who.
    pub service: String,
    /// The last one that is not needed any more.
    pub stamp: Tso,
    /// Until when that counts, in milliseconds since 1970.
    pub until_ms: u64,
}

const SAFEPOINT: &str = "safepoint.";
/// So long a name.
const SERVICE_BYTES_MAX: usize = 200;
/// Most that there are.
const SAFEPOINTS_MAX: usize = 128;
/// As long as the longest counts; whoever needs more says so again.
const TTL_MAX: Duration = Duration::from_secs(7 * 86_400);

fn key(service: &str) -> String {
    format!("{JOB_RECORD}{SAFEPOINT}{service}")
}

fn all(settings: &SettingMap) -> impl Iterator<Item = Safepoint> {
    settings.range(key("")..).map_while(|(key, value)| Safepoint::read(key, value))
}

/// The entries with a higher stamp than this are needed; `None`: by nobody.
pub(crate) fn needed(settings: &SettingMap) -> Option<Tso> {
    all(settings).map(|safepoint| safepoint.stamp).min()
}

impl Safepoint {
    pub(crate) fn read(key: &str, value: &str) -> Option<Self> {
        let service = key.strip_prefix(JOB_RECORD)?.strip_prefix(SAFEPOINT)?;
        let (stamp, until_ms) = value.split_once(' ')?;
        Some(Self { service: service.into(), stamp: Tso(stamp.parse().ok()?), until_ms: until_ms.parse().ok()? })
    }
}

impl Engine {
    /// `service` needs everything with a higher stamp than this, for so long. Replaces what it said before. Gives the stamp up to which
    /// something may be gone.
    ///
    /// # Errors
    /// [`FaultCode::OutOfRange`] when some of it is gone already; when nothing can be stored.
    pub async fn set_safepoint(&self, service: &str, stamp: Tso, ttl: Duration) -> Outcome<Tso> {
        let named = (1..=SERVICE_BYTES_MAX).contains(&service.len()) && service.bytes().all(|byte| byte.is_ascii_graphic());
        if !named {
            let why = format!("{service:.200?} is no name of a service: 1 to {SERVICE_BYTES_MAX} visible characters of ASCII are");
            return Err(FaultCode::InvalidParams.with(why));
        }
        if ttl.is_zero() || ttl > TTL_MAX {
            return Err(FaultCode::InvalidParams.with(format!("a safepoint counts for up to {} s, and then again", TTL_MAX.as_secs())));
        }
        let _decides = self.events().needs.lock().await;
        let is_new = self.state().settings.get(&key(service)).is_none();
        if is_new && all(&self.state().settings.map()).count() >= SAFEPOINTS_MAX {
            return Err(FaultCode::NoSpace.with(format!("there are {SAFEPOINTS_MAX} safepoints already")));
        }
        let value = format!("{} {}", stamp.0, self.wall_ms().saturating_add(Millis::from(ttl).0));
        let gone = |safe: Tso| stamp < safe;
        if !gone(self.safe_stamp().await?) {
            self.commit(&Effect::Setting { key: key(service), value: Some(value) }).await?;
        }
        // The log may have been cut just before the others knew.
        let safe = self.safe_stamp().await?;
        if gone(safe) {
            if is_new {
                self.drop_safepoint(service).await?;
            }
            let why = format!("what happened since {} is not kept any more: {} is the last that may be gone", stamp.0, safe.0);
            return Err(FaultCode::OutOfRange.with(why));
        }
        Ok(safe)
    }

    /// The service needs nothing any more.
    ///
    /// # Errors
    /// When nothing can be stored.
    pub async fn drop_safepoint(&self, service: &str) -> Outcome<()> {
        let key = key(service);
        if self.state().settings.get(&key).is_none() {
            return Ok(());
        }
        self.commit(&Effect::Setting { key, value: None }).await
    }

    /// Who needs what, by name.
    pub fn safepoints(&self) -> Vec<Safepoint> {
        all(&self.state().settings.map()).collect()
    }

    /// Takes back those whose time is over.
    pub(super) async fn forget_expired(&self) -> Outcome<()> {
        let _decides = self.events().needs.lock().await;
        let now = self.wall_ms();
        for safepoint in self.safepoints().into_iter().filter(|safepoint| safepoint.until_ms <= now) {
            self.commit(&Effect::Setting { key: key(&safepoint.service), value: None }).await?;
        }
        Ok(())
    }

    /// Every event with a higher stamp can be read here. May read files.
    ///
    /// # Errors
    /// [`FaultCode::Storage`].
    pub(crate) async fn safe_stamp(&self) -> Outcome<Tso> {
        let events = std::sync::Arc::clone(self.events());
        let oldest: Result<_, ReadError> = aside(move || events.oldest()).await?;
        oldest.map(|(safe, _)| safe).map_err(Fault::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_of_them_is_what_is_needed() {
        let settings = |entries: &[(&str, &str)]| entries.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        assert_eq!(needed(&settings(&[("job.balance", "7 8"), ("job.upload", "x")])), None);
        let some = settings(&[("job.balance", "7 8"), ("job.safepoint.a", "90 1"), ("job.safepoint.b.c", "70 2"), ("job.upload", "1 2")]);
        assert_eq!(needed(&some), Some(Tso(70)));
        let read = Safepoint { service: "b.c".into(), stamp: Tso(70), until_ms: 2 };
        assert_eq!(all(&some).last(), Some(read));
    }
}
