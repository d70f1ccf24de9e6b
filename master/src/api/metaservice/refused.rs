//! Why the clusters of an instance are as they were, in the page's words.

use super::cluster::{Call, Request, status};
use super::envelope::Refusal;
use super::{said, shown};
use perilune_state::directory::{PoolKind, PoolRefused};

impl Request<'_> {
    pub(super) fn told(&self, refused: PoolRefused) -> Refusal {
        let nodes = matches!(self.call, Call::AddNode | Call::DropNode | Call::Decommission);
        match refused {
            PoolRefused::Unknown => self.not_found(),
            PoolRefused::IdTaken(id) => Refusal::existed(format!("try to add a existing cluster id, existing_cluster_id={id}")),
            PoolRefused::NameTaken(_) if self.call == Call::Rename => {
                let why = "failed to rename cluster, a cluster with the same name already exists in this instance";
                Refusal::argument(format!("{why} {}", shown::json(self.cluster)))
            }
            PoolRefused::NameTaken(name) => Refusal::existed(format!("try to add a existing cluster name, existing_cluster_name={name}")),
            PoolRefused::SameName(pool) => {
                let original = shown::json(&shown::Cluster::of(&pool));
                Refusal::argument(format!("failed to rename cluster, name eq original name, original cluster is {original}")).on_the_page()
            }
            PoolRefused::Name => Refusal::argument("cluster name not regex with ^[a-zA-Z][a-zA-Z0-9_]*$, please check it"),
            PoolRefused::Masters { .. } if nodes => Refusal::argument("instance invalid, cant modify, plz check"),
            PoolRefused::Masters { masters, followers: 0 } => {
                let why = format!("cluster is SQL type, must have only one master node, now master count: {masters}");
                Refusal::argument(why).on_the_page()
            }
            PoolRefused::Masters { masters, followers } => Refusal::argument(format!(
                "cluster is SQL type, and use multi follower mode, cant set master node, master count: {masters} follower count: {followers}"
            )),
            PoolRefused::BadNode(_) => self.malformed(),
            PoolRefused::NoPort(nth) => Refusal::argument(format!(
                "check cluster params failed, edit_log_port is required for frontends while heatbeat_port is required for banckends, node : {}",
                shown::json(&self.cluster.nodes.get(nth))
            )),
            PoolRefused::Occupied { unique_id, pool } => {
                let known = self.app.engine.directory();
                let instance = known.tenant(pool.tenant).map_or("", |tenant| &tenant.name);
                let (name, id) = (&pool.name, &pool.cluster_id);
                let who = format!("instance_id={instance} cluster_name={name} cluster_id={id} cloud_unique_id={unique_id}");
                Refusal::existed(format!("cloud_unique_id is already occupied by an instance, {who}")).on_the_page()
            }
            PoolRefused::EndpointTaken(place, PoolKind::Sql) => {
                Refusal::existed(format!("sql node endpoint has been added, registered fe node={place}"))
            }
            PoolRefused::EndpointTaken(place, PoolKind::Compute) => {
                Refusal::existed(format!("compute node endpoint has been added, registered be node={place}"))
            }
            PoolRefused::NoNode(unique_id) => self.no_node(&unique_id),
            PoolRefused::NoNodes => Refusal::argument("to_add and to_del both empty or both not empty"),
            PoolRefused::TooYoung(pool, _) if self.call == Call::Drop => {
                let cluster = shown::json(&shown::Cluster::of(&pool));
                Refusal::argument(format!("drop fe cluster not in safe time, try later, cluster={cluster}"))
            }
            PoolRefused::TooYoung(_, node) => {
                let node = shown::json(&shown::Node::of(&node));
                Refusal::argument(format!("drop fe node not in safe time, try later, node={node}"))
            }
            PoolRefused::NoUsers => Refusal::argument("no mysql user name to change").on_the_page(),
            PoolRefused::NotCompute if nodes => Refusal::argument("just support decommission COMPUTE cluster nodes"),
            PoolRefused::NotCompute => Refusal::argument("just support set COMPUTE cluster status"),
            PoolRefused::SameStatus(from) => {
                let from = shown::status(from);
                Refusal::argument(format!("failed to set cluster status, status eq original status, original cluster is {from}"))
            }
            PoolRefused::Status(from) => {
                let to = status(&self.cluster.cluster_status).map_or("UNKNOWN", shown::status);
                let from = shown::status(from);
                Refusal::argument(format!("failed to set cluster status, original cluster is {from} and want set {to}"))
            }
        }
    }

    fn not_found(&self) -> Refusal {
        let what = match self.call {
            Call::Drop => "drop",
            Call::Status => "set cluster status",
            Call::DropNode | Call::Decommission => {
                return self.no_node(self.cluster.nodes.first().map_or("", |node| &node.cloud_unique_id));
            }
            _ => "update",
        };
        let [instance, id, name] = self.names();
        let refusal =
            Refusal::not_found(format!("failed to find cluster to {what}, instance_id={instance} cluster_id={id} cluster_name={name}"));
        if self.call == Call::Drop { refusal.on_the_page() } else { refusal }
    }

    pub(super) fn no_node(&self, unique_id: &str) -> Refusal {
        let what = if self.call == Call::DropNode { "drop" } else { "decommission" };
        let ([instance, id, name], unique_id) = (self.names(), said::shortened(unique_id));
        let who = format!("instance_id={instance} cluster_name={name} cluster_id={id} cloud_unique_id={unique_id}");
        Refusal::not_found(format!("cloud_unique_id can not find to {what} node, {who}")).on_the_page()
    }

    /// Of the instance, the id and the name of the cluster, as they were said.
    fn names(&self) -> [String; 3] {
        [&self.instance, &self.cluster.cluster_id, &self.cluster.cluster_name].map(|said| said::shortened(said))
    }
}
