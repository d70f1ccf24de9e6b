//! Service safepoints: who still needs what happened since when. Kept as settings of the group, so that every master knows.
//!
//! What happened is kept for a while in any case ([`Keeps::whoever`](crate::log::Keeps)); what somebody needs stays longer, up to
//! [`Keeps::most`](crate::log::Keeps). Each master looks at them when it cuts its log; the leader forgets those whose time is over.

use crate::engine::Engine;
use crate::work::aside;
use perilune_protocol::{FaultCode, Millis, Outcome, Tso};
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
/// The service that all changefeeds are together; what is needed for single ones bears names that begin so too.
pub(crate) const FEEDS: &str = "ticdc";
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

/// Whether it is said for feeds.
pub(crate) fn is_of_feeds(service: &str) -> bool {
    service.strip_prefix(FEEDS).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
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
    /// [`FaultCode::OutOfRange`] when some of it is gone already, here and in every other member's log; [`FaultCode::NoSpace`] for one more than there
    /// may be; [`FaultCode::InvalidParams`]; when nothing can be stored.
    pub async fn set_safepoint(&self, service: &str, stamp: Tso, ttl: Duration) -> Outcome<Tso> {
        let named = (1..=SERVICE_BYTES_MAX).contains(&service.len()) && service.bytes().all(|byte| byte.is_ascii_graphic());
        if !named {
            let why = format!("{service:.200?} is no name of a service: 1 to {SERVICE_BYTES_MAX} visible characters of ASCII are");
            return Err(FaultCode::InvalidParams.with(why));
        }
        if ttl.is_zero() || ttl > TTL_MAX {
            return Err(FaultCode::InvalidParams.with(format!("a safepoint counts for up to {} s, and then again", TTL_MAX.as_secs())));
        }
        if is_of_feeds(service) {
            return Err(FaultCode::InvalidParams.with(format!("{service:.200?}: names that begin with {FEEDS} are those of changefeeds")));
        }
        self.keep_since(service, stamp, stamp, ttl).await
    }

    /// The same of any name: everything after `stamp` must be there, and `held`, which is no later, is written down.
    pub(crate) async fn keep_since(&self, service: &str, stamp: Tso, held: Tso, ttl: Duration) -> Outcome<Tso> {
        let _decides = self.events().needs.lock().await;
        let is_new = self.state().settings.get(&key(service)).is_none();
        let others = || self.safepoints().into_iter().filter(|safepoint| !is_of_feeds(&safepoint.service)).count();
        if is_new && !is_of_feeds(service) && others() >= SAFEPOINTS_MAX {
            let why = format!("there are {SAFEPOINTS_MAX} safepoints of services already: take one back, or wait until one's time is over");
            return Err(FaultCode::NoSpace.with(why));
        }
        self.reaches(stamp).await?;
        self.write_down(service, held, ttl).await?;
        // Logs may have been cut just before they knew.
        let reached = self.reaches(stamp).await;
        if is_new && reached.as_ref().is_err_and(|fault| fault.code == FaultCode::OutOfRange) {
            self.drop_safepoint(service).await?;
        }
        reached
    }

    /// What feeds need together is written down, whether this member's log has it or not: another's may.
    pub(crate) async fn keep_for_feeds(&self, stamp: Tso, ttl: Duration) -> Outcome<()> {
        let _decides = self.events().needs.lock().await;
        self.write_down(FEEDS, stamp, ttl).await
    }

    async fn write_down(&self, service: &str, stamp: Tso, ttl: Duration) -> Outcome<()> {
        let value = format!("{} {}", stamp.0, self.wall_ms().saturating_add(Millis::from(ttl).0));
        self.commit(&Effect::Setting { key: key(service), value: Some(value) }).await
    }

    /// Everything with a higher stamp than this can be read, here or of another member. Gives the first stamp of which that is known.
    async fn reaches(&self, stamp: Tso) -> Outcome<Tso> {
        let safe = self.safe_stamp().await?;
        if stamp >= safe {
            return Ok(safe);
        }
        let why = format!("what happened since {} is not kept any more here: {} is the last that may be gone", stamp.0, safe.0);
        self.place_after(stamp).await.map(|_| stamp).map_err(|fault| fault.code.with(format!("{why}; {}", fault.message)))
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
        // Who decides may ask other members first.
        let Ok(_decides) = self.events().needs.try_lock() else { return Ok(()) };
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
        Ok(aside(move || events.oldest()).await??.0)
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
