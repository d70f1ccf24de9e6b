//! Whether a changefeed can be as it is asked for: what its page allows, and what would have no effect here.

use super::config::{ReplicaConfig, StorageConfig};
use super::duration::Nanos;
use super::failure::{Code, Failure};
use super::filter::Filter;
use super::sink::Protocol;
use super::uri::SinkUri;
use perilune_protocol::event::Cursor;

/// The parameter of a URI that asks for lists.
pub(crate) const BOOTSTRAP: &str = "send-bootstrap";
/// What else any URI may say.
const COMMON: [&str; 2] = ["protocol", "enable-tidb-extension"];
/// How files are cut.
const FILES: [&str; 3] = ["worker-count", "flush-interval", "file-size"];
/// Most rows that are left out by their places.
const IGNORED_MAX: usize = 128;
/// What opens a bucket.
const BUCKET: [&str; 4] = ["access-key", "secret-access-key", "endpoint", "region"];

/// What a sink is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// Nowhere.
    Blackhole,
    /// A directory.
    File,
    /// A bucket.
    S3,
    /// A listener of HTTP.
    Http,
    /// A topic of Kafka.
    #[cfg(feature = "kafka")]
    Kafka,
}

impl Scheme {
    /// # Errors
    /// [`Code::SinkUriInvalid`].
    pub(crate) fn of(uri: &SinkUri) -> Result<Self, Failure> {
        Ok(match uri.scheme.as_str() {
            "blackhole" | "noop" => Self::Blackhole,
            "file" => Self::File,
            "s3" => Self::S3,
            "http" | "https" => Self::Http,
            #[cfg(feature = "kafka")]
            "kafka" | "kafka+ssl" => Self::Kafka,
            other => return Err(Code::SinkUriInvalid.with(format!("the sink scheme ({other:.64}) is not supported"))),
        })
    }
}

/// What is written, where and how, once it was found to be possible.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) uri: SinkUri,
    pub(crate) scheme: Scheme,
    pub(crate) protocol: Protocol,
    pub(crate) filter: Filter,
    /// How files are cut; the URI says it before the config does.
    pub(crate) storage: StorageConfig,
    /// Whether all there is is to be listed now and then.
    pub(crate) bootstrap: bool,
}

/// # Errors
/// Why not, with the code that the page has for it.
pub(crate) fn check(uri: &str, config: &ReplicaConfig) -> Result<Checked, Failure> {
    let uri = SinkUri::parse(uri).map_err(|why| Code::SinkUriInvalid.with(format!("sink uri invalid '{why}'")))?;
    let scheme = Scheme::of(&uri)?;
    let protocol = Protocol::of(scheme, uri.get("protocol").or(config.sink.protocol.as_deref()))?;
    let storage = cut(&uri, scheme, config)?;
    limits(config)?;
    without_effect(config)?;
    let filter = Filter::new(config)?;
    let bootstrap = uri.get(BOOTSTRAP) == Some("true");
    Ok(Checked { uri, scheme, protocol, filter, storage, bootstrap })
}

/// What config and URI together say of files; a parameter that would have no effect is refused.
fn cut(uri: &SinkUri, scheme: Scheme, config: &ReplicaConfig) -> Result<StorageConfig, Failure> {
    let mut storage = config.sink.cloud_storage_config.clone().unwrap_or_default();
    let files = matches!(scheme, Scheme::File | Scheme::S3);
    let known =
        |name: &str| COMMON.contains(&name) || name == BOOTSTRAP || FILES.contains(&name) || scheme == Scheme::S3 && BUCKET.contains(&name);
    if let Some(name) = uri.query.keys().find(|name| files && !known(name)) {
        return Err(Code::SinkUriInvalid.with(format!("sink uri invalid '{name:.64} has no effect here: leave it out'")));
    }
    let wrong = |name: &str| Code::StorageSinkInvalidConfig.with(format!("storage sink config invalid: {name} of the URI cannot be read"));
    for name in FILES.into_iter().filter(|_| files) {
        let Some(said) = uri.get(name) else { continue };
        match name {
            "flush-interval" => storage.flush_interval = Some(Nanos::parse(said).ok_or_else(|| wrong(name))?),
            "file-size" => storage.file_size = Some(said.parse().map_err(|_| wrong(name))?),
            _ => storage.worker_count = Some(said.parse().map_err(|_| wrong(name))?),
        }
    }
    let wrong = |why: &str| Err(Code::StorageSinkInvalidConfig.with(format!("storage sink config invalid: {why}")));
    if storage.flush_interval.is_some_and(|said| !(Nanos::seconds(2)..=Nanos::seconds(600)).contains(&said)) {
        return wrong("flush_interval is 2s to 10m");
    }
    if storage.file_size.is_some_and(|said| !(1 << 20..=512 << 20).contains(&said)) {
        return wrong("file_size is 1 MiB to 512 MiB");
    }
    if [storage.worker_count, storage.flush_concurrency].into_iter().flatten().any(|said| !(1..=512).contains(&said)) {
        return wrong("worker_count and flush_concurrency are 1 to 512");
    }
    Ok(storage)
}

fn invalid(why: impl std::fmt::Display) -> Failure {
    Code::InvalidReplicaConfig.with(format!("invalid replica config, {why}"))
}

fn limits(config: &ReplicaConfig) -> Result<(), Failure> {
    let (interval, retention) = (Nanos::seconds(30), Nanos::seconds(3600));
    if config.enable_sync_point {
        if config.sync_point_interval < interval {
            return Err(invalid(format_args!("The SyncPointInterval:{} must be larger than {interval}", config.sync_point_interval)));
        }
        if config.sync_point_retention < retention {
            return Err(invalid(format_args!("The SyncPointRetention:{} must be larger than {retention}", config.sync_point_retention)));
        }
    }
    let consistent = &config.consistent;
    if !["none", "eventual"].contains(&consistent.level.as_str()) {
        return Err(invalid(format_args!("The consistent.level:{:.64} must be none or eventual", consistent.level)));
    }
    if consistent.level != "none" && (consistent.flush_interval < 50 || consistent.meta_flush_interval < 50) {
        return Err(invalid("The consistent.flush_interval and meta_flush_interval must be at least 50"));
    }
    if consistent.compression.as_deref().is_some_and(|name| !["", "none", "lz4"].contains(&name)) {
        return Err(invalid("The consistent.compression must be none or lz4"));
    }
    let integrity = &config.integrity;
    if !["none", "correctness"].contains(&integrity.integrity_check_level.as_str()) {
        return Err(invalid("The integrity_check_level must be none or correctness"));
    }
    if !["warn", "error"].contains(&integrity.corruption_handle_level.as_str()) {
        return Err(invalid("The corruption_handle_level must be warn or error"));
    }
    if config.changefeed_error_stuck_duration < Nanos::seconds(1800) {
        let said = config.changefeed_error_stuck_duration;
        return Err(invalid(format_args!("The ChangefeedErrorStuckDuration:{said} must be larger than {}", Nanos::seconds(1800))));
    }
    let ignored = &config.filter.ignore_rows;
    if ignored.len() > IGNORED_MAX {
        return Err(invalid(format_args!("filter.ignore_rows names {} rows, at most {IGNORED_MAX}", ignored.len())));
    }
    if let Some(place) = ignored.iter().find(|place| place.parse::<Cursor>().is_err()) {
        return Err(invalid(format_args!("filter.ignore_rows has places of rows, as errors name them, and {place:.64} is none")));
    }
    if config.synced_status.synced_check_interval < 0 || config.synced_status.checkpoint_interval < 0 {
        return Err(invalid("synced_check_interval and checkpoint_interval must not be negative"));
    }
    if config.mounter.worker_num < 0 {
        return Err(invalid("mounter.worker_num must not be negative"));
    }
    if config.sink.encoder_concurrency < 0 {
        return Err(invalid("sink.encoder_concurrency must not be negative"));
    }
    if !["none", "year", "month", "day"].contains(&config.sink.date_separator.as_str()) {
        return Err(Code::StorageSinkInvalidConfig.with("storage sink config invalid: date_separator is none, year, month or day"));
    }
    let csv = &config.sink.csv;
    let wrong = |why: &str| Err(Code::SinkInvalidConfig.with(format!("sink config invalid: {why}")));
    if csv.quote.len() > 1 || csv.delimiter.is_empty() || csv.delimiter.len() > 3 {
        return wrong("csv.quote has at most one character, csv.delimiter one to three");
    }
    if csv.delimiter.contains(['\r', '\n']) || !csv.quote.is_empty() && csv.delimiter.contains(&csv.quote) {
        return wrong("csv.delimiter has neither line ends nor the quote in it");
    }
    if !["base64", "hex"].contains(&csv.binary_encoding_method.as_str()) {
        return wrong("csv.binary_encoding_method is base64 or hex");
    }
    let wrong = |why: &str| Err(Code::StorageSinkInvalidConfig.with(format!("storage sink config invalid: {why}")));
    if config.sink.file_index_width.is_some_and(|said| !(1..=20).contains(&said)) {
        return wrong("file_index_width is 1 to 20");
    }
    Ok(())
}

/// What is asked for and would change nothing is refused, so that nobody relies on it.
fn without_effect(config: &ReplicaConfig) -> Result<(), Failure> {
    let sink = &config.sink;
    let expressions = |filter: &super::config::EventFilter| {
        !filter.ignore_sql.is_empty()
            || [
                &filter.ignore_insert_value_expr,
                &filter.ignore_update_new_value_expr,
                &filter.ignore_update_old_value_expr,
                &filter.ignore_delete_value_expr,
            ]
            .iter()
            .any(|text| !text.is_empty())
    };
    let expires = sink.cloud_storage_config.as_ref().and_then(|config| config.file_expiration_days).unwrap_or(0) > 0;
    let asked = [
        (config.enable_sync_point, "enable_sync_point"),
        (config.bdr_mode, "bdr_mode"),
        (config.enable_table_monitor, "enable_table_monitor"),
        (config.consistent.level != "none", "consistent.level"),
        (config.integrity.integrity_check_level != "none", "integrity.integrity_check_level"),
        (config.scheduler.enable_table_across_nodes, "scheduler.enable_table_across_nodes"),
        (config.sql_mode.as_deref().is_some_and(|mode| !mode.is_empty()), "sql_mode"),
        (config.filter.event_filters.iter().any(expressions), "filter.event_filters with SQL or expressions"),
        (!config.filter.ignore_txn_start_ts.is_empty(), "filter.ignore_txn_start_ts"),
        (!sink.column_selectors.is_empty(), "sink.column_selectors"),
        (!sink.dispatchers.is_empty(), "sink.dispatchers"),
        (sink.schema_registry.as_deref().is_some_and(|at| !at.is_empty()), "sink.schema_registry"),
        (sink.only_output_updated_columns, "sink.only_output_updated_columns"),
        (sink.delete_only_output_handle_key_columns, "sink.delete_only_output_handle_key_columns"),
        (sink.content_compatible, "sink.content_compatible"),
        (sink.enable_kafka_sink_v2, "sink.enable_kafka_sink_v2"),
        (sink.debezium_disable_schema, "sink.debezium_disable_schema"),
        (sink.safe_mode == Some(true), "sink.safe_mode"),
        (sink.transaction_atomicity.as_deref().is_some_and(|said| !["", "none"].contains(&said)), "sink.transaction_atomicity"),
        (sink.kafka_config.is_some(), "sink.kafka_config"),
        (sink.pulsar_config.is_some(), "sink.pulsar_config"),
        (sink.mysql_config.is_some(), "sink.mysql_config"),
        (config.consistent.storage.as_deref().is_some_and(|at| !at.is_empty()), "consistent.storage"),
        (expires, "sink.cloud_storage_config.file_expiration_days"),
    ];
    match asked.into_iter().find(|(on, _)| *on) {
        Some((_, what)) => Err(invalid(format_args!("{what} has no effect here: leave it out"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn code(uri: &str, config: serde_json::Value) -> Result<(), (Code, String)> {
        let config = ReplicaConfig::default().over(config.as_object().unwrap()).unwrap();
        check(uri, &config).map(drop).map_err(|failure| (failure.code, failure.message))
    }

    #[test]
    fn what_cannot_be_is_refused_in_the_words_of_the_page() {
        let message = |uri, config| code(uri, config).unwrap_err();
        assert_eq!(message("foo://", json!({})), (Code::SinkUriInvalid, "the sink scheme (foo) is not supported".into()));
        assert_eq!(message("mysql://u@h/", json!({})).0, Code::SinkUriInvalid);
        #[cfg(not(feature = "kafka"))]
        assert_eq!(message("kafka://h:9092/t?protocol=canal-json", json!({})).1, "the sink scheme (kafka) is not supported");
        assert_eq!(message("file:///x", json!({})), (Code::SinkUnknownProtocol, "unknown '' message protocol for sink".into()));
        assert_eq!(message("file:///x?protocol=avro", json!({})).1, "unknown 'avro' message protocol for sink");
        assert_eq!(
            message("blackhole://", json!({"enable_sync_point": true, "sync_point_interval": "10s"})),
            (Code::InvalidReplicaConfig, "invalid replica config, The SyncPointInterval:10s must be larger than 30s".into())
        );
        for config in [
            json!({"enable_sync_point": true}),
            json!({"bdr_mode": true}),
            json!({"consistent": {"level": "eventual"}}),
            json!({"integrity": {"integrity_check_level": "correctness"}}),
            json!({"filter": {"event_filters": [{"matcher": ["a.*"], "ignore_sql": ["^drop"]}]}}),
            json!({"sink": {"column_selectors": [{}]}}),
            json!({"sink": {"kafka_config": {"sasl_password": "hidden"}}}),
            json!({"sink": {"mysql_config": {}}}),
            json!({"consistent": {"storage": "s3://b?secret-access-key=hidden"}}),
            json!({"changefeed_error_stuck_duration": "29m"}),
            json!({"sink": {"safe_mode": true}}),
            json!({"sink": {"only_output_updated_columns": true}}),
            json!({"synced_status": {"synced_check_interval": -1}}),
            json!({"filter": {"ignore_rows": ["a"]}}),
        ] {
            assert_eq!(message("blackhole://", config.clone()).0, Code::InvalidReplicaConfig, "{config}");
        }
        assert_eq!(message("blackhole://", json!({"filter": {"rules": ["x"]}})).0, Code::FilterRuleInvalid);
        assert_eq!(message("file:///x?protocol=csv", json!({"sink": {"csv": {"quote": "\"\""}}})).0, Code::SinkInvalidConfig);
        let storage = |config| json!({"sink": {"cloud_storage_config": config}});
        assert_eq!(message("blackhole://", storage(json!({"flush_interval": "1s"}))).0, Code::StorageSinkInvalidConfig);
    }

    #[test]
    fn a_uri_says_how_files_are_cut_and_nothing_without_effect() {
        let cut = |uri: &str| check(uri, &ReplicaConfig::default()).map(|checked| checked.storage);
        let storage = cut("file:///x?protocol=csv&flush-interval=10s&file-size=1048576&worker-count=4").unwrap();
        assert_eq!((storage.flush_interval, storage.file_size, storage.worker_count), (Some(Nanos::seconds(10)), Some(1 << 20), Some(4)));
        for (wrong, code) in [
            ("file:///x?protocol=csv&nonsense=1", Code::SinkUriInvalid),
            ("file:///x?protocol=csv&region=r", Code::SinkUriInvalid),
            ("s3://b/x?protocol=csv&session-token=a", Code::SinkUriInvalid),
            ("file:///x?protocol=csv&flush-interval=soon", Code::StorageSinkInvalidConfig),
            ("file:///x?protocol=csv&flush-interval=1s", Code::StorageSinkInvalidConfig),
            ("file:///x?protocol=csv&file-size=1", Code::StorageSinkInvalidConfig),
        ] {
            assert_eq!(cut(wrong).unwrap_err().code, code, "{wrong}");
        }
        assert!(cut("http://h/x?anything=1").is_ok(), "what a listener is told is its own");
    }

    #[test]
    fn the_uri_says_the_protocol_before_the_config_does() {
        let config = ReplicaConfig::default().over(json!({"sink": {"protocol": "canal-json"}}).as_object().unwrap()).unwrap();
        assert_eq!(check("file:///x?protocol=csv", &config).unwrap().protocol, Protocol::Csv);
        assert_eq!(check("file:///x", &config).unwrap().protocol, Protocol::CanalJson);
        assert_eq!(code("blackhole://", json!({})), Ok(()));
    }
}
