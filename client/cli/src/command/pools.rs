//! `perilune pools`: the store nodes of a tenant in groups that can be put to sleep, and its frontends, through the meta service of the masters.

use super::meta::Service;
use crate::failure::Failure;
use crate::output;
use crate::settings::Global;
use perilune_benches::report::Table;
use serde_json::{Value, json};
use std::str::FromStr;

/// List the pools of tenants, or change what they are and who is registered in them
///
/// A store node started with --unique-id lends memory once it is registered under that id. Puts of a user, or of a client with --unique-id, go
/// to its pool where there is room. What a node lends that is dropped or decommissioned moves to others of the tenant.
#[derive(clap::Args)]
pub(crate) struct Pools {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// List the pools and who is registered in them
    List {
        /// Only those of this tenant
        tenant: Option<String>,
        #[command(flatten)]
        service: Service,
    },
    /// Add a pool of store nodes, or one of frontends
    Add {
        #[command(flatten)]
        pool: Named,
        /// Its name for people: letters, digits and _; the id, if nothing is said
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// A user whose puts go there; may be said several times
        #[arg(long, value_name = "NAME")]
        default_of: Vec<String>,
        /// A store node that is in it; may be said several times
        #[arg(long, value_name = "ID@HOST:PORT", conflicts_with = "frontend")]
        node: Vec<Node>,
        /// A frontend that is in it: then it is a pool of frontends, which lends nothing; may be said several times
        #[arg(long, value_name = "ROLE=ID@HOST:PORT", conflicts_with = "default_of")]
        frontend: Vec<Frontend>,
    },
    /// Drop a pool: what its nodes lend moves to others of the tenant, and then they lend nothing
    Drop(Named),
    /// Call a pool by another name
    Rename {
        #[command(flatten)]
        pool: Named,
        /// The new one
        name: String,
    },
    /// Register store nodes, or frontends
    AddNode(Nodes),
    /// Drop store nodes: what they lend moves to others of the tenant, and then they lend nothing; or frontends
    DropNode(Nodes),
    /// The same, but they stay registered, and say when they are empty
    DecommissionNode(Nodes),
    /// Say whose puts go to a pool: these users, and nobody else
    Users {
        #[command(flatten)]
        pool: Named,
        /// Their names
        #[arg(required = true)]
        users: Vec<String>,
    },
    /// Put a pool to sleep: it is read, and takes nothing new
    Suspend(Named),
    /// Say that a pool that sleeps is needed
    Resume(Named),
    /// Put a pool to sleep until somebody says that it serves again, without a word that it is needed
    Shutdown(Named),
    /// Say that a pool that was needed, or shut down, serves again
    Normal(Named),
}

#[derive(clap::Args)]
struct Named {
    /// Whose
    tenant: String,
    /// Its id
    pool: String,
    #[command(flatten)]
    service: Service,
}

#[derive(clap::Args)]
struct Nodes {
    #[command(flatten)]
    pool: Named,
    /// What each presents (--unique-id), and where it is
    #[arg(required_unless_present = "frontend", value_name = "ID@HOST:PORT")]
    nodes: Vec<Node>,
    /// A frontend: master, observer or follower; may be said several times
    #[arg(long, value_name = "ROLE=ID@HOST:PORT", conflicts_with = "nodes")]
    frontend: Vec<Frontend>,
}

/// A store node as it is written on a command line.
#[derive(Clone)]
struct Node {
    unique_id: String,
    host: String,
    port: u16,
}

/// A frontend as it is written there.
#[derive(Clone)]
struct Frontend {
    role: &'static str,
    node: Node,
}

impl FromStr for Frontend {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not of the form ROLE=ID@HOST:PORT, such as master=1:acme:fe1@10.0.0.4:9010");
        let (role, node) = text.split_once('=').ok_or_else(wrong)?;
        let role = match role {
            "master" => "FE_MASTER",
            "observer" => "FE_OBSERVER",
            "follower" => "FE_FOLLOWER",
            _ => return Err(wrong()),
        };
        Ok(Self { role, node: node.parse().map_err(|_| wrong())? })
    }
}

impl FromStr for Node {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.rsplit_once('@').and_then(|(id, at)| Some((id, at.rsplit_once(':')?)));
        let wrong = || format!("`{text}` is not of the form ID@HOST:PORT, such as 1:acme:node1@10.0.0.5:9050");
        let (unique_id, (host, port)) = parts.ok_or_else(wrong)?;
        Ok(Self { unique_id: unique_id.into(), host: host.into(), port: port.parse().map_err(|_| wrong())? })
    }
}

fn described(nodes: &[Node], frontends: &[Frontend]) -> Vec<Value> {
    let stores = nodes.iter().map(|n| json!({"cloud_unique_id": n.unique_id, "ip": n.host, "heartbeat_port": n.port}));
    let frontends = frontends.iter().map(
        |Frontend { role, node: n }| json!({"cloud_unique_id": n.unique_id, "ip": n.host, "edit_log_port": n.port, "node_type": role}),
    );
    stores.chain(frontends).collect()
}

impl Pools {
    pub(crate) fn run(self, global: &Global) -> Result<(), Failure> {
        match self.what {
            What::List { tenant, service } => list(&service, tenant.as_deref(), global),
            What::Add { pool, name, default_of, node, frontend } => {
                let name = name.unwrap_or_else(|| pool.pool.clone());
                let kind = if frontend.is_empty() { "COMPUTE" } else { "SQL" };
                let nodes = described(&node, &frontend);
                let more = json!({"cluster_name": name, "type": kind, "mysql_user_name": default_of, "nodes": nodes});
                pool.ask("add_cluster", more)
            }
            What::Drop(pool) => pool.ask("drop_cluster", json!({})),
            What::Rename { pool, name } => pool.ask("rename_cluster", json!({"cluster_name": name})),
            What::AddNode(asked) => asked.ask("add_node"),
            What::DropNode(asked) => asked.ask("drop_node"),
            What::DecommissionNode(asked) => asked.ask("decommission_node"),
            What::Users { pool, users } => pool.ask("update_cluster_mysql_user_name", json!({"mysql_user_name": users})),
            What::Suspend(pool) => pool.ask("set_cluster_status", json!({"cluster_status": "SUSPENDED"})),
            What::Resume(pool) => pool.ask("set_cluster_status", json!({"cluster_status": "TO_RESUME"})),
            What::Shutdown(pool) => pool.ask("set_cluster_status", json!({"cluster_status": "MANUAL_SHUTDOWN"})),
            What::Normal(pool) => pool.ask("set_cluster_status", json!({"cluster_status": "NORMAL"})),
        }
    }
}

impl Named {
    fn ask(&self, call: &str, mut cluster: Value) -> Result<(), Failure> {
        cluster["cluster_id"] = self.pool.as_str().into();
        self.service.ask(call, json!({"instance_id": self.tenant, "cluster": cluster})).map(drop)
    }
}

impl Nodes {
    fn ask(&self, call: &str) -> Result<(), Failure> {
        self.pool.ask(call, json!({"nodes": described(&self.nodes, &self.frontend)}))
    }
}

fn list(service: &Service, tenant: Option<&str>, global: &Global) -> Result<(), Failure> {
    let Some(Value::Array(tenants)) = service.ask("list_instances", json!({}))? else { return Ok(()) };
    if let Some(name) = tenant.filter(|name| tenants.iter().all(|of| of["instance_id"] != *name)) {
        return Err(Failure::Failed(format!("there is no tenant {name}")));
    }
    let mut table = Table::new(["tenant", "pool", "name", "status", "users", "nodes"]);
    table = (0..6).fold(table, Table::left);
    for of in tenants.iter().filter(|of| tenant.is_none_or(|name| of["instance_id"] == name)) {
        for pool in of["clusters"].as_array().into_iter().flatten() {
            if global.json {
                let mut line = json!({"instance_id": of["instance_id"]});
                pool.as_object().into_iter().flatten().for_each(|(key, value)| line[key] = value.clone());
                output::json(&line)?;
                continue;
            }
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let all = |list: &str, of: fn(&Value) -> String| {
                let each = pool[list].as_array().into_iter().flatten().map(of);
                each.collect::<Vec<_>>().join(" ")
            };
            let users = all("mysql_user_name", |user| user.as_str().unwrap_or_default().to_owned());
            let nodes = all("nodes", |node| {
                let part = |name: &str| node[name].as_str().unwrap_or_default();
                let state = part("status").strip_prefix("NODE_STATUS_").filter(|state| *state != "RUNNING");
                part("cloud_unique_id").to_owned() + &state.map_or_else(String::new, |state| format!(" ({})", state.to_lowercase()))
            });
            let status = pool["cluster_status"].as_str().unwrap_or("-").to_owned();
            table.row([text(&of["instance_id"]), text(&pool["cluster_id"]), text(&pool["cluster_name"]), status, users, nodes]);
        }
    }
    if global.json { Ok(()) } else { output::bytes(table.to_string().as_bytes()) }
}
