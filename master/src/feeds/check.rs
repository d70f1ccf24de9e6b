//! Whether a changefeed can be as it is asked for: what its page allows, and what would have no effect here.

use super::config::ReplicaConfig;
use super::duration::Nanos;
use super::failure::{Code, Failure};
use super::filter::Filter;
use super::sink::Protocol;
use super::uri::SinkUri;

/// The parameter of a URI that asks for lists.
pub(crate) const BOOTSTRAP: &str = "send-bootstrap";

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
            "blackhole" => Self::Blackhole,
            "file" => Self::File,
            "s3" => Self::S3,
            "http" | "https" => Self::Http,
            #[cfg(feature = "kafka")]
            "kafka" => Self::Kafka,
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
    /// Whether all there is is to be listed now and then.
    pub(crate) bootstrap: bool,
}

/// # Errors
/// Why not, with the code that the page has for it.
pub(crate) fn check(uri: &str, config: &ReplicaConfig) -> Result<Checked, Failure> {
    let uri = SinkUri::parse(uri).map_err(|why| Code::SinkUriInvalid.with(format!("sink uri invalid '{why}'")))?;
    let scheme = Scheme::of(&uri)?;
    let protocol = Protocol::of(scheme, uri.get("protocol").or(config.sink.protocol.as_deref()))?;
    limits(config)?;
    without_effect(config)?;
    let filter = Filter::new(config)?;
    let bootstrap = uri.get(BOOTSTRAP) == Some("true");
    Ok(Checked { uri, scheme, protocol, filter, bootstrap })
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
    let storage = config.sink.cloud_storage_config.clone().unwrap_or_default();
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
        ] {
            assert_eq!(message("blackhole://", config.clone()).0, Code::InvalidReplicaConfig, "{config}");
        }
        assert_eq!(message("blackhole://", json!({"filter": {"rules": ["x"]}})).0, Code::FilterRuleInvalid);
        assert_eq!(message("file:///x?protocol=csv", json!({"sink": {"csv": {"quote": "\"\""}}})).0, Code::SinkInvalidConfig);
        let storage = |config| json!({"sink": {"cloud_storage_config": config}});
        assert_eq!(message("blackhole://", storage(json!({"flush_interval": "1s"}))).0, Code::StorageSinkInvalidConfig);
    }

    #[test]
    fn the_uri_says_the_protocol_before_the_config_does() {
        let config = ReplicaConfig::default().over(json!({"sink": {"protocol": "canal-json"}}).as_object().unwrap()).unwrap();
        assert_eq!(check("file:///x?protocol=csv", &config).unwrap().protocol, Protocol::Csv);
        assert_eq!(check("file:///x", &config).unwrap().protocol, Protocol::CanalJson);
        assert_eq!(code("blackhole://", json!({})), Ok(()));
    }
}
