//! A topic as a sink, across a restart.

use super::*;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, crypto};

/// Of all partitions of `t`, from the beginning.
fn reader(cluster: &MockCluster<'_, DefaultProducerContext>, partitions: i32) -> BaseConsumer {
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", cluster.bootstrap_servers()).set("group.id", "g").create().unwrap();
    let mut all = TopicPartitionList::new();
    (0..partitions).for_each(|partition| all.add_partition_offset("t", partition, Offset::Beginning).unwrap());
    consumer.assign(&all).unwrap();
    consumer
}

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

    let consumer = reader(&cluster, 4);
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

/// Speaks TLS with whoever calls, and to a broker as it is told; where that says where it is, this is said.
async fn behind_tls(listener: TcpListener, broker: SocketAddr, config: ServerConfig) {
    let (accepts, here) = (TlsAcceptor::from(Arc::new(config)), listener.local_addr().unwrap());
    let place = |at: SocketAddr| [at.ip().to_string().as_bytes(), &u32::from(at.port()).to_be_bytes()].concat();
    let (theirs, ours) = (place(broker), place(here));
    loop {
        let (Ok((caller, _)), accepts) = (listener.accept().await, accepts.clone()) else { return };
        let (theirs, ours) = (theirs.clone(), ours.clone());
        tokio::spawn(async move {
            // Who does not trust us has gone.
            let Ok(caller) = accepts.accept(caller).await else { return };
            let (mut asks, mut hears) = tokio::io::split(caller);
            let (mut answers, mut asked) = TcpStream::connect(broker).await.unwrap().into_split();
            let answered = async {
                while let Ok(length) = answers.read_u32().await {
                    let mut answer = vec![0; length as usize];
                    answers.read_exact(&mut answer).await?;
                    while let Some(at) = answer.windows(theirs.len()).position(|bytes| bytes == theirs) {
                        answer[at..at + ours.len()].copy_from_slice(&ours);
                    }
                    hears.write_u32(length).await?;
                    hears.write_all(&answer).await?;
                    hears.flush().await?;
                }
                Ok::<_, std::io::Error>(())
            };
            tokio::select! {
                _ = answered => {}
                _ = tokio::io::copy(&mut asks, &mut asked) => {}
            }
        });
    }
}

#[test]
fn rows_come_through_tls_to_brokers_that_are_who_they_say() {
    let (cluster, served) = (MockCluster::new(1).unwrap(), Served::start());
    cluster.create_topic("t", 1, 1).unwrap();
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| served.dir.path().join(name));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=broker"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1", "-days", "2", "-keyout"])
        .args([&key, std::path::Path::new("-out"), &cert])
        .stderr(Stdio::null())
        .status();
    assert!(made.expect("openssl").success());
    let config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider())).with_safe_default_protocol_versions();
    let (certs, key) = (vec![CertificateDer::from_pem_file(&cert).unwrap()], PrivateKeyDer::from_pem_file(&key).unwrap());
    let config = config.unwrap().with_no_client_auth().with_single_cert(certs, key).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let addr = listener.local_addr().unwrap();
    runtime.spawn(behind_tls(listener, cluster.bootstrap_servers().parse().unwrap(), config));
    let uri = format!("kafka+ssl://{addr}/t?protocol=canal-json&ca={}", cert.display());
    let created = served.create(json!({"changefeed_id": "f", "sink_uri": uri, "replica_config": {"filter": {"rules": ["default.*"]}}}));
    assert!(created["sink_uri"].as_str().unwrap().starts_with("kafka+ssl://"), "{created}");
    served.lend();
    served.put(&["a", "b"]);
    served.until_delivered("f");
    let (consumer, mut keys) = (reader(&cluster, 1), Vec::new());
    while keys.len() < 2 {
        let message = wait::wait("more", || consumer.poll(Duration::from_millis(100))).unwrap();
        let said: Value = serde_json::from_slice(message.payload().unwrap()).unwrap();
        keys.extend(said["data"][0]["key"].as_str().map(str::to_owned));
    }
    assert_eq!(keys, ["a", "b"]);
}
