//! `Store`: put, get, remove, exist. The facade and nothing else.

use crate::StoreConfig;
use crate::batch::{self, Limits};
use crate::get::{self, Part, Read, Target};
use crate::master::{Caller, Master, Repeated};
use crate::observe::Metrics;
use crate::places::Places;
use crate::put::{self, Write};
use crate::segments::Segments;
use crate::transports;
use perilune_protocol::rpc::Call;
use perilune_protocol::rpc::object::{Exists, Locate, MatchPrefix, Remove, RemoveMatching};
use perilune_protocol::rpc::session::Greet;
use perilune_protocol::{Fault, FaultCode, ObjectKey, Outcome, PutConfig};
use perilune_transfer_engine::{Engine, EngineError};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What became of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The value is stored.
    Stored,
    /// The key existed (or was being put); its value was left as it is.
    Existed,
}

/// The store, as seen by one process. Cheap to clone; every method blocks and may be called from any thread.
///
/// Each call ends within [`StoreConfig::deadline`]; a batch beyond some thousands of keys or 256 MiB is worked off in pieces
/// that each have this time. While the master is away, calls are repeated until then.
///
/// A read may be served from a place that was learned before, as long as its lease runs: it then returns the version of that
/// time, even if another client has since upserted the key or removed it by force. This client's own changes are seen at once.
#[derive(Clone)]
pub struct Store(Arc<Core>);

/// What every operation needs.
pub(crate) struct Core {
    pub(crate) master: Master,
    pub(crate) engine: Engine,
    pub(crate) segments: Segments,
    pub(crate) places: Places,
    pub(crate) metrics: Metrics,
    deadline: Duration,
}

impl Core {
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.deadline
    }

    /// Asks for `count` things at once.
    pub(crate) fn ask<C: Call<Reply = Vec<T>>, T>(&self, question: &C, count: usize, deadline: Instant) -> Outcome<Vec<T>> {
        self.ask_noting(question, count, deadline).0
    }

    pub(crate) fn ask_noting<C: Call<Reply = Vec<T>>, T>(
        &self,
        question: &C,
        count: usize,
        deadline: Instant,
    ) -> (Outcome<Vec<T>>, Repeated) {
        let (answers, repeated) = self.master.call_noting(question, deadline);
        let whole = answers.and_then(|answers: Vec<T>| match answers.len() {
            n if n == count => Ok(answers),
            n => Err(FaultCode::Internal.with(format!("the master gave {n} answers to {} for {count} things", C::NAME))),
        });
        (whole, repeated)
    }
}

impl Store {
    /// How long a call may take.
    pub(crate) fn patience(&self) -> Duration {
        self.0.deadline
    }
}

fn each<T>(count: usize, fault: &Fault) -> impl Iterator<Item = Outcome<T>> {
    std::iter::repeat_n(fault.clone(), count).map(Err)
}

fn engine_fault(error: &EngineError) -> Fault {
    FaultCode::InvalidParams.with(error.to_string())
}

impl Store {
    /// Connects to the first master that answers.
    ///
    /// # Errors
    /// When no master answers within the deadline, one refuses, or the engine cannot start.
    pub fn connect(config: StoreConfig) -> Outcome<Store> {
        let store = Self::new(config)?;
        store.call(&perilune_protocol::rpc::cluster::Stat {})?;
        Ok(store)
    }

    /// As [`Store::connect`], but the first use connects.
    pub(crate) fn new(config: StoreConfig) -> Outcome<Store> {
        let engine = match config.engine {
            Some(engine) => engine,
            None => {
                transports::builder(&config.transports, &config.rdma)?.deadline(config.deadline).build().map_err(|e| engine_fault(&e))?
            }
        };
        let StoreConfig { agent, tenant, user, unique_id, .. } = config;
        let greet = Greet { agent, tenant, user, unique_id };
        let master = Master::new(config.masters, Caller { greet, token: config.token }, None)?;
        let (segments, places) = (Segments::default(), Places::new(config.places));
        Ok(Self(Arc::new(Core { master, engine, segments, places, metrics: Metrics::new(), deadline: config.deadline })))
    }

    /// Stores a value of 1 byte to 16 GiB.
    ///
    /// # Errors
    /// [`FaultCode::InvalidParams`] for an empty key or value, [`FaultCode::NoSpace`] when nothing can make room,
    /// [`FaultCode::TransferFailed`] when the bytes could not be moved, [`FaultCode::WrongState`] when an upsert met another put of
    /// the key that did not end within the deadline; nothing is stored then.
    pub fn put(&self, key: &ObjectKey, value: &[u8], config: &PutConfig) -> Outcome<Put> {
        let started = Instant::now();
        let mut write = [Write::new(key, value)];
        put::write_all(&self.0, &mut write, config);
        let [write] = write;
        let outcome = [write.finish()];
        self.0.metrics.put.count(started, &outcome, |_, put| if *put == Put::Stored { value.len() as u64 } else { 0 });
        let [outcome] = outcome;
        outcome
    }

    /// As [`Store::put`] for many keys with one question; answers in their order.
    pub fn put_batch(&self, items: &[(ObjectKey, &[u8])], config: &PutConfig) -> Vec<Outcome<Put>> {
        let started = Instant::now();
        let mut writes: Vec<Write<'_>> = items.iter().map(|(key, value)| Write::new(key, value)).collect();
        put::write_all(&self.0, &mut writes, config);
        let outcomes: Vec<Outcome<Put>> = writes.into_iter().map(Write::finish).collect();
        self.0.metrics.put.count(started, &outcomes, |at, put| if *put == Put::Stored { items[at].1.len() as u64 } else { 0 });
        outcomes
    }

    /// The value of a key, verified.
    ///
    /// # Errors
    /// [`FaultCode::ObjectNotFound`]; [`FaultCode::NoReadableReplica`] when its nodes are away;
    /// [`FaultCode::TransferFailed`] or [`FaultCode::ChecksumMismatch`] when no copy gave the right bytes.
    pub fn get(&self, key: &ObjectKey) -> Outcome<Vec<u8>> {
        let started = Instant::now();
        let mut read = [Read::new(key, Target::Fresh(Vec::new()))];
        get::read_all(&self.0, &mut read);
        let [read] = read;
        let outcome = [read.finish_fresh()];
        self.0.metrics.get.count(started, &outcome, |_, bytes| bytes.len() as u64);
        let [outcome] = outcome;
        outcome
    }

    /// Reads the value of a key to the start of `into`; answers its size in bytes.
    ///
    /// # Errors
    /// As [`Store::get`], and [`FaultCode::InvalidParams`] when `into` is too small. After an error the contents of `into` are unspecified.
    pub fn get_into(&self, key: &ObjectKey, into: &mut [u8]) -> Outcome<usize> {
        let started = Instant::now();
        let mut read = [Read::new(key, Target::Lent(into))];
        get::read_all(&self.0, &mut read);
        let [read] = read;
        let outcome = [read.finish()];
        self.0.metrics.get.count(started, &outcome, |_, size| *size as u64);
        let [outcome] = outcome;
        outcome
    }

    /// Some bytes of a value, verified: of `range`, those that are there. Of what is only in a vault the pieces that hold them are fetched, and
    /// nothing comes to memory; in memory the checksum is the whole value's, so all of it is read.
    ///
    /// # Errors
    /// As [`Store::get`], and [`FaultCode::InvalidParams`] when the value has no byte in `range`.
    pub fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Outcome<Part> {
        let started = Instant::now();
        let mut read = [Read::new(key, Target::Part { wanted: range, bytes: Vec::new(), size: 0 })];
        get::read_all(&self.0, &mut read);
        let [read] = read;
        let outcome = [read.finish_part()];
        self.0.metrics.get.count(started, &outcome, |_, part| part.bytes.len() as u64);
        let [outcome] = outcome;
        outcome
    }

    /// As [`Store::get`] for many keys with one question; answers in their order.
    pub fn get_batch(&self, keys: &[ObjectKey]) -> Vec<Outcome<Vec<u8>>> {
        let started = Instant::now();
        let mut reads: Vec<Read<'_>> = keys.iter().map(|key| Read::new(key, Target::Fresh(Vec::new()))).collect();
        get::read_all(&self.0, &mut reads);
        let outcomes: Vec<Outcome<Vec<u8>>> = reads.into_iter().map(Read::finish_fresh).collect();
        self.0.metrics.get.count(started, &outcomes, |_, bytes| bytes.len() as u64);
        outcomes
    }

    /// As [`Store::get_into`] for many keys with one question; answers in their order.
    pub fn get_batch_into(&self, items: &mut [(ObjectKey, &mut [u8])]) -> Vec<Outcome<usize>> {
        let started = Instant::now();
        let mut reads: Vec<Read<'_>> = items.iter_mut().map(|(key, into)| Read::new(key, Target::Lent(into))).collect();
        get::read_all(&self.0, &mut reads);
        let outcomes: Vec<Outcome<usize>> = reads.into_iter().map(Read::finish).collect();
        self.0.metrics.get.count(started, &outcomes, |_, size| *size as u64);
        outcomes
    }

    /// Whether each key exists and can be read; those that do are leased.
    ///
    /// # Errors
    /// When the master does not answer.
    pub fn exists(&self, keys: &[ObjectKey]) -> Outcome<Vec<bool>> {
        let mut known = Vec::with_capacity(keys.len());
        for piece in batch::pieces(keys.iter().map(batch::weight), Limits::WORDS) {
            let keys = &keys[piece];
            known.extend(self.0.ask(&Exists { keys: keys.to_vec() }, keys.len(), self.0.deadline())?);
        }
        Ok(known)
    }

    /// How many keys exist, counted from the first until one is missing; those are leased.
    ///
    /// # Errors
    /// When the master does not answer.
    pub fn match_prefix(&self, keys: &[ObjectKey]) -> Outcome<u64> {
        let mut matched = 0;
        for piece in batch::pieces(keys.iter().map(batch::weight), Limits::WORDS) {
            let keys = &keys[piece];
            let here = self.call(&MatchPrefix { keys: keys.to_vec() })?;
            matched += here;
            if here < keys.len() as u64 {
                break;
            }
        }
        Ok(matched)
    }

    /// The size of a value in bytes.
    ///
    /// # Errors
    /// [`FaultCode::ObjectNotFound`], or when the master does not answer.
    pub fn size(&self, key: &ObjectKey) -> Outcome<u64> {
        let asked = Instant::now();
        if let Some(place) = self.0.places.get(key, asked) {
            return Ok(place.size);
        }
        let places = self.0.ask(&Locate { keys: vec![key.clone()] }, 1, self.0.deadline())?;
        let place = Arc::new(places.into_iter().next().unwrap_or_else(|| Err(FaultCode::Internal.with("no answer")))?);
        self.0.places.learn(key, &place, asked);
        Ok(place.size)
    }

    /// Removes objects; answers in their order. A leased one is refused unless `force`: readers with a lease keep their bytes either way.
    pub fn remove(&self, keys: &[ObjectKey], force: bool) -> Vec<Outcome<()>> {
        let started = Instant::now();
        let mut outcomes = Vec::with_capacity(keys.len());
        for piece in batch::pieces(keys.iter().map(batch::weight), Limits::PLACES) {
            let keys = &keys[piece];
            match self.0.ask_noting(&Remove { keys: keys.to_vec(), force }, keys.len(), self.0.deadline()) {
                // Asked twice because the first answer was lost: what is gone now was removed by the first asking.
                (Ok(answers), Repeated(true)) => {
                    outcomes.extend(answers.into_iter().map(|answer| match answer {
                        Err(fault) if fault.code == FaultCode::ObjectNotFound => Ok(()),
                        other => other,
                    }));
                }
                (Ok(answers), Repeated(false)) => outcomes.extend(answers),
                (Err(fault), _) => outcomes.extend(each(keys.len(), &fault)),
            }
            for key in keys {
                self.0.places.forget(key);
            }
        }
        self.0.metrics.remove.count(started, &outcomes, |_, ()| 0);
        outcomes
    }

    /// Removes every object whose key matches a regular expression (empty matches all); answers how many.
    /// Leased ones are left unless `force`.
    ///
    /// # Errors
    /// [`FaultCode::InvalidParams`] for a bad expression, or when the master does not answer.
    pub fn remove_matching(&self, pattern: &str, force: bool) -> Outcome<u64> {
        let removed = self.call(&RemoveMatching { pattern: pattern.to_owned(), force });
        self.0.places.forget_all();
        removed
    }

    /// Asks the master anything else of the protocol.
    ///
    /// # Errors
    /// The master's own, or that it does not answer within the deadline.
    pub fn call<C: Call>(&self, question: &C) -> Outcome<C::Reply> {
        self.0.master.call(question, self.0.deadline())
    }

    /// As [`Store::call`], for an answer that the master lets its caller wait for: each time that it is asked, `question` is told how long there is
    /// until the deadline.
    ///
    /// # Errors
    /// As those of [`Store::call`].
    pub fn call_waiting<C: Call>(&self, question: impl Fn(Duration) -> C) -> Outcome<C::Reply> {
        let deadline = self.0.deadline();
        let left = || deadline.saturating_duration_since(Instant::now());
        self.0.master.call_by(C::LONG, deadline, |link, _, look| link.call_looking(&question(left()), look)).0
    }

    /// Registers a buffer of the caller for faster transfers; see [`Engine::register`].
    ///
    /// # Safety
    /// The buffer stays valid until it is unregistered.
    ///
    /// # Errors
    /// When it is empty or overlaps a registered one.
    pub unsafe fn register(&self, ptr: *mut u8, len: usize) -> Outcome<()> {
        // SAFETY: the caller promises what the engine asks for.
        unsafe { self.0.engine.register(ptr, len) }.map_err(|e| engine_fault(&e))
    }

    /// Takes the registration of the buffer that starts at `ptr` back.
    ///
    /// # Errors
    /// When no registered buffer starts there.
    pub fn unregister(&self, ptr: *mut u8) -> Outcome<()> {
        self.0.engine.unregister(ptr).map_err(|e| engine_fault(&e))
    }

    /// The engine that moves this store's bytes.
    pub fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// What this store counted, in Prometheus' text format.
    pub fn metrics(&self) -> String {
        self.0.metrics.page(&self.0.engine)
    }
}
