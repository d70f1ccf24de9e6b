//! A listener of HTTP as a sink, and what it refuses.

use super::*;
use std::collections::{BTreeSet, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Condvar, Mutex};

/// Takes everything, unless it is told to answer otherwise.
pub(crate) struct Listener {
    pub(crate) addr: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    answers: Arc<Mutex<Answers>>,
    /// Whether it lets whoever brings rows wait.
    held: Arc<(Mutex<bool>, Condvar)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Seen {
    headers: Vec<(String, String)>,
    pub(crate) body: String,
    status: u16,
}

#[derive(Default)]
struct Answers {
    /// To the next rows, in turn.
    next: VecDeque<u16>,
    /// To bodies with this text in it.
    to: Option<(String, u16)>,
}

impl Seen {
    fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

impl Listener {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (addr, seen, answers) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<Seen>>>::default(), Arc::<Mutex<Answers>>::default());
        let held = Arc::<(Mutex<bool>, Condvar)>::default();
        let told = (seen.clone(), answers.clone(), held.clone());
        // Ends with the process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, answers, held) = told.clone();
                std::thread::spawn(move || {
                    let mut stream = BufReader::new(stream);
                    while let Some((headers, body)) = request(&mut stream) {
                        let mut answers = answers.lock().unwrap();
                        let about = answers.to.as_ref().filter(|(text, _)| body.contains(text)).map(|(_, status)| *status);
                        let mut request = Seen { headers, body, status: 200 };
                        let is_rows = request.header("x-perilune-event") == "rows";
                        let next = if is_rows { answers.next.pop_front() } else { None };
                        let status = about.or(next).unwrap_or(200);
                        drop(answers);
                        request.status = status;
                        seen.lock().unwrap().push(request);
                        if is_rows {
                            drop(held.1.wait_while(held.0.lock().unwrap(), |held| *held));
                        }
                        // The caller may be gone.
                        let _ = write!(stream.get_mut(), "HTTP/1.1 {status} Said\r\nContent-Length: 0\r\n\r\n");
                    }
                });
            }
        });
        Self { addr, seen, answers, held }
    }

    /// Whether it reads rows that come and answers nothing.
    pub(crate) fn hold(&self, held: bool) {
        *self.held.0.lock().unwrap() = held;
        self.held.1.notify_all();
    }

    /// All that came of a kind.
    pub(crate) fn of(&self, event: &str) -> Vec<Seen> {
        self.seen.lock().unwrap().iter().filter(|seen| seen.header("x-perilune-event") == event).cloned().collect()
    }

    /// Of what it took.
    pub(crate) fn bodies(&self, event: &str) -> Vec<String> {
        self.of(event).into_iter().filter(|seen| seen.status == 200).map(|seen| seen.body).collect()
    }

    /// Whether there is a signature on everything, as openssl makes it.
    pub(crate) fn signed_with(&self, secret: &str) -> bool {
        let seen = self.seen.lock().unwrap().clone();
        !seen.is_empty()
            && seen.iter().all(|seen| {
                let (time, signature) = seen.header("x-perilune-signature").split_once(",v1=").expect("a signature");
                let signed = format!("{}.{}.{}", time.strip_prefix("t=").unwrap(), seen.header("idempotency-key"), seen.body);
                let mut openssl = std::process::Command::new("openssl")
                    .args(["dgst", "-sha256", "-hmac", secret])
                    .stdin(std::process::Stdio::piped())
                    .stdout(std::process::Stdio::piped())
                    .spawn()
                    .expect("openssl");
                openssl.stdin.take().unwrap().write_all(signed.as_bytes()).unwrap();
                let said = String::from_utf8(openssl.wait_with_output().unwrap().stdout).unwrap();
                said.trim_end().ends_with(&format!("= {signature}"))
            })
    }

    fn answer_next(&self, statuses: &[u16]) {
        self.answers.lock().unwrap().next.extend(statuses);
    }

    pub(crate) fn answer_to(&self, to: Option<(&str, u16)>) {
        self.answers.lock().unwrap().to = to.map(|(text, status)| (text.into(), status));
    }
}

fn request(stream: &mut impl BufRead) -> Option<(Vec<(String, String)>, String)> {
    let mut line = String::new();
    stream.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length").map_or(0, |(_, value)| value.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some((headers, String::from_utf8(body).unwrap()))
}

/// The keys of the rows that it took, in their order, each once.
pub(crate) fn keys(listener: &Listener) -> Vec<String> {
    let mut keys = Vec::new();
    for line in listener.bodies("rows").iter().flat_map(|body| body.lines()) {
        let row: Value = serde_json::from_str(line).unwrap();
        if row["table"] == "default" {
            let key = row["data"][0]["key"].as_str().unwrap().to_owned();
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    keys
}

#[test]
fn rows_are_posted_in_order_and_again_until_they_are_taken() {
    let (listener, served) = (Listener::start(), Served::start());
    served.create(json!({"changefeed_id": "f", "sink_uri": format!("http://{}/hook", listener.addr)}));
    assert_eq!(listener.of("ping").first().map(|seen| seen.header("x-perilune-feed").to_owned()).as_deref(), Some("default/f"));
    served.lend();
    served.put(&["a"]);
    served.until_delivered("f");
    // It is overloaded, loses our credentials, and is well again.
    listener.answer_to(Some(("\"b\"", 503)));
    served.put(&["b"]);
    let found = served.until_state("f", "pending");
    listener.answer_next(&[401, 429]);
    listener.answer_to(None);
    assert_eq!(found["last_error"]["code"], "CDC:ErrWebhookSink", "{found}");
    assert!(found["last_error"]["message"].as_str().unwrap().contains("503"), "{found}");
    served.until_state("f", "normal");
    served.put(&["c", "d"]);
    served.until_delivered("f");
    assert_eq!(keys(&listener), ["a", "b", "c", "d"]);
    assert!(listener.bodies("watermark").iter().all(|body| body.contains("TIDB_WATERMARK")) && !listener.bodies("watermark").is_empty());
    // What was sent again is known by its key.
    let sent = listener.of("rows");
    let refused = sent.iter().find(|seen| seen.status == 503).unwrap();
    assert!(sent.iter().any(|seen| seen.status == 200 && seen.header("idempotency-key") == refused.header("idempotency-key")));
}

#[test]
fn what_two_feeds_send_to_one_listener_has_keys_of_its_own() {
    let (listener, served) = (Listener::start(), Served::start());
    for feed in ["f", "g"] {
        served.create(json!({"changefeed_id": feed, "sink_uri": format!("http://{}/", listener.addr)}));
    }
    served.lend();
    served.put(&["a"]);
    ["f", "g"].into_iter().for_each(|feed| served.until_delivered(feed));
    let keys = |feed: &str| -> BTreeSet<String> {
        let of_feed = listener.of("rows").into_iter().filter(|seen| seen.header("x-perilune-feed") == format!("default/{feed}"));
        of_feed.map(|seen| seen.header("idempotency-key").to_owned()).collect()
    };
    assert!(!keys("f").is_empty() && !keys("g").is_empty() && keys("f").is_disjoint(&keys("g")));
}

#[test]
fn a_mask_that_is_given_back_stands_for_what_was_there() {
    let (listener, served) = (Listener::start(), Served::start());
    let uri = format!("http://u:pass@{}/hook?protocol=canal-json&secret=s3cret", listener.addr);
    let masked = served.create(json!({"changefeed_id": "f", "sink_uri": uri}))["sink_uri"].as_str().unwrap().to_owned();
    assert!(masked.contains("xxxxx") && !masked.contains("s3cret"), "{masked}");
    assert_eq!(served.ask("POST", "changefeeds/f/pause", "").status, 200);
    let update = |said: Value| served.ask("PUT", "changefeeds/f", &said.to_string());
    assert!(update(json!({"sink_uri": masked})).body.contains("the same with the old one"), "nothing is changed");
    assert_eq!(update(json!({"sink_uri": masked, "replica_config": {"memory_quota": 5_000_000}})).status, 200);
    let elsewhere = masked.replace("127.0.0.1", "127.0.0.2");
    assert!(served.refused("PUT", "changefeeds/f", &json!({"sink_uri": elsewhere}).to_string()).contains("is masked here: say it"));
    let anew = json!({"changefeed_id": "g", "sink_uri": masked}).to_string();
    assert!(served.refused("POST", "changefeeds", &anew).starts_with("400 [CDC:ErrSinkURIInvalid]"));
    assert_eq!(served.ask("POST", "changefeeds/f/resume", "{}").status, 200);
    served.lend();
    served.put(&["a"]);
    served.until_delivered("f");
    assert!(keys(&listener) == ["a"] && listener.signed_with("s3cret"));
    assert!(listener.of("rows").iter().all(|seen| seen.header("authorization") == "Basic dTpwYXNz"), "u:pass");
}

/// A feed whose listener does not take one of three rows. They were decided together and have one stamp.
fn poisoned() -> (Listener, Served) {
    let (listener, served) = (Listener::start(), Served::start());
    served.create(json!({"changefeed_id": "f", "sink_uri": format!("http://{}", listener.addr)}));
    served.lend();
    listener.answer_to(Some(("\"poison\"", 422)));
    served.put(&["a", "poison", "z"]);
    (listener, served)
}

#[test]
fn one_row_that_is_not_taken_holds_up_the_feed_and_is_named() {
    let (listener, served) = poisoned();
    let why = served.until_state("f", "pending")["last_error"].clone();
    let message = why["message"].as_str().unwrap();
    assert!(why["code"] == "CDC:ErrSinkRejectedRow" && message.contains("\"poison\" in default.default"), "{why}");
    assert_eq!(served.get("changefeeds")["items"][0]["state"], "warning", "as lists show what waits");
    assert_eq!(keys(&listener), ["a"]);
    listener.answer_to(None);
    served.until_state("f", "normal");
    served.until_delivered("f");
    assert_eq!(keys(&listener), ["a", "poison", "z"]);
}

#[test]
fn one_row_that_is_not_taken_is_left_out_by_its_place_and_no_other() {
    let (listener, served) = poisoned();
    let why = served.until_state("f", "pending")["last_error"]["message"].as_str().unwrap().to_owned();
    let place = why.rsplit_once("place ").unwrap().1;
    assert_eq!(served.ask("POST", "changefeeds/f/pause", "").status, 200);
    let config = |places: Value| json!({"replica_config": {"filter": {"ignore_rows": places}}}).to_string();
    let said = served.refused("PUT", "changefeeds/f", &config(json!(["poison"])));
    assert!(said.contains("poison is none"), "{said}");
    assert_eq!(served.ask("PUT", "changefeeds/f", &config(json!([place]))).status, 200);
    assert_eq!(served.ask("POST", "changefeeds/f/resume", "{}").status, 200);
    served.until_delivered("f");
    assert_eq!(keys(&listener), ["a", "z"]);
    assert_eq!(served.get("changefeeds/f")["config"]["filter"]["ignore_rows"], json!([place]), "it is told");
    // What happens to that object later is told.
    served.remove("^poison$");
    let why = served.until_state("f", "pending")["last_error"]["message"].as_str().unwrap().to_owned();
    assert!(why.contains("poison") && !why.contains(place), "{why}");
}

#[test]
fn a_listener_that_is_not_there_is_found_out_when_the_feed_is_created() {
    let served = Served::start();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let said = served.refused("POST", "changefeeds", &body(json!({"sink_uri": format!("http://{closed}/?token=hidden")})));
    assert!(said.starts_with("500 [CDC:ErrWebhookSink]") && !said.contains("hidden") && said.contains("refused"), "{said}");
    let said = served.refused("POST", "changefeeds", &body(json!({"sink_uri": "http://[::1"})));
    assert!(said.starts_with("400 [CDC:ErrSinkURIInvalid]"), "{said}");
    assert_eq!(served.get("changefeeds")["total"], 0);
}
