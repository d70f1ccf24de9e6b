//! How a changefeed delivers: the `replica_config` of its page, with the page's defaults.
//!
//! What means nothing here is kept and shown as it was said, and refused when it is switched on (`check.rs`).

use super::duration::Nanos;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// In what is in flight of a feed, in bytes, unless it says otherwise.
const MEMORY_QUOTA: u64 = 1 << 30;

macro_rules! part {
    ($(#[$about:meta])* $name:ident { $($field:ident: $type:ty = $default:expr),* $(,)? }) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
        #[serde(default)]
        pub(crate) struct $name { $(pub(crate) $field: $type),* }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default),* }
            }
        }
    };
}

part! {
    /// All of it. Durations are nanoseconds, or texts such as `10m`.
    ReplicaConfig {
        memory_quota: u64 = MEMORY_QUOTA,
        case_sensitive: bool = false,
        force_replicate: bool = false,
        ignore_ineligible_table: bool = false,
        check_gc_safe_point: bool = true,
        enable_sync_point: bool = false,
        enable_table_monitor: bool = false,
        bdr_mode: bool = false,
        sync_point_interval: Nanos = Nanos::seconds(600),
        sync_point_retention: Nanos = Nanos::seconds(86_400),
        filter: FilterConfig = FilterConfig::default(),
        mounter: Mounter = Mounter::default(),
        sink: SinkConfig = SinkConfig::default(),
        consistent: Consistent = Consistent::default(),
        scheduler: Scheduler = Scheduler::default(),
        integrity: Integrity = Integrity::default(),
        changefeed_error_stuck_duration: Nanos = Nanos::seconds(1_800),
        synced_status: SyncedConfig = SyncedConfig::default(),
        sql_mode: Option<String> = None,
    }
}

part! {
    /// Which rows it carries.
    FilterConfig {
        rules: Vec<String> = vec!["*.*".into()],
        event_filters: Vec<EventFilter> = Vec::new(),
        ignore_txn_start_ts: Vec<u64> = Vec::new(),
        ignore_rows: Vec<String> = Vec::new(),
    }
}

part! {
    /// Kinds of rows that it does not carry.
    EventFilter {
        matcher: Vec<String> = Vec::new(),
        ignore_event: Vec<String> = Vec::new(),
        ignore_sql: Vec<String> = Vec::new(),
        ignore_insert_value_expr: String = String::new(),
        ignore_update_new_value_expr: String = String::new(),
        ignore_update_old_value_expr: String = String::new(),
        ignore_delete_value_expr: String = String::new(),
    }
}

part! {
    /// Kept as it is said.
    Mounter { worker_num: i64 = 16 }
}

part! {
    /// How rows are written.
    SinkConfig {
        protocol: Option<String> = None,
        schema_registry: Option<String> = None,
        csv: CsvConfig = CsvConfig::default(),
        dispatchers: Vec<Value> = Vec::new(),
        column_selectors: Vec<Value> = Vec::new(),
        transaction_atomicity: Option<String> = None,
        encoder_concurrency: i64 = 32,
        terminator: String = "\r\n".into(),
        date_separator: String = "day".into(),
        enable_partition_separator: bool = true,
        file_index_width: Option<u32> = None,
        enable_kafka_sink_v2: bool = false,
        only_output_updated_columns: bool = false,
        delete_only_output_handle_key_columns: bool = false,
        content_compatible: bool = false,
        safe_mode: Option<bool> = None,
        kafka_config: Option<Value> = None,
        pulsar_config: Option<Value> = None,
        mysql_config: Option<Value> = None,
        cloud_storage_config: Option<StorageConfig> = None,
        advance_timeout: u64 = 150,
        send_bootstrap_interval_in_sec: i64 = 120,
        send_bootstrap_in_msg_count: i64 = 10_000,
        send_bootstrap_to_all_partition: bool = true,
        debezium_disable_schema: bool = false,
        debezium: OldValue = OldValue::default(),
        open: OldValue = OldValue::default(),
    }
}

part! {
    /// How rows of CSV look.
    CsvConfig {
        delimiter: String = ",".into(),
        quote: String = "\"".into(),
        null: String = "\\N".into(),
        include_commit_ts: bool = false,
        binary_encoding_method: String = "base64".into(),
        output_old_value: bool = false,
        output_handle_key: bool = false,
    }
}

part! {
    /// How files are cut.
    StorageConfig {
        worker_count: Option<u32> = None,
        flush_interval: Option<Nanos> = None,
        file_size: Option<u64> = None,
        output_column_id: Option<bool> = None,
        file_expiration_days: Option<u32> = None,
        file_cleanup_cron_spec: Option<String> = None,
        flush_concurrency: Option<u32> = None,
    }
}

part! {
    /// Whether rows tell what was there before.
    OldValue { output_old_value: bool = true }
}

part! {
    /// Of a log of changes beside the sink, which there is not.
    Consistent {
        level: String = "none".into(),
        max_log_size: i64 = 64,
        flush_interval: i64 = 2_000,
        meta_flush_interval: i64 = 200,
        encoding_worker_num: i64 = 16,
        flush_worker_num: i64 = 8,
        storage: Option<String> = None,
        use_file_backend: bool = false,
        compression: Option<String> = None,
        memory_usage: MemoryUsage = MemoryUsage::default(),
    }
}

part! {
    /// Kept as it is said.
    MemoryUsage { memory_quota_percentage: u64 = 50 }
}

part! {
    /// Kept as it is said.
    Scheduler {
        enable_table_across_nodes: bool = false,
        region_threshold: i64 = 100_000,
        write_key_threshold: i64 = 0,
    }
}

part! {
    /// Of checksums of rows, which there are not.
    Integrity {
        integrity_check_level: String = "none".into(),
        corruption_handle_level: String = "warn".into(),
    }
}

part! {
    /// When everything is said to have arrived, in seconds.
    SyncedConfig {
        synced_check_interval: i64 = 300,
        checkpoint_interval: i64 = 15,
    }
}

impl ReplicaConfig {
    /// What `said` says, and of what it does not say what this one has. `null` says nothing.
    ///
    /// # Errors
    /// What of it is not what it should be.
    pub(crate) fn over(&self, said: &Map<String, Value>) -> Result<Self, serde_json::Error> {
        let mut all = serde_json::to_value(self)?;
        lay_over(&mut all, &Value::Object(said.clone()));
        let mut config: Self = serde_json::from_value(all)?;
        if config.memory_quota == 0 {
            config.memory_quota = MEMORY_QUOTA;
        }
        Ok(config)
    }

    /// What was stored. A release may have stored what this one cannot read.
    pub(crate) fn stored(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// How it is stored and shown: what was never said and has no default is left out.
    pub(crate) fn shown(&self) -> Value {
        fn without_nulls(value: &mut Value) {
            if let Value::Object(fields) = value {
                fields.retain(|_, value| !value.is_null());
                fields.values_mut().for_each(without_nulls);
            }
        }
        let mut value = serde_json::to_value(self).unwrap_or_default();
        without_nulls(&mut value);
        value
    }
}

fn lay_over(below: &mut Value, above: &Value) {
    match (below, above) {
        (_, Value::Null) => {}
        (Value::Object(below), Value::Object(above)) => {
            for (name, value) in above {
                // What is not known is not kept.
                if let Some(known) = below.get_mut(name) {
                    lay_over(known, value);
                }
            }
        }
        (below, above) => *below = above.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn said(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn the_defaults_are_those_of_the_page() {
        let page: Value = serde_json::from_str(include_str!("page.json")).unwrap();
        let mut ours = ReplicaConfig::default().shown();
        // The page leaves out what is empty.
        let filter = ours["filter"].as_object_mut().unwrap();
        filter.retain(|_, value| value != &json!([]));
        ours["sink"].as_object_mut().unwrap().retain(|_, value| value != &json!([]));
        assert_eq!(ours, page);
        assert_eq!(ReplicaConfig::stored(&ReplicaConfig::default().shown().to_string()).unwrap(), ReplicaConfig::default());
    }

    #[test]
    fn what_is_not_said_stays_as_it_is() {
        let first =
            ReplicaConfig::default().over(&said(json!({"filter": {"rules": ["a.*"]}, "memory_quota": 7, "bdr_mode": null}))).unwrap();
        assert_eq!((first.filter.rules[0].as_str(), first.memory_quota, first.check_gc_safe_point), ("a.*", 7, true));
        let second =
            first.over(&said(json!({"sink": {"csv": {"quote": "'"}}, "sync_point_interval": "10m", "nonsense": 1, "memory_quota": 0})));
        let second = second.unwrap();
        assert_eq!((second.sink.csv.quote.as_str(), second.sink.csv.delimiter.as_str(), second.filter.rules.len()), ("'", ",", 1));
        assert_eq!((second.sync_point_interval, second.memory_quota), (Nanos::seconds(600), MEMORY_QUOTA));
        let third = second.over(&said(json!({"sink": {"cloud_storage_config": {"flush_interval": "3s"}}}))).unwrap();
        assert_eq!(third.sink.cloud_storage_config.unwrap().flush_interval, Some(Nanos::seconds(3)));
        for wrong in [json!({"memory_quota": "x"}), json!({"filter": {"rules": "a.*"}}), json!({"sync_point_interval": "x"})] {
            assert!(first.over(&said(wrong.clone())).is_err(), "{wrong}");
        }
    }
}
