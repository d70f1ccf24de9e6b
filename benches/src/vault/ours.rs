//! This build: a master and a store node as processes of their own, with a vault, and a reader in this process.

use super::place::{At, Bucket, Prepared};
use super::{Bytes, Duration, Mover, Options, Trouble, touched};
use crate::group::request;
use crate::pinned::Process;
use futures_util::TryStreamExt;
use object_store::ObjectStore;
use perilune_client::{Store, StoreConfig};
use perilune_protocol::rpc::cold::Offload;
use perilune_protocol::{ByteSize, ObjectKey, Outcome, PutConfig};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

/// Only what hangs takes so long.
const PATIENCE: Duration = Duration::from_secs(120);
/// Its HTTP listeners ask for it, here and nowhere else.
const TOKEN: &str = "perilune-bench-vault";
/// Readers, each with a batch of as many objects as may be on their way: while one copies, the other waits for the vault.
const READERS: usize = 2;

/// What crowds the objects out of memory, and how many of it between two looks at whether they are.
const FILLER_BYTES: usize = 4 << 20;
const FILLERS: usize = 4;

pub(super) struct Ours {
    store: Store,
    /// The vault as others see it.
    vault: Arc<dyn ObjectStore>,
    http: SocketAddr,
    keys: Vec<ObjectKey>,
    /// What had left memory before these were put.
    before: u64,
    in_flight: usize,
    _node: Process,
    _master: Process,
}

impl Ours {
    pub(super) fn start(options: &Options, place: &Prepared, dir: &Path) -> Result<Self, Trouble> {
        let start = |role: &str, flags: &[&str]| -> Result<(Process, Value), Trouble> {
            let ready = dir.join(format!("{role}.ready"));
            let mut command = Command::new(&options.program);
            command.args([role, "--http", "127.0.0.1:0"]).args(flags).env("PERILUNE_META_TOKEN", TOKEN);
            if let At::Directory(root) = &place.at {
                command.arg("--vault-root").arg(root);
            }
            command.arg("--data-dir").arg(dir.join(role)).arg("--ready-file").arg(&ready);
            let log = std::fs::File::create(dir.join(format!("{role}.log")))?;
            let mut process = Process::start(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log), &[])?;
            process.wait_until(&format!("perilune {role}"), PATIENCE, || ready.exists())?;
            Ok((process, serde_json::from_slice(&std::fs::read(&ready)?)?))
        };
        let address = |addresses: &Value, name: &str| {
            addresses.pointer(name).and_then(Value::as_str).map(str::to_owned).ok_or_else(|| format!("no address {name} in a ready file"))
        };
        // What one round brings there is twice in memory for a moment: as what was put, and as what was read back.
        let largest = options.sizes.iter().map(|size| (size * options.objects(*size)) as u64).max().unwrap_or(0);
        let memory = 3 * largest;
        let (master, told) = start("master", &["--rpc", "127.0.0.1:0", "--lease", "1s"])?;
        let (rpc, http) = (address(&told, "/rpc")?, address(&told, "/http/0")?);
        let (node, _) =
            start("store", &["--master", &rpc, "--segment-size", &ByteSize(memory).to_string(), "--free-on-stop", "--protocol", "shm"])?;
        let mut add = Command::new(&options.program);
        add.args(["vaults", "add", "default", "bench", "--prefix", "ours", "--http", &http]).env("PERILUNE_META_TOKEN", TOKEN);
        match &place.at {
            At::Directory(dir) => add.arg("--dir").arg(dir),
            At::Bucket(Bucket { endpoint, bucket, ak, sk }) => {
                add.args(["--endpoint", endpoint, "--bucket", bucket, "--ak", ak]).env("PERILUNE_VAULT_SK", sk)
            }
        };
        let added = add.output()?;
        if !added.status.success() {
            return Err(format!("the vault could not be added: {}", String::from_utf8_lossy(&added.stderr)).into());
        }
        let config = StoreConfig { masters: vec![rpc], agent: "perilune-bench".into(), deadline: PATIENCE, ..StoreConfig::default() };
        let store = Store::connect(config)?;
        let (vault, http, in_flight) = (place.store("ours")?, http.parse()?, options.in_flight);
        let ours = Self { store, vault, http, keys: Vec::new(), before: 0, in_flight, _node: node, _master: master };
        // Nothing is brought there but what is measured.
        ours.ask("POST", "/config/set", &json!({ "key": "offload_above_percent", "value": "100" }).to_string())?;
        Ok(ours)
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> Result<String, Trouble> {
        Ok(request(self.http, method, path, body, PATIENCE).ok_or_else(|| format!("{path} was not answered"))?)
    }

    fn metric(&self, name: &str) -> Result<u64, Trouble> {
        let page = self.ask("GET", "/metrics", "")?;
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.ok_or_else(|| format!("the master has no {name}"))?.trim().parse()?)
    }

    /// Objects that have left memory for the vault so far.
    fn demoted(&self) -> Result<u64, Trouble> {
        self.metric("perilune_demoted_total")
    }

    /// Puts other values until all of the objects, of so many bytes, are in the vault only and there is room for them again. The memory stays, so
    /// that its pages are mapped by those who use it, as they are in a store that has run for a while.
    fn crowd_out(&self, before: u64, bytes: u64) -> Result<(), Trouble> {
        let filler = vec![7; FILLER_BYTES];
        let began = Instant::now();
        let mut keys: Vec<ObjectKey> = Vec::new();
        while self.demoted()? < before + self.keys.len() as u64 {
            if began.elapsed() > PATIENCE {
                return Err("what is in the vault does not leave memory".into());
            }
            for _ in 0..FILLERS {
                keys.push(format!("bench/filler/{}", keys.len()).as_str().into());
                self.store.put(&keys[keys.len() - 1], &filler, &PutConfig::default())?;
            }
        }
        // Some have left by themselves.
        self.store.remove(&keys, true);
        while self.metric("perilune_used_bytes")? + 2 * bytes > self.metric("perilune_capacity_bytes")? {
            if began.elapsed() > PATIENCE {
                return Err("what was removed stays in memory".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Mover for Ours {
    fn offload(&mut self, values: &[Bytes]) -> Result<Duration, Trouble> {
        self.before = self.demoted()?;
        self.keys = (0..values.len()).map(|nth| format!("bench/vault/{}/{nth:06}", values[0].len()).as_str().into()).collect();
        for (key, value) in self.keys.iter().zip(values) {
            self.store.put(key, value, &PutConfig::default())?;
        }
        let began = Instant::now();
        loop {
            let found = self.store.call(&Offload { wait_ms: 60_000 })?;
            if found.left == 0 {
                return Ok(began.elapsed());
            }
            if began.elapsed() > PATIENCE {
                return Err(format!("{} objects were not brought to the vault: {}", found.left, found.last_error).into());
            }
        }
    }

    fn read_back(&mut self, values: &[Bytes]) -> Result<Duration, Trouble> {
        self.crowd_out(self.before, values.iter().map(|value| value.len() as u64).sum())?;
        let mut buffers = touched(values);
        let each = values.len().div_ceil(READERS);
        let began = Instant::now();
        let (store, in_flight) = (&self.store, self.in_flight);
        std::thread::scope(|scope| {
            let readers: Vec<_> = self
                .keys
                .chunks(each)
                .zip(buffers.chunks_mut(each))
                .map(|(keys, buffers)| {
                    scope.spawn(move || -> Outcome<()> {
                        for (keys, buffers) in keys.chunks(in_flight).zip(buffers.chunks_mut(in_flight)) {
                            let mut items: Vec<_> = keys.iter().cloned().zip(buffers.iter_mut().map(Vec::as_mut_slice)).collect();
                            store.get_batch_into(&mut items).into_iter().try_for_each(|outcome| outcome.map(drop))?;
                        }
                        Ok(())
                    })
                })
                .collect();
            readers.into_iter().try_for_each(|reader| reader.join().unwrap_or_else(|_| panic!("a reader panicked")))
        })?;
        let took = began.elapsed();
        if buffers == values { Ok(took) } else { Err("the store gave other bytes than were put".into()) }
    }

    fn forget(&mut self) -> Result<(), Trouble> {
        self.store.remove(&self.keys, true).into_iter().collect::<Outcome<Vec<()>>>()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let folder = object_store::path::Path::from("objects");
        let began = Instant::now();
        // What nothing refers to is deleted behind the caller's back, which is not to meet the next measurement.
        while !runtime.block_on(self.vault.list(Some(&folder)).try_collect::<Vec<_>>())?.is_empty() {
            if began.elapsed() > PATIENCE {
                return Err("what was removed stays in the vault".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}
