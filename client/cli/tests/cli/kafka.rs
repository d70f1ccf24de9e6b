//! A topic as a sink, with real masters whose leader is killed. The cluster, which librdkafka pretends to be, is in this process.

use crate::feeds::Fleet;
use crate::harness::wait_for;
use nix::sys::signal::Signal;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::mocking::MockCluster;
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const PARTITIONS: i32 = 3;

/// A row, as far as it orders: its stamp, and what tells it from others of that stamp.
type Place = (u64, String);

/// What a reader of the topic knows.
#[derive(Default)]
struct Reader {
    /// Where each key is, and the rows of it that came, each in the order in which it came first.
    keys: BTreeMap<String, (i32, Vec<Place>)>,
    /// Rows that came, by partition, and up to which stamp all have.
    seen: BTreeMap<i32, (BTreeSet<Place>, u64)>,
    /// Of each key, the highest version, and whether that is there.
    there: BTreeMap<String, (u64, bool)>,
    repeated: usize,
}

impl Reader {
    fn hear(&mut self, partition: i32, said: &Value) {
        let (seen, resolved) = self.seen.entry(partition).or_default();
        if said["type"] == "TIDB_WATERMARK" {
            // A leader that takes over begins with what was kept last.
            *resolved = (*resolved).max(said["_tidb"]["watermarkTs"].as_u64().unwrap());
            return;
        }
        let row = &said["data"][0];
        let text = |name: &str| row[name].as_str().unwrap().to_owned();
        let (key, version, stamp) = (text("key"), text("version").parse().unwrap(), said["_tidb"]["commitTs"].as_u64().unwrap());
        let place = (stamp, format!("{key} {} {version}", text("event")));
        let (at, places) = self.keys.entry(key.clone()).or_insert((partition, Vec::new()));
        assert_eq!(*at, partition, "{key} is in one partition");
        if !seen.insert(place.clone()) {
            self.repeated += 1;
            return;
        }
        assert!(stamp > *resolved, "{place:?} comes first behind the watermark {resolved}");
        assert!(places.last().is_none_or(|last| last.0 <= stamp), "{place:?} comes first behind {places:?}");
        places.push(place);
        let known = self.there.entry(key).or_default();
        if known.0 <= version {
            *known = (version, said["type"] != "DELETE");
        }
    }

    /// Reads until all partitions have a watermark from here on.
    fn until(&mut self, consumer: &BaseConsumer, stamp: u64) {
        while (0..PARTITIONS).any(|partition| self.seen.get(&partition).is_none_or(|(_, resolved)| *resolved < stamp)) {
            let message = wait_for("more of the topic", || consumer.poll(Duration::from_millis(100))).unwrap();
            self.hear(message.partition(), &serde_json::from_slice(message.payload().unwrap()).unwrap());
        }
    }
}

#[test]
fn leaders_are_killed_and_a_topic_has_every_row_of_a_key_in_order() {
    let (cluster, mut fleet) = (MockCluster::new(1).unwrap(), Fleet::start(35));
    cluster.create_topic("t", PARTITIONS, 1).unwrap();
    fleet.create("kafka", &["--sink", &format!("kafka://{}/t?protocol=canal-json", cluster.bootstrap_servers())]);
    for round in 0..2 {
        (0..4).for_each(|n| fleet.put(format!("k{round}-{n}")));
        // At a moment of its own, while it delivers.
        let killed = fleet.leader();
        fleet.masters[killed - 1].signal(Signal::SIGKILL);
        (4..8).for_each(|n| fleet.put(format!("k{round}-{n}")));
        fleet.remove(&format!("k{round}-1"));
        fleet.restart(killed);
    }
    let until = fleet.until_delivered(&["kafka"]);
    let said = ClientConfig::new().set("bootstrap.servers", cluster.bootstrap_servers()).set("group.id", "g").create();
    let (consumer, mut all): (BaseConsumer, _) = (said.unwrap(), TopicPartitionList::new());
    (0..PARTITIONS).for_each(|partition| all.add_partition_offset("t", partition, Offset::Beginning).unwrap());
    consumer.assign(&all).unwrap();
    let mut reader = Reader::default();
    reader.until(&consumer, until);
    println!("{} rows came again", reader.repeated);
    let there: BTreeSet<String> = reader.there.iter().filter(|(_, (_, is))| *is).map(|(key, _)| key.clone()).collect();
    assert_eq!(there, fleet.keys());
    assert_eq!(reader.keys.keys().cloned().collect::<BTreeSet<_>>(), fleet.put, "every object that was put is told, and no other");
    assert!(reader.keys.values().map(|(partition, _)| partition).collect::<BTreeSet<_>>().len() > 1);
}
