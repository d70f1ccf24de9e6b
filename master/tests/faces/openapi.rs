//! What the description tells is there.

use crate::engine::Served;
use crate::http;
use serde_json::Value;
use std::collections::BTreeSet;

#[test]
fn what_is_described_is_served_and_what_it_refers_to_is_explained() {
    let served = Served::start();
    let reply = served.get(perilune_probe::OPENAPI);
    assert_eq!((reply.status, reply.header("content-type")), (200, "application/json"));
    let description = reply.json();
    assert_eq!(description["openapi"], "3.1.0");
    let paths = description["paths"].as_object().unwrap();
    let mut ids = BTreeSet::new();
    for (path, item) in paths {
        for (method, operation) in item.as_object().unwrap() {
            assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{path} has the id of another");
            assert!(operation["responses"].get("200").is_some() && operation["responses"].get("401").is_some(), "{method} {path}");
            // A profile takes its time, unless the question is wrong.
            let reply = http::ask(served.addr, &method.to_uppercase(), &format!("{path}?seconds=x"));
            let nobody = ["404 Not Found", "405 Method Not Allowed"].contains(&reply.body.as_str()) || reply.body.contains("unknown api");
            assert!(!nobody, "{method} {path}: {}", reply.body);
        }
    }
    for path in ["/query_key", "/stat", "/MetaService/http/v1/create_instance", "/tifash/store-status", "/debug/pprof/heap"] {
        assert!(paths.contains_key(path), "{path}");
    }
    let mut refers = Vec::new();
    references(&description, &mut refers);
    for to in refers {
        assert!(description.pointer(to.trim_start_matches('#')).is_some(), "{to} is not explained");
    }
}

fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str));
            fields.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}
