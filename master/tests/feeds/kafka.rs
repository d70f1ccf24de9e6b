//! A topic as a sink, across a restart.

use super::*;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::mocking::MockCluster;
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use std::collections::BTreeMap;

#[test]
fn whoever_reads_a_topic_knows_what_is_there() {
    let (cluster, served) = (MockCluster::new(1).unwrap(), Served::start());
    cluster.create_topic("t", 4, 1).unwrap();
    let uri = format!("kafka://{}/t?protocol=canal-json", cluster.bootstrap_servers());
    served.create(json!({"changefeed_id": "f", "sink_uri": uri, "replica_config": {"filter": {"rules": ["default.*"]}}}));
    served.lend();
    served.put(&["a", "b", "c"]);
    served.remove("^a$");
    // At any moment.
    let served = served.restarted();
    served.lend();
    served.put(&["a", "d"]);
    served.remove("^b$");
    served.until_delivered("f");
    let until = served.get("changefeeds/f/status")["checkpoint_ts"].as_u64().unwrap();

    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", cluster.bootstrap_servers()).set("group.id", "g").create().unwrap();
    let mut all = TopicPartitionList::new();
    (0..4).for_each(|partition| all.add_partition_offset("t", partition, Offset::Beginning).unwrap());
    consumer.assign(&all).unwrap();
    let (mut there, mut ended) = (BTreeMap::<String, bool>::new(), [0; 4]);
    while ended.iter().any(|far| *far < until) {
        let message = wait::wait("more", || consumer.poll(Duration::from_millis(100))).unwrap();
        let said: Value = serde_json::from_slice(message.payload().unwrap()).unwrap();
        match said["type"].as_str().unwrap() {
            "TIDB_WATERMARK" => ended[message.partition() as usize] = said["_tidb"]["watermarkTs"].as_u64().unwrap(),
            kind => drop(there.insert(said["data"][0]["key"].as_str().unwrap().into(), kind != "DELETE")),
        }
    }
    let there: Vec<_> = there.into_iter().filter(|(_, is)| *is).map(|(key, _)| key).collect();
    assert_eq!(there, ["a", "c", "d"]);
}
