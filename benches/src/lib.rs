//! Loads, traces and reports: what `perilune replay` and `perilune bench` do.
//!
//! ```text
//! trace/    requests of a KV cache: read from a file, or generated in the same shape
//! replay/   a trace against a store, with bytes that are all verified
//! store     put and get beside rivals and the physical floor       rivals/  how each of them is started and asked
//! transfer  the transfer engine alone, beside a plain copy and a plain socket
//! master    what questions cost a master
//! restart   how a long log of a master starts
//! commits   what masters can acknowledge, beside etcd                group, cluster  masters and nodes as processes
//! outage    masters and nodes killed and stopped under load, every acknowledged value checked
//! vault     memory to a vault and back, beside object_store used bare
//! feeds     events delivered to each kind of sink, beside the library it is made with, used bare
//! alloc     the space of a segment, in this process
//! pinned    processes on chosen cores, and the processor time they used
//! report    tables for people; latencies; the machine and the commit beside every figure
//! ```

pub mod alloc;
mod cluster;
pub mod commits;
pub mod feeds;
mod group;
pub mod master;
pub mod outage;
pub mod payload;
pub mod pinned;
pub mod random;
pub mod replay;
pub mod report;
pub mod restart;
pub mod rivals;
pub mod store;
pub mod trace;
pub mod transfer;
pub mod vault;
