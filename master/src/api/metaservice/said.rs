//! What callers say: JSON as people write it on that page, with commas at the end of lists, single quotes and bare names; names in
//! `snake_case` or `camelCase`, numbers where texts are meant and the other way round.

use super::envelope::Refusal;
use perilune_state::directory::is_unshown;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// Deeper ones are nobody's request, and reading them takes stack.
const DEPTH_MAX: usize = 64;
/// Letters of what a caller said that are said back: no id is longer.
const SHOWN_CHARS: usize = 1024;

/// A body that is yet to be read.
pub(super) struct Said<'a> {
    path: &'a str,
    body: &'a [u8],
}

impl<'a> Said<'a> {
    pub(super) fn new(path: &'a str, body: &'a [u8]) -> Self {
        Self { path, body }
    }

    /// # Errors
    /// What cannot be read, and that nothing was said.
    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        let told = |e: serde_json::Error| without_texts(&e.to_string());
        let parsed = object(self.body).and_then(|object| serde_json::from_value(Value::Object(object)).map_err(told));
        parsed.map_err(|why| Refusal::argument(format!("parse http request '{}': {why}", self.path)))
    }
}

/// What is wrong, without what was said in the wrong place: it may be a secret.
fn without_texts(why: &str) -> String {
    match why.split_once("string \"").and_then(|(before, rest)| Some((before, rest.rsplit_once('"')?.1))) {
        Some((before, behind)) => format!("{before}a text{behind}"),
        None => why.to_owned(),
    }
}

fn object(body: &[u8]) -> Result<Map<String, Value>, String> {
    let text = std::str::from_utf8(body).map_err(|e| e.to_string())?;
    if text.trim().is_empty() {
        return Err("the body is empty".into());
    }
    // Counted in texts, too: nobody needs so many there either.
    let mut depth = 0_usize;
    for byte in text.bytes() {
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => continue,
        }
        if depth > DEPTH_MAX {
            return Err(format!("nested more than {DEPTH_MAX} deep"));
        }
    }
    match json5::from_str::<Value>(text) {
        Ok(Value::Object(object)) => Ok(snake(object)),
        Ok(_) => Err("not an object".into()),
        Err(e) => Err(e.to_string()),
    }
}

/// Names as the page has them. What is `null` is left out, as Protobuf has it.
fn snake(object: Map<String, Value>) -> Map<String, Value> {
    let name = |camel: String| {
        let mut name = String::with_capacity(camel.len());
        for letter in camel.chars() {
            if letter.is_ascii_uppercase() && !name.is_empty() {
                name.push('_');
            }
            name.push(letter.to_ascii_lowercase());
        }
        name
    };
    let there = object.into_iter().filter(|(_, value)| !value.is_null());
    there.map(|(key, value)| (name(key), within(value))).collect()
}

fn within(value: Value) -> Value {
    match value {
        Value::Object(object) => Value::Object(snake(object)),
        Value::Array(items) => Value::Array(items.into_iter().map(within).collect()),
        other => other,
    }
}

/// A text, or a number that is meant as one.
pub(super) fn text<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    match Value::deserialize(from)? {
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        Value::Null => Ok(String::new()),
        Value::Bool(_) => Err(D::Error::custom("a text is expected, not true or false")),
        Value::Array(_) => Err(D::Error::custom("a text is expected, not a list")),
        Value::Object(_) => Err(D::Error::custom("a text is expected, not an object")),
    }
}

/// A list of texts.
pub(super) fn texts<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let Value::Array(items) = Value::deserialize(from)? else { return Err(D::Error::custom("a list of texts is expected")) };
    items.into_iter().map(|item| text(item).map_err(D::Error::custom)).collect()
}

/// A whole number, or a text that holds one; absent stays absent.
pub(super) fn number<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let value = Value::deserialize(from)?;
    let read = match &value {
        Value::Null => return Ok(None),
        // What is read by the rules of JavaScript may have come as 5.0.
        Value::Number(number) => {
            number.as_u64().or_else(|| number.as_f64().filter(|n| n.fract() == 0.0 && (0.0..1e15).contains(n)).map(|n| n as u64))
        }
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    read.map(Some).ok_or_else(|| D::Error::custom(format!("a whole number is expected, not {}", shortened(&value.to_string()))))
}

/// What a caller said, short enough to be said back.
pub(super) fn shortened(said: &str) -> String {
    let mut short: String = said.chars().filter(|c| !is_unshown(*c)).take(SHOWN_CHARS).collect();
    if said.chars().count() > SHOWN_CHARS {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    struct Sample {
        #[serde(default, deserialize_with = "text")]
        instance_id: String,
        #[serde(default, deserialize_with = "number")]
        quota_bytes: Option<u64>,
        #[serde(default, deserialize_with = "texts")]
        ids: Vec<String>,
        #[serde(default)]
        nodes: Vec<Value>,
        #[serde(default)]
        force: bool,
    }

    fn parse(body: &str) -> Result<Sample, Refusal> {
        Said::new("/p", body.as_bytes()).parse()
    }

    #[test]
    fn what_people_write_is_read() {
        let sample = |id: &str, quota_bytes| Sample { instance_id: id.into(), quota_bytes, ..Sample::default() };
        for (body, means) in [
            (r#"{"instance_id": "a", "quota_bytes": "7",}"#, sample("a", Some(7))),
            ("{instanceId: 'a', quotaBytes: 7, unknown: [1, 2,],}", sample("a", Some(7))),
            (r#"{"instance_id": 113974}"#, sample("113974", None)),
            (r#"{"quota_bytes": 18446744073709551615}"#, sample("", Some(u64::MAX))),
            ("{}", sample("", None)),
            (r#"{"instance_id": "a", "quota_bytes": null, "ids": null, "nodes": null, "force": null}"#, sample("a", None)),
            (r#"{"nodes": [{"name": null}]}"#, Sample { nodes: vec![json!({})], ..Sample::default() }),
        ] {
            assert_eq!(parse(body).unwrap(), means, "{body}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let deep = "[".repeat(60_000);
        for body in ["", " ", "{", "[]", "7", r#"{"instance_id": {}}"#, r#"{"quota_bytes": -1}"#, r#"{"quota_bytes": 1.5}"#, &deep, "\u{0}"]
        {
            assert!(parse(body).is_err(), "{body:.20}");
        }
        assert!(Said::new("/p", &[0xff]).parse::<Sample>().is_err());
        assert_eq!(shortened(&"x\n".repeat(2 * SHOWN_CHARS)).chars().count(), SHOWN_CHARS + 1);
        let longest = "x".repeat(SHOWN_CHARS);
        assert_eq!(shortened(&longest), longest);
    }
}
