//! Which calls may be repeated, and when.
//!
//! Every question of the protocol may be repeated: reading changes nothing, and the others name what they change
//! (a version, a segment, a key). What a repetition can blur is only *who* did it, so [`Repeated`] is told to those who care.

use super::group::{Greeting, Group};
use super::{Caller, Link, Look};
use perilune_protocol::rpc::Call;
use perilune_protocol::rpc::session::Welcome;
use perilune_protocol::{Fault, FaultCode, Outcome};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// The first pause between two attempts; doubled up to [`PAUSE_MAX`], which is what a caller may come late to a new leader.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// A master that is silent for so long may have been stopped: where there are several, the next one is asked. Doubled with each
/// asking, so that what really takes long is answered in the end. As long as masters take to elect another leader, by default.
const SILENCE: Duration = Duration::from_millis(500);

/// Whether a question was asked more than once, so that its effect may be the earlier asking's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Repeated(pub(crate) bool);

/// The masters of a cluster, as those who ask see them.
pub(crate) struct Master {
    /// Shared with the thread that looks past a silent master.
    group: Arc<Group>,
}

impl Master {
    pub(crate) fn new(addresses: Vec<String>, caller: Caller, greeting: Option<Greeting>) -> Outcome<Self> {
        Ok(Self { group: Arc::new(Group::new(addresses, caller, greeting)?) })
    }

    /// Asks until an answer comes or the deadline passes.
    pub(crate) fn call<C: Call>(&self, question: &C, deadline: Instant) -> Outcome<C::Reply> {
        self.call_noting(question, deadline).0
    }

    /// As [`Master::call`], and says whether the question was repeated.
    pub(crate) fn call_noting<C: Call>(&self, question: &C, deadline: Instant) -> (Outcome<C::Reply>, Repeated) {
        self.call_by(C::LONG, deadline, |link, _, look| link.call_looking(question, look))
    }

    /// As [`Master::call_noting`]; `ask` asks once, on the connection it is given, and waits no longer than it is told; or else it looks
    /// elsewhere, and waits until nothing came for a while. What is `long` is waited for as long as there is time.
    pub(crate) fn call_by<R>(
        &self,
        long: bool,
        deadline: Instant,
        ask: impl Fn(&Link, Instant, Look<'_>) -> Result<Outcome<R>, Fault>,
    ) -> (Outcome<R>, Repeated) {
        let started = Instant::now();
        let (mut pause, mut repeated) = (PAUSE_MIN, Repeated(false));
        let mut patience = if self.group.has_others() && !long { SILENCE } else { Duration::MAX };
        loop {
            let fault = match self.group.link(deadline) {
                Ok(link) => {
                    let asked = Instant::now();
                    let until = asked.checked_add(patience).map_or(deadline, |until| until.min(deadline));
                    let elsewhere = |heard| self.group.look_past(&link, heard);
                    let look = Look { deadline, patience, unsuspicious: self.group.unsuspicious, elsewhere: &elsewhere };
                    match ask(&link, until, look) {
                        // It led when it said hello. What it began before it lost the lead may have been done all the same.
                        Ok(Err(fault)) if fault.code == FaultCode::NotLeader => {
                            self.group.leave(&link);
                            repeated = Repeated(true);
                            fault
                        }
                        Ok(answer) => return (answer, repeated),
                        Err(fault) if fault.code == FaultCode::Timeout && Instant::now() < deadline => {
                            // What answers others is slow, and another connection would not make it faster.
                            if link.heard().is_none_or(|heard| heard.max(asked).elapsed() >= patience) {
                                self.group.leave(&link);
                            }
                            (patience, repeated) = (patience.saturating_mul(2), Repeated(true));
                            continue;
                        }
                        Err(fault) => {
                            self.group.drop_link(&link, &fault);
                            repeated = Repeated(true);
                            fault
                        }
                    }
                }
                Err(fault) => fault,
            };
            if !may_pass(fault.code) {
                return (Err(fault), repeated);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left <= pause {
                return (Err(gave_up(&fault, started.elapsed())), repeated);
            }
            thread::sleep(pause);
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// What the master last said of itself.
    pub(crate) fn welcome(&self) -> Option<Welcome> {
        self.group.welcome()
    }

    /// Makes sure that there is a connection, with one attempt at each master.
    pub(crate) fn reach(&self, deadline: Instant) -> Outcome<()> {
        self.group.link(deadline).map(drop)
    }

    /// Runs the greeting again on the present connection.
    pub(crate) fn greet_again(&self, deadline: Instant) -> Outcome<()> {
        self.group.greet_again(deadline)
    }
}

/// Whether another attempt may succeed.
pub(super) fn may_pass(code: FaultCode) -> bool {
    matches!(code, FaultCode::Unreachable | FaultCode::NotLeader)
}

fn gave_up(fault: &Fault, after: Duration) -> Fault {
    let seconds = after.as_secs_f64();
    fault.code.with(format!("no master answered within {seconds:.1} s: {}; check that `perilune master` runs there", fault.message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::master::fake::{self, Peer};
    use perilune_protocol::rpc::object::MatchPrefix;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const QUESTION: MatchPrefix = MatchPrefix { keys: Vec::new() };

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    fn answers(mut peer: Peer) {
        let _left = peer.hello();
        while let Some(asked) = peer.ask() {
            peer.answer(&asked, Ok(5u64));
        }
    }

    #[test]
    fn a_master_that_is_down_is_named_when_the_deadline_passes() {
        let address = fake::nobody();
        let master = Master::new(vec![address.clone()], fake::caller(), None).unwrap();
        let fault = master.call(&QUESTION, Instant::now() + Duration::from_millis(60)).unwrap_err();
        assert_eq!(fault.code, FaultCode::Unreachable);
        assert!(fault.message.contains(&address) && fault.message.contains("perilune master"), "{fault}");
        assert!(Master::new(Vec::new(), fake::caller(), None).is_err());
    }

    #[test]
    fn a_question_whose_answer_was_lost_is_asked_again_and_says_so() {
        let address = fake::master(|mut peer: Peer| {
            peer.hello().unwrap();
            if peer.nth == 0 {
                peer.ask().unwrap(); // and closes without an answer
                return;
            }
            while let Some(asked) = peer.ask() {
                peer.answer(&asked, Ok(5u64));
            }
        });
        let master = Master::new(vec![address], fake::caller(), None).unwrap();
        assert_eq!(master.call_noting(&QUESTION, soon()), (Ok(5), Repeated(true)));
        assert_eq!(master.call_noting(&QUESTION, soon()), (Ok(5), Repeated(false)));
        assert_eq!(master.welcome(), Some(fake::welcome()));
    }

    #[test]
    fn the_first_master_that_answers_is_taken_by_all_callers() {
        let greetings = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&greetings);
        let greeting: Greeting = Box::new(move |link, deadline| {
            counted.fetch_add(1, Ordering::Relaxed);
            assert_eq!(link.call(&QUESTION, deadline)?, Ok(5));
            Ok(())
        });
        let addresses = vec![fake::nobody(), "no such host:1".into(), fake::master(answers)];
        let master = Master::new(addresses, fake::caller(), Some(greeting)).unwrap();
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert_eq!(master.call(&QUESTION, soon()), Ok(5)));
            }
        });
        assert_eq!(greetings.load(Ordering::Relaxed), 1, "one connection, greeted once");
        master.greet_again(soon()).unwrap();
        assert_eq!(greetings.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_master_that_does_not_lead_sends_to_the_next_and_one_that_is_silent_is_left() {
        let follower = fake::master(|mut peer: Peer| {
            let asked = peer.ask().unwrap();
            peer.answer::<Welcome>(&asked, Err(FaultCode::NotLeader.with("another master leads")));
        });
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        // Leads at first, then is stopped: it takes questions and answers none.
        let stopped = fake::master(move |mut peer: Peer| {
            let _left = peer.hello();
            while let Some(question) = peer.ask() {
                if counted.fetch_add(1, Ordering::Relaxed) == 0 {
                    peer.answer(&question, Ok(4u64));
                }
            }
        });
        // Loses the lead between two questions.
        let deposed = fake::master(|mut peer: Peer| {
            let _left = peer.hello();
            let Some(question) = peer.ask() else { return };
            peer.answer::<u64>(&question, Err(FaultCode::NotLeader.with("not any more")));
        });
        let master = Master::new(vec![follower, stopped, deposed, fake::master(answers)], fake::caller(), None).unwrap();
        assert_eq!(master.call_noting(&QUESTION, soon()), (Ok(4), Repeated(false)));
        assert_eq!(master.call_noting(&QUESTION, soon()), (Ok(5), Repeated(true)));
        assert_eq!(master.call_noting(&QUESTION, soon()), (Ok(5), Repeated(false)));
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_stopped_master_is_left_when_another_leads_even_by_those_who_are_patient() {
        let stopped = fake::master(|mut peer: Peer| {
            let _left = peer.hello();
            while peer.ask().is_some() {}
        });
        let hellos = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&hellos);
        let elected = fake::master(move |mut peer: Peer| match counted.fetch_add(1, Ordering::Relaxed) {
            0 | 1 => {
                let asked = peer.ask().unwrap();
                peer.answer::<Welcome>(&asked, Err(FaultCode::NotLeader.with("no leader is known")));
            }
            _ => answers(peer),
        });
        let greeted = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&greeted);
        let greeting: Greeting = Box::new(move |_, _| {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(())
        });
        let master = Master::new(vec![stopped, fake::nobody(), elected], fake::caller(), Some(greeting)).unwrap();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    // Waits for as long as there is time: what is asked again after a while would not show it.
                    let outcome = master.call_by(true, soon(), |link, _, look| link.call_looking(&QUESTION, look));
                    assert_eq!(outcome, (Ok(5), Repeated(true)));
                });
            }
        });
        assert_eq!((hellos.load(Ordering::Relaxed), greeted.load(Ordering::Relaxed)), (3, 2), "one looks for all of them");
    }

    #[test]
    fn a_master_that_answers_others_is_slow_and_neither_left_nor_looked_past() {
        // Keeps a question that names a key until a second has passed, and answers all others.
        let slow = fake::master(|mut peer: Peer| {
            let _left = peer.hello();
            let (mut kept, until) = (None, Instant::now() + 2 * SILENCE);
            while let Some(asked) = peer.ask() {
                if !asked.read::<MatchPrefix>().keys.is_empty() {
                    kept = Some(asked);
                    continue;
                }
                peer.answer(&asked, Ok(6u64));
                if let Some(kept) = kept.take_if(|_| Instant::now() >= until) {
                    peer.answer(&kept, Ok(5u64));
                }
            }
        });
        let strangers = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&strangers);
        let other = fake::master(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let master = Master::new(vec![slow, other], fake::caller(), None).unwrap();
        master.reach(soon()).unwrap();
        thread::scope(|scope| {
            let question = MatchPrefix { keys: vec![perilune_protocol::ObjectKey::from("k")] };
            let kept = scope.spawn(|| master.call_noting(&{ question }, soon()));
            while !kept.is_finished() {
                assert_eq!(master.call_noting(&QUESTION, soon()), (Ok(6), Repeated(false)));
            }
            assert_eq!(kept.join().unwrap(), (Ok(5), Repeated(false)));
        });
        assert_eq!(strangers.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_repeating_will_not_cure_is_said_at_once() {
        let other = fake::master(|mut peer: Peer| peer.send(b"SSH-2.0-OpenSSH_9.2p1\r\n"));
        let master = Master::new(vec![other], fake::caller(), None).unwrap();
        assert_eq!(master.call(&QUESTION, soon()).unwrap_err().code, FaultCode::NotSupported);
    }
}
