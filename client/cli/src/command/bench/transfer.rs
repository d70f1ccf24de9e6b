//! `perilune bench transfer`: the transfer engine alone: TCP and shared memory beside a plain copy and a plain socket, RDMA beside perftest, UCX and Mooncake.

use super::{Scratch, peers, sizes, tell, this_program};
use crate::failure::Failure;
use crate::output;
use crate::settings::Global;
use crate::values::Span;
use perilune_benches::transfer::{self, rdma, single};
use perilune_client::Transports;
use perilune_protocol::{ByteSize, Protocol};
use serde_json::json;
use std::path::PathBuf;

/// Read and write of the transfer engine alone, by each transport, beside a floor
///
/// The other sides are processes of this program. TCP and shared memory stand beside a plain socket and a plain copy: each size is moved
/// with one job a call and with several; one case more moves 128 pieces of 4 KiB as one job. RDMA stands beside perftest (ib_write_bw,
/// ib_read_bw, ib_write_lat, ib_read_lat), UCX and Mooncake, where they are installed, on the same devices. Every measurement ends with bytes that
/// are written, read back and compared.
#[derive(clap::Args)]
pub(super) struct Transfer {
    /// By which transports: tcp, shm, rdma; all that this machine has, unless given
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    protocol: Vec<Protocol>,
    /// The RDMA devices of the asking side; those whose addresses share a subnet with another device, unless given
    #[arg(long, value_name = "DEVICE", value_delimiter = ',')]
    rdma_devices: Vec<String>,
    /// The RDMA devices of the other side, as many; their neighbours in the subnet, unless given
    #[arg(long, value_name = "DEVICE", value_delimiter = ',')]
    peer_rdma_devices: Vec<String>,
    /// What of RDMA to measure: write, read, write-latency, read-latency; all, unless given
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    measure: Vec<rdma::Measure>,
    /// How many pairs of RDMA devices to use at once; 1 and, where there are, 2, unless given
    #[arg(long, value_name = "COUNT", value_delimiter = ',')]
    pairs: Vec<usize>,
    /// Do not count what a gigabyte by RDMA costs, which takes longer than to measure
    #[arg(long)]
    no_counts: bool,
    /// Where `benches/peers/setup` put Mooncake; ~/.cache/perilune/peers when not given
    #[arg(long, value_name = "DIR")]
    peers: Option<PathBuf>,
    /// Rounds to count; one more is run first and not counted
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    rounds: usize,
    /// Bytes of a job, separated by commas
    #[arg(long, value_name = "SIZE", value_delimiter = ',', default_value = "4KiB,64KiB,1MiB,4MiB")]
    sizes: Vec<ByteSize>,
    /// Jobs of a call, and operations under way, in the cases with several
    #[arg(long, value_name = "COUNT", default_value_t = 16)]
    in_flight: usize,
    /// Nothing but so many operations, one after the other, by each transport, and what each costs: for callgrind and strace
    #[arg(long, value_name = "COUNT")]
    operations: Option<u64>,
    /// How long one measurement takes
    #[arg(long, value_name = "DURATION", default_value = "500ms")]
    time: Span,
}

/// Lend memory until the standard input closes: the other side of `perilune bench transfer`
#[derive(clap::Args)]
pub(super) struct Peer {
    /// Where the socket goes
    dir: PathBuf,
}

/// Lend memory by RDMA and hit back when asked: the other side of `perilune bench transfer --protocol rdma`
#[derive(clap::Args)]
pub(super) struct RdmaPeer {
    /// The devices to use
    devices: Vec<String>,
}

/// Ask a peer for what the errand says, and end: whose system calls `perilune bench transfer --protocol rdma` counts
#[derive(clap::Args)]
pub(super) struct RdmaAsk {
    /// JSON
    errand: String,
}

impl Transfer {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let sizes = sizes(&self.sizes, 64 << 20)?;
        if self.rounds == 0 || self.in_flight == 0 || self.time.0.is_zero() {
            return Err(Failure::Usage("--rounds, --in-flight and --time must be more than 0".into()));
        }
        if self.operations == Some(0) {
            return Err(Failure::Usage("--operations must be more than 0".into()));
        }
        let (over_rdma, protocols): (Vec<Protocol>, _) =
            if self.protocol.is_empty() { Transports::here().transports } else { self.protocol }
                .into_iter()
                .partition(|p| *p == Protocol::Rdma);
        let most = if over_rdma.is_empty() { transfer::LENT } else { rdma::LENT };
        if sizes.iter().any(|size| size.saturating_mul(self.in_flight) as u64 > most) {
            let most = ByteSize(most);
            return Err(Failure::Usage(format!("--sizes and --in-flight: a call moves at most {most}, take less of one of them")));
        }
        let scratch = Scratch::new(None)?;
        let options = transfer::Options {
            program: this_program()?,
            protocols,
            rounds: self.rounds,
            sizes,
            in_flight: self.in_flight,
            time: self.time.0,
            dir: scratch.dir().into(),
        };
        if let Some(count) = self.operations {
            let options = transfer::Options { protocols: [options.protocols, over_rdma].concat(), ..options };
            let costs = single::run(&options, &self.rdma_devices, &self.peer_rdma_devices, count).map_err(failed)?;
            return tell(global, &costs, &costs.costs, &json!({ "origin": costs.origin }));
        }
        if !options.protocols.is_empty() {
            let figures = transfer::run(&options).map_err(failed)?;
            tell(global, &figures, &figures.figures, &json!({ "origin": figures.origin, "pinned": figures.pinned }))?;
        }
        if !over_rdma.is_empty() {
            let options = rdma::Options {
                common: options,
                devices: self.rdma_devices,
                peer_devices: self.peer_rdma_devices,
                measures: self.measure,
                pairs: self.pairs,
                counts: !self.no_counts,
                peers: peers(self.peers),
            };
            let figures = rdma::run(&options).map_err(failed)?;
            let beside = json!({
                "origin": figures.origin, "pinned": figures.pinned, "rdma_devices": figures.devices,
                "peer_rdma_devices": figures.peer_devices, "skipped": figures.skipped,
            });
            tell(global, &figures, &figures.figures, &beside)?;
        }
        Ok(())
    }
}

impl Peer {
    pub(super) fn run(self) -> Result<(), Failure> {
        let lending = |desc: &_| output::json(desc).map_err(|_| "nobody reads the segment".into());
        transfer::serve(&self.dir, lending, std::io::stdin()).map_err(failed)
    }
}

impl RdmaPeer {
    pub(super) fn run(self) -> Result<(), Failure> {
        let tell = |text: &str| output::line(text).map_err(|_| "nobody reads what the peer says".into());
        rdma::serve(&self.devices, tell, std::io::stdin().lock()).map_err(failed)
    }
}

impl RdmaAsk {
    pub(super) fn run(self) -> Result<(), Failure> {
        rdma::ask(&self.errand).map_err(failed)
    }
}

fn failed(trouble: perilune_benches::rivals::Trouble) -> Failure {
    Failure::Failed(trouble.to_string())
}
