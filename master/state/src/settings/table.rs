//! Which settings there are, what each may be, and what it is where nobody has set it.

use super::{Switch, word};
use perilune_protocol::{ByteSize, Fault, FaultCode};

/// Bytes a second that background work may move, over all nodes. A repair is done in minutes, and users keep most of any network.
pub const JOB_BYTES_PER_SECOND: &str = "job_bytes_per_second";
/// How long what a dropped tenant had is kept, in seconds. Three days: whoever dropped the wrong one has a weekend to notice.
pub const TENANT_RETENTION_SECONDS: &str = "tenant_retention_seconds";
/// Whether only nodes that present something, and are registered, lend memory.
pub const STRICT_MEMBERSHIP: &str = "strict_membership";
/// The share of a tenant's memory in use above which what would leave next is brought to its vault, in percent. Half of it has nothing to fear,
/// so that what is short-lived costs no upload.
pub const OFFLOAD_ABOVE_PERCENT: &str = "offload_above_percent";
/// Whether what is in memory only may leave for a put that finds no room (`lenient`), where it could be brought to a vault first (`strict`).
pub const WRITE_BACK: &str = "write_back";
/// The vault of `default` that checkpoints are brought to, by its name or number; empty: the newest.
pub const CHECKPOINT_VAULT: &str = "checkpoint_vault";
/// How many checkpoints are kept. One that cannot be read any more is not the end.
pub const CHECKPOINTS_KEPT: &str = "checkpoints_kept";
/// So long a checkpoint waits for a vault that is away, in seconds; then it is made without what the vault's tenant has in memory only.
pub const CHECKPOINT_WAIT_SECONDS: &str = "checkpoint_wait_seconds";
/// How long frontends are kept after they were registered, in seconds; as the page's server has it.
pub const FRONTEND_SAFE_SECONDS: &str = "frontend_safe_seconds";
/// Whether the meta service follows its page to the letter (`doc`) where that answers the callers' mistakes as if they were its own.
pub const META_COMPAT: &str = "meta_compat";

/// How the names begin, followed by that of a tenant, under which is kept from which generation on its tokens are good.
pub const TOKEN_GENERATION: &str = "token_generation.";
/// A name that differs by so many letters from that of a setting is a mistake.
const MISSPELT: usize = 2;

/// The uploads that a checkpoint names are held in memory, 16 bytes each.
const CHECKPOINTS_KEPT_MAX: usize = 100;

/// A setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its name, or how it begins; empty for one that is an operator's own.
    pub key: &'static str,
    /// What it is where nobody has set it.
    pub default: &'static str,
    takes: &'static str,
    fits: fn(&str) -> bool,
}

const SECONDS: &str = "a number of seconds, such as 3600";
const ON_OFF: &str = "Enable or Disable";

const TABLE: [Setting; 10] = [
    setting(JOB_BYTES_PER_SECOND, "256MiB", "a size of at least 1, such as 256MiB", |value| rate(value).is_some()),
    setting(TENANT_RETENTION_SECONDS, "259200", SECONDS, |value| number(value).is_some()),
    setting(STRICT_MEMBERSHIP, "Disable", ON_OFF, |value| is_on(value).is_some()),
    setting(OFFLOAD_ABOVE_PERCENT, "50", "a number from 0 to 100", |value| percent(value).is_some()),
    setting(WRITE_BACK, "lenient", "strict or lenient", |value| ["strict", "lenient"].contains(&value)),
    setting(CHECKPOINT_VAULT, "", "the name or number of a vault", |value| value.len() <= 128),
    setting(CHECKPOINTS_KEPT, "2", "a number from 1 to 100", |value| kept(value).is_some()),
    setting(CHECKPOINT_WAIT_SECONDS, "30", SECONDS, |value| number(value).is_some()),
    setting(FRONTEND_SAFE_SECONDS, "300", SECONDS, |value| number(value).is_some()),
    setting(META_COMPAT, "plain", "doc or plain", |value| ["doc", "plain"].contains(&value)),
];

const GENERATION: Setting = setting(TOKEN_GENERATION, "0", "a number such as 1", |value| value.parse::<u32>().is_ok());
/// What has no meaning here: an operator's own, as the page's server takes it.
const OWN: Setting = setting("", "", "any text", |_| true);

const fn setting(key: &'static str, default: &'static str, takes: &'static str, fits: fn(&str) -> bool) -> Setting {
    Setting { key, default, takes, fits }
}

/// Every setting but those of families.
pub fn all() -> impl Iterator<Item = Setting> {
    let switch = |switch: Switch| setting(switch.key(), word(switch.default()), ON_OFF, |value| is_on(value).is_some());
    Switch::ALL.into_iter().map(switch).chain(TABLE)
}

/// The setting that `key` names, or the kind of which it is one.
///
/// # Errors
/// [`FaultCode::InvalidParams`] says which was meant.
pub fn named(key: &str) -> Result<Setting, Fault> {
    let known = Switch::named(key).map_or(key, |switch| switch.key());
    if let Some(setting) = all().find(|setting| setting.key == known) {
        return Ok(setting);
    }
    if key.strip_prefix(TOKEN_GENERATION).is_some_and(|tenant| !tenant.is_empty()) {
        return Ok(GENERATION);
    }
    let plain = |name: &str| name.to_lowercase().replace(['_', '-', '.'], "");
    let meant = all().find(|setting| strsim::levenshtein(&plain(setting.key), &plain(key)) <= MISSPELT);
    meant.map_or(Ok(OWN), |meant| Err(FaultCode::InvalidParams.with(format!("there is no setting {key:.64?}; there is {}", meant.key))))
}

/// Whether it is an operator's own.
pub(super) fn is_own(key: &str) -> bool {
    named(key).is_ok_and(|setting| setting.key.is_empty())
}

impl Setting {
    /// That it may be `value`.
    ///
    /// # Errors
    /// [`FaultCode::InvalidParams`] says what it may be.
    pub(super) fn check(&self, value: &str) -> Result<(), Fault> {
        let Self { key, takes, .. } = self;
        if (self.fits)(value) { Ok(()) } else { Err(FaultCode::InvalidParams.with(format!("{key} is {takes}, not {value:.200?}"))) }
    }
}

pub(super) fn rate(value: &str) -> Option<u64> {
    value.parse::<ByteSize>().ok().map(|size| size.0).filter(|bytes| *bytes > 0)
}

pub(super) fn number(value: &str) -> Option<u64> {
    value.parse().ok()
}

pub(super) fn percent(value: &str) -> Option<u64> {
    number(value).filter(|percent| *percent <= 100)
}

pub(super) fn kept(value: &str) -> Option<usize> {
    value.parse().ok().filter(|kept| (1..=CHECKPOINTS_KEPT_MAX).contains(kept))
}

pub(super) fn is_on(value: &str) -> Option<bool> {
    let any = |words: [&str; 2]| words.iter().any(|w| value.eq_ignore_ascii_case(w));
    if any(["enable", "true"]) { Some(true) } else { any(["disable", "false"]).then_some(false) }
}
