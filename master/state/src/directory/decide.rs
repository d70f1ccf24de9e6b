//! What may become of a tenant: a request in, the change to log or a refusal out.

use super::asked::{PoolRefused, VaultRefused};
use super::deliver::FeedRefused;
use super::record::{Change, Known, TenantRecord, TenantStatus};

use perilune_protocol::{Fault, FaultCode, tenant};

/// Most tenants there may ever be: each costs some hundred bytes of every member, for good.
const TENANTS_MAX: usize = 100_000;
/// The longest text of a record, in bytes.
pub(super) const TEXT_BYTES_MAX: usize = 1024;

/// Why nothing changes. Faces say it in their own words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is one of this name, or was.
    #[error("tenant {0} exists already, or did: a name is never given twice")]
    Exists(String),
    /// There is none.
    #[error("there is no tenant {0}")]
    Unknown(String),
    /// It was dropped.
    #[error("tenant {0} was dropped")]
    Dropped(String),
    /// It is so already.
    #[error("tenant {0} is so already")]
    Already(String),
    /// The request cannot be meant.
    #[error("{0}")]
    Wrong(String),
    /// It still has pools.
    #[error("tenant {0} has pools: drop them first")]
    HasPools(String),
    /// A table is called so, or has the rule.
    #[error("table {0}")]
    Table(String),
    /// There is none that is called so.
    #[error("there is no table {0}")]
    NoTable(String),
    /// What was to become of a pool.
    #[error(transparent)]
    Pool(#[from] PoolRefused),
    /// What was to become of a vault.
    #[error(transparent)]
    Vault(#[from] VaultRefused),
    /// What was to become of a changefeed.
    #[error(transparent)]
    Feed(#[from] FeedRefused),
    /// A secret can be neither sealed nor opened here.
    #[error("{0}")]
    Secret(Fault),
}

impl From<Refused> for Fault {
    fn from(refused: Refused) -> Self {
        let code = match &refused {
            Refused::Exists(_) | Refused::Already(_) | Refused::HasPools(_) | Refused::Pool(_) | Refused::Table(_) | Refused::Feed(_) => {
                FaultCode::WrongState
            }
            Refused::Unknown(_) => FaultCode::TenantNotFound,
            Refused::Dropped(_) => FaultCode::TenantDeleted,
            Refused::Wrong(_) | Refused::NoTable(_) | Refused::Vault(_) => FaultCode::InvalidParams,
            Refused::Secret(fault) => fault.code,
        };
        code.with(refused.to_string())
    }
}

/// A change, or nothing to change.
pub type Decision = Result<Option<Change>, Refused>;

impl Known {
    /// A tenant begins.
    ///
    /// # Errors
    /// [`Refused::Exists`], [`Refused::Wrong`].
    pub fn create(&self, name: &str, shown: &str, user_id: &str, now_ms: u64) -> Decision {
        self.begun(name, shown, user_id, now_ms).map(|record| Some(Change::Tenant(record)))
    }

    pub(super) fn begun(&self, name: &str, shown: &str, user_id: &str, now_ms: u64) -> Result<TenantRecord, Refused> {
        tenant::check_name(name).map_err(|fault| Refused::Wrong(fault.message))?;
        check_text("name", shown)?;
        check_text("user_id", user_id)?;
        if self.named(name).is_some() {
            return Err(Refused::Exists(name.into()));
        }
        if self.tenants().count() >= TENANTS_MAX {
            return Err(Refused::Wrong(format!("there are or were {TENANTS_MAX} tenants already")));
        }
        Ok(TenantRecord {
            id: self.fresh(),
            name: name.into(),
            shown: shown.into(),
            user_id: user_id.into(),
            status: TenantStatus::Normal,
            recycle_now: false,
            quota: tenant::Quota::default(),
            ctime_ms: now_ms,
            mtime_ms: now_ms,
        })
    }

    /// A tenant ends. Twice is as good as once.
    ///
    /// # Errors
    /// [`Refused::Unknown`]; [`Refused::HasPools`]; [`Refused::Wrong`] for `default`.
    pub fn drop_tenant(&self, name: &str, now_ms: u64) -> Decision {
        if name == tenant::DEFAULT {
            return Err(Refused::Wrong("the tenant default always exists".into()));
        }
        let found = self.named(name).ok_or_else(|| Refused::Unknown(name.into()))?;
        match found.status {
            TenantStatus::Deleted | TenantStatus::Gone => Ok(None),
            TenantStatus::Normal | TenantStatus::Overdue if self.pools_of(found.id).next().is_some() => Err(Refused::HasPools(name.into())),
            TenantStatus::Normal | TenantStatus::Overdue => Ok(changed(found, now_ms, |t| t.status = TenantStatus::Deleted)),
        }
    }

    /// A tenant is over its budget, or no longer.
    ///
    /// # Errors
    /// [`Refused::Unknown`], [`Refused::Dropped`], [`Refused::Already`].
    pub fn set_overdue(&self, name: &str, overdue: bool, now_ms: u64) -> Decision {
        let found = self.living(name)?;
        let status = if overdue { TenantStatus::Overdue } else { TenantStatus::Normal };
        if found.status == status {
            return Err(Refused::Already(name.into()));
        }
        Ok(changed(found, now_ms, |t| t.status = status))
    }

    /// People call it otherwise.
    ///
    /// # Errors
    /// As [`Known::set_overdue`], and [`Refused::Wrong`].
    pub fn rename(&self, name: &str, shown: &str, now_ms: u64) -> Decision {
        check_text("name", shown)?;
        let found = self.living(name)?;
        if shown.is_empty() {
            return Err(Refused::Wrong("a tenant needs a name".into()));
        }
        if found.shown == shown {
            return Err(Refused::Already(name.into()));
        }
        Ok(changed(found, now_ms, |t| t.shown = shown.into()))
    }

    /// How much it may have from now on. What it has beyond that leaves as room is needed.
    ///
    /// # Errors
    /// [`Refused::Unknown`], [`Refused::Dropped`].
    pub fn set_quota(&self, name: &str, quota: tenant::Quota, now_ms: u64) -> Decision {
        let found = self.living(name)?;
        Ok(if found.quota == quota { None } else { changed(found, now_ms, |t| t.quota = quota) })
    }

    /// The retention of a dropped tenant is over now.
    ///
    /// # Errors
    /// [`Refused::Unknown`]; [`Refused::Wrong`] where it was not dropped.
    pub fn recycle(&self, name: &str, now_ms: u64) -> Decision {
        let found = self.named(name).ok_or_else(|| Refused::Unknown(name.into()))?;
        match found.status {
            TenantStatus::Deleted if !found.recycle_now => Ok(changed(found, now_ms, |t| t.recycle_now = true)),
            TenantStatus::Deleted | TenantStatus::Gone => Ok(None),
            TenantStatus::Normal | TenantStatus::Overdue => Err(Refused::Wrong(format!("tenant {name} is in use: drop it first"))),
        }
    }

    /// The recycler is done with a dropped tenant.
    pub fn gone(&self, name: &str, now_ms: u64) -> Decision {
        let found = self.named(name).filter(|t| t.status == TenantStatus::Deleted);
        Ok(found.and_then(|found| changed(found, now_ms, |t| t.status = TenantStatus::Gone)))
    }

    pub(super) fn living(&self, name: &str) -> Result<&TenantRecord, Refused> {
        let found = self.named(name).ok_or_else(|| Refused::Unknown(name.into()))?;
        match found.status {
            TenantStatus::Normal | TenantStatus::Overdue => Ok(found),
            TenantStatus::Deleted | TenantStatus::Gone => Err(Refused::Dropped(name.into())),
        }
    }
}

fn changed(found: &TenantRecord, now_ms: u64, change: impl FnOnce(&mut TenantRecord)) -> Option<Change> {
    let mut record = found.clone();
    change(&mut record);
    // The clock of one leader may be behind that of the one before.
    record.mtime_ms = now_ms.max(found.mtime_ms);
    Some(Change::Tenant(record))
}

pub(super) fn check_text(what: &str, text: &str) -> Result<(), Refused> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(Refused::Wrong(format!("{what} has up to {TEXT_BYTES_MAX} bytes, not {}", text.len())));
    }
    match text.chars().find(|c| is_unshown(*c)) {
        Some(unshown) => Err(Refused::Wrong(format!("{what} cannot have {unshown:?} in it"))),
        None => Ok(()),
    }
}

/// Whether a letter is none that is shown: a control character, or one that turns the direction of those beside it, so that what stands there
/// looks like something else.
pub fn is_unshown(letter: char) -> bool {
    letter.is_control() || matches!(letter, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
