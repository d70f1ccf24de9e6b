//! The cold tier of tenants: where new objects go, what is refused, and what every later leader knows of it.

use super::*;
use perilune_protocol::sealed::Sealed;
use perilune_protocol::vault::{HdfsPlace, Provider, S3Place, VaultTarget};
use perilune_protocol::{Outcome, VaultId};
use perilune_state::directory::{Keeper, Lies, NewVault, Pair, Secret, TenantStatus, VaultRefused, VaultsRecord};
use perilune_state::snapshot;

/// Seals nothing, but knows where everything belongs.
struct Plain;

fn marked(tenant: TenantId, vault: VaultId, text: &str) -> Sealed {
    Sealed { key: tenant.0, nonce: [vault.0 as u8; 12], bytes: text.into() }
}

impl Keeper for Plain {
    fn tenant_key(&self, tenant: TenantId) -> Outcome<Sealed> {
        Ok(marked(tenant, VaultId(0), "key"))
    }
    fn seal(&self, tenant: TenantId, vault: VaultId, pair: &Pair) -> Outcome<Secret> {
        Ok(Secret { user_id: pair.user_id.clone(), ak: marked(tenant, vault, &pair.ak), sk: marked(tenant, vault, &pair.sk) })
    }
    fn open(&self, tenant: TenantId, vault: VaultId, secret: &Secret) -> Outcome<Pair> {
        assert_eq!((secret.ak.key, secret.ak.nonce[0]), (tenant.0, vault.0 as u8), "sealed for another place");
        let text = |sealed: &Sealed| String::from_utf8(sealed.bytes.clone()).unwrap();
        Ok(Pair { user_id: secret.user_id.clone(), ak: text(&secret.ak), sk: text(&secret.sk) })
    }
}

fn pair(user_id: &str, sk: &str) -> Pair {
    Pair { user_id: user_id.into(), ak: "ak".into(), sk: sk.into() }
}

fn bucket(name: &str, bucket: &str, user_id: &str) -> NewVault {
    let place = S3Place {
        bucket: bucket.into(),
        prefix: "p".into(),
        endpoint: "e".into(),
        external_endpoint: "e".into(),
        region: "r".into(),
        provider: Provider::S3,
    };
    NewVault { name: name.into(), target: VaultTarget::S3(place), pair: Some(pair(user_id, "sk")) }
}

fn hdfs(name: &str, fs_name: &str) -> NewVault {
    let [prefix, user, keytab, principal] = ["p", "u", "", ""].map(String::from);
    let place = HdfsPlace { fs_name: fs_name.into(), prefix, user, keytab, principal, confs: vec![("k".into(), "v".into())] };
    NewVault { name: name.into(), target: VaultTarget::Hdfs(place), pair: None }
}

impl Leader {
    /// The tenant `default` has a vault, number 1.
    pub(super) fn has_vault(&mut self) {
        if self.state.directory.known().vault(VaultId(1)).is_none() {
            self.add_vault("default", &hdfs("cold", "file:///cold")).unwrap();
        }
    }

    fn add_vault(&mut self, tenant: &str, vault: &NewVault) -> Result<(), Refused> {
        self.decide(|known| known.add_vault(tenant, vault, &Plain, 5))
    }

    fn vaults(&self, tenant: &str) -> VaultsRecord {
        let known = self.state.directory.known();
        known.vaults_of(known.named(tenant).unwrap().id).unwrap().clone()
    }

    fn newest(&self, tenant: &str) -> Option<VaultId> {
        let known = self.state.directory.known();
        known.vault_of(known.named(tenant).unwrap().id).map(|vault| vault.id)
    }
}

fn refused(outcome: Result<(), Refused>, why: VaultRefused) {
    assert_eq!(outcome, Err(Refused::Vault(why)));
}

#[test]
fn new_objects_go_to_the_newest_vault_that_can_be_used() {
    let mut leader = Leader::new();
    leader.decide(|known| known.create("acme", "", "", 1)).unwrap();
    leader.decide(|known| known.create("other", "", "", 1)).unwrap();
    assert_eq!(leader.newest("acme"), None);
    leader.add_vault("acme", &hdfs("first", "hdfs://h")).unwrap();
    assert_eq!(leader.newest("acme"), Some(VaultId(1)), "which says why it cannot be opened");
    leader.add_vault("acme", &bucket("second", "b", "")).unwrap();
    leader.add_vault("other", &bucket("", "b", "")).unwrap();
    leader.add_vault("acme", &hdfs("third", "file:///v")).unwrap();
    leader.add_vault("acme", &hdfs("fourth", "hdfs://h2")).unwrap();
    assert_eq!((leader.newest("acme"), leader.newest("other")), (Some(VaultId(4)), Some(VaultId(3))));
    let numbers: Vec<_> = leader.vaults("acme").vaults.iter().map(|vault| vault.number).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);

    let mut drop_vault =
        |name: &str, s3, objects| leader.decide(|known| known.drop_vault("acme", name, s3, &|_| Lies { objects, checkpoints: 0 }));
    refused(drop_vault("fourth", true, 0), VaultRefused::OtherKind("fourth".into()));
    refused(drop_vault("none", true, 0), VaultRefused::Unknown("none".into()));
    refused(drop_vault("third", false, 7), VaultRefused::InUse(Lies { objects: 7, checkpoints: 0 }));
    drop_vault("third", false, 0).unwrap();
    drop_vault("fourth", false, 0).unwrap();
    assert_eq!(leader.newest("acme"), Some(VaultId(2)));
    leader.add_vault("acme", &hdfs("third", "file:///v")).unwrap();
    assert_eq!(leader.newest("acme"), Some(VaultId(6)), "numbers are not given again");
}

#[test]
fn no_two_tenants_have_one_folder_of_a_bucket() {
    let mut leader = Leader::new();
    for tenant in ["acme", "other", "third"] {
        leader.decide(|known| known.create(tenant, "", "", 1)).unwrap();
    }
    let at_root = |name: &str| {
        let mut vault = bucket(name, "b", "");
        let VaultTarget::S3(place) = &mut vault.target else { unreachable!() };
        place.prefix.clear();
        vault
    };
    leader.add_vault("acme", &bucket("a", "b", "")).unwrap();
    leader.add_vault("acme", &at_root("root")).unwrap();
    leader.add_vault("other", &bucket("a", "b", "")).unwrap();
    leader.add_vault("other", &at_root("root")).unwrap();
    leader.add_vault("other", &bucket("c", "another", "")).unwrap();
    let id = |leader: &Leader, tenant: &str| leader.vaults(tenant).tenant.0;
    let other = id(&leader, "other");
    // It says where the other's was put.
    let mut sly = bucket("a", "b", "");
    let VaultTarget::S3(place) = &mut sly.target else { unreachable!() };
    place.prefix = format!("p_{other}");
    leader.add_vault("third", &sly).unwrap();
    let folders = |leader: &Leader, tenant: &str| {
        leader.vaults(tenant).vaults.iter().map(|vault| vault.target.prefix().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(folders(&leader, "acme"), ["p", ""]);
    assert_eq!(folders(&leader, "other"), [format!("p_{other}"), other.to_string(), "p".into()]);
    assert_eq!(folders(&leader, "third"), [format!("p_{other}_{}", id(&leader, "third"))]);
    refused(leader.add_vault("other", &bucket("d", "b", "")), VaultRefused::Same);
    // What a dropped one has is not emptied yet.
    leader.decide(|known| known.drop_tenant("acme", 9)).unwrap();
    leader.decide(|known| known.create("late", "", "", 1)).unwrap();
    leader.add_vault("late", &bucket("a", "b", "")).unwrap();
    assert_eq!(folders(&leader, "late"), [format!("p_{}", id(&leader, "late"))]);
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let mut leader = Leader::new();
    leader.decide(|known| known.create("acme", "", "", 1)).unwrap();
    leader.add_vault("acme", &bucket("a", "b0", "")).unwrap();
    let before = leader.vaults("acme");
    refused(leader.add_vault("acme", &bucket("a", "b1", "")), VaultRefused::NameTaken("a".into()));
    refused(leader.add_vault("acme", &bucket("b", "b0", "")), VaultRefused::Same);
    refused(leader.add_vault("acme", &bucket("", "b1", "")), VaultRefused::Named);
    for name in ["1", "a b", "a/b", "ä", &"x".repeat(129)] {
        refused(leader.add_vault("acme", &bucket(name, "b1", "")), VaultRefused::Name);
    }
    assert!(matches!(leader.add_vault("acme", &bucket("b", "b\n", "")), Err(Refused::Wrong(_))));
    assert!(matches!(leader.add_vault("nobody", &bucket("b", "b1", "")), Err(Refused::Unknown(_))));
    assert_eq!(leader.vaults("acme"), before);
    for n in 1..10 {
        leader.add_vault("acme", &bucket(&format!("v{n}"), &format!("b{n}"), "")).unwrap();
    }
    refused(leader.add_vault("acme", &bucket("v10", "b10", "")), VaultRefused::Full);
    leader.decide(|known| known.create_with(("plain", "", ""), Some(&bucket("", "b", "")), None, false, &Plain, 1)).unwrap();
    refused(leader.add_vault("plain", &bucket("a", "b1", "")), VaultRefused::Nameless);
    assert!(matches!(leader.decide(|known| known.create_with(("plain", "", ""), None, None, true, &Plain, 1)), Err(Refused::Exists(_))));
}

#[test]
fn keys_change_for_all_or_for_none() {
    let mut leader = Leader::new();
    let (first, ram) = (bucket("", "b1", "u1"), pair("ram", "sk"));
    leader.decide(|known| known.create_with(("acme", "", ""), Some(&first), Some(&ram), true, &Plain, 1)).unwrap();
    leader.add_vault("acme", &bucket("", "b2", "u2")).unwrap();
    leader.add_vault("acme", &bucket("", "b3", "u1")).unwrap();
    let revisions = |leader: &Leader| leader.vaults("acme").vaults.iter().map(|vault| vault.revision).collect::<Vec<_>>();
    let mut rotate = |users: &[Pair], ram: Option<&Pair>| {
        let outcome = leader.decide(|known| known.rotate_users("acme", users, ram, &Plain, 9));
        (outcome, revisions(&leader))
    };
    for (users, ram, why) in [
        (vec![pair("u1", "new"), pair("u2", "sk")], None, VaultRefused::SamePair),
        (vec![pair("u1", "new"), pair("u3", "new")], None, VaultRefused::NoUser),
        (vec![pair("u1", "new")], Some(pair("other", "new")), VaultRefused::OtherRamUser),
        (vec![pair("u1", "new")], Some(pair("ram", "sk")), VaultRefused::SamePair),
    ] {
        let (outcome, after) = rotate(&users, ram.as_ref());
        refused(outcome, why);
        assert_eq!(after, [1, 1, 1]);
    }
    assert_eq!(rotate(&[pair("u1", "new")], Some(&pair("ram", "new"))), (Ok(()), vec![2, 1, 2]));
    let all = leader.vaults("acme");
    let sk = |secret: &Option<Secret>| secret.as_ref().unwrap().sk.bytes.clone();
    assert_eq!((sk(&all.vaults[0].secret), sk(&all.vaults[1].secret), sk(&all.ram_user)), (b"new".into(), b"sk".into(), b"new".into()));

    // Where one has no user, only one pair can be meant, which then names it; not one that others have by name.
    leader.add_vault("acme", &bucket("", "b4", "")).unwrap();
    let two = [pair("u1", "x"), pair("u2", "x")];
    refused(leader.decide(|known| known.rotate_users("acme", &two, None, &Plain, 9)), VaultRefused::WhosePair);
    leader.decide(|known| known.rotate_users("acme", &two[1..], None, &Plain, 9)).unwrap();
    let user_of_last = |leader: &Leader| leader.vaults("acme").vaults[3].secret.as_ref().unwrap().user_id.clone();
    assert_eq!(user_of_last(&leader), "");
    leader.decide(|known| known.rotate_users("acme", &[pair("u4", "x")], None, &Plain, 9)).unwrap();
    assert_eq!(user_of_last(&leader), "u4");

    for number in ["0", "5", "x", "+1"] {
        let outcome = leader.decide(|known| known.rotate_numbered("acme", number, &pair("", "y"), &Plain, 9));
        refused(outcome, VaultRefused::Unknown(number.into()));
    }
    leader.decide(|known| known.rotate_numbered("acme", "1", &pair("", "y"), &Plain, 9)).unwrap();
    let rotated = leader.vaults("acme").vaults[0].clone();
    assert_eq!((rotated.secret.unwrap().user_id.as_str(), rotated.mtime_ms, rotated.ctime_ms), ("u1", 9, 1));

    refused(leader.decide(|known| known.set_sse("acme", true, &Plain, 9)), VaultRefused::SameSse(true));
    leader.decide(|known| known.set_sse("acme", false, &Plain, 9)).unwrap();
    let after = leader.vaults("acme");
    assert!(!after.sse && after.key == all.key && after.vaults[0].revision == rotated.revision + 1);
}

#[test]
fn vaults_are_known_to_every_later_leader_until_their_tenant_is_gone() {
    let mut leader = Leader::new();
    leader.decide(|known| known.create_with(("acme", "", ""), Some(&bucket("a", "b", "u")), None, true, &Plain, 1)).unwrap();
    leader.add_vault("acme", &hdfs("h", "file:///v")).unwrap();
    leader.add_vault("default", &bucket("d", "b", "")).unwrap();
    leader.decide(|known| known.drop_vault("default", "d", true, &|_| Lies::default())).unwrap();
    let acme = leader.state.directory.tenant("acme").unwrap();
    let by_snapshot = |leader: &Leader| {
        let mut bytes = Vec::new();
        snapshot::writer(Arc::clone(&leader.state))(&mut bytes).unwrap();
        snapshot::read(&mut bytes.as_slice(), RULES, 1).unwrap()
    };
    let by_copy = |leader: &Leader| snapshot::copy(&leader.state).0;
    for (how, state) in [("log", leader.restarted().state), ("snapshot", by_snapshot(&leader).into()), ("copy", by_copy(&leader).into())] {
        assert_eq!(**state.directory.known(), **leader.state.directory.known(), "{how}");
        let known = state.directory.known();
        assert_eq!((known.vault_of(acme).unwrap().name.as_str(), known.vault(VaultId(1)).unwrap().tenant), ("h", acme), "{how}");
        assert_eq!(known.vault(VaultId(3)), None, "{how}");
    }
    leader.decide(|known| known.drop_tenant("acme", 7)).unwrap();
    assert!(leader.newest("acme").is_some(), "the recycler empties it");
    leader.decide(|known| known.gone("acme", 8)).unwrap();
    let known = leader.state.directory.known();
    assert_eq!((known.tenant(acme).unwrap().status, known.vaults_of(acme), known.vault(VaultId(1))), (TenantStatus::Gone, None, None));
}

/// Bytes of the first release that knew vaults: of a snapshot, and of the change that a tenant begins with.
#[test]
fn vaults_of_version_7_are_still_read() {
    let state = snapshot::read(&mut include_bytes!("../old/snapshot_v7.bin").as_slice(), RULES, 1).unwrap();
    let known = state.directory.known();
    let acme = known.named("acme").unwrap().id;
    let all = known.vaults_of(acme).unwrap();
    assert_eq!((all.sse, all.named, all.vaults.len(), known.vault_of(acme).unwrap().id), (true, true, 2, VaultId(2)));
    let VaultTarget::S3(place) = &all.vaults[0].target else { panic!("no bucket") };
    assert_eq!((place.bucket.as_str(), place.provider, all.vaults[0].secret.as_ref().unwrap().user_id.as_str()), ("b", Provider::S3, "u"));
    let Ok(Effect::Directory { revision: 1, change }) = Effect::decode(include_bytes!("../old/vaults_v7.bin")) else { panic!("not that") };
    let perilune_state::directory::Change::TenantVaults(tenant, first) = *change else { panic!("another change") };
    assert_eq!((tenant.name.as_str(), &first.vaults[..], first.key == all.key), ("acme", &all.vaults[..1], true));
}
