//! `perilune bench vault`: memory to a vault and back.

use super::{Scratch, sizes, tell, this_program};
use crate::failure::Failure;
use crate::settings::Global;
use perilune_benches::vault::{self, Bucket, Place};
use perilune_protocol::ByteSize;
use serde_json::json;
use std::path::PathBuf;

/// Bytes a second from memory to a vault and back, beside `object_store` used bare on the same vault
///
/// Starts a master and a store node of this build on free ports of loopback. The vaults are a directory, and a bucket where one is given.
#[derive(clap::Args)]
pub(super) struct Vault {
    /// Rounds to count; one more is run first and not counted
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    rounds: usize,
    /// Sizes of objects, separated by commas
    #[arg(long, value_name = "SIZE", value_delimiter = ',', default_value = "64KiB,1MiB,16MiB")]
    sizes: Vec<ByteSize>,
    /// Objects on their way at a time; a store node has no more than 32 uploads
    #[arg(long, value_name = "COUNT", default_value_t = 16)]
    in_flight: usize,
    /// Bytes of the objects of one measurement; memory for three times as much is needed
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    bytes: ByteSize,
    /// Where the vault that is a directory is made; on a disk both sides wait for it
    #[arg(long, value_name = "DIR", default_value = "/dev/shm")]
    dir: PathBuf,
    /// Measure with a bucket of this S3 service, such as http://127.0.0.1:9000, as well
    #[arg(long, value_name = "URL", requires_all = ["bucket", "ak"], conflicts_with = "s3d")]
    endpoint: Option<String>,
    /// Its bucket, where the folders `bare` and `ours` are emptied
    #[arg(long, value_name = "NAME")]
    bucket: Option<String>,
    /// The access key's name; its secret is PERILUNE_VAULT_SK
    #[arg(long, value_name = "NAME")]
    ak: Option<String>,
    /// Measure with the S3 server of the tests as well: `scripts/s3d`, built with --release
    #[arg(long, value_name = "FILE")]
    s3d: Option<PathBuf>,
}

impl Vault {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let sizes = sizes(&self.sizes, 64 << 20)?;
        if self.rounds == 0 || !(1..=256).contains(&self.in_flight) {
            return Err(Failure::Usage("--rounds must be more than 0, --in-flight between 1 and 256".into()));
        }
        let mut places = vec![Place::Directory(self.dir.clone())];
        if let (Some(endpoint), Some(bucket), Some(ak)) = (self.endpoint, self.bucket, self.ak) {
            let sk = std::env::var("PERILUNE_VAULT_SK").map_err(|e| Failure::of("PERILUNE_VAULT_SK", e))?;
            places.push(Place::Bucket(Bucket { endpoint, bucket, ak, sk }));
        }
        places.extend(self.s3d.map(|program| Place::Served { program, below: self.dir }));
        let scratch = Scratch::new(None)?;
        let options = vault::Options {
            program: this_program()?,
            rounds: self.rounds,
            sizes,
            in_flight: self.in_flight,
            bytes: self.bytes.0,
            places,
            dir: scratch.dir().into(),
        };
        let figures = vault::run(&options).map_err(|e| Failure::Failed(e.to_string()))?;
        tell(global, &figures, &figures.figures, &json!({ "origin": figures.origin, "in_flight": figures.in_flight }))
    }
}
