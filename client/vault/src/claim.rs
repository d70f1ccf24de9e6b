//! Whose a vault is, as is written in it.
//!
//! ```text
//! owner/cluster     the first claim
//! owner/00000001    a later one: the highest number counts
//! ```

use crate::fault::Vaulted;
use crate::vault::Vault;
use std::collections::BTreeSet;
use std::time::Instant;

/// Where a vault says first of which cluster it is. The masters write it before anything is stored there: what others have put there is none of
/// theirs to judge, and where it is missing, that is not the vault it should be.
pub const CLAIM: &str = "owner/cluster";
/// Where claims lie, and what else is said of whoever has them.
pub const CLAIMS: &str = "owner";
/// Claims and the other names in their folder, at most.
pub const CLAIMS_MAX: usize = 1000;

/// A claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The first has none: 0.
    pub number: u64,
    /// Whose it is.
    pub cluster: String,
}

/// Where the claim of this number lies.
pub fn claim_path(number: u64) -> String {
    if number == 0 { CLAIM.to_owned() } else { format!("{CLAIMS}/{number:08}") }
}

fn number(name: &str) -> Option<u64> {
    if name == CLAIM { Some(0) } else { name.strip_prefix(CLAIMS)?.strip_prefix('/')?.parse().ok() }
}

impl Vault {
    /// The numbers of all claims, in their order.
    ///
    /// # Errors
    /// As [`Vault::list`].
    pub fn claims(&self, deadline: Instant) -> Vaulted<BTreeSet<u64>> {
        Ok(self.list(CLAIMS, None, CLAIMS_MAX, deadline)?.iter().filter_map(|listed| number(&listed.name)).collect())
    }

    /// The claim of this number.
    ///
    /// # Errors
    /// As [`Vault::get`].
    pub fn claim(&self, number: u64, deadline: Instant) -> Vaulted<Claimed> {
        let bytes = self.get(&claim_path(number), None, deadline)?.bytes;
        Ok(Claimed { number, cluster: String::from_utf8_lossy(&bytes).into_owned() })
    }

    /// The claim that counts; `None`: nobody has it.
    ///
    /// # Errors
    /// As [`Vault::get`].
    pub fn owner(&self, deadline: Instant) -> Vaulted<Option<Claimed>> {
        self.claims(deadline)?.last().map(|number| self.claim(*number, deadline)).transpose()
    }
}
