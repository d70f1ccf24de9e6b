//! One round: a fault, how long until it no longer shows, and its repair.

use super::Figure;
use super::ledger::Ledger;
use super::load::Asker;
use crate::group::{Group, Nodes};
use crate::report::Latency;
use crate::rivals::Trouble;
use nix::sys::signal::Signal;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// What is done, and to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// `kill -9` of the master that leads.
    KillLeader,
    /// SIGSTOP of the master that leads; it wakes when the round is over.
    StopLeader,
    /// SIGTERM of one master after the other, and their return: a rolling restart.
    Restart,
    /// `kill -9` of a store node.
    KillNode,
    /// SIGSTOP of a store node; it wakes when the round is over.
    StopNode,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::KillLeader, Self::StopLeader, Self::Restart, Self::KillNode, Self::StopNode];

    /// The word on the command line and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::KillLeader => "kill-leader",
            Self::StopLeader => "stop-leader",
            Self::Restart => "restart",
            Self::KillNode => "kill-node",
            Self::StopNode => "stop-node",
        }
    }
}

impl FromStr for Fault {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::as_str).join(", ");
        Self::ALL.into_iter().find(|f| f.as_str() == text).ok_or_else(|| format!("`{text}` is no fault; they are {}", known()))
    }
}

pub(super) struct Round {
    fault: Fault,
    lookup: Duration,
    put: Duration,
}

impl Round {
    /// The fault, milliseconds until the lookup, and until the put.
    pub(super) fn times(&self) -> (&'static str, u64, u64) {
        let ms = |time: Duration| time.as_millis() as u64;
        (self.fault.as_str(), ms(self.lookup), ms(self.put))
    }
}

pub(super) fn run(
    fault: Fault,
    nth: usize,
    group: &mut Group,
    nodes: &mut Nodes,
    asker: &Asker,
    ledger: &Ledger,
) -> Result<Round, Trouble> {
    let leader = group.leader()?;
    let victim = match fault {
        Fault::KillNode | Fault::StopNode => nth % nodes.len(),
        Fault::Restart => nth % group.len(),
        Fault::KillLeader | Fault::StopLeader => leader,
    };
    let begun = Instant::now();
    match fault {
        Fault::KillLeader => group.signal(victim, Signal::SIGKILL)?,
        Fault::StopLeader => group.signal(victim, Signal::SIGSTOP)?,
        Fault::Restart => group.stop(victim)?,
        Fault::KillNode => nodes.kill(victim)?,
        Fault::StopNode => nodes.signal(victim, Signal::SIGSTOP)?,
    }
    asker.store.exists(&[Ledger::key(nth % ledger.len())])?;
    let lookup = begun.elapsed();
    asker.put(ledger, nth % ledger.len())?;
    let put = begun.elapsed();
    match fault {
        Fault::KillLeader | Fault::Restart => {
            group.launch(victim)?;
            group.wait_up(victim)?;
        }
        Fault::StopLeader => group.signal(victim, Signal::SIGCONT)?,
        Fault::KillNode => nodes.launch(victim)?,
        Fault::StopNode => nodes.signal(victim, Signal::SIGCONT)?,
    }
    Ok(Round { fault, lookup, put })
}

/// By kind of fault.
pub(super) fn figures(rounds: &[Round]) -> Vec<Figure> {
    let of = |fault: Fault| {
        let (mut lookup, mut put) = (Latency::default(), Latency::default());
        for round in rounds.iter().filter(|r| r.fault == fault) {
            lookup.record(round.lookup);
            put.record(round.put);
        }
        let (lookup, put) = (lookup.percentiles(), put.percentiles());
        Figure { fault: fault.as_str(), rounds: lookup.count as usize, lookup, put }
    };
    Fault::ALL.into_iter().map(of).filter(|figure| figure.rounds > 0).collect()
}
