//! What becomes of checkpoints and vaults in states that are hard to come by: a master with directories, and a log that is told of them.

use super::lock;
use super::through::reader_soon;
use crate::engine::{Asker, Engine, Unchanged};
use crate::work::evict::Loss;
use crate::work::sample::{MIB, segment};
use crate::{Master, MasterConfig};
use perilune_protocol::rpc::cold::{ColdDone, ColdOrder, ColdOutcome, TakeCold};
use perilune_protocol::rpc::object::{PutEnd, PutStart};
use perilune_protocol::vault::{HdfsPlace, VaultTarget};
use perilune_protocol::{ColdName, NodeId, PutConfig, SegmentId, TenantId, VaultId, WriterId};
use perilune_state::Effect;
use perilune_state::checkpoints::{Checkpoint, Stage};
use perilune_state::directory::{Lies, NewVault};
use perilune_state::objects::{KeyRef, Object};
use perilune_state::segments::nodes::Said;
use perilune_vault::ColdObject;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// A master with directories for vaults.
pub(in crate::work) struct Stand {
    pub(in crate::work) runtime: tokio::runtime::Runtime,
    pub(super) master: Master,
    dir: tempfile::TempDir,
}

impl Stand {
    pub(in crate::work) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("vaults")).unwrap();
        Self::start_in(dir, MasterConfig::default().upload_limit)
    }

    /// Ends, and begins again with another limit for uploads.
    fn again(self, upload_limit: Duration) -> Self {
        self.master.stop();
        Self::start_in(self.dir, upload_limit)
    }

    fn start_in(dir: tempfile::TempDir, upload_limit: Duration) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (data_dir, vault_root) = (dir.path().join("data"), Some(dir.path().join("vaults")));
        // Nodes here say nothing by themselves.
        let (suspect_after, lost_after) = (PATIENCE, 2 * PATIENCE);
        let config = MasterConfig { data_dir, rpc: any, http: vec![any], vault_root, suspect_after, lost_after, ..MasterConfig::default() };
        let master = Master::start(MasterConfig { upload_limit, ..config }).unwrap();
        let stand = Self { runtime, master, dir };
        until("it to lead", || stand.engine().leads());
        stand
    }

    pub(in crate::work) fn engine(&self) -> Engine {
        self.master.engine()
    }

    pub(super) fn folder(&self, name: &str) -> PathBuf {
        self.dir.path().join("vaults").join(name)
    }

    /// A vault of `default` in a folder of its own, once it is claimed.
    pub(in crate::work) fn vault(&self, name: &str) -> VaultId {
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

    /// A node that lends memory to `default`.
    pub(in crate::work) fn node(&self) -> NodeId {
        let (engine, node) = (self.engine(), NodeId::random());
        engine.state().nodes.register(node, Said::default(), 1, engine.now());
        let lent = Effect::lend(TenantId::default(), "", segment(SegmentId::random(), node, 16 * MIB));
        self.runtime.block_on(engine.commit(&lent)).unwrap();
        engine.judge();
        node
    }

    /// Puts an object of `default`, whose bytes are nowhere; gives the order to save it that `node` took.
    pub(in crate::work) fn put_and_save(&self, key: &str, node: NodeId) -> (Arc<Object>, ColdOrder) {
        let (engine, tenant) = (self.engine(), TenantId::default());
        let question = PutStart { puts: vec![(key.into(), 100)], config: PutConfig::default(), writer: WriterId::random() };
        let granted = self.runtime.block_on(engine.put_start(tenant, Asker::default(), question)).remove(0).unwrap();
        let puts = vec![(key.into(), granted.version, 7)];
        assert_eq!(self.runtime.block_on(engine.put_end(tenant, PutEnd { puts })), [Ok(())]);
        let order = self.offload(None, node);
        (engine.state().standing(KeyRef::new(tenant, &order.key)).unwrap(), order)
    }

    /// Has all that is in no vault saved, or what lies in one of them moved; gives the first order that `node` took.
    fn offload(&self, from: Option<&str>, node: NodeId) -> ColdOrder {
        self.runtime.block_on(self.engine().offload(TenantId::default(), from, 0)).unwrap();
        let asks = TakeCold { node, done: Vec::new(), room: 1, wait_ms: PATIENCE.as_millis() as u64 };
        self.runtime.block_on(self.engine().take_cold(asks, None)).remove(0)
    }

    /// The node says how it ended, which is heard.
    pub(in crate::work) fn ends(&self, node: NodeId, object: &Object, order: &ColdOrder, outcome: ColdOutcome) {
        let engine = self.engine();
        assert!(engine.reign.cold.is_uploading(&object.key));
        let done = vec![ColdDone { id: order.id, outcome }];
        self.runtime.block_on(engine.take_cold(TakeCold { node, done, room: 0, wait_ms: 0 }, None));
        until("it to be heard", || !engine.reign.cold.is_uploading(&object.key));
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

    /// What checkpoints have or name there; no object is.
    fn in_use(&self, vault: VaultId) -> u64 {
        let Lies { objects, checkpoints } = self.runtime.block_on(self.engine().lies_in(vec![vault])).unwrap()[&vault];
        assert_eq!(objects, 0);
        checkpoints
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

#[test]
fn a_vault_that_is_to_be_dropped_is_emptied_and_claimed_anew_where_it_stays() {
    let stand = Stand::start();
    let [main, other] = ["main", "other"].map(|name| stand.vault(name));
    let orphan = stand.folder("main").join(ColdObject::path(ColdName::random().0));
    std::fs::create_dir_all(orphan.parent().unwrap()).unwrap();
    std::fs::write(&orphan, "nobody's").unwrap();
    let clear = |vault| stand.runtime.block_on(stand.engine().clear_vault(TenantId::default(), vault));
    let claim = |name: &str| stand.folder(name).join("owner/cluster");
    {
        let _closed = stand.engine().close_vaults(vec![main]);
        clear(main).unwrap();
        assert!(!orphan.exists() && !claim("main").exists() && claim("other").exists());
        assert!(stand.engine().reign.cold.claim(main).is_none());
    }
    until("it to be claimed anew", || claim("main").exists() && stand.engine().reign.cold.claim(main).is_some());
    // So it is when an earlier attempt ended between the two: as when the bucket does not delete its claim.
    std::fs::create_dir_all(orphan.parent().unwrap()).unwrap();
    std::fs::write(&orphan, "nobody's").unwrap();
    {
        let _closed = stand.engine().close_vaults(vec![main]);
        stand.runtime.block_on(stand.engine().record_given_up(main)).unwrap();
        clear(main).unwrap();
        assert!(!orphan.exists() && !claim("main").exists());
        clear(main).unwrap();
    }
    // Whoever is about to claim it is waited for, here and where the vaults of a tenant are emptied; and nobody begins to while it is closed.
    let engine = stand.engine();
    until("it to be claimed anew", || engine.reign.cold.claim(main).is_some() && !lock(&engine.reign.cold.looking).contains(&main));
    {
        let _closed = engine.close_vaults(vec![main]);
        lock(&engine.reign.cold.looking).insert(main);
        assert!(engine.uploads_may_land(TenantId::default()));
        let waits = async { tokio::time::timeout(Duration::from_millis(100), engine.clear_vault(TenantId::default(), main)).await };
        assert!(stand.runtime.block_on(waits).is_err() && claim("main").exists());
        lock(&engine.reign.cold.looking).remove(&main);
        assert!(!engine.uploads_may_land(TenantId::default()));
        assert!(super::claims::begins_to_look(&engine, main).is_none() && !lock(&engine.reign.cold.looking).contains(&main));
    }
    // What cannot be looked at is not emptied.
    std::fs::rename(stand.folder("other"), stand.folder("away")).unwrap();
    assert!(clear(other).unwrap_err().message.contains("cannot be deleted there"));
}

#[test]
fn other_bytes_where_an_object_was_are_nothing_that_went_wrong() {
    let stand = Stand::start();
    stand.vault("main");
    let (engine, node, began) = (stand.engine(), stand.node(), tokio::time::Instant::now());
    let wrong = || ColdOutcome::Wrong("the bytes are not those of its version".into());
    let (gone, order) = stand.put_and_save("gone", node);
    let removal = engine.state().remove(TenantId::default(), &order.key, true, engine.now()).unwrap();
    stand.runtime.block_on(engine.commit(&removal)).unwrap();
    stand.ends(node, &gone, &order, wrong());
    assert_eq!(engine.reign.cold.last_error_of(TenantId::default(), began), None);
    let (there, order) = stand.put_and_save("there", node);
    stand.ends(node, &there, &order, wrong());
    assert_eq!(engine.reign.cold.last_error_of(TenantId::default(), began).as_deref(), Some("the bytes are not those of its version"));
}

#[test]
fn what_is_on_its_way_to_another_vault_leaves_memory_at_need_only() {
    let stand = Stand::start();
    stand.vault("main");
    let (engine, node, tenant, began) = (stand.engine(), stand.node(), TenantId::default(), tokio::time::Instant::now());
    let (object, order) = stand.put_and_save("a", node);
    stand.ends(node, &object, &order, ColdOutcome::Done { stored: 100 });
    stand.vault("second");
    let order = stand.offload(Some("main"), node);
    let leaves = |loss| stand.runtime.block_on(engine.reign.evictor.make_room(tenant, 1, loss, &mut 0));
    assert!(!leaves(Loss::Never));
    assert!(leaves(Loss::AtNeed));
    stand.ends(node, &object, &order, ColdOutcome::Wrong("the bytes are not those of its version".into()));
    assert_eq!(engine.reign.cold.last_error_of(tenant, began), None);
}

#[test]
fn what_an_earlier_leader_ordered_is_waited_for_as_long_as_that_one_gave_it() {
    let stand = Stand::start();
    let main = stand.vault("main");
    let said = |stand: &Stand| stand.engine().state().settings.get("job.upload_limit_ms").map(|said| said.to_string());
    until("it to be said", || said(&stand).as_deref() == Some("60000"));
    assert_eq!(stand.engine().upload_may_land_for(main), None, "nobody led before");
    let stand = stand.again(Duration::from_secs(1));
    assert!(stand.engine().upload_may_land_for(main).unwrap() > Duration::from_secs(60));
    assert_eq!((said(&stand).as_deref(), stand.engine().upload_limit()), (Some("60000"), Duration::from_secs(1)));
    // More is said before it is given.
    let stand = stand.again(Duration::from_secs(600));
    until("it to be said", || said(&stand).as_deref() == Some("600000"));
    assert_eq!(stand.engine().upload_limit(), Duration::from_secs(600));
    let left = stand.engine().upload_may_land_for(main).unwrap();
    assert!(left > Duration::from_secs(60) && left < Duration::from_secs(600), "{left:?}");
}

#[test]
fn who_reads_out_of_a_vault_right_after_the_leader_changed_waits_for_its_node() {
    let stand = Stand::start();
    stand.vault("main");
    let node = stand.node();
    let (object, _) = stand.put_and_save("a", node);
    let stand = stand.again(Duration::from_secs(60));
    let engine = stand.engine();
    let reader = || async {
        let found = reader_soon(&engine, &object, PATIENCE);
        tokio::time::timeout(Duration::from_millis(100), found).await.map_err(|_| "waits")
    };
    assert_eq!(stand.runtime.block_on(reader()), Err("waits"));
    engine.state().nodes.register(node, Said::default(), 1, engine.now());
    engine.judge();
    assert_eq!(stand.runtime.block_on(reader()), Ok(Some(node)));
}
