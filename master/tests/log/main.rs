//! The log as its users see it: order, group commit, restart, snapshots, kill, damage, full disks, and groups of members.

mod cluster;
mod damage;
mod full;
mod group;
mod growth;
mod kill;
mod lag;
mod machine;
mod net;
mod old;
mod order;
mod processes;
mod reading;
mod snapshots;
#[path = "../wait/mod.rs"]
mod wait;
