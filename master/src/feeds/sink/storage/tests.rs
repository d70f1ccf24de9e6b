//! Leaders that follow each other, each of which is in the middle of something when the next begins: whatever the order of their requests, files in
//! their order give the right state, and `metadata` neither goes back nor says too much.

use super::*;
use crate::feeds::check::check;
use crate::feeds::filter::Op;
use crate::feeds::row::{Column, ColumnKind};
use perilune_vault::{Got, Listed, Shelf};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use tokio::runtime::{Handle, Runtime};

const COLUMNS: &[Column] = &[Column { name: "key", kind: ColumnKind::Text, is_key: true }];

/// A directory, and what `metadata` said.
#[derive(Debug, Default)]
struct Place {
    files: Mutex<BTreeMap<String, Bytes>>,
    told: Mutex<Vec<u64>>,
}

/// The way of one writer to it, on which others may come between.
struct Way {
    place: Arc<Place>,
    between: Mutex<Option<Box<dyn FnMut() + Send>>>,
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a way")
    }
}

impl Way {
    fn let_others(&self) {
        if let Some(others) = self.between.lock().unwrap().as_mut() {
            others();
        }
    }
}

impl Shelf for Way {
    fn put(&self, name: &str, bytes: Bytes, create: bool) -> Vaulted<()> {
        // A bucket replaces `metadata` in one step; here its two have nobody between them.
        if name != METADATA {
            self.let_others();
        }
        let mut files = self.place.files.lock().unwrap();
        if create && files.contains_key(name) {
            return Err(Class::Exists.with("412"));
        }
        if name == METADATA {
            let said: Value = serde_json::from_slice(&bytes).unwrap();
            let (far, (_, stamps)) = (said["checkpoint-ts"].as_u64().unwrap(), read(&files));
            assert!((1..=far).all(|stamp| stamps.contains(&stamp)), "{far} is said, and there are {stamps:?}");
            self.place.told.lock().unwrap().push(far);
        }
        files.insert(name.into(), bytes);
        Ok(())
    }

    fn get(&self, name: &str, range: Option<Range<u64>>) -> Vaulted<Got> {
        assert_eq!(range, None);
        if name != METADATA {
            self.let_others();
        }
        let bytes = self.place.files.lock().unwrap().get(name).cloned().ok_or_else(|| Class::NoObject.with("404"))?;
        Ok(Got { size: bytes.len() as u64, bytes })
    }

    fn list(&self, folder: &str, after: Option<&str>, max: usize) -> Vaulted<Vec<Listed>> {
        self.let_others();
        let files = self.place.files.lock().unwrap();
        let found = files.keys().filter(|name| name.starts_with(&format!("{folder}/")) && after.is_none_or(|after| name.as_str() > after));
        Ok(found.take(max).map(|name| Listed { name: name.clone(), size: 1 }).collect())
    }

    fn delete(&self, _: &str) -> Vaulted<()> {
        Ok(())
    }
}

/// Splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end as u64) as usize
    }
}

/// Keys that come and go, in two tables.
fn history(random: &mut Random) -> Vec<Row> {
    let tables = ["t", "u"].map(|name| Table { db: "db".into(), name: name.into(), id: 1, version: 1, columns: COLUMNS });
    let tables = tables.map(Arc::new);
    let mut there = BTreeSet::new();
    let row = |nth: u64| {
        let (table, key) = (random.below(2), random.below(3));
        let op = if there.remove(&(table, key)) {
            Op::Delete
        } else {
            there.insert((table, key));
            Op::Insert
        };
        let values = vec![format!("k{key}").as_str().into()];
        Row { table: Arc::clone(&tables[table]), op, commit_ts: Tso(nth), place: nth.to_string(), values }
    };
    (1..=40).map(row).collect()
}

/// A leader that delivers a feed, as `run` and `owner` do.
struct Leader {
    way: Arc<Way>,
    handle: Handle,
    rows: Arc<Vec<Row>>,
    random: Random,
    sink: Option<Storage>,
    /// Rows that the sink took, that it flushed, and that are written down as delivered.
    at: usize,
    flushed: usize,
    kept: usize,
}

impl Leader {
    fn new(place: &Arc<Place>, handle: &Handle, rows: &Arc<Vec<Row>>, seed: u64, kept: usize) -> Self {
        let way = Arc::new(Way { place: Arc::clone(place), between: Mutex::default() });
        let (handle, rows) = (handle.clone(), Arc::clone(rows));
        Self { way, handle, rows, random: Random(seed), sink: None, at: 0, flushed: 0, kept }
    }

    fn open(&self) -> Storage {
        let mut config = ReplicaConfig::default();
        config.sink.csv.include_commit_ts = true;
        config.sink.date_separator = "none".into();
        let checked = check("file:///x?protocol=csv", &config).unwrap();
        let vault = Vault::over(Arc::clone(&self.way) as Arc<dyn Shelf>);
        Storage { file_bytes: 60, ..Storage::over(vault, &Whose::tried("default/f"), &checked, &config) }
    }

    /// One thing that it does, between two looks at whether it leads.
    fn step(&mut self) {
        let mut sink = self.sink.take().unwrap_or_else(|| {
            (self.at, self.flushed) = (self.kept, self.kept);
            self.open()
        });
        let done = match self.random.below(5) {
            0..=2 => {
                let from = self.at;
                self.at = (from + 1 + self.random.below(8)).min(self.rows.len());
                self.handle.block_on(sink.write(&self.rows[from..self.at])).map(drop)
            }
            3 => {
                self.flushed = self.at;
                self.handle.block_on(sink.flush(Tso(self.at as u64)))
            }
            _ => {
                self.kept = self.flushed;
                Ok(())
            }
        };
        match done {
            Ok(()) => self.sink = Some(sink),
            Err(failure) => assert!(failure.code.begins_anew(), "{failure}"),
        }
    }
}

/// What a reader has who applies the files of each table in their order, and the stamps of all rows.
fn read(files: &BTreeMap<String, Bytes>) -> (BTreeSet<(String, String)>, BTreeSet<u64>) {
    let (mut there, mut stamps) = (BTreeSet::new(), BTreeSet::new());
    for (_, body) in files.iter().filter(|(name, _)| name.ends_with(".csv")) {
        for line in std::str::from_utf8(body).unwrap().lines() {
            let fields: Vec<&str> = line.split(',').map(|field| field.trim_matches('"')).collect();
            let key = (fields[1].to_owned(), fields[4].to_owned());
            stamps.insert(fields[3].parse().unwrap());
            if fields[0] == "I" {
                there.insert(key)
            } else {
                there.remove(&key)
            };
        }
    }
    (there, stamps)
}

fn follow_each_other(seed: u64, handle: &Handle) {
    let mut random = Random(seed);
    let (place, rows) = (Arc::<Place>::default(), Arc::new(history(&mut random)));
    let mut leader = Leader::new(&place, handle, &rows, seed ^ 1, 0);
    for reign in 2..5 {
        (0..random.below(8)).for_each(|_| leader.step());
        let next = Arc::new(Mutex::new(Leader::new(&place, handle, &rows, seed ^ reign, leader.kept)));
        let (others, mut chance) = (Arc::clone(&next), Random(seed ^ reign << 8));
        *leader.way.between.lock().unwrap() = Some(Box::new(move || (0..chance.below(16)).for_each(|_| others.lock().unwrap().step())));
        // Whatever it does now is the last: afterwards it looks whether it leads.
        let kept = leader.kept;
        leader.step();
        *leader.way.between.lock().unwrap() = None;
        drop(leader);
        let mut next = Arc::into_inner(next).unwrap().into_inner().unwrap();
        next.kept = next.kept.max(kept);
        leader = next;
    }
    while leader.kept < rows.len() {
        leader.step();
    }
    let files = place.files.lock().unwrap();
    let (there, stamps) = read(&files);
    let mut right = BTreeSet::new();
    for row in rows.iter() {
        let crate::feeds::row::Value::Text(key) = &row.values[0] else { unreachable!() };
        let key = (row.table.name.clone(), key.clone());
        if row.op == Op::Insert {
            right.insert(key)
        } else {
            right.remove(&key)
        };
    }
    assert_eq!(there, right, "seed {seed}: {files:#?}");
    assert_eq!(stamps.len(), rows.len(), "seed {seed}");
    let told = place.told.lock().unwrap();
    assert!(told.is_sorted() && told.last() == Some(&(rows.len() as u64)), "seed {seed}: {told:?}");
}

#[test]
fn files_in_their_order_give_the_right_state_whoever_still_writes() {
    let runtime = Runtime::new().unwrap();
    (0..150).for_each(|seed| follow_each_other(seed, runtime.handle()));
}
