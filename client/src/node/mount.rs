//! Lends a segment and takes it back: first the memory, then the master; and the other way round.

use super::Node;
use super::lending::Wish;
use perilune_protocol::rpc::segment::Unmount as Question;
use perilune_protocol::{FaultCode, Outcome, Protocol, SegmentDesc, SegmentId};
use std::time::{Duration, Instant};

/// Where the memory of a segment came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Made by this node.
    Allocated,
    /// An object that was there.
    Shared,
}

/// What became of each segment of an unmount.
pub(crate) type Unmount = Vec<Outcome<()>>;

impl Node {
    pub(crate) fn mount(&self, size: u64, protocol: Option<Protocol>, location: &str) -> Outcome<Vec<SegmentDesc>> {
        check_size(size)?;
        let wish = Wish { protocol: protocol.unwrap_or(self.config.protocol), location };
        let segments = self.lending.allocate(size, &wish)?;
        self.announce(segments)
    }

    pub(crate) fn mount_shm(
        &self,
        name: &str,
        offset: u64,
        size: u64,
        protocol: Option<Protocol>,
        location: &str,
    ) -> Outcome<Vec<SegmentDesc>> {
        check_size(size)?;
        let wish = Wish { protocol: protocol.unwrap_or(self.config.protocol), location };
        let segments = self.lending.adopt(name.strip_prefix('/').unwrap_or(name), offset, size, &wish)?;
        self.announce(segments)
    }

    fn announce(&self, segments: Vec<SegmentDesc>) -> Outcome<Vec<SegmentDesc>> {
        let deadline = Instant::now() + self.config.deadline;
        match self.announcer.mount(&self.master, &segments, deadline) {
            Ok(()) => Ok(segments),
            // A connection made meanwhile has announced them.
            Err(fault) if fault.code == FaultCode::SegmentExists => Ok(segments),
            Err(fault) => {
                let ids: Vec<SegmentId> = segments.iter().map(|desc| desc.id).collect();
                self.lending.free(&ids);
                Err(fault)
            }
        }
    }

    /// `origin` refuses segments that came from elsewhere.
    pub(crate) fn unmount(&self, ids: &[SegmentId], grace: Duration, origin: Option<Origin>) -> Unmount {
        let mut outcomes: Unmount = ids.iter().map(|id| self.check_mounted(*id, grace, origin)).collect();
        let mut leaving: Vec<SegmentId> = ids.iter().zip(&outcomes).filter(|(_, o)| o.is_ok()).map(|(id, _)| *id).collect();
        leaving.sort_unstable();
        leaving.dedup();
        if leaving.is_empty() {
            return outcomes;
        }
        let answers = self.leave(&leaving, grace);
        for (id, outcome) in ids.iter().zip(&mut outcomes).filter(|(_, outcome)| outcome.is_ok()) {
            *outcome = match (&answers, leaving.binary_search(id)) {
                (Ok(answers), Ok(at)) => answers[at].clone(),
                (Err(fault), _) => Err(fault.clone()),
                (Ok(_), Err(_)) => Ok(()),
            };
        }
        outcomes
    }

    fn leave(&self, ids: &[SegmentId], grace: Duration) -> Outcome<Unmount> {
        // Noted before the question: should the process die in between, the master's answer at the next start decides.
        self.lending.set_leaving(ids, true)?;
        let question = Question { segments: ids.to_vec(), grace_ms: u64::try_from(grace.as_millis()).unwrap_or(u64::MAX) };
        let mut answers = match self.master.call(&question, Instant::now() + self.config.deadline) {
            Ok(answers) if answers.len() == ids.len() => answers,
            Ok(answers) => {
                self.lending.set_leaving(ids, false)?;
                return Err(FaultCode::Internal.with(format!("the master gave {} answers for {} segments", answers.len(), ids.len())));
            }
            Err(fault) => {
                self.lending.set_leaving(ids, false)?;
                return Err(fault);
            }
        };
        let (mut gone, mut staying) = (Vec::new(), Vec::new());
        for (id, answer) in ids.iter().zip(&mut answers) {
            match answer {
                Ok(()) if grace.is_zero() => gone.push(*id),
                Ok(()) => {}
                // Not there any more: what was asked for.
                Err(fault) if fault.code == FaultCode::SegmentNotFound => {
                    gone.push(*id);
                    *answer = Ok(());
                }
                Err(_) => staying.push(*id),
            }
        }
        if !staying.is_empty() {
            self.lending.set_leaving(&staying, false)?;
        }
        self.lending.free(&gone);
        Ok(answers)
    }

    fn check_mounted(&self, id: SegmentId, grace: Duration, origin: Option<Origin>) -> Outcome<()> {
        let Some(kept) = self.lending.kept(id) else {
            return Err(FaultCode::SegmentNotFound.with(format!("segment {id} is not mounted on this node")));
        };
        match origin {
            Some(Origin::Allocated) if !kept.owned => {
                Err(FaultCode::InvalidParams.with(format!("segment {id} was mounted by /api/mount_shm: use /api/unmount_shm")))
            }
            Some(Origin::Shared) if kept.owned => {
                Err(FaultCode::InvalidParams.with(format!("segment {id} was mounted by /api/mount: use /api/unmount")))
            }
            _ if kept.leaving && !grace.is_zero() => {
                Err(FaultCode::WrongState.with(format!("segment {id} is leaving already; grace 0 unmounts it at once")))
            }
            _ => Ok(()),
        }
    }
}

fn check_size(size: u64) -> Outcome<()> {
    if size == 0 { Err(FaultCode::InvalidParams.with("the size is 0: lend at least one byte")) } else { Ok(()) }
}
