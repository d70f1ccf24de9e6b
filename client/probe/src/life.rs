//! How far the life of a process is. Whoever starts or stops a part of it says so; the others ask.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What was begun before a stop gets so long to be finished.
const FAREWELL: Duration = Duration::from_secs(5);

/// The stations of a life, in their order; there is no way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It was started and knows nothing yet.
    Idle,
    /// What it had stored is there again. Nobody is served.
    Ready,
    /// Puts and gets work here.
    Running,
    /// It was told to stop: what was begun is finished, nothing is begun.
    Stopping,
    /// Everything is closed.
    Terminated,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// One question a part answers about itself; the sentence is why not.
type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// A process as those see it who watch over it: all its parts together. Cheap to clone.
#[derive(Clone, Default)]
pub struct Probe(Arc<Shared>);

#[derive(Default)]
struct Shared {
    known: Mutex<Known>,
    /// Told when the last [`Act`] has ended.
    idle: Condvar,
}

#[derive(Default)]
struct Known {
    parts: Vec<Stage>,
    checks: Vec<(&'static str, Check)>,
    acts: usize,
}

impl Known {
    /// As far as the part that is furthest behind, and stopping once any part does.
    fn stage(&self) -> Stage {
        let least = self.parts.iter().copied().min().unwrap_or(Stage::Idle);
        if least < Stage::Stopping && self.parts.iter().any(|part| *part >= Stage::Stopping) { Stage::Stopping } else { least }
    }
}

impl Probe {
    /// Of a process without parts, which is [`Stage::Idle`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a part, which begins as [`Stage::Idle`]. Add all before any is started: what is not known is not waited for.
    pub fn part(&self) -> Life {
        let mut known = self.lock();
        known.parts.push(Stage::Idle);
        Life { probe: self.clone(), part: known.parts.len() - 1 }
    }

    /// How far the process is.
    pub fn stage(&self) -> Stage {
        self.lock().stage()
    }

    /// Begins something that a stop waits for.
    ///
    /// # Errors
    /// The stage, once the process is stopping: nothing is begun any more.
    pub fn begin(&self) -> Result<Act, Stage> {
        let mut known = self.lock();
        match known.stage() {
            stage if stage >= Stage::Stopping => Err(stage),
            _ => {
                known.acts += 1;
                Ok(Act(self.clone()))
            }
        }
    }

    /// What is wrong where, in the order in which the checks were added; `None` is nothing.
    pub(crate) fn look(&self) -> Vec<(&'static str, Option<String>)> {
        let (stage, checks) = {
            let known = self.lock();
            (known.stage(), known.checks.clone())
        };
        let runs = (stage != Stage::Running).then(|| format!("store_status={stage}"));
        let others = checks.into_iter().map(|(name, check)| (name, check().err()));
        std::iter::once(("store_status", runs)).chain(others).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something under way that a stop waits for, until it is dropped.
pub struct Act(Probe);

impl Drop for Act {
    fn drop(&mut self) {
        let mut known = self.0.lock();
        known.acts -= 1;
        if known.acts == 0 {
            self.0.0.idle.notify_all();
        }
    }
}

/// The life of one part, in the hands of whoever starts and stops it.
#[derive(Clone)]
pub struct Life {
    probe: Probe,
    part: usize,
}

impl Life {
    /// The process it is a part of.
    pub fn probe(&self) -> &Probe {
        &self.probe
    }

    /// Says that the part has come so far; one that is further already stays there.
    pub fn reach(&self, stage: Stage) {
        let mut known = self.probe.lock();
        let own = &mut known.parts[self.part];
        if stage > *own {
            *own = stage;
            tracing::debug!(part = self.part, "{stage}");
        }
    }

    /// Adds a question to `readyz`. It must not block. What it holds is held as long as the process is watched: let that be a `Weak`.
    pub fn check(&self, name: &'static str, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        self.probe.lock().checks.push((name, Arc::new(check)));
    }

    /// From now on the process stops. Returns when all that was begun is finished, or after five seconds.
    pub fn stop(&self) {
        self.reach(Stage::Stopping);
        let known = self.probe.lock();
        let waited = self.probe.0.idle.wait_timeout_while(known, FAREWELL, |known| known.acts > 0);
        let left = waited.unwrap_or_else(PoisonError::into_inner).0.acts;
        if left > 0 {
            tracing::warn!(left, "stopping with requests unfinished");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Stage::{Idle, Ready, Running, Stopping, Terminated};

    #[test]
    fn a_life_goes_forward_only() {
        let life = Probe::new().part();
        for (say, then) in
            [(Ready, Ready), (Idle, Ready), (Running, Running), (Ready, Running), (Terminated, Terminated), (Running, Terminated)]
        {
            life.reach(say);
            assert_eq!(life.probe().stage(), then);
        }
    }

    #[test]
    fn a_process_is_as_far_as_its_last_part_and_stops_with_its_first() {
        let probe = Probe::new();
        assert_eq!(probe.stage(), Idle);
        let (one, other) = (probe.part(), probe.part());
        let mut seen = Vec::new();
        for (life, stage) in
            [(&one, Running), (&other, Ready), (&other, Running), (&one, Stopping), (&one, Terminated), (&other, Terminated)]
        {
            life.reach(stage);
            seen.push(probe.stage());
        }
        assert_eq!(seen, [Idle, Ready, Running, Stopping, Stopping, Terminated]);
    }

    #[test]
    fn a_stop_waits_for_what_was_begun_and_lets_nothing_begin() {
        let life = Probe::new().part();
        life.reach(Running);
        let act = life.probe().begin().unwrap();
        let stopping = life.clone();
        let stopped = std::thread::spawn(move || stopping.stop());
        while life.probe().stage() != Stopping {
            std::thread::yield_now();
        }
        assert_eq!(life.probe().begin().err(), Some(Stopping));
        assert!(!stopped.is_finished());
        drop(act);
        stopped.join().unwrap();
        assert_eq!(life.probe().stage(), Stopping);
    }

    #[test]
    fn checks_are_asked_each_time() {
        let life = Probe::new().part();
        let well = Arc::new(Mutex::new(false));
        let asked = Arc::downgrade(&well);
        life.check("log", move || match asked.upgrade() {
            Some(well) if *well.lock().unwrap() => Ok(()),
            _ => Err("full".into()),
        });
        assert_eq!(life.probe().look(), [("store_status", Some("store_status=Idle".into())), ("log", Some("full".into()))]);
        *well.lock().unwrap() = true;
        life.reach(Running);
        assert_eq!(life.probe().look(), [("store_status", None), ("log", None)]);
    }
}
