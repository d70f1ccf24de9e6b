//! `perilune master`: keeps the metadata.

use super::client::TokenArgs;
use super::vaultfile::restored_from;
use crate::failure::Failure;
use crate::output;
use crate::serve::{self, Stop};
use crate::settings::Global;
use crate::values::{Peer, Span};
use perilune_client::token;
use perilune_master::log::{Durability, Keeps};
use perilune_master::{MasterConfig, Placement};
use perilune_protocol::ByteSize;
use perilune_protocol::access::Token;
use serde_json::json;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Run a master: it knows which object lies where
#[derive(clap::Args)]
pub(crate) struct Master {
    /// Where the log is kept, in the subdirectory `master`
    #[arg(long, value_name = "DIR", default_value = "./perilune-data")]
    data_dir: PathBuf,
    /// Where HTTP listens; several addresses may be given, separated by commas
    #[arg(long, value_name = "ADDR", value_delimiter = ',', default_value = "127.0.0.1:9003")]
    http: Vec<SocketAddr>,
    #[command(flatten)]
    rules: MasterArgs,
    #[command(flatten)]
    vaults: VaultArgs,
    #[command(flatten)]
    group: GroupArgs,
    #[command(flatten)]
    token: TokenArgs,
    /// Allow listening beyond loopback without a token, so that nobody is asked who they are
    #[arg(long)]
    insecure: bool,
    /// Write the addresses here, as JSON, once the master is up, leading or not
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
}

/// Which group of masters this one belongs to. Count only for a new data directory, except for where it listens: the log remembers.
#[derive(clap::Args)]
struct GroupArgs {
    /// This master's number in its group
    #[arg(long, value_name = "N", default_value_t = 1)]
    id: u64,
    /// Every master of the group, this one too, the same list for all: its number, where the others call it, where clients call it,
    /// and where its HTTP is called if that is not the first of its --http; without it, this master is alone
    #[arg(long, value_name = "N=HOST:PORT/RPC-HOST:PORT[/HTTP-HOST:PORT]", value_delimiter = ',')]
    peers: Vec<Peer>,
    /// Where the other masters call
    #[arg(long, value_name = "ADDR")]
    peer_listen: Option<SocketAddr>,
    /// Join a running group, as a learner that votes once it keeps up: the HTTP address of one of its masters, or of several
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', requires = "peer_listen", conflicts_with = "peers")]
    join: Vec<String>,
    /// With --join: do not vote, until `perilune members promote`
    #[arg(long, requires = "join")]
    learner: bool,
    /// Begin a new group, of this master alone, with what a file of /snapshot/dump holds, or with the newest checkpoint in a vault, in a new
    /// data directory; the group has a new id unless --cluster gives it one, which must not be that of the group this is of
    #[arg(long, value_name = "FILE|vault://NAME", conflicts_with_all = ["peers", "join"])]
    restore: Option<PathBuf>,
    /// With --restore vault://NAME: a file that says where the vault NAME is and what opens it, TOML or JSON
    #[arg(long, value_name = "FILE", requires = "restore")]
    vault_file: Option<PathBuf>,
    /// With --restore vault://NAME: have the vault even if the cluster it belongs to was at work there a moment ago; that one brings nothing
    /// there any more
    #[arg(long, requires = "restore")]
    take_over: bool,
    /// The group's id, the same for all: any UUID, such as `uuidgen` prints
    #[arg(long, value_name = "UUID")]
    cluster: Option<Uuid>,
    /// How often the leader is heard by the other masters
    #[arg(long, value_name = "DURATION", default_value = "50ms")]
    raft_heartbeat: Span,
    /// When a leader that is not heard is replaced: each master waits for a time of its own between the two
    #[arg(long, value_name = "FROM,TO", value_delimiter = ',', num_args = 1..=2, default_values = ["250ms", "500ms"])]
    raft_election: Vec<Span>,
}

/// The rules a master keeps; `perilune dev` takes them too.
#[derive(clap::Args)]
pub(crate) struct MasterArgs {
    /// Where RPC listens
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:50051")]
    rpc: SocketAddr,
    /// When a put counts as done: when the log is on disk (quorum-fsync), in the page cache and flushed every 100 ms (quorum), or in this process (leader)
    #[arg(long, value_name = "WHEN", default_value = "quorum")]
    durability: Durability,
    /// For how long a lookup keeps an object readable
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    lease: Span,
    /// When a put that was started and not ended is given up
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    put_discard: Span,
    /// When the room of a put that was given up is used again
    #[arg(long, value_name = "DURATION", default_value = "10m")]
    put_release: Span,
    /// How long a store node may take to bring an object to a vault, and longer by a second for each 8 MiB
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    upload_limit: Span,
    /// How often a store node must be heard; where there are several masters, it notices within so long that another leads
    #[arg(long, value_name = "DURATION", default_value = "250ms")]
    heartbeat: Span,
    /// When reads begin to avoid a silent store node
    #[arg(long, value_name = "DURATION", default_value = "2s")]
    suspect_after: Span,
    /// When the copies on a silent store node count as gone
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    lost_after: Span,
    /// The share of the memory that may be used before the oldest objects leave, 0.05 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.9)]
    eviction_high_watermark: f64,
    /// Make a snapshot, and cut the log, after so many entries
    #[arg(long, value_name = "COUNT", default_value_t = 100_000)]
    snapshot_entries: u64,
    /// Refuse puts while less than this is free on the disk of the log, so that it never fills up; 0: until it is full
    #[arg(long, value_name = "SIZE", default_value = "64MiB")]
    log_reserve: ByteSize,
    /// What happened can be read back (`perilune watch`, changefeeds) as far as so much of the log goes; 0: no further than the log needs it
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    event_log_bytes: ByteSize,
    /// The same while somebody needs it: a changefeed, or whoever holds a safepoint
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    event_log_max_bytes: ByteSize,
    /// How long a changefeed may hold what it has not delivered, running, stopped or failed; one that lags more has failed
    #[arg(long, value_name = "DURATION", default_value = "24h")]
    feed_gc_ttl: Span,
    /// A file that holds the token of the meta service (/MetaService/http/...?token=), 16 to 1024 characters; without it
    /// PERILUNE_META_TOKEN holds the token itself, and without both only the admin's opens it
    #[arg(long, value_name = "FILE")]
    meta_token_file: Option<PathBuf>,
    /// A file that holds the key which secrets are sealed with (32 bytes, or 64 hexadecimal digits), the same for all masters, and with a comma
    /// the one before it, which still opens; a master alone makes its own, secret.key in its data directory
    #[arg(long, value_name = "FILE[,OLDER]", value_delimiter = ',')]
    secret_key_file: Vec<PathBuf>,
    /// Which segment takes a new object: random, free-ratio-first or local-first
    #[arg(long, value_name = "RULE", default_value = "random")]
    placement: Placement,
}

/// What may be a vault; all who use vaults take it.
#[derive(clap::Args)]
pub(crate) struct VaultArgs {
    /// Vaults may be directories below this one; without it, none. The same for masters and store nodes
    #[arg(long, value_name = "DIR")]
    pub(crate) vault_root: Option<PathBuf>,
}

impl MasterArgs {
    pub(crate) fn config(
        &self,
        data_dir: &Path,
        http: Vec<SocketAddr>,
        token: Option<Token>,
        insecure: bool,
    ) -> Result<MasterConfig, Failure> {
        let config = MasterConfig {
            data_dir: serve::role_dir(data_dir, "master"),
            rpc: self.rpc,
            http,
            durability: self.durability,
            lease: self.lease.0,
            put_discard: self.put_discard.0,
            put_release: self.put_release.0,
            upload_limit: self.upload_limit.0,
            heartbeat: self.heartbeat.0,
            suspect_after: self.suspect_after.0,
            lost_after: self.lost_after.0,
            eviction_high_watermark: self.eviction_high_watermark,
            placement: self.placement,
            snapshot_entries: self.snapshot_entries,
            log_reserve: self.log_reserve.0,
            event_log: Keeps { whoever: self.event_log_bytes.0, most: self.event_log_max_bytes.0 },
            feed_gc_ttl: self.feed_gc_ttl.0,
            meta_token: token::find_meta(self.meta_token_file.as_deref()).map_err(Failure::Usage)?,
            secret_key_files: self.secret_key_file.clone(),
            token,
            insecure,
            ..MasterConfig::default()
        };
        config.check().map_err(Failure::Usage)?;
        Ok(config)
    }
}

impl Master {
    pub(crate) fn run(self, global: &Global) -> Result<(), Failure> {
        let runtime = serve::runtime()?;
        let stop = Stop::listen(&runtime)?;
        let GroupArgs { id, peers, peer_listen, join, learner, restore, vault_file, take_over, cluster, raft_heartbeat, raft_election } =
            self.group;
        let [Span(from), Span(to)] = raft_election[..] else {
            return Err(Failure::Usage("--raft-election takes the shortest and the longest time, such as 250ms,500ms".into()));
        };
        let config = MasterConfig {
            member: id,
            peers: peers.into_iter().map(|peer| peer.0).collect(),
            peer_listen,
            cluster,
            join,
            learner,
            restore: restore.map(|from| restored_from(from, vault_file.as_deref(), take_over)).transpose()?,
            vault_root: self.vaults.vault_root,
            raft_heartbeat: raft_heartbeat.0,
            raft_election: (from, to),
            ..self.rules.config(&self.data_dir, self.http, self.token.find()?, self.insecure)?
        };
        config.check().map_err(Failure::Usage)?;
        let master = perilune_master::Master::start(config).map_err(|e| Failure::Failed(e.to_string()))?;
        let addresses = json!({ "rpc": master.rpc_addr(), "http": master.http_addrs() });
        serve::say_ready(self.ready_file.as_deref(), &addresses)?;
        if global.json {
            output::json(&addresses)?;
        } else {
            output::line(format_args!("perilune master: RPC on {}, HTTP on {:?}", master.rpc_addr(), master.http_addrs()))?;
        }
        stop.wait(&runtime);
        master.stop();
        Ok(())
    }
}
