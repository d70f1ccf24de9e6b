//! The settings of a master.

use crate::api::serve::Limits;
use crate::log::{Durability, Keeps, Member, Members};
use crate::retrieve::Restore;
use perilune_protocol::access::{Access, Token};
use perilune_state::Rules;
use perilune_state::place::Placement;
use perilune_state::segments::nodes::Silence;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use uuid::Uuid;

/// Everything a master is started with.
#[derive(Clone, Debug)]
pub struct MasterConfig {
    /// Where the log and its snapshots live.
    pub data_dir: PathBuf,
    /// Where clients and store nodes call. Port 0 takes a free one.
    pub rpc: SocketAddr,
    /// Where HTTP is served; every listener serves every face.
    pub http: Vec<SocketAddr>,
    /// What survives a power loss; a killed process loses nothing either way.
    pub durability: Durability,
    /// A snapshot is made after so many log entries.
    pub snapshot_entries: u64,
    /// Bytes that should stay free where the log lives: with less, puts are refused. 0: any will do.
    pub log_reserve: u64,
    /// What happened can be read back as far as so many bytes of the log go; beyond what the log itself needs.
    pub event_log: Keeps,
    /// How long a lookup keeps an object readable.
    pub lease: Duration,
    /// After this a put that was not ended may be discarded.
    pub put_discard: Duration,
    /// After this the space of a discarded put is reused.
    pub put_release: Duration,
    /// A store node may take so long to bring an object to a vault, and longer by a second for each 8 MiB. Before a dropped tenant is forgotten, what
    /// an earlier leader ordered has this time to end, and half of it to be carried out.
    pub upload_limit: Duration,
    /// How often nodes are to be heard.
    pub heartbeat: Duration,
    /// Silence after which reads avoid a node.
    pub suspect_after: Duration,
    /// Silence after which a node's replicas are gone unless it returns.
    pub lost_after: Duration,
    /// Share of the mounted memory above which objects are evicted, 0 to 1.
    pub eviction_high_watermark: f64,
    /// How segments are chosen.
    pub placement: Placement,
    /// This master's id in its group, at least 1.
    pub member: u64,
    /// The masters of the group as it begins, this one among them, the same for all; empty: this one alone. `address` is where a master's
    /// log is called by the others, `service` where clients call it.
    pub peers: Vec<Member>,
    /// Where the other masters call; needed in a group.
    pub peer_listen: Option<SocketAddr>,
    /// The group's id, the same for all its masters; one alone makes its own.
    pub cluster: Option<Uuid>,
    /// HTTP addresses of masters of a running group that takes this one in. Counts only for a new data directory.
    pub join: Vec<String>,
    /// Begins a new group of one with what a file or a vault holds, in a new data directory. `cluster`, if given, must not be that of the group
    /// this is of.
    pub restore: Option<Restore>,
    /// Join without a vote, until somebody promotes this master.
    pub learner: bool,
    /// A leader is heard by the other masters this often.
    pub raft_heartbeat: Duration,
    /// A leader that was not heard for so long is replaced; each master draws a time of its own between the two.
    pub raft_election: (Duration, Duration),
    /// `host:port` where people reach this master's HTTP, where that is not the first of `http`.
    pub http_at: Option<String>,
    /// Opens the meta service (`/MetaService/http/...?token=`); without it only `token` does.
    pub meta_token: Option<Token>,
    /// The key that secrets in the directory are sealed with, the same for all masters, and the one before it; one alone makes its own.
    pub secret_key_files: Vec<PathBuf>,
    /// Vaults may be directories below this one; without it, none.
    pub vault_root: Option<PathBuf>,
    /// What a connection over HTTP may take.
    pub http_limits: Limits,
    /// How long a changefeed waits after an error before it tries again; twice as long each time, up to ten minutes.
    pub feed_backoff: Duration,
    /// What a sink is asked just when its changefeed is paused or deleted is waited for so long, and then broken off.
    pub feed_patience: Duration,
    /// A changefeed that lags so far behind, and was not resumed within it, is given up.
    pub feed_gc_ttl: Duration,
    /// Asked of every caller, over RPC and HTTP.
    pub token: Option<Token>,
    /// Allow listeners beyond loopback without a token, so that nobody is asked who they are.
    pub insecure: bool,
}

impl Default for MasterConfig {
    fn default() -> Self {
        Self {
            data_dir: "perilune-data".into(),
            rpc: ([127, 0, 0, 1], 50051).into(),
            http: vec![([127, 0, 0, 1], 9003).into()],
            durability: Durability::Quorum,
            snapshot_entries: 100_000,
            log_reserve: 64 << 20,
            event_log: Keeps { whoever: 256 << 20, most: 1 << 30 },
            lease: Duration::from_secs(10),
            put_discard: Duration::from_secs(30),
            put_release: Duration::from_secs(600),
            upload_limit: Duration::from_secs(60),
            heartbeat: Duration::from_millis(250),
            suspect_after: Duration::from_secs(2),
            lost_after: Duration::from_secs(10),
            eviction_high_watermark: 0.9,
            placement: Placement::Random,
            member: 1,
            peers: Vec::new(),
            peer_listen: None,
            cluster: None,
            join: Vec::new(),
            restore: None,
            learner: false,
            raft_heartbeat: Duration::from_millis(50),
            raft_election: (Duration::from_millis(250), Duration::from_millis(500)),
            http_at: None,
            meta_token: None,
            secret_key_files: Vec::new(),
            vault_root: None,
            http_limits: Limits::default(),
            feed_backoff: Duration::from_secs(10),
            feed_patience: Duration::from_secs(10),
            feed_gc_ttl: Duration::from_secs(86_400),
            token: None,
            insecure: false,
        }
    }
}

impl MasterConfig {
    /// Says which setting cannot be, and why.
    pub fn check(&self) -> Result<(), String> {
        let watermark = self.eviction_high_watermark;
        if !(0.05..=1.0).contains(&watermark) {
            return Err(format!("eviction-high-watermark is {watermark}; it must be between 0.05 and 1"));
        }
        if self.lost_after <= self.suspect_after || self.suspect_after < self.heartbeat {
            return Err(format!(
                "heartbeat {:?}, suspect-after {:?}, lost-after {:?}: each must be longer than the one before",
                self.heartbeat, self.suspect_after, self.lost_after
            ));
        }
        if self.put_release < self.put_discard {
            return Err(format!("put-release {:?} must not be shorter than put-discard {:?}", self.put_release, self.put_discard));
        }
        if self.upload_limit < Duration::from_secs(1) {
            return Err(format!("upload-limit is {:?}: with less than a second nothing is brought to a vault", self.upload_limit));
        }
        if self.feed_gc_ttl.is_zero() {
            return Err("feed-gc-ttl is nothing: then every changefeed has failed as soon as it is behind".into());
        }
        self.check_group()?;
        let access = self.access();
        std::iter::once(&self.rpc).chain(&self.http).chain(&self.peer_listen).try_for_each(|at| access.may_listen(*at))
    }

    fn check_group(&self) -> Result<(), String> {
        let me = self.member;
        if !self.join.is_empty() && (!self.peers.is_empty() || self.peer_listen.is_none()) {
            return Err("to join a group (--join), a master needs a place where the others call it (--peer-listen), and no --peers: \
                        the group says who they are"
                .into());
        }
        if self.restore.is_some() && !(self.join.is_empty() && self.peers.is_empty()) {
            return Err("a snapshot is restored as a new group of one (--restore without --peers and --join): others join it then".into());
        }
        let (shortest, longest) = self.raft_election;
        if shortest < self.raft_heartbeat * 2 || longest <= shortest || self.raft_heartbeat.is_zero() {
            return Err(format!(
                "raft-heartbeat {:?}, raft-election {shortest:?} to {longest:?}: an election must wait for two heartbeats at least, and its \
                 second time be the longer one",
                self.raft_heartbeat
            ));
        }
        if self.peers.is_empty() {
            return if me == 0 { Err("member ids begin at 1".into()) } else { Ok(()) };
        }
        let members = Members::begin(self.peers.clone())?;
        if members.get(me).is_none() {
            return Err(format!("this master has the id {me}, which is not among its peers: name every master there, this one too"));
        }
        if let Some(lacking) = self.peers.iter().find(|m| m.address.is_empty() || m.service.is_empty()) {
            return Err(format!("master {} needs an address for its peers and one for clients", lacking.id));
        }
        if self.peers.len() > 1 && (self.peer_listen.is_none() || self.cluster.is_none()) {
            return Err(
                "a group of masters needs a place where the peers call (--peer-listen) and an id that all of them are given (--cluster)"
                    .into(),
            );
        }
        Ok(())
    }

    /// What is asked of callers.
    pub fn access(&self) -> Access {
        Access::new(self.token.clone(), self.insecure)
    }

    /// Where the others, clients and people find this master: as its peers are told, or else where it listens. An address that stands for
    /// every interface is replaced by the host at which the peers call. HTTP on loopback is not told to peers that call from elsewhere.
    pub(crate) fn card(&self, rpc: SocketAddr, http: Option<SocketAddr>, peer_listen: Option<SocketAddr>) -> Member {
        let told = self.peers.iter().find(|m| m.id == self.member).cloned().unwrap_or_default();
        let or = |told: String, heard: Option<String>| if told.is_empty() { heard.unwrap_or_default() } else { told };
        let address = or(told.address, peer_listen.filter(|at| !at.ip().is_unspecified()).map(|at| at.to_string()));
        let host = address.rsplit_once(':').map(|(host, _)| host);
        let reached = |at: SocketAddr| match host {
            Some(host) if at.ip().is_unspecified() => format!("{host}:{}", at.port()),
            _ => at.to_string(),
        };
        let beyond = host.is_some_and(|host| !is_loopback(host));
        let http = or(self.http_at.clone().unwrap_or(told.http), http.filter(|at| !(beyond && at.ip().is_loopback())).map(reached));
        let service = or(told.service, Some(reached(rpc)));
        Member { id: self.member, address, service, http, rises: false }
    }

    /// The part the brain decides by.
    pub fn rules(&self) -> Rules {
        let ms = |d: Duration| perilune_protocol::Millis::from(d).0;
        let silence = Silence { suspect_ms: ms(self.suspect_after), lost_ms: ms(self.lost_after) };
        Rules {
            lease_ms: ms(self.lease),
            put_discard_ms: ms(self.put_discard),
            put_release_ms: ms(self.put_release),
            silence,
            placement: self.placement,
        }
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.trim_matches(['[', ']']).parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_brought_to_a_vault_within_less_than_a_second() {
        let checked = |ms| MasterConfig { upload_limit: Duration::from_millis(ms), ..MasterConfig::default() }.check();
        assert_eq!(checked(1000), Ok(()));
        assert!(checked(999).unwrap_err().starts_with("upload-limit is 999ms"), "{:?}", checked(999));
    }

    #[test]
    fn http_on_loopback_is_not_told_to_peers_on_other_machines() {
        let at = |text: &str| Some(text.parse().unwrap());
        let card = |config: &MasterConfig, http, peers| config.card(([127, 0, 0, 1], 50051).into(), at(http), at(peers)).http;
        let plain = MasterConfig::default();
        for (http, peers, told) in [
            ("127.0.0.1:9003", "10.0.0.1:7000", ""),
            ("127.0.0.1:9003", "[fd00::1]:7000", ""),
            ("127.0.0.1:9003", "127.0.0.7:7000", "127.0.0.1:9003"),
            ("[::1]:9003", "[::1]:7000", "[::1]:9003"),
            ("127.0.0.1:9003", "0.0.0.0:7000", "127.0.0.1:9003"),
            ("0.0.0.0:9003", "10.0.0.1:7000", "10.0.0.1:9003"),
            ("10.0.0.1:9003", "10.0.0.1:7000", "10.0.0.1:9003"),
        ] {
            assert_eq!(card(&plain, http, peers), told, "HTTP at {http}, called by the others at {peers}");
        }
        let named = MasterConfig { http_at: Some("master-1:80".into()), ..plain.clone() };
        assert_eq!(card(&named, "127.0.0.1:9003", "10.0.0.1:7000"), "master-1:80");
        let peer = Member { id: 1, address: "master-1:7000".into(), ..Member::default() };
        assert_eq!(card(&MasterConfig { peers: vec![peer], ..plain }, "127.0.0.1:9003", "0.0.0.0:7000"), "");
    }
}
