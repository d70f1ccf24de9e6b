//! What becomes of checkpoints and vaults in states that are hard to come by: a master with directories, and a log that is told of them.

use super::lock;
use crate::engine::{Engine, Unchanged};
use crate::{Master, MasterConfig};
use perilune_protocol::vault::{HdfsPlace, VaultTarget};
use perilune_protocol::{ColdName, TenantId, VaultId};
use perilune_state::Effect;
use perilune_state::checkpoints::{Checkpoint, Stage};
use perilune_state::directory::NewVault;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// A master with directories for vaults.
pub(super) struct Stand {
    pub(super) runtime: tokio::runtime::Runtime,
    pub(super) master: Master,
    dir: tempfile::TempDir,
}

impl Stand {
    pub(super) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("vaults")).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (data_dir, vault_root) = (dir.path().join("data"), Some(dir.path().join("vaults")));
        let master = Master::start(MasterConfig { data_dir, rpc: any, http: vec![any], vault_root, ..MasterConfig::default() }).unwrap();
        Self { runtime, master, dir }
    }

    pub(super) fn engine(&self) -> Engine {
        self.master.engine()
    }

    pub(super) fn folder(&self, name: &str) -> PathBuf {
        self.dir.path().join("vaults").join(name)
    }

    /// A vault of `default` in a folder of its own, once it is claimed.
    pub(super) fn vault(&self, name: &str) -> VaultId {
        let [user, keytab, principal] = [(); 3].map(|()| String::new());
        let fs_name = format!("file://{}", self.dir.path().join("vaults").display());
        let target = VaultTarget::Hdfs(HdfsPlace { fs_name, prefix: name.into(), user, keytab, principal, confs: Vec::new() });
        let vault = NewVault { name: name.into(), target, pair: None };
        let engine = self.engine();
        let safe = engine.safe().unwrap();
        let added: Result<(), Unchanged> =
            self.runtime.block_on(engine.decide(&|known, now_ms| known.add_vault("default", &vault, &safe, now_ms)));
        assert!(added.is_ok());
        let id = engine.directory().vaults_of(TenantId::default()).unwrap().vaults.iter().find(|vault| vault.name == name).unwrap().id;
        until("it to be claimed", || engine.reign.cold.claim(id).is_some());
        id
    }

    /// Has the log say what became of a checkpoint.
    fn record(&self, one: &Checkpoint, stages: &[Stage]) {
        let engine = self.engine();
        let effects = stages.iter().map(|stage| Effect::Checkpoint(Checkpoint { stage: *stage, ..one.clone() }));
        // Together, so that nobody settles it in between.
        let proposed: Vec<_> = effects.map(|effect| (engine.propose(&effect), effect)).collect();
        proposed.into_iter().for_each(|(proposal, effect)| self.runtime.block_on(engine.stored(&effect, proposal)).unwrap());
    }

    /// A checkpoint that is kept, with this manifest.
    fn kept(&self, number: u64, vault: VaultId, folder: &str, manifest: &str) -> Checkpoint {
        let one = begun(number, vault);
        let folder = self.folder(folder).join("checkpoints");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{number:08}-{}", one.name)), manifest).unwrap();
        self.record(&one, &[Stage::Begun, Stage::Kept]);
        one
    }

    /// Asks for a checkpoint.
    fn ask(&self) {
        assert_eq!(self.runtime.block_on(self.engine().set_upload_flag()), Ok(true));
    }

    fn numbers(&self) -> Vec<u64> {
        self.engine().state().checkpoints.recorded().iter().map(|one| one.number).collect()
    }

    fn in_use(&self, vault: VaultId) -> u64 {
        self.runtime.block_on(self.engine().objects_in(vec![vault])).unwrap()[&vault]
    }
}

fn begun(number: u64, vault: VaultId) -> Checkpoint {
    Checkpoint { number, name: ColdName::random(), vault, stage: Stage::Begun, at_ms: 0, objects: 0, saved: 0 }
}

/// A manifest of a later release, which this one cannot read.
fn later() -> String {
    format!("{{}}\n{:016x}\n", perilune_protocol::checksum(&[b"{}"]))
}

pub(super) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_checkpoint_in_a_vault_that_was_dropped_is_given_up_and_the_next_is_made() {
    let stand = Stand::start();
    stand.vault("main");
    // As if the vault had been dropped while it was begun.
    stand.record(&begun(1, VaultId(99)), &[Stage::Begun]);
    stand.ask();
    until("the next checkpoint", || stand.numbers() == [2] && stand.engine().upload_flag().is_none());
}

#[test]
fn no_checkpoint_begins_in_a_vault_that_is_being_dropped() {
    let stand = Stand::start();
    let main = stand.vault("main");
    let closed = stand.engine().close_vaults(vec![main]);
    stand.ask();
    until("it to be said", || stand.engine().reign.cold.checkpoint_error(false).contains("is about to be dropped"));
    assert_eq!((stand.numbers(), stand.in_use(main)), (vec![], 0));
    drop(closed);
    until("the checkpoint", || stand.numbers() == [2] || stand.numbers() == [3]);
}

#[test]
fn a_checkpoint_that_cannot_be_read_stops_no_other_and_one_that_is_damaged_is_given_up() {
    let stand = Stand::start();
    let main = stand.vault("main");
    stand.kept(1, main, "main", &later());
    stand.kept(2, main, "main", "{}\n0\n");
    until("the damaged one to be given up", || stand.numbers() == [1]);
    stand.ask();
    until("a checkpoint to be made", || stand.numbers() == [1, 3] && stand.engine().upload_flag().is_none());
    let orphan = vec![ColdName::random()];
    let may_go = || stand.runtime.block_on(stand.engine().may_go(orphan.clone()));
    let refused = may_go().unwrap_err();
    assert!(refused.message.contains("what checkpoint 1 names is not known yet"), "{refused}");
    // The way out: it is the oldest, and goes when there are enough others.
    stand.ask();
    until("the unreadable one to go", || stand.numbers() == [3, 4]);
    until("garbage to be told again", || may_go() == Ok(orphan.clone()));
}

#[test]
fn a_vault_that_a_checkpoint_in_another_refers_to_is_in_use() {
    let stand = Stand::start();
    let [main, other, third] = ["main", "other", "third"].map(|name| stand.vault(name));
    let kept = stand.kept(1, main, "main", &later());
    let engine = stand.engine();
    lock(&engine.reign.cold.kept).insert(kept.number, Arc::from(vec![(ColdName::random(), other)]));
    assert_eq!((stand.in_use(main), stand.in_use(other), stand.in_use(third)), (1, 1, 0));
    // As long as its names are not known it may name anything.
    lock(&engine.reign.cold.kept).clear();
    assert_eq!(stand.in_use(third), 1);
}

#[test]
fn what_went_wrong_with_a_tenants_is_told_to_nobody_else() {
    let stand = Stand::start();
    stand.vault("main");
    let engine = stand.engine();
    engine.reign.cold.failed(TenantId(7), "theirs: bucket secret-name");
    assert_eq!(engine.reign.cold.checkpoint_error(false), "");
    assert!(engine.reign.cold.checkpoint_error(true).contains("theirs"), "what one waits for may be anybody's");
    let told = stand.runtime.block_on(engine.offload(TenantId::default(), None, 0)).unwrap();
    assert_eq!(told.last_error, "");
    let began = tokio::time::Instant::now();
    engine.reign.cold.failed(TenantId::default(), "ours");
    engine.reign.cold.failed(TenantId(7), "theirs");
    assert_eq!(engine.reign.cold.last_error_of(TenantId::default(), began).as_deref(), Some("ours"));
    let told = stand.runtime.block_on(engine.offload(TenantId::default(), None, 0)).unwrap();
    assert_eq!(told.last_error, "", "that was before what is offered now");
}
