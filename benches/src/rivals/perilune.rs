//! This build: a master and a store node as processes of their own, and the client library in this process.

use super::{Bench, Case, Connection, Rival, START, Sample, Setting, Trouble, measure};
use crate::pinned::Process;
use perilune_client::{Store, StoreConfig};
use perilune_protocol::{ObjectKey, Protocol, PutConfig};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A master, a store node, a client.
pub struct Perilune {
    protocol: Protocol,
    bench: Bench,
    link: Link,
}

struct Link {
    store: Store,
    node: Process,
    master: Process,
}

/// Bytes the store node lends: room for the working sets of all sizes and the puts of two rounds.
const SEGMENT: &str = "6GiB";

impl Perilune {
    /// Starts it.
    pub fn start(setting: &Setting<'_>, protocol: Protocol) -> Result<Self, Trouble> {
        let dir = setting.dir.join(protocol.as_str());
        std::fs::create_dir_all(&dir)?;
        let start = |role: &str, flags: &[&str]| -> Result<(Process, serde_json::Value), Trouble> {
            let ready = dir.join(format!("{role}.ready"));
            let mut command = Command::new(setting.program);
            command.arg(role).args(flags).arg("--data-dir").arg(&dir).arg("--ready-file").arg(&ready);
            command.args(["--http", "127.0.0.1:0"]).stdin(Stdio::null()).stdout(Stdio::null());
            let mut process = Process::start(&mut command, setting.server_core.as_slice())?;
            process.wait_until(&format!("perilune {role}"), START, || ready.exists())?;
            Ok((process, serde_json::from_slice(&std::fs::read(&ready)?)?))
        };
        let (master, addresses) = start("master", &["--rpc", "127.0.0.1:0"])?;
        let rpc = addresses["rpc"].as_str().ok_or("perilune master wrote no RPC address into its ready file")?.to_owned();
        let (node, _) = start("store", &["--master", &rpc, "--segment-size", SEGMENT, "--free-on-stop", "--protocol", protocol.as_str()])?;
        let config =
            StoreConfig { masters: vec![rpc], agent: "perilune-bench".into(), transports: vec![protocol], ..StoreConfig::default() };
        let store = Store::connect(config)?;
        Ok(Self { protocol, bench: Bench::default(), link: Link { store, node, master } })
    }
}

impl Rival for Perilune {
    fn name(&self) -> String {
        format!("perilune {}", self.protocol)
    }

    fn measure(&mut self, case: &Case, time: Duration) -> Result<Sample, Trouble> {
        measure(&mut self.bench, &mut self.link, case, time)
    }
}

impl Connection for Link {
    fn put(&mut self, keys: &[String], value: &[u8]) -> Result<(), Trouble> {
        if let [key] = keys {
            self.store.put(&ObjectKey::from(key.as_str()), value, &PutConfig::default())?;
            return Ok(());
        }
        let items: Vec<(ObjectKey, &[u8])> = keys.iter().map(|key| (ObjectKey::from(key.as_str()), value)).collect();
        self.store.put_batch(&items, &PutConfig::default()).into_iter().try_for_each(|outcome| outcome.map(drop))?;
        Ok(())
    }

    fn get(&mut self, keys: &[String], into: &mut [u8]) -> Result<(), Trouble> {
        if let [key] = keys {
            self.store.get_into(&ObjectKey::from(key.as_str()), into)?;
            return Ok(());
        }
        let size = into.len() / keys.len();
        let mut items: Vec<(ObjectKey, &mut [u8])> =
            keys.iter().map(|key| ObjectKey::from(key.as_str())).zip(into.chunks_mut(size)).collect();
        self.store.get_batch_into(&mut items).into_iter().try_for_each(|outcome| outcome.map(drop))?;
        Ok(())
    }

    fn forget(&mut self, prefix: &str, _keys: &[String]) -> Result<(), Trouble> {
        self.store.remove_matching(&format!("^{prefix}"), true)?;
        Ok(())
    }

    fn servers(&self) -> Vec<u32> {
        vec![self.node.pid(), self.master.pid()]
    }
}
