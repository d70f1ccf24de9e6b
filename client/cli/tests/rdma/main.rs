//! The whole store over RDMA, as real processes on real devices: `scripts/rxe-vm --net pair -- <this binary> --ignored`.

#[path = "../harness/mod.rs"]
mod harness;
mod library;
mod node;
mod settings;
mod store;
