//! `perilune tenants`: key spaces with memory and limits of their own, through the meta service of the masters.

use super::client::TokenArgs;
use super::meta::Service;
use crate::failure::Failure;
use crate::output;
use crate::settings::Global;
use perilune_benches::report::Table;
use perilune_protocol::ByteSize;
use perilune_protocol::principal::{Principal, Role};
use serde_json::{Value, json};
use std::time::{Duration, UNIX_EPOCH};

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
    /// Say how far that is, as this leader did it
    Recycling(Named),
    /// Refuse puts and memory of a tenant that is over its budget; what it has stays readable
    Overdue(Named),
    /// Print a token for callers who speak for this tenant only; nothing of it is stored, and no master is asked
    Token(Made),
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
struct Made {
    /// The tenant
    name: String,
    /// On whose behalf its bearer speaks; without it nobody's in particular
    #[arg(long, value_name = "NAME", default_value = "")]
    user: String,
    /// What its bearer may do: reader, writer, or node, which lends memory
    #[arg(long, value_name = "ROLE", default_value = "writer")]
    role: Role,
    /// Which generation it is of: once token_generation.TENANT is set to a higher one, it is refused
    #[arg(long, value_name = "N", default_value_t = 0)]
    generation: u32,
    #[command(flatten)]
    token: TokenArgs,
}

#[derive(clap::Args)]
struct Named {
    /// Its name
    name: String,
    #[command(flatten)]
    service: Service,
}

impl Tenants {
    pub(crate) fn run(self, global: &Global) -> Result<(), Failure> {
        match self.what {
            What::Token(made) => token(made),
            What::List(service) => list(&service, global),
            What::Create { name, shown, user, service } => {
                service.ask("create_instance", json!({"instance_id": name, "name": shown, "user_id": user})).map(drop)
            }
            What::Drop(Named { name, service }) => service.ask("drop_instance", json!({"instance_id": name})).map(drop),
            What::Recycle(Named { name, service }) => service.ask("recycle_instance", json!({"instance_id": name})).map(drop),
            What::Recycling(Named { name, service }) => recycling(&service, &name, global),
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

fn recycling(service: &Service, name: &str, global: &Global) -> Result<(), Failure> {
    let Some(job) = service.ask("recycle_job_info", json!({"instance_id": name}))? else { return Ok(()) };
    if global.json {
        return output::json(&job);
    }
    let mut table = Table::new(["tenant", "status", "may begin", "begun last", "ended last", "succeeded last"]);
    table = (0..6).fold(table, Table::left);
    let text = |name: &str| job[name].as_str().unwrap_or_default().to_owned();
    let at = |name: &str| match text(name).parse().unwrap_or(0) {
        0 => "-".to_owned(),
        ms => humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(ms)).to_string(),
    };
    let [begins, begun, ended, succeeded] = ["expiration_time_ms", "last_ctime_ms", "last_finish_time_ms", "last_success_time_ms"].map(at);
    table.row([text("instance_id"), text("status").to_lowercase(), begins, begun, ended, succeeded]);
    output::bytes(table.to_string().as_bytes())
}

fn token(made: Made) -> Result<(), Failure> {
    let Made { name: tenant, user, role, generation, token } = made;
    let how = "a token is made from the admin's: --admin-token-file FILE, or PERILUNE_ADMIN_TOKEN";
    let admin = token.find()?.ok_or_else(|| Failure::Usage(how.into()))?;
    let made = Principal { tenant, user, role, generation }.token(&admin).map_err(|fault| Failure::Usage(fault.message))?;
    output::line(format_args!("{made}"))
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
