//! Which master to ask: the connection to the one that leads, and how another is found.

use super::retry::may_pass;
use super::silence::{Looks, UNSUSPICIOUS, doubled, spread};
use super::{Caller, Link};
use perilune_protocol::rpc::session::Welcome;
use perilune_protocol::{Fault, FaultCode, Outcome};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// One attempt at connecting and saying hello takes no longer. Where there are several masters, the first attempts are shorter, so that the
/// next one of the list gets its turn.
const ATTEMPT_MAX: Duration = Duration::from_secs(2);
const ATTEMPT_MIN: Duration = Duration::from_millis(250);
/// Looking past a silent master waits no longer for each of the others.
const GLANCE: Duration = Duration::from_millis(100);
/// Who was found to lead is greeted within this, or not taken.
const GREETING: Duration = Duration::from_millis(500);

/// What is said on every new connection before anyone else may use it.
pub(crate) type Greeting = Box<dyn Fn(&Link, Instant) -> Outcome<()> + Send + Sync>;

/// The connection to a master that leads, which of the masters it is, and what it said of itself.
type Found = (usize, Link, Welcome);

pub(super) struct Group {
    addresses: Vec<Address>,
    caller: Caller,
    greeting: Option<Greeting>,
    /// So long an answer may take before [`Group::look_past`].
    pub(super) unsuspicious: Duration,
    state: Mutex<State>,
    /// Told when `connecting` turns false.
    settled: Condvar,
}

struct Address {
    name: String,
    /// What the name stood for; empty when that is to be asked again.
    resolved: Mutex<Vec<SocketAddr>>,
}

struct State {
    link: Option<Arc<Link>>,
    /// Which master is tried first: the one after that which failed last.
    first: usize,
    welcome: Option<Welcome>,
    /// One caller connects, or one thread looks past a silent master; all others wait for what it finds.
    connecting: bool,
    /// Rounds of [`Group::connect`] since one succeeded that found a master silent.
    fruitless: u32,
    looks: Looks,
}

impl Group {
    pub(super) fn new(addresses: Vec<String>, caller: Caller, greeting: Option<Greeting>) -> Outcome<Self> {
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
        let addresses = addresses.into_iter().map(|name| Address { name, resolved: Mutex::default() }).collect();
        let state = Mutex::new(State { link: None, first: 0, welcome: None, connecting: false, fruitless: 0, looks: Looks::default() });
        Ok(Self { addresses, caller, greeting, unsuspicious: spread(UNSUSPICIOUS), state, settled: Condvar::new() })
    }

    pub(super) fn has_others(&self) -> bool {
        self.addresses.len() > 1
    }

    /// What the master last said of itself.
    pub(super) fn welcome(&self) -> Option<Welcome> {
        self.lock().welcome.clone()
    }

    /// Runs the greeting again on the present connection.
    pub(super) fn greet_again(&self, deadline: Instant) -> Outcome<()> {
        let link = self.link(deadline)?;
        match &self.greeting {
            Some(greeting) => greeting(&link, deadline).inspect_err(|fault| self.drop_link(&link, fault)),
            None => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn drop_link(&self, link: &Arc<Link>, fault: &Fault) {
        // A late answer does not make the connection bad; everything else does.
        if fault.code != FaultCode::Timeout {
            self.leave(link);
        }
    }

    /// Gives a connection up; the next one is sought at the next master.
    pub(super) fn leave(&self, link: &Arc<Link>) {
        let mut state = self.lock();
        if state.link.take_if(|present| Arc::ptr_eq(present, link)).is_some() {
            state.first = (state.first + 1) % self.addresses.len();
        }
    }

    /// The present connection, or a new one: with one attempt at each master.
    pub(super) fn link(&self, deadline: Instant) -> Outcome<Arc<Link>> {
        let mut state = self.lock();
        loop {
            if let Some(link) = &state.link {
                return Ok(Arc::clone(link));
            }
            if !state.connecting {
                state.connecting = true;
                let first = state.first;
                let nth = state.fruitless + 1;
                let attempt = if self.has_others() { spread(doubled(ATTEMPT_MIN, nth, ATTEMPT_MAX)) } else { ATTEMPT_MAX };
                drop(state);
                let began = Instant::now();
                let found = self.connect(first, attempt, deadline);
                state = self.settle();
                if found.is_err() && began.elapsed() >= attempt {
                    state.fruitless = nth;
                }
                return Ok(state.take(found?));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(FaultCode::Unreachable.with(format!("still connecting to {}", self.names())));
            }
            state = self.settled.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// One attempt at each master, in the order given, from the `first` on. Worth repeating when it is for any of them.
    fn connect(&self, first: usize, attempt: Duration, deadline: Instant) -> Outcome<Found> {
        let mut failures: Vec<Fault> = Vec::new();
        for nth in (0..self.addresses.len()).cycle().skip(first).take(self.addresses.len()) {
            match self.open(nth, deadline.min(Instant::now() + attempt), deadline) {
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

    /// Connects until `until`, and greets until `greeted`.
    fn open(&self, nth: usize, until: Instant, greeted: Instant) -> Outcome<Found> {
        let address = &self.addresses[nth];
        let opened = Link::open(&address.name, &address.resolve()?, &self.caller, until);
        let (link, welcome) = opened.inspect_err(|fault| address.doubt(fault))?;
        if let Some(greeting) = &self.greeting {
            greeting(&link, greeted)?;
        }
        Ok((nth, link, welcome))
    }

    /// Nobody hears anything from the master of `link`, the last time when it was `heard`. A stopped one keeps its connections, and answers on
    /// them when it wakes: only the others can tell that it was replaced. They are asked from time to time, by a thread of its own, while
    /// callers go on to wait; when one leads, `link` is abandoned for it.
    pub(super) fn look_past(self: &Arc<Self>, link: &Arc<Link>, heard: Option<Instant>) {
        let mut state = self.lock();
        let present = state.link.as_ref().is_some_and(|present| Arc::ptr_eq(present, link));
        if !self.has_others() || !present || state.connecting || !state.looks.take(Instant::now(), heard) {
            return;
        }
        state.connecting = true;
        let silent = state.first;
        drop(state);
        let (group, link) = (Arc::clone(self), Arc::clone(link));
        let look = move || {
            let mut others = (1..group.addresses.len()).map(|n| (silent + n) % group.addresses.len());
            let glance = |nth| {
                let now = Instant::now();
                group.open(nth, now + GLANCE, now + GLANCE + GREETING).ok()
            };
            let found = others.find_map(glance);
            let mut state = group.settle();
            if let Some(found) = found {
                state.take(found);
                drop(state);
                link.abandon("it is silent, and another one leads");
            }
        };
        if thread::Builder::new().name("look-past".into()).spawn(look).is_err() {
            // Without room for a thread there is another look later.
            drop(self.settle());
        }
    }

    /// Who connected, or looked, is done.
    fn settle(&self) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        state.connecting = false;
        self.settled.notify_all();
        state
    }

    fn names(&self) -> String {
        let names: Vec<&str> = self.addresses.iter().map(|address| address.name.as_str()).collect();
        names.join(", ")
    }
}

impl Address {
    fn resolve(&self) -> Outcome<Vec<SocketAddr>> {
        let mut resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        if resolved.is_empty() {
            let unknown = |e| FaultCode::Unreachable.with(format!("master {}: {e}; write host:port", self.name));
            *resolved = self.name.to_socket_addrs().map_err(unknown)?.collect();
        }
        Ok(resolved.clone())
    }

    /// Nobody, or another, may be there by now, unless it is a master that answered or was stopped.
    fn doubt(&self, fault: &Fault) {
        if !matches!(fault.code, FaultCode::NotLeader | FaultCode::Timeout) {
            self.resolved.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }
}

impl State {
    fn take(&mut self, (nth, link, welcome): Found) -> Arc<Link> {
        (self.first, self.fruitless) = (nth, 0);
        self.welcome = Some(welcome);
        Arc::clone(self.link.insert(Arc::new(link)))
    }
}
