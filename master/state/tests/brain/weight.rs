//! What objects take, in memory and in work. These measure; they are no tests:
//! `cargo test -p perilune-state --test brain weight -- --ignored --nocapture`, with `--config profile.test.opt-level=3`, under `callgrind` for the work.

use super::{Leader, MIB, TENANT};
use perilune_protocol::{ObjectKey, PutConfig, Tso, WriterId};
use perilune_state::objects::recency::Orders;
use perilune_state::write::{PutEnding, PutRefusal, Stamp};
use perilune_state::{Effect, State};

const OBJECTS: u64 = 200_000;
const BATCH: usize = 128;

fn key(n: u64) -> ObjectKey {
    format!("{n:040}").into()
}

/// Puts objects as a master does, but for the log: each effect is encoded, decoded and applied.
fn put(state: &State, numbers: std::ops::Range<u64>) {
    let writer = WriterId::random();
    for n in numbers {
        let (key, version) = (key(n), Tso(n + 1));
        let stamp = Stamp { tenant: TENANT, pool: None, now: 1, host: "127.0.0.1", writer, session: 1, draw: n };
        let apply = |effect: &Effect| drop(state.apply(Effect::decode(&effect.encode()).unwrap(), 1));
        while let Err(refusal) = state.put_start(&key, 4096, &PutConfig::default(), version, stamp) {
            let PutRefusal::NeedWindow(effect) = refusal else { panic!("{refusal:?}") };
            apply(&effect);
        }
        let Ok(PutEnding::Propose(effect)) = state.put_end(TENANT, &key, version, 7) else { panic!("it was not in progress") };
        apply(&effect);
    }
}

fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap().split(' ').nth(1).unwrap().parse::<u64>().unwrap();
    pages * 4096
}

#[test]
#[ignore = "measures"]
fn memory_of_an_object() {
    let (leader, _) = Leader::with_nodes(1, 2048 * MIB);
    let (state, mut orders) = (&leader.state, Orders::default());
    put(state, 0..1000);
    let before = resident();
    for n in (1000..1000 + OBJECTS).step_by(1000) {
        put(state, n..n + 1000);
        orders.refresh(&state.recency, state.index.len());
    }
    println!("{} bytes for each of {OBJECTS} objects", (resident() - before) / OBJECTS);
}

#[test]
#[ignore = "measures"]
fn work_of_questions() {
    let (leader, _) = Leader::with_nodes(1, 2048 * MIB);
    let state = &leader.state;
    put(state, 0..OBJECTS);
    let mut keys: Vec<ObjectKey> = (0..OBJECTS).map(|n| key(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % OBJECTS)).collect();
    keys.truncate(keys.len() / BATCH * BATCH);
    let time = |name: &str, ask: &dyn Fn(&[ObjectKey])| {
        let begun = std::time::Instant::now();
        keys.chunks(BATCH).for_each(ask);
        println!("{name}: {} ns a key", begun.elapsed().as_nanos() / keys.len() as u128);
    };
    time("exists", &|keys| assert!(state.exists(TENANT, keys, 5).iter().all(|there| *there)));
    time("locate", &|keys| assert!(state.locate(TENANT, keys, 5).iter().all(Result::is_ok)));
}
