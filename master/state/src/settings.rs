//! Settings of the whole group, by name: what an operator may change while everything runs.
//!
//! The map is replaced whole by the apply loop, its only writer; readers take the present one and never wait.

mod table;

use arc_swap::ArcSwap;
use perilune_protocol::{Fault, FaultCode};
use std::collections::BTreeMap;
use std::sync::Arc;
pub use table::*;

/// The longest name, in bytes.
const KEY_BYTES_MAX: usize = 256;
/// The longest value, in bytes.
const VALUE_BYTES_MAX: usize = 16 << 10;
/// Most settings of an operator's own.
const OWN_MAX: usize = 1024;

/// How the names begin under which jobs keep how far they are: nobody else's to set.
pub const JOB_RECORD: &str = "job.";

/// Names and values, in the order of names.
pub type SettingMap = BTreeMap<String, String>;

/// The room.
#[derive(Default)]
pub struct Settings {
    map: ArcSwap<SettingMap>,
}

impl Settings {
    /// What was set, as it is now. What was never set is not there.
    pub fn map(&self) -> Arc<SettingMap> {
        self.map.load_full()
    }

    /// What `key` was set to, or what it is where nobody has.
    pub fn get(&self, key: &str) -> Option<String> {
        let key = Switch::named(key).map_or(key, |switch| switch.key());
        self.map.load().get(key).cloned().or_else(|| default_of(key).map(str::to_owned))
    }

    /// The same, read; what cannot be read is as if nobody had set it.
    fn read<T: Default>(&self, key: &str, read: fn(&str) -> Option<T>) -> T {
        let set = self.map.load().get(key).and_then(|value| read(value));
        set.or_else(|| read(default_of(key)?)).unwrap_or_default()
    }

    /// Whether this kind of work is to be done.
    pub fn on(&self, switch: Switch) -> bool {
        self.read(switch.key(), table::is_on)
    }

    /// Bytes a second that background work may move.
    pub fn job_bytes_per_second(&self) -> u64 {
        self.read(JOB_BYTES_PER_SECOND, table::rate)
    }

    /// How long what a dropped tenant had is kept, in milliseconds.
    pub fn tenant_retention_ms(&self) -> u64 {
        self.read(TENANT_RETENTION_SECONDS, table::number).saturating_mul(1000)
    }

    /// Whether only nodes that present something, and are registered, lend memory.
    pub fn strict_membership(&self) -> bool {
        self.read(STRICT_MEMBERSHIP, table::is_on)
    }

    /// The share of a tenant's memory in use above which what would leave next is brought to its vault.
    pub fn offload_above(&self) -> f64 {
        self.read(OFFLOAD_ABOVE_PERCENT, table::percent) as f64 / 100.0
    }

    /// Whether a put is rather refused than that something is lost which could be brought to a vault.
    pub fn strict_write_back(&self) -> bool {
        self.read(WRITE_BACK, |value| Some(value == "strict"))
    }

    /// How many checkpoints are kept.
    pub fn checkpoints_kept(&self) -> usize {
        self.read(CHECKPOINTS_KEPT, table::kept)
    }

    /// How long one waits for a vault that is away, in milliseconds.
    pub fn checkpoint_wait_ms(&self) -> u64 {
        self.read(CHECKPOINT_WAIT_SECONDS, table::number).saturating_mul(1000)
    }

    /// From which generation on the tokens of a tenant are good.
    pub fn token_generation(&self, tenant: &str) -> u32 {
        self.map.load().get(&format!("{TOKEN_GENERATION}{tenant}")).and_then(|value| value.parse().ok()).unwrap_or(0)
    }

    /// Apply: one setting; `None` takes it back.
    pub(crate) fn set(&self, key: String, value: Option<String>) {
        let mut map = SettingMap::clone(&self.map.load());
        match value {
            Some(value) => map.insert(key, value),
            None => map.remove(&key),
        };
        self.map.store(Arc::new(map));
    }

    /// Apply: these and no others.
    pub(crate) fn replace(&self, map: SettingMap) {
        self.map.store(Arc::new(map));
    }

    /// The name to store `key` under, or why it cannot be set to `value`, or taken back.
    ///
    /// # Errors
    /// [`FaultCode::InvalidParams`]: there is none of this name, it cannot be that, too many, or a job's own.
    pub fn check<'a>(&self, key: &'a str, value: Option<&str>) -> Result<&'a str, Fault> {
        let wrong = |why: String| Err(FaultCode::InvalidParams.with(why));
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return wrong(format!("the name of a setting has 1 to {KEY_BYTES_MAX} bytes, not {}", key.len()));
        }
        if key.starts_with(JOB_RECORD) {
            return wrong(format!("{key}: under {JOB_RECORD} background jobs keep how far they are: choose another name"));
        }
        let stored = Switch::named(key).map_or(key, |switch| switch.key());
        // What a release before took is taken back, whatever it was.
        let Some(value) = value else { return Ok(stored) };
        if value.len() > VALUE_BYTES_MAX {
            return wrong(format!("{key}: a value has up to {VALUE_BYTES_MAX} bytes, not {}", value.len()));
        }
        named(key)?.check(value)?;
        let map = self.map.load();
        let full = || map.keys().filter(|key| is_own(key)).count() >= OWN_MAX;
        if !map.contains_key(key) && is_own(key) && full() {
            return wrong(format!("{key}: there are {OWN_MAX} such settings already"));
        }
        Ok(stored)
    }
}

fn default_of(key: &str) -> Option<&'static str> {
    all().find(|setting| setting.key == key).map(|setting| setting.default)
}

/// Background work that can be switched on and off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Switch {
    /// Makes the replicas anew that a lost segment held.
    DiskRepair,
    /// Moves replicas from full to empty segments.
    Balance,
    /// Moves replicas away from segments that drain.
    DiskDrop,
    /// Deletes what nobody can reach any more.
    BlobDelete,
    /// Makes the replicas that an object lacks.
    ShardRepair,
    /// Compares replicas with their checksums.
    VolInspect,
}

impl Switch {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::DiskRepair, Self::Balance, Self::DiskDrop, Self::BlobDelete, Self::ShardRepair, Self::VolInspect];

    /// The name it is set by.
    pub fn key(self) -> &'static str {
        match self {
            Self::DiskRepair => "disk_repair",
            Self::Balance => "balance",
            Self::DiskDrop => "disk_drop",
            Self::BlobDelete => "blob_delete",
            Self::ShardRepair => "shard_repair",
            Self::VolInspect => "vol_inspect",
        }
    }

    /// The switch of this name; what CubeFS itself calls the inspection is understood as well.
    pub fn named(key: &str) -> Option<Self> {
        let key = if key == "volume_inspect" { "vol_inspect" } else { key };
        Self::ALL.into_iter().find(|s| s.key() == key)
    }

    /// Whether it is on when nobody has set it: only what loses data, or hoards garbage, when it is off.
    pub fn default(self) -> bool {
        matches!(self, Self::DiskDrop | Self::BlobDelete)
    }
}

/// What a switch is told.
pub fn word(on: bool) -> &'static str {
    if on { "Enable" } else { "Disable" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_has_a_default_and_says_what_it_was_told() {
        let settings = Settings::default();
        assert_eq!(settings.get("balance").as_deref(), Some("Disable"));
        assert_eq!(settings.get("disk_drop").as_deref(), Some("Enable"));
        assert!(!settings.on(Switch::VolInspect));

        let key = settings.check("volume_inspect", Some("TRUE")).unwrap();
        settings.set(key.into(), Some("TRUE".into()));
        assert_eq!(settings.get("vol_inspect").as_deref(), Some("TRUE"));
        assert_eq!(settings.get("volume_inspect").as_deref(), Some("TRUE"));
        assert!(settings.on(Switch::VolInspect));

        settings.set("vol_inspect".into(), None);
        assert!(!settings.on(Switch::VolInspect));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let settings = Settings::default();
        assert!(settings.check("balance", Some("perhaps")).is_err());
        assert!(settings.check(JOB_BYTES_PER_SECOND, Some("fast")).is_err());
        assert!(settings.check(JOB_BYTES_PER_SECOND, Some("0")).is_err());
        settings.set(JOB_BYTES_PER_SECOND.into(), Some("64KiB".into()));
        assert_eq!(settings.job_bytes_per_second(), 65_536);
        settings.set(JOB_BYTES_PER_SECOND.into(), None);
        for key in
            [STRICT_MEMBERSHIP, FRONTEND_SAFE_SECONDS, META_COMPAT, CHECKPOINTS_KEPT, CHECKPOINT_WAIT_SECONDS, "token_generation.acme"]
        {
            assert!(settings.check(key, Some("perhaps")).is_err(), "{key}");
        }
        settings.set(STRICT_MEMBERSHIP.into(), Some("true".into()));
        assert!(settings.strict_membership());
        settings.set(STRICT_MEMBERSHIP.into(), None);
        assert!(settings.check("", Some("x")).is_err());
        assert!(settings.check("job.balance", Some("{}")).is_err() && settings.check("job.any", None).is_err());
        assert!(settings.check("user.any", Some(&"x".repeat(VALUE_BYTES_MAX + 1))).is_err());
        assert_eq!(settings.check("user.any", Some("x")), Ok("user.any"));
        for n in 0..OWN_MAX {
            settings.set(format!("user.{n}"), Some("1".into()));
        }
        assert!(settings.check("user.more", Some("x")).is_err());
        assert_eq!(settings.check("user.7", Some("2")), Ok("user.7"));
        assert!(settings.check("token_generation.acme", Some("1")).is_ok());
        assert_eq!(settings.check("balance", Some("false")), Ok("balance"));
    }

    #[test]
    fn every_setting_has_a_default_that_it_may_be_and_none_is_misspelt() {
        let settings = Settings::default();
        for setting in all() {
            assert_eq!(settings.check(setting.key, Some(setting.default)), Ok(setting.key));
            assert_eq!(settings.get(setting.key).as_deref(), Some(setting.default));
        }
        assert_eq!((settings.checkpoints_kept(), settings.job_bytes_per_second(), settings.offload_above()), (2, 256 << 20, 0.5));
        for key in ["writeback", "Write_Backs", "tenant_retention_second", "balanced"] {
            let fault = settings.check(key, Some("strict")).unwrap_err();
            assert!(fault.message.contains("there is no setting"), "{fault}");
            assert_eq!(settings.check(key, None), Ok(key), "what a release before took is taken back");
        }
        for key in ["k", "anything", "a key", "user.x"] {
            assert_eq!(settings.check(key, Some("strict")), Ok(key));
        }
    }
}
