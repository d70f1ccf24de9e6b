//! A topic of the cluster that librdkafka pretends to be, in this process. It keeps no more than the last megabytes of a topic.

use super::place::Place;
use crate::rivals::Trouble;
use bytes::Bytes;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};
use std::time::{Duration, Instant};

/// Only what hangs takes so long.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause while as much is in flight as may be.
const FULL: Duration = Duration::from_millis(5);
/// What feeds write to, and the library alone.
const ROWS: &str = "rows";
const BARE: &str = "bare";
/// Rows that are read back: all others are as long.
const SAMPLE: usize = 100;

pub(super) struct Kafka {
    cluster: MockCluster<'static, DefaultProducerContext>,
    producer: ThreadedProducer<DefaultProducerContext>,
    events: usize,
}

impl Kafka {
    pub(super) fn start(events: usize) -> Result<Self, Trouble> {
        let cluster = MockCluster::new(1)?;
        [ROWS, BARE].iter().try_for_each(|topic| cluster.create_topic(topic, 1, 1))?;
        // As the sink has it.
        let mut said = ClientConfig::new();
        said.set("bootstrap.servers", cluster.bootstrap_servers()).set("linger.ms", "5");
        said.set("enable.idempotence", "true").set("enable.gapless.guarantee", "true");
        Ok(Self { producer: said.create()?, cluster, events })
    }
}

impl Place for Kafka {
    fn name(&self) -> &'static str {
        "kafka"
    }

    fn library(&self) -> Option<&'static str> {
        Some("rdkafka")
    }

    fn uri(&self, _: &str) -> String {
        format!("kafka://{}/{ROWS}?protocol=canal-json", self.cluster.bootstrap_servers())
    }

    /// As many rows as there are events, like those that came.
    fn take(&mut self, _: &str) -> Result<Vec<Bytes>, Trouble> {
        let mut said = ClientConfig::new();
        said.set("bootstrap.servers", self.cluster.bootstrap_servers()).set("group.id", "bench").set("auto.offset.reset", "earliest");
        let consumer: BaseConsumer = said.create()?;
        let mut all = TopicPartitionList::new();
        all.add_partition_offset(ROWS, 0, Offset::Beginning)?;
        consumer.assign(&all)?;
        let (began, mut found) = (Instant::now(), Vec::new());
        while found.len() < SAMPLE.min(self.events) {
            if began.elapsed() > PATIENCE {
                return Err(format!("of {} rows {} can be read", self.events, found.len()).into());
            }
            // What is no message ends a poll, too; a watermark has no key.
            if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100))
                && message.key().is_some()
            {
                found.push(Bytes::copy_from_slice(message.payload().unwrap_or_default()));
            }
        }
        Ok(found.into_iter().cycle().take(self.events).collect())
    }

    fn send_bare(&mut self, bodies: &[Bytes]) -> Result<Duration, Trouble> {
        let began = Instant::now();
        for body in bodies {
            while let Err((error, _)) = self.producer.send(BaseRecord::<[u8], [u8]>::to(BARE).partition(0).payload(body)) {
                if !matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)) {
                    return Err(error.into());
                }
                std::thread::sleep(FULL);
            }
        }
        self.producer.flush(PATIENCE)?;
        Ok(began.elapsed())
    }
}
