//! Settings of the whole group, by name: what an operator may change while everything runs.
//!
//! The map is replaced whole by the apply loop, its only writer; readers take the present one and never wait.

use arc_swap::ArcSwap;
use perilune_protocol::{ByteSize, Fault, FaultCode};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The longest name, in bytes.
pub const KEY_BYTES_MAX: usize = 256;
/// The longest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 16 << 10;
/// Most settings there may be.
pub const SETTINGS_MAX: usize = 1024;

/// Bytes a second that background work may move, over all nodes.
pub const JOB_BYTES_PER_SECOND: &str = "job_bytes_per_second";
/// What it may move when nobody has said otherwise: a repair is done in minutes, and users keep most of any network.
pub const JOB_BYTES_PER_SECOND_DEFAULT: u64 = 256 << 20;

/// How long what a dropped tenant had is kept, in seconds.
pub const TENANT_RETENTION_SECONDS: &str = "tenant_retention_seconds";
/// Three days: whoever dropped the wrong one has a weekend to notice.
pub const TENANT_RETENTION_SECONDS_DEFAULT: u64 = 259_200;

/// Whether only nodes that present something, and are registered, lend memory.
pub const STRICT_MEMBERSHIP: &str = "strict_membership";

/// The share of a tenant's memory in use above which what would leave next is brought to its vault, in percent.
pub const OFFLOAD_ABOVE_PERCENT: &str = "offload_above_percent";
/// Half of it has nothing to fear, so that what is short-lived costs no upload.
pub const OFFLOAD_ABOVE_PERCENT_DEFAULT: u64 = 50;

/// Whether what is in memory only may leave for a put that finds no room (`lenient`), where it could be brought to a vault first (`strict`).
pub const WRITE_BACK: &str = "write_back";

/// The vault of `default` that checkpoints are brought to, by its name or number; without it the newest.
pub const CHECKPOINT_VAULT: &str = "checkpoint_vault";

/// How many checkpoints are kept.
pub const CHECKPOINTS_KEPT: &str = "checkpoints_kept";
/// One that cannot be read any more is not the end.
pub const CHECKPOINTS_KEPT_DEFAULT: usize = 2;
/// The uploads that a checkpoint names are held in memory, 16 bytes each.
const CHECKPOINTS_KEPT_MAX: usize = 100;
/// So long a checkpoint waits for a vault that is away, in seconds; then it is made without what the vault's tenant has in memory only.
pub const CHECKPOINT_WAIT_SECONDS: &str = "checkpoint_wait_seconds";
/// Where nothing else is set.
pub const CHECKPOINT_WAIT_SECONDS_DEFAULT: u64 = 30;

/// How long frontends are kept after they were registered, in seconds.
pub const FRONTEND_SAFE_SECONDS: &str = "frontend_safe_seconds";
/// As the page's server has it.
pub const FRONTEND_SAFE_SECONDS_DEFAULT: u64 = 300;

/// Whether the meta service follows its page to the letter (`doc`) where that answers the callers' mistakes as if they were its own.
pub const META_COMPAT: &str = "meta_compat";

/// How the names begin, followed by that of a tenant, under which is kept from which generation on its tokens are good.
pub const TOKEN_GENERATION: &str = "token_generation.";

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

    /// What `key` was set to; a switch that was never set has its default.
    pub fn get(&self, key: &str) -> Option<String> {
        let switch = Switch::named(key);
        self.map.load().get(switch.map_or(key, |s| s.key())).cloned().or_else(|| switch.map(|s| word(s.default()).to_owned()))
    }

    /// Whether this kind of work is to be done.
    pub fn on(&self, switch: Switch) -> bool {
        self.map.load().get(switch.key()).map_or(Some(switch.default()), |value| is_on(value)).unwrap_or(false)
    }

    /// Bytes a second that background work may move.
    pub fn job_bytes_per_second(&self) -> u64 {
        let set = self.map.load().get(JOB_BYTES_PER_SECOND).and_then(|value| rate(value));
        set.unwrap_or(JOB_BYTES_PER_SECOND_DEFAULT)
    }

    /// How long what a dropped tenant had is kept, in milliseconds.
    pub fn tenant_retention_ms(&self) -> u64 {
        let set = self.map.load().get(TENANT_RETENTION_SECONDS).and_then(|value| value.parse().ok());
        set.unwrap_or(TENANT_RETENTION_SECONDS_DEFAULT).saturating_mul(1000)
    }

    /// Whether only nodes that present something, and are registered, lend memory.
    pub fn strict_membership(&self) -> bool {
        self.map.load().get(STRICT_MEMBERSHIP).and_then(|value| is_on(value)).unwrap_or(false)
    }

    /// The share of a tenant's memory in use above which what would leave next is brought to its vault.
    pub fn offload_above(&self) -> f64 {
        let set = self.map.load().get(OFFLOAD_ABOVE_PERCENT).and_then(|value| percent(value));
        set.unwrap_or(OFFLOAD_ABOVE_PERCENT_DEFAULT) as f64 / 100.0
    }

    /// Whether a put is rather refused than that something is lost which could be brought to a vault.
    pub fn strict_write_back(&self) -> bool {
        self.map.load().get(WRITE_BACK).is_some_and(|value| value == "strict")
    }

    /// How many checkpoints are kept.
    pub fn checkpoints_kept(&self) -> usize {
        self.map.load().get(CHECKPOINTS_KEPT).and_then(|value| kept(value)).unwrap_or(CHECKPOINTS_KEPT_DEFAULT)
    }

    /// How long one waits for a vault that is away, in milliseconds.
    pub fn checkpoint_wait_ms(&self) -> u64 {
        let set = self.map.load().get(CHECKPOINT_WAIT_SECONDS).and_then(|value| value.parse().ok());
        u64::saturating_mul(set.unwrap_or(CHECKPOINT_WAIT_SECONDS_DEFAULT), 1000)
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
    /// [`FaultCode::InvalidParams`]: too long, too many, a job's own, or a switch is told what is neither on nor off.
    pub fn check<'a>(&self, key: &'a str, value: Option<&str>) -> Result<&'a str, Fault> {
        let wrong = |why: String| Err(FaultCode::InvalidParams.with(why));
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return wrong(format!("the name of a setting has 1 to {KEY_BYTES_MAX} bytes, not {}", key.len()));
        }
        if key.starts_with(JOB_RECORD) {
            return wrong(format!("{key}: under {JOB_RECORD} background jobs keep how far they are: choose another name"));
        }
        let switch = Switch::named(key);
        let stored = switch.map_or(key, |s| s.key());
        let Some(value) = value else { return Ok(stored) };
        if value.len() > VALUE_BYTES_MAX {
            return wrong(format!("{key}: a value has up to {VALUE_BYTES_MAX} bytes, not {}", value.len()));
        }
        if switch.is_some() && is_on(value).is_none() {
            return wrong(format!("{key} is a switch: Enable or Disable, not {value:?}"));
        }
        if key == JOB_BYTES_PER_SECOND && rate(value).is_none() {
            return wrong(format!("{key} is a size of at least 1, such as 256MiB, not {value:?}"));
        }
        if key == STRICT_MEMBERSHIP && is_on(value).is_none() {
            return wrong(format!("{key} is Enable or Disable, not {value:?}"));
        }
        if key.starts_with(TOKEN_GENERATION) && value.parse::<u32>().is_err() {
            return wrong(format!("{key} is a number such as 1, not {value:?}"));
        }
        if key == OFFLOAD_ABOVE_PERCENT && percent(value).is_none() {
            return wrong(format!("{key} is a number from 0 to 100, not {value:?}"));
        }
        if key == WRITE_BACK && !["strict", "lenient"].contains(&value) {
            return wrong(format!("{key} is strict or lenient, not {value:?}"));
        }
        if key == CHECKPOINTS_KEPT && kept(value).is_none() {
            return wrong(format!("{key} is a number from 1 to {CHECKPOINTS_KEPT_MAX}, not {value:?}"));
        }
        if key == META_COMPAT && !["doc", "plain"].contains(&value) {
            return wrong(format!("{key} is doc or plain, not {value:?}"));
        }
        if [TENANT_RETENTION_SECONDS, FRONTEND_SAFE_SECONDS, CHECKPOINT_WAIT_SECONDS].contains(&key) && value.parse::<u64>().is_err() {
            return wrong(format!("{key} is a number of seconds, such as 3600, not {value:?}"));
        }
        let map = self.map.load();
        // There are no more generations than tenants.
        let full = || map.keys().filter(|key| !key.starts_with(TOKEN_GENERATION)).count() >= SETTINGS_MAX;
        if switch.is_none() && !key.starts_with(TOKEN_GENERATION) && !map.contains_key(key) && full() {
            return wrong(format!("{key}: there are {SETTINGS_MAX} settings already"));
        }
        Ok(stored)
    }
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

fn rate(value: &str) -> Option<u64> {
    value.parse::<ByteSize>().ok().map(|size| size.0).filter(|bytes| *bytes > 0)
}

fn percent(value: &str) -> Option<u64> {
    value.parse().ok().filter(|percent| *percent <= 100)
}

fn kept(value: &str) -> Option<usize> {
    value.parse().ok().filter(|kept| (1..=CHECKPOINTS_KEPT_MAX).contains(kept))
}

fn is_on(value: &str) -> Option<bool> {
    let any = |words: [&str; 2]| words.iter().any(|w| value.eq_ignore_ascii_case(w));
    if any(["enable", "true"]) { Some(true) } else { any(["disable", "false"]).then_some(false) }
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
        assert!(settings.check("anything", Some(&"x".repeat(VALUE_BYTES_MAX + 1))).is_err());
        assert_eq!(settings.check("anything", Some("x")), Ok("anything"));
        for n in 0..SETTINGS_MAX {
            settings.set(format!("s{n}"), Some("1".into()));
        }
        assert!(settings.check("one more", Some("x")).is_err());
        assert!(settings.check("token_generation.acme", Some("1")).is_ok(), "there are no more of these than tenants");
        settings.set("token_generation.acme".into(), Some("1".into()));
        assert_eq!(settings.check("s7", Some("2")), Ok("s7"));
        assert_eq!(settings.check("balance", Some("false")), Ok("balance"));
    }
}
