//! `perilune feeds`: changefeeds, through the page of TiCDC that masters serve.

use super::client::{TokenArgs, quoted};
use crate::failure::Failure;
use crate::output;
use crate::settings::Global;
use perilune_benches::report::Table;
use serde_json::{Map, Value, json};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// List the changefeeds of a tenant, or change what becomes of them
///
/// A changefeed delivers what happens to the objects and segments of a tenant, in order, to files, a bucket or a listener of HTTP.
#[derive(clap::Args)]
pub(crate) struct Feeds {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Create a changefeed; its sink is opened and written to at once
    Create {
        /// What it is called: letters and digits, in parts with one - between them
        name: String,
        /// Where it delivers: file:///DIR?protocol=csv, s3://BUCKET/PREFIX?..., https://HOST/PATH?secret=..., blackhole://
        #[arg(long, value_name = "URI", required_unless_present = "sink_file")]
        sink: Option<String>,
        /// A file that holds the URI, so that its secrets are in no list of processes
        #[arg(long, value_name = "FILE", conflicts_with = "sink")]
        sink_file: Option<PathBuf>,
        /// Rows of these tables: DB.TABLE with * and ?, with ! before it: not of those; the last one that fits decides
        #[arg(long, value_name = "RULE")]
        rule: Vec<String>,
        /// Events after this stamp; without it from now on
        #[arg(long, value_name = "TSO")]
        start_ts: Option<u64>,
        /// Events up to this one; then it is finished
        #[arg(long, value_name = "TSO")]
        target_ts: Option<u64>,
        /// A file with the replica_config, as JSON
        #[arg(long, value_name = "FILE")]
        replica_config: Option<PathBuf>,
        #[command(flatten)]
        masters: Masters,
    },
    /// List the changefeeds
    List {
        /// Only those in this state, such as failed; all: also those that are finished
        #[arg(long, value_name = "STATE")]
        state: Option<String>,
        #[command(flatten)]
        masters: Masters,
    },
    /// Show all there is to say of one
    Get(Named),
    /// Show how far one is, and what it met
    Status(Named),
    /// Have one stand still
    Pause(Named),
    /// Have one go on that stands still
    Resume {
        #[command(flatten)]
        feed: Named,
        /// From this stamp instead of from where it was
        #[arg(long, value_name = "TSO")]
        from_ts: Option<u64>,
    },
    /// End one; what it has delivered stays
    Rm(Named),
}

#[derive(clap::Args)]
struct Named {
    /// What it is called
    name: String,
    #[command(flatten)]
    masters: Masters,
}

#[derive(clap::Args)]
struct Masters {
    /// The HTTP of any master
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9003")]
    http: String,
    /// Whose changefeeds
    #[arg(long, value_name = "TENANT", default_value = "default")]
    tenant: String,
    #[command(flatten)]
    token: TokenArgs,
    /// Print what curl would do the same, and do nothing
    #[arg(long)]
    curl: bool,
}

/// A feed that ends may take a minute to stop writing.
const ANSWER: Duration = Duration::from_secs(90);
const ROOT: &str = "/api/v2/changefeeds";

impl Feeds {
    pub(crate) fn run(self, global: &Global) -> Result<(), Failure> {
        match self.what {
            What::Create { name, sink, sink_file, rule, start_ts, target_ts, replica_config, masters } => {
                let sink = match sink_file {
                    Some(file) => read(&file, "--sink-file")?.trim().to_owned(),
                    None => sink.unwrap_or_default(),
                };
                let mut config: Map<String, Value> = match replica_config {
                    Some(file) => serde_json::from_str(&read(&file, "--replica-config")?)
                        .map_err(|e| Failure::Usage(format!("--replica-config {}: {e}", file.display())))?,
                    None => Map::new(),
                };
                if !rule.is_empty() {
                    let filter = config.entry("filter").or_insert_with(|| json!({}));
                    filter["rules"] = rule.into();
                }
                let body = json!({
                    "changefeed_id": name, "namespace": masters.tenant, "sink_uri": sink, "replica_config": config,
                    "start_ts": start_ts.unwrap_or(0), "target_ts": target_ts.unwrap_or(0),
                });
                masters.ask("POST", "", Some(&body)).map(drop)
            }
            What::List { state, masters } => list(&masters, state.as_deref(), global),
            What::Get(feed) => feed.show("GET", "", global),
            What::Status(feed) => feed.show("GET", "/status", global),
            What::Pause(feed) => feed.ask("POST", "/pause", None),
            What::Resume { feed, from_ts } => {
                let body = from_ts.map_or_else(|| json!({}), |from| json!({"overwrite_checkpoint_ts": from}));
                feed.ask("POST", "/resume", Some(&body))
            }
            What::Rm(feed) => feed.ask("DELETE", "", None),
        }
    }
}

fn read(file: &PathBuf, flag: &str) -> Result<String, Failure> {
    fs::read_to_string(file).map_err(|e| Failure::Usage(format!("{flag} {}: {e}", file.display())))
}

impl Named {
    fn ask(&self, method: &str, what: &str, body: Option<&Value>) -> Result<(), Failure> {
        let Masters { tenant, .. } = &self.masters;
        self.masters.ask(method, &format!("/{}{what}?namespace={tenant}", self.name), body).map(drop)
    }

    fn show(&self, method: &str, what: &str, global: &Global) -> Result<(), Failure> {
        let Masters { tenant, .. } = &self.masters;
        let Some(found) = self.masters.ask(method, &format!("/{}{what}?namespace={tenant}", self.name), None)? else { return Ok(()) };
        if global.json {
            return output::json(&found);
        }
        output::line(serde_json::to_string_pretty(&found).map_err(|e| Failure::of("writing JSON", e))?)
    }
}

impl Masters {
    /// The answer; nothing where it was only shown.
    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Option<Value>, Failure> {
        let url = format!("http://{}{ROOT}{path}", self.http);
        let token = self.token.find()?;
        if self.curl {
            let header = self.token.header(token.as_ref());
            let body = body.map_or_else(String::new, |body| format!(" -d {}", quoted(&body.to_string())));
            output::line(format_args!(r#"curl -X {method}{header} "{url}"{body}"#))?;
            return Ok(None);
        }
        let agent =
            ureq::Agent::new_with_config(ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(ANSWER)).build());
        let mut request = ureq::http::Request::builder().method(method).uri(&url).header("Content-Type", "application/json");
        if let Some(token) = &token {
            request = request.header("Authorization", format!("Bearer {}", token.secret()));
        }
        let request = request.body(body.map_or_else(String::new, Value::to_string)).map_err(|e| Failure::Usage(format!("{url}: {e}")))?;
        let asking = |e: ureq::Error| Failure::of(format_args!("asking {}", self.http), e);
        let mut answer = agent.run(request).map_err(asking)?;
        let text = answer.body_mut().read_to_string().map_err(asking)?;
        let said: Value = serde_json::from_str(&text).map_err(|_| Failure::of(self.http.clone(), text.trim()))?;
        if answer.status().is_success() {
            return Ok(Some(said));
        }
        let why = said["error_msg"].as_str().or(said["error"].as_str()).unwrap_or(text.trim());
        Err(Failure::Failed(why.to_owned()))
    }
}

fn list(masters: &Masters, state: Option<&str>, global: &Global) -> Result<(), Failure> {
    let state = state.map_or_else(String::new, |state| format!("&state={state}"));
    let Some(found) = masters.ask("GET", &format!("?namespace={}{state}", masters.tenant), None)? else { return Ok(()) };
    let feeds = found["items"].as_array().map_or(&[][..], Vec::as_slice);
    if global.json {
        return feeds.iter().try_for_each(output::json);
    }
    let mut table = Table::new(["name", "state", "delivered until (UTC)", "stamp", "what it met"]);
    table = (0..5).fold(table, Table::left);
    for feed in feeds {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let met = match &feed["error"] {
            Value::Null => String::new(),
            error => format!("[{}]{}", text(&error["code"]), text(&error["message"])),
        };
        table.row([text(&feed["id"]), text(&feed["state"]), text(&feed["checkpoint_time"]), feed["checkpoint_tso"].to_string(), met]);
    }
    output::bytes(table.to_string().as_bytes())
}
