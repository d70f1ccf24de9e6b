//! A topic of Kafka. Rows of one key come in one partition, in their order; watermarks come in all of them.
//!
//! The producer is idempotent and leaves no gap: a message that cannot be delivered ends it before anything behind that one is. What a run before
//! has sent may come again, and a leader that does not know yet that it is none may still send what it took: rows tell their version.

mod security;

use super::Sink;
use crate::api::Boxed;
use crate::feeds::check::{BOOTSTRAP, Checked};
use crate::feeds::config::ReplicaConfig;
use crate::feeds::encode::{Encoder, Message};
use crate::feeds::failure::{Code, Failure};
use crate::feeds::row::Row;
use perilune_protocol::Tso;
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};
use tokio::runtime::Handle;

/// Parameters that mean something; others would have no effect.
const KNOWN: [&str; 5] = ["protocol", "compression", "max-message-bytes", "enable-tidb-extension", BOOTSTRAP];
/// How long a message may take to be acknowledged, with what is repeated of it.
const DEADLINE: Duration = Duration::from_secs(30);
/// Pause while as much is in flight as may be.
const FULL: Duration = Duration::from_millis(5);
/// The longest name of a topic.
const TOPIC_BYTES_MAX: usize = 249;

pub(super) struct Kafka {
    producer: ThreadedProducer<Deliveries>,
    topic: String,
    encoder: Encoder,
    partitions: u32,
}

/// The first message that was not delivered. Written by the producer's thread.
#[derive(Default)]
struct Deliveries(Mutex<Option<String>>);

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        tracing::debug!(?level, "{fac}: {message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!("{error}: {reason}");
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result
            && let Ok(mut first) = self.0.lock()
        {
            first.get_or_insert_with(|| error.to_string());
        }
    }
}

impl Kafka {
    /// Connects, and finds the topic, or has it made where brokers do so.
    pub(super) async fn open(checked: &Checked, config: &ReplicaConfig) -> Result<Self, Failure> {
        let wrong = |why: String| Code::SinkInvalidConfig.with(format!("sink config invalid: {why}"));
        let uri = &checked.uri;
        if let Some(name) = uri.query.keys().find(|name| ![&KNOWN[..], &security::KNOWN].concat().contains(&name.as_str())) {
            return Err(wrong(format!("{name:.64} has no effect here: leave it out")));
        }
        if uri.authority.is_empty() {
            return Err(wrong("a sink is kafka://HOST:PORT[,HOST:PORT..]/TOPIC".into()));
        }
        let topic = uri.path.trim_matches('/').to_owned();
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if topic.is_empty() || topic.len() > TOPIC_BYTES_MAX || !topic.chars().all(plain) {
            return Err(wrong("no topic is called so".into()));
        }
        let compression = uri.get("compression").unwrap_or("none");
        if !["none", "lz4", "snappy"].contains(&compression) {
            return Err(wrong("compression is none, lz4 or snappy".into()));
        }
        let kbytes = (config.memory_quota >> 10).clamp(1, 2_097_151);
        let mut said = ClientConfig::new();
        said.set("bootstrap.servers", &uri.authority).set("client.id", "perilune");
        said.set("enable.idempotence", "true").set("enable.gapless.guarantee", "true");
        said.set("message.timeout.ms", DEADLINE.as_millis().to_string()).set("compression.type", compression);
        said.set("queue.buffering.max.kbytes", kbytes.to_string()).set("linger.ms", "5");
        if let Some(bytes) = uri.get("max-message-bytes") {
            said.set("message.max.bytes", bytes);
        }
        for (name, value) in security::settings(uri).map_err(wrong)? {
            said.set(name, value);
        }
        let producer = said.create_with_context(Deliveries::default()).map_err(|e| wrong(e.to_string()))?;
        let encoder = Encoder::new(checked.protocol, config, uri.get("enable-tidb-extension") != Some("false"));
        let mut new = Self { producer, topic, encoder, partitions: 0 };
        new.count().await?;
        Ok(new)
    }

    /// Has the producer do what blocks.
    async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&ThreadedProducer<Deliveries>) -> Result<T, KafkaError> + Send + 'static,
    ) -> Result<T, Failure> {
        let producer = self.producer.clone();
        let asked = tokio::task::spawn_blocking(move || ask(&producer)).await;
        asked.map_err(|e| Code::Kafka.with(format!("a request stopped: {e}")))?.map_err(|e| failed(&e.to_string()))
    }

    /// How many partitions there are by now.
    async fn count(&mut self) -> Result<(), Failure> {
        let topic = self.topic.clone();
        let count = self.ask(move |producer| {
            let metadata = producer.client().fetch_metadata(Some(&topic), DEADLINE)?;
            let found = metadata.topics().iter().find(|found| found.name() == topic);
            Ok(found.map_or(0, |found| found.partitions().len()))
        });
        self.partitions = u32::try_from(count.await?).unwrap_or(0);
        if self.partitions == 0 { Err(failed(&format!("there is no topic {}, and none is made", self.topic))) } else { Ok(()) }
    }

    async fn send(&self, partition: u32, message: &Message) -> Result<(), Failure> {
        loop {
            let record = BaseRecord::<[u8], [u8]>::to(&self.topic).partition(partition.cast_signed()).payload(&message.value);
            let record = if message.key.is_empty() { record } else { record.key(&message.key) };
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                    self.undelivered()?;
                    tokio::time::sleep(FULL).await;
                }
                Err((error, _)) => return Err(failed(&error.to_string())),
            }
        }
    }

    fn undelivered(&self) -> Result<(), Failure> {
        let first = self.producer.context().0.lock().ok().and_then(|first| first.clone());
        first.map_or(Ok(()), |why| Err(failed(&why)))
    }

    async fn take(&mut self, rows: &[Row]) -> Result<u64, Failure> {
        let now_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let mut bytes = 0;
        for row in rows {
            let hash = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, &row.key());
            let message = self.encoder.message(row, now_ms);
            bytes += (message.key.len() + message.value.len()) as u64;
            self.send((hash % u64::from(self.partitions)) as u32, &message).await?;
        }
        self.undelivered().map(|()| bytes)
    }

    /// Until all that was sent is acknowledged.
    async fn settle(&self) -> Result<(), Failure> {
        self.ask(|producer| producer.flush(DEADLINE)).await?;
        self.undelivered()
    }

    async fn tell(&mut self, checkpoint: Tso) -> Result<(), Failure> {
        self.settle().await?;
        self.count().await?;
        if let Some(message) = self.encoder.watermark_message(checkpoint, checkpoint.physical_ms()) {
            for partition in 0..self.partitions {
                self.send(partition, &message).await?;
            }
        }
        self.settle().await
    }
}

impl Sink for Kafka {
    fn write<'a>(&'a mut self, rows: &'a [Row]) -> Boxed<'a, Result<u64, Failure>> {
        Box::pin(self.take(rows))
    }

    fn flush(&mut self, checkpoint: Tso) -> Boxed<'_, Result<(), Failure>> {
        Box::pin(self.tell(checkpoint))
    }
}

impl Drop for Kafka {
    /// What is dropped last waits for its thread, and should not do so on one that serves.
    fn drop(&mut self) {
        let producer = self.producer.clone();
        if let Ok(handle) = Handle::try_current() {
            handle.spawn_blocking(move || drop(producer));
        }
    }
}

fn failed(why: &str) -> Failure {
    Code::Kafka.with(format!("kafka send message failed: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feeds::check::check;
    use crate::feeds::filter::Op;
    use crate::feeds::row::{Column, ColumnKind, Table};
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::message::Message as _;
    use rdkafka::mocking::MockCluster;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
    use rdkafka::{Offset, TopicPartitionList};
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use tokio::runtime::Runtime;

    const COLUMNS: &[Column] = &[Column { name: "key", kind: ColumnKind::Text, is_key: true }];

    fn rows(count: u64) -> Vec<Row> {
        let table = Arc::new(Table { db: "db".into(), name: "t".into(), id: 1, version: 1, columns: COLUMNS });
        let values = |nth: u64| vec![format!("k{}", nth % 7).as_str().into()];
        let row = |nth| Row { table: Arc::clone(&table), op: Op::Insert, commit_ts: Tso(nth), place: nth.to_string(), values: values(nth) };
        (1..=count).map(row).collect()
    }

    fn opened(runtime: &Runtime, uri: &str) -> Result<Kafka, Failure> {
        let config = ReplicaConfig::default();
        let checked = check(uri, &config)?;
        runtime.block_on(Kafka::open(&checked, &config))
    }

    #[test]
    fn a_key_stays_in_its_partition_and_watermarks_are_behind_all_before_them() {
        let (runtime, cluster) = (Runtime::new().unwrap(), MockCluster::new(1).unwrap());
        cluster.create_topic("t", 3, 1).unwrap();
        let mut sink = opened(&runtime, &format!("kafka://{}/t?protocol=canal-json", cluster.bootstrap_servers())).unwrap();
        // What passes is repeated, in order.
        let passing = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT, RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS];
        cluster.request_errors(RDKafkaApiKey::Produce, &passing);
        let rows = rows(200);
        runtime.block_on(sink.write(&rows[..150])).unwrap();
        runtime.block_on(sink.write(&rows[150..])).unwrap();
        runtime.block_on(sink.flush(Tso(200))).unwrap();

        let consumer: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", cluster.bootstrap_servers()).set("group.id", "g").create().unwrap();
        let mut all = TopicPartitionList::new();
        (0..3).for_each(|partition| all.add_partition_offset("t", partition, Offset::Beginning).unwrap());
        consumer.assign(&all).unwrap();
        // By key: where it is, and its last stamp.
        let (mut keys, mut ended, mut count) = (BTreeMap::<Vec<u8>, (i32, u64)>::new(), BTreeMap::new(), 0);
        while count < 200 || ended.len() < 3 {
            // What is no message ends a poll, too.
            let message = (0..600).find_map(|_| consumer.poll(Duration::from_millis(100))).expect("more").unwrap();
            let said: serde_json::Value = serde_json::from_slice(message.payload().unwrap()).unwrap();
            if said["type"] == "TIDB_WATERMARK" {
                assert_eq!((message.key(), &said["_tidb"]["watermarkTs"]), (None, &200.into()));
                assert_eq!(ended.insert(message.partition(), ()), None);
                continue;
            }
            let stamp = said["_tidb"]["commitTs"].as_u64().unwrap();
            assert!(!ended.contains_key(&message.partition()), "a row behind the watermark that speaks of it");
            let found = (message.partition(), stamp);
            if let Some(before) = keys.insert(message.key().unwrap().to_vec(), found) {
                assert!(before.0 == found.0 && before.1 < found.1, "{before:?} {found:?}");
            }
            count += 1;
        }
        assert!(keys.len() == 7 && keys.values().any(|(partition, _)| *partition != keys.values().next().unwrap().0));
    }

    #[test]
    fn what_cannot_be_is_refused_and_what_does_not_fit_fails_the_feed() {
        let (runtime, cluster) = (Runtime::new().unwrap(), MockCluster::new(1).unwrap());
        let boot = cluster.bootstrap_servers();
        for (uri, code) in [
            (format!("kafka://{boot}/t"), Code::SinkUnknownProtocol),
            (format!("kafka://{boot}/t?protocol=csv"), Code::SinkUnknownProtocol),
            (format!("kafka://{boot}/?protocol=canal-json"), Code::SinkInvalidConfig),
            (format!("kafka://{boot}/a b?protocol=canal-json"), Code::SinkUriInvalid),
            (format!("kafka://{boot}/t?protocol=canal-json&ca=/no/such/file"), Code::SinkInvalidConfig),
            (format!("kafka://{boot}/t?protocol=canal-json&compression=gzip"), Code::SinkInvalidConfig),
            (format!("kafka://{boot}/t?protocol=canal-json&sasl-mechanism=plain"), Code::SinkInvalidConfig),
            (format!("kafka://{boot}/t?protocol=canal-json&max-message-bytes=x"), Code::SinkInvalidConfig),
        ] {
            assert_eq!(opened(&runtime, &uri).err().expect(&uri).code, code, "{uri}");
        }
        let mut sink = opened(&runtime, &format!("kafka://{boot}/t?protocol=open-protocol&max-message-bytes=1000")).unwrap();
        let mut row = rows(1).remove(0);
        row.values = vec!["k".repeat(2000).as_str().into()];
        let failure = runtime.block_on(sink.write(&[row])).unwrap_err();
        assert!(failure.code == Code::Kafka && !failure.code.lasts(), "{failure}");
    }
}
