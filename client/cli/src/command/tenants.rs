//! `perilune tenants`: key spaces with memory and limits of their own, through the meta service of the masters.

use super::client::TokenArgs;
use crate::failure::Failure;
use crate::output;
use crate::settings::Global;
use perilune_benches::report::Table;
use perilune_client::token;
use perilune_protocol::ByteSize;
use perilune_protocol::access::Token;
use serde_json::{Value, json};
use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::time::Duration;

/// List the tenants, or change what they are and may have
///
/// A tenant has keys of its own, and memory of its own: that of the store nodes started with --tenant. Its name is never given to another,
/// even after it was dropped.
#[derive(clap::Args)]
pub(crate) struct Tenants {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// List the tenants, what they have and what they may have
    List(Service),
    /// Create a tenant
    Create {
        /// Its name for programs: letters, digits and - _ . @, up to 128
        name: String,
        /// Its name for people
        #[arg(long, value_name = "TEXT", default_value = "")]
        shown: String,
        /// Who asked for it
        #[arg(long, value_name = "TEXT", default_value = "")]
        user: String,
        #[command(flatten)]
        service: Service,
    },
    /// Drop a tenant: from now on it is not served, and what it had is taken back after tenant_retention_seconds
    Drop(Named),
    /// Take back now what a dropped tenant had
    Recycle(Named),
    /// Refuse puts and memory of a tenant that is over its budget; what it has stays readable
    Overdue(Named),
    /// Serve such a tenant fully again
    Normal(Named),
    /// Call a tenant otherwise for people
    Rename {
        /// Its name for programs, which stays
        name: String,
        /// Its new name for people
        shown: String,
        #[command(flatten)]
        service: Service,
    },
    /// Limit what a tenant may have in memory, copies counted each; without a limit it may have what its nodes lend
    Quota {
        /// Its name
        name: String,
        /// Bytes of values
        #[arg(long, value_name = "SIZE")]
        bytes: Option<ByteSize>,
        /// Objects
        #[arg(long, value_name = "COUNT")]
        objects: Option<u64>,
        #[command(flatten)]
        service: Service,
    },
}

#[derive(clap::Args)]
struct Named {
    /// Its name
    name: String,
    #[command(flatten)]
    service: Service,
}

/// Where the meta service is, and who asks.
#[derive(clap::Args)]
struct Service {
    /// The HTTP of any master
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9003")]
    http: String,
    /// A file that holds the token of the meta service; without it PERILUNE_META_TOKEN holds the token itself. Where there is neither, the
    /// admin's is presented, or on this machine that of the page
    #[arg(long, value_name = "FILE")]
    meta_token_file: Option<PathBuf>,
    #[command(flatten)]
    token: TokenArgs,
    /// Print what curl would do the same, and do nothing
    #[arg(long)]
    curl: bool,
}

/// An answer takes as long as the log does.
const ANSWER: Duration = Duration::from_secs(60);

impl Tenants {
    pub(crate) fn run(self, global: &Global) -> Result<(), Failure> {
        match self.what {
            What::List(service) => list(&service, global),
            What::Create { name, shown, user, service } => {
                service.ask("create_instance", json!({"instance_id": name, "name": shown, "user_id": user})).map(drop)
            }
            What::Drop(Named { name, service }) => service.ask("drop_instance", json!({"instance_id": name})).map(drop),
            What::Recycle(Named { name, service }) => service.ask("recycle_instance", json!({"instance_id": name})).map(drop),
            What::Overdue(Named { name, service }) => status(&service, &name, "SET_OVERDUE"),
            What::Normal(Named { name, service }) => status(&service, &name, "SET_NORMAL"),
            What::Rename { name, shown, service } => service.ask("rename_instance", json!({"instance_id": name, "name": shown})).map(drop),
            What::Quota { name, bytes, objects, service } => {
                let mut asked = json!({"instance_id": name});
                for (limit, value) in [("quota_bytes", bytes.map(|b| b.0)), ("quota_objects", objects)] {
                    if let Some(value) = value {
                        asked[limit] = value.into();
                    }
                }
                service.ask("set_instance_quota", asked).map(drop)
            }
        }
    }
}

fn status(service: &Service, name: &str, op: &str) -> Result<(), Failure> {
    service.ask("set_instance_status", json!({"instance_id": name, "op": op})).map(drop)
}

fn list(service: &Service, global: &Global) -> Result<(), Failure> {
    let Some(Value::Array(tenants)) = service.ask("list_instances", json!({}))? else { return Ok(()) };
    if global.json {
        return tenants.iter().try_for_each(output::json);
    }
    let mut table = Table::new(["tenant", "shown as", "status", "bytes", "may have", "objects", "may have"]).left(0).left(1).left(2);
    for tenant in &tenants {
        let text = |name: &str| tenant[name].as_str().unwrap_or_default().to_owned();
        let bytes = |name: &str| text(name).parse().map_or_else(|_| "-".to_owned(), |n| ByteSize(n).to_string());
        let count = |name: &str| if tenant[name].is_null() { "-".to_owned() } else { text(name) };
        let (has, may) = (bytes("used_bytes"), bytes("quota_bytes"));
        table.row([text("instance_id"), text("name"), text("status"), has, may, count("used_objects"), count("quota_objects")]);
    }
    output::bytes(table.to_string().as_bytes())
}

/// How the caller says who it is.
enum Proof {
    Meta(Token),
    Admin(Token),
}

impl Service {
    /// The result of a call; nothing where it was only shown.
    fn ask(&self, call: &str, body: Value) -> Result<Option<Value>, Failure> {
        let proof = self.proof()?;
        let url = format!("http://{}/MetaService/http/v1/{call}", self.http);
        if self.curl {
            let body = body.to_string().replace('\'', r"'\''");
            let (query, header) = match proof {
                Proof::Meta(_) => ("?token=$PERILUNE_META_TOKEN", ""),
                Proof::Admin(_) => ("", r#" -H "Authorization: Bearer $PERILUNE_ADMIN_TOKEN""#),
            };
            output::line(format_args!(r#"curl -X PUT{header} "{url}{query}" -d '{body}'"#))?;
            return Ok(None);
        }
        let agent =
            ureq::Agent::new_with_config(ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(ANSWER)).build());
        let request = match &proof {
            Proof::Meta(token) => agent.put(&url).query("token", token.secret()),
            Proof::Admin(token) => agent.put(&url).header("Authorization", format!("Bearer {}", token.secret())),
        };
        let asking = |e: ureq::Error| Failure::of(format_args!("asking {}", self.http), e);
        let mut answer = request.send(body.to_string()).map_err(asking)?;
        let text = answer.body_mut().read_to_string().map_err(asking)?;
        if answer.status() == 403 {
            let how = "give masters and this command the same --meta-token-file FILE, or PERILUNE_META_TOKEN";
            return Err(Failure::of(&self.http, format_args!("{}: {how}", text.trim())));
        }
        let said: Value = serde_json::from_str(&text).map_err(|_| Failure::of(self.http.clone(), text.trim()))?;
        match said["code"].as_str() {
            Some("OK") => Ok(said.get("result").cloned()),
            _ => Err(Failure::Failed(said["msg"].as_str().unwrap_or(text.trim()).to_owned())),
        }
    }

    fn proof(&self) -> Result<Proof, Failure> {
        if let Some(token) = token::find_meta(self.meta_token_file.as_deref()).map_err(Failure::Usage)? {
            return Ok(Proof::Meta(token));
        }
        if let Some(token) = self.token.find()? {
            return Ok(Proof::Admin(token));
        }
        let here = self.http.to_socket_addrs().is_ok_and(|mut all| all.all(|at| at.ip().is_loopback()));
        if here {
            return Ok(Proof::Meta(Token::of_the_page()));
        }
        Err(Failure::Usage(format!("{} asks who you are: --meta-token-file FILE, or PERILUNE_META_TOKEN", self.http)))
    }
}
