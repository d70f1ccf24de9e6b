//! The real binary, as real processes: each command once, bad input and its exit code, kill -9 and back.

mod access;
mod backends;
mod bad;
mod bench;
mod checkpoint;
mod claims;
mod clusters;
mod cold;
mod coldjobs;
mod coldkeys;
mod coldloss;
mod coldmoved;
mod commands;
mod crash;
mod feeds;
mod full;
mod group;
#[path = "../harness/mod.rs"]
mod harness;
mod health;
mod jobs;
#[cfg(feature = "kafka")]
mod kafka;
mod keys;
mod killed;
mod members;
mod pools;
mod probe;
mod raw;
mod reseal;
mod restore;
#[allow(dead_code, reason = "each test binary uses its part")]
#[path = "../../../vault/tests/vault/s3d.rs"]
mod s3d;
mod status;
mod sync;
mod tables;
mod tenants;
mod through;
mod vaultpage;
mod vaults;
mod watch;
