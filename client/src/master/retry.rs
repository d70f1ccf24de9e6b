//! Which master to ask, and which calls may be repeated, and when.
//!
//! Every question of the protocol may be repeated: reading changes nothing, and the others name what they change
//! (a version, a segment, a key). What a repetition can blur is only *who* did it, so [`Repeated`] is told to those who care.

use super::{Caller, Link, Look};
use perilune_protocol::rpc::Call;
use perilune_protocol::rpc::session::Welcome;
use perilune_protocol::{Fault, FaultCode, Outcome};
use std::cell::RefCell;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The first pause between two attempts; doubled up to [`PAUSE_MAX`], which is what a caller may come late to a new leader.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// One attempt at connecting and saying hello takes no longer; where there are several masters no longer than [`SILENCE`], so that the next
/// one of the list gets its turn.
const ATTEMPT_MAX: Duration = Duration::from_secs(2);
/// A master that lets a question wait for so long may have been stopped: where there are several, the next one is asked. Doubled with each
/// asking, so that what really takes long is answered in the end. As long as masters take to elect another leader, by default.
const SILENCE: Duration = Duration::from_millis(500);
/// Looking elsewhere while a master is silent waits no longer for each of the others.
const GLANCE: Duration = Duration::from_millis(100);

/// What is said on every new connection before anyone else may use it.
pub(crate) type Greeting = Box<dyn Fn(&Link, Instant) -> Outcome<()> + Send + Sync>;

/// The connection to a master that leads, which of the masters it is, and what it said of itself.
type Found = (usize, Link, Welcome);

/// Whether a question was asked more than once, so that its effect may be the earlier asking's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Repeated(pub(crate) bool);

/// The masters of a cluster, and the connection to the one that answered.
pub(crate) struct Master {
    addresses: Vec<String>,
    caller: Caller,
    greeting: Option<Greeting>,
    state: Mutex<State>,
    /// Told when `connecting` turns false.
    settled: Condvar,
}

struct State {
    link: Option<Arc<Link>>,
    /// Which master is tried first: the one after that which failed last.
    first: usize,
    welcome: Option<Welcome>,
    /// One caller connects; the others wait for it.
    connecting: bool,
}

impl Master {
    pub(crate) fn new(addresses: Vec<String>, caller: Caller, greeting: Option<Greeting>) -> Outcome<Self> {
        if addresses.is_empty() {
            return Err(FaultCode::InvalidParams.with("no master is named: give at least one host:port"));
        }
        // Told now, since no amount of trying would cure it.
        let is_address = |a: &str| a.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if let Some(bad) = addresses.iter().find(|a| !is_address(a)) {
            return Err(
                FaultCode::InvalidParams.with(format!("`{bad}` is not the address of a master: write host:port, such as 127.0.0.1:50051"))
            );
        }
        let state = Mutex::new(State { link: None, first: 0, welcome: None, connecting: false });
        Ok(Self { addresses, caller, greeting, state, settled: Condvar::new() })
    }

    /// Asks until an answer comes or the deadline passes.
    pub(crate) fn call<C: Call>(&self, question: &C, deadline: Instant) -> Outcome<C::Reply> {
        self.call_noting(question, deadline).0
    }

    /// As [`Master::call`], and says whether the question was repeated.
    pub(crate) fn call_noting<C: Call>(&self, question: &C, deadline: Instant) -> (Outcome<C::Reply>, Repeated) {
        self.call_by(C::LONG, deadline, |link, until, look| link.call_looking(question, until, look))
    }

    /// As [`Master::call_noting`]; `ask` asks once, on the connection it is given, waits no longer than it is told, and should look elsewhere
    /// while it waits. What is `long` is waited for as long as there is time.
    pub(crate) fn call_by<R>(
        &self,
        long: bool,
        deadline: Instant,
        ask: impl Fn(&Link, Instant, Look<'_>) -> Result<Outcome<R>, Fault>,
    ) -> (Outcome<R>, Repeated) {
        let started = Instant::now();
        let (mut pause, mut repeated) = (PAUSE_MIN, Repeated(false));
        let mut patience = if self.addresses.len() > 1 && !long { SILENCE } else { Duration::MAX };
        loop {
            let until = Instant::now().checked_add(patience).map_or(deadline, |until| until.min(deadline));
            let fault = match self.link(deadline) {
                Ok(link) => match ask(&link, until, &|| self.looks_elsewhere(&link, deadline)) {
                    // It led when it said hello. What it began before it lost the lead may have been done all the same.
                    Ok(Err(fault)) if fault.code == FaultCode::NotLeader => {
                        self.leave(&link);
                        repeated = Repeated(true);
                        fault
                    }
                    Ok(answer) => return (answer, repeated),
                    Err(fault) if fault.code == FaultCode::Timeout && until < deadline => {
                        self.leave(&link);
                        (patience, repeated) = (patience * 2, Repeated(true));
                        continue;
                    }
                    Err(fault) => {
                        self.drop_link(&link, &fault);
                        repeated = Repeated(true);
                        fault
                    }
                },
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
        self.lock().welcome.clone()
    }

    /// Makes sure that there is a connection, with one attempt at each master.
    pub(crate) fn reach(&self, deadline: Instant) -> Outcome<()> {
        self.link(deadline).map(drop)
    }

    /// Runs the greeting again on the present connection.
    pub(crate) fn greet_again(&self, deadline: Instant) -> Outcome<()> {
        let link = self.link(deadline)?;
        match &self.greeting {
            Some(greeting) => greeting(&link, deadline).inspect_err(|fault| self.drop_link(&link, fault)),
            None => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn drop_link(&self, link: &Arc<Link>, fault: &Fault) {
        // A late answer does not make the connection bad; everything else does.
        if fault.code != FaultCode::Timeout {
            self.leave(link);
        }
    }

    /// Gives a connection up; the next one is sought at the next master.
    fn leave(&self, link: &Arc<Link>) {
        let mut state = self.lock();
        if state.link.take_if(|present| Arc::ptr_eq(present, link)).is_some() {
            state.first = (state.first + 1) % self.addresses.len();
        }
    }

    fn link(&self, deadline: Instant) -> Outcome<Arc<Link>> {
        let mut state = self.lock();
        loop {
            if let Some(link) = &state.link {
                return Ok(Arc::clone(link));
            }
            if !state.connecting {
                state.connecting = true;
                let first = state.first;
                drop(state);
                let found = self.connect(first, deadline);
                state = self.lock();
                state.connecting = false;
                self.settled.notify_all();
                return Ok(state.take(found?));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(FaultCode::Unreachable.with(format!("still connecting to {}", self.addresses.join(", "))));
            }
            state = self.settled.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// One attempt at each master, in the order given, from the `first` on. Worth repeating when it is for any of them.
    fn connect(&self, first: usize, deadline: Instant) -> Outcome<Found> {
        let mut failures: Vec<Fault> = Vec::new();
        for nth in (0..self.addresses.len()).cycle().skip(first).take(self.addresses.len()) {
            let until = deadline.min(Instant::now() + if self.addresses.len() > 1 { SILENCE } else { ATTEMPT_MAX });
            let elsewhere = RefCell::new(None);
            let look = || {
                *elsewhere.borrow_mut() = self.glance(nth, deadline);
                elsewhere.borrow().is_some()
            };
            let opened = self.open(nth, until, deadline, &look);
            if let Some(found) = elsewhere.into_inner() {
                return Ok(found);
            }
            match opened {
                Ok(found) => return Ok(found),
                // All masters of a group ask for the same token.
                Err(fault) if fault.code == FaultCode::Unauthorized => return Err(fault),
                // A master that is silent at hello is as good as away.
                Err(fault) if fault.code == FaultCode::Timeout => failures.push(FaultCode::Unreachable.with(fault.message)),
                Err(fault) => failures.push(fault),
            }
        }
        let hopeless = failures.iter().all(|f| !may_pass(f.code));
        let code = failures.first().filter(|_| hopeless).map_or(FaultCode::Unreachable, |f| f.code);
        let told: Vec<String> = failures.into_iter().map(|f| f.message).collect();
        Err(code.with(told.join("; ")))
    }

    fn open(&self, nth: usize, until: Instant, deadline: Instant, look: Look<'_>) -> Outcome<Found> {
        let (link, welcome) = Link::open(&self.addresses[nth], &self.caller, until, look)?;
        if let Some(greeting) = &self.greeting {
            greeting(&link, deadline)?;
        }
        Ok((nth, link, welcome))
    }

    /// Whether another than the `silent` master leads. A stopped one keeps its connections, and answers on them when it wakes: only the others
    /// can tell that it was replaced.
    fn glance(&self, silent: usize, deadline: Instant) -> Option<Found> {
        let others = (0..self.addresses.len()).cycle().skip(silent + 1).take(self.addresses.len() - 1);
        others.into_iter().find_map(|nth| self.open(nth, deadline.min(Instant::now() + GLANCE), deadline, &|| false).ok())
    }

    /// No answer comes over `link`. True when another master leads, which from now on is the one that is asked.
    fn looks_elsewhere(&self, link: &Arc<Link>, deadline: Instant) -> bool {
        let mut state = self.lock();
        let present = state.link.as_ref().is_some_and(|present| Arc::ptr_eq(present, link));
        // One caller looks for all of them.
        if state.connecting || !present {
            return !present;
        }
        state.connecting = true;
        let silent = state.first;
        drop(state);
        let found = self.glance(silent, deadline);
        state = self.lock();
        state.connecting = false;
        self.settled.notify_all();
        let Some(found) = found else { return false };
        state.take(found);
        drop(state);
        link.abandon("it is silent, and another one leads");
        true
    }
}

impl State {
    fn take(&mut self, (nth, link, welcome): Found) -> Arc<Link> {
        self.first = nth;
        self.welcome = Some(welcome);
        Arc::clone(self.link.insert(Arc::new(link)))
    }
}

/// Whether another attempt may succeed.
fn may_pass(code: FaultCode) -> bool {
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
                    let outcome = master.call_by(true, soon(), |link, until, look| link.call_looking(&QUESTION, until, look));
                    assert_eq!(outcome, (Ok(5), Repeated(true)));
                });
            }
        });
        assert_eq!((hellos.load(Ordering::Relaxed), greeted.load(Ordering::Relaxed)), (3, 2), "one looks for all of them");
    }

    #[test]
    fn what_repeating_will_not_cure_is_said_at_once() {
        let other = fake::master(|mut peer: Peer| peer.send(b"SSH-2.0-OpenSSH_9.2p1\r\n"));
        let master = Master::new(vec![other], fake::caller(), None).unwrap();
        assert_eq!(master.call(&QUESTION, soon()).unwrap_err().code, FaultCode::NotSupported);
    }
}
