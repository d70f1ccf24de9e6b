//! What was asked, with headers, and how it was answered.

use http::request::Parts;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Clone, Default)]
pub(crate) struct Record(Arc<Mutex<Vec<Value>>>);

impl Record {
    /// Keeps a request and the status of its answer; 0 where there was none.
    pub(crate) fn keep(&self, asked: &Parts, status: u16) {
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers: serde_json::Map<String, Value> =
            asked.headers.iter().map(|(name, value)| (name.to_string(), text(value).into())).collect();
        let entry = json!({ "method": asked.method.as_str(), "target": asked.uri.to_string(), "headers": headers, "status": status });
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
    }

    pub(crate) fn json(&self) -> String {
        Value::Array(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()).to_string()
    }

    pub(crate) fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
