//! Claims of vaults: made, passed on, given up. Whoever is overtaken by a higher number writes and deletes nothing more. Beside them lies
//! `owner/alive`: when whoever has the vault was last at work, where it keeps checkpoints (`alive`).

use super::{alive, soon};
use perilune_vault::{CLAIM, CLAIMS, CLAIMS_MAX, Claimed, Class, Vault, VaultFault, Vaulted, claim_path};
use std::collections::BTreeSet;

/// Whether a vault is this cluster's. Claims nothing.
///
/// # Errors
/// [`Class::Invalid`]: it is another's. [`Class::NoObject`]: nobody's, so it may not be the one that was meant.
pub(super) fn check(vault: &Vault, cluster: &str) -> Vaulted<()> {
    match vault.owner(soon())? {
        Some(present) if present.cluster == cluster => Ok(()),
        Some(present) => Err(of_another(&present, cluster)),
        None => Err(missing()),
    }
}

/// The same; claims one that is nobody's. For one that was never claimed: where a claim was and is no more, what is there is something else.
pub(super) fn claim(vault: &Vault, cluster: &str) -> Vaulted<()> {
    match check(vault, cluster) {
        Err(fault) if fault.class == Class::NoObject => match vault.create(CLAIM, cluster.to_owned().into(), soon()) {
            // Somebody was faster.
            Err(fault) if fault.class == Class::Exists => check(vault, cluster),
            other => other,
        },
        other => other,
    }
}

fn missing() -> VaultFault {
    Class::NoObject.with(format!("{CLAIM} is not there, so this may not be the vault it should be: is what it lies on mounted?"))
}

fn of_another(present: &Claimed, cluster: &str) -> VaultFault {
    let how = "give this one another bucket or prefix; if that cluster is gone for good, delete what is in the folder";
    Class::Invalid
        .with(format!("it is the vault of cluster {:.100}: {how} {CLAIMS} there and write {cluster} into {CLAIM}", present.cluster))
}

/// Claims a vault for a cluster that takes the place of whoever has it.
///
/// # Errors
/// [`Class::Invalid`]: whoever has it lives, and it was not said on purpose (`anyway`).
pub(crate) fn take_over(vault: &Vault, cluster: &str, anyway: bool, now_ms: u64) -> Vaulted<()> {
    let Some(present) = vault.owner(soon())? else { return claim(vault, cluster) };
    if present.cluster == cluster {
        return Ok(());
    }
    if let Some(ago) = alive::heard(vault, &present.cluster, now_ms)?.filter(|_| !anyway) {
        return Err(Class::Invalid.with(format!(
            "it is the vault of cluster {}, which was at work there {} s ago: stop that cluster and ask again in a minute, or, if it is surely \
             gone or is to bring nothing there any more, say so with --take-over",
            present.cluster,
            ago / 1000
        )));
    }
    overtake(vault, &present, cluster)
}

fn overtake(vault: &Vault, present: &Claimed, cluster: &str) -> Vaulted<()> {
    match vault.create(&claim_path(present.number + 1), cluster.to_owned().into(), soon()) {
        Err(fault) if fault.class == Class::Exists => Err(Class::Invalid.with("another cluster has just claimed it: ask again")),
        other => other,
    }
}

/// The clusters that had a vault before this one, which has it: those in whose place it came.
pub(crate) fn before(vault: &Vault, cluster: &str) -> Vaulted<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for number in vault.claims(soon())? {
        all.insert(vault.claim(number, soon())?.cluster);
    }
    all.remove(cluster);
    Ok(all)
}

/// Claims a vault that is one of theirs, or that of an attempt at the same which broke off: that one claimed another before.
///
/// # Errors
/// [`Class::Invalid`]: it is another's; or this cluster had it, and was overtaken. [`Class::NoObject`]: nobody's.
pub(crate) fn succeed(vault: &Vault, cluster: &str, before: &BTreeSet<String>) -> Vaulted<()> {
    let mut had = Vec::new();
    for number in vault.claims(soon())? {
        had.push(vault.claim(number, soon())?);
    }
    match had.pop() {
        None => Err(missing()),
        Some(present) if present.cluster == cluster => Ok(()),
        // Once, so that of two which come in each other's place one gives in.
        Some(present) if before.contains(&present.cluster) && had.iter().all(|had| had.cluster != cluster) => {
            overtake(vault, &present, cluster)
        }
        Some(present) => Err(of_another(&present, cluster)),
    }
}

/// Gives a vault up in which nothing is left.
pub(super) fn give_up(vault: &Vault, cluster: &str) -> Vaulted<()> {
    let listed = vault.list(CLAIMS, None, CLAIMS_MAX, soon())?;
    if listed.len() > 1 {
        // Whoever had it before is not to have it again where this breaks off.
        vault.put(CLAIM, cluster.to_owned().into(), soon())?;
    }
    // In their order: while another claim is there, the highest counts.
    listed.iter().filter(|listed| listed.name != CLAIM).try_for_each(|listed| vault.delete(&listed.name, soon()))?;
    vault.delete(CLAIM, soon())
}

#[cfg(test)]
mod tests {
    use super::*;
    use perilune_vault::{Options, Target};

    fn vault() -> (tempfile::TempDir, Vault) {
        let dir = tempfile::tempdir().unwrap();
        let vault = Vault::open(&Target::File(dir.path().into()), &Options::default()).unwrap();
        (dir, vault)
    }

    #[test]
    fn who_comes_in_a_clusters_place_has_what_that_one_had_and_once_only() {
        let [(_a, main), (_b, other)] = [vault(), vault()];
        [&main, &other].into_iter().for_each(|vault| claim(vault, "old").unwrap());
        // An attempt that broke off after both; and one that did after the first, or could not reach the other.
        take_over(&main, "phantom", false, 0).unwrap();
        succeed(&other, "phantom", &before(&main, "phantom").unwrap()).unwrap();
        take_over(&main, "lame", false, 0).unwrap();
        take_over(&main, "new", false, 0).unwrap();
        let theirs = before(&main, "new").unwrap();
        assert_eq!(theirs.iter().map(String::as_str).collect::<Vec<_>>(), ["lame", "old", "phantom"]);
        succeed(&other, "new", &theirs).unwrap();
        [&main, &other].into_iter().for_each(|vault| check(vault, "new").unwrap());
        // Done again it comes to the same; a stranger's is left to it, and so is what was lost to another.
        succeed(&other, "new", &theirs).unwrap();
        assert_eq!(other.claims(soon()).unwrap().len(), 3);
        assert_eq!(succeed(&other, "stranger", &theirs).unwrap_err().class, Class::Invalid);
        overtake(&other, &Claimed { number: 2, cluster: "new".into() }, "old").unwrap();
        assert_eq!(succeed(&other, "new", &theirs).unwrap_err().class, Class::Invalid);
        let (_c, empty) = vault();
        assert_eq!(succeed(&empty, "new", &theirs).unwrap_err().class, Class::NoObject);
        assert_eq!(empty.claims(soon()).unwrap().len(), 0);
    }

    #[test]
    fn who_lives_is_overtaken_on_purpose_only() {
        let (_dir, vault) = vault();
        claim(&vault, "old").unwrap();
        alive::say(&vault, "old", 100_000).unwrap();
        let refused = take_over(&vault, "new", false, 130_000).unwrap_err();
        assert!(refused.class == Class::Invalid && refused.message.contains("30 s ago"), "{refused}");
        check(&vault, "old").unwrap();
        take_over(&vault, "new", true, 130_000).unwrap();
        // Whoever was overtaken may have said so a moment ago.
        take_over(&vault, "newer", false, 130_000).unwrap();
        check(&vault, "newer").unwrap();
        give_up(&vault, "newer").unwrap();
        assert_eq!(check(&vault, "newer").unwrap_err().class, Class::NoObject);
    }
}
