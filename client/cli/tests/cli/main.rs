//! The real binary, as real processes: each command once, bad input and its exit code, kill -9 and back.

mod access;
mod bad;
mod bench;
mod clusters;
mod cold;
mod coldkeys;
mod commands;
mod crash;
mod full;
mod group;
#[path = "../harness/mod.rs"]
mod harness;
mod jobs;
mod members;
mod pools;
mod probe;
mod restore;
#[allow(dead_code, reason = "each test binary uses its part")]
#[path = "../../../vault/tests/vault/s3d.rs"]
mod s3d;
mod status;
mod tenants;
mod vaultpage;
mod vaults;
