//! The log as its users see it: order, group commit, restart, snapshots, kill, damage, full disks.

mod damage;
mod full;
mod kill;
mod machine;
mod old;
mod order;
mod snapshots;
