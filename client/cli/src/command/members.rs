//! `perilune members`: the group of masters.

use super::client::ClientArgs;
use crate::failure::Failure;
use crate::output;
use crate::settings::Global;
use perilune_benches::report::Table;
use perilune_protocol::rpc::member::{ChangeMembers, ListMembers, MemberChange, MemberState};

/// Show the masters, or change who they are and which of them leads
#[derive(clap::Args)]
pub(crate) struct Members {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    List(List),
    Add(Add),
    Remove(Remove),
    Transfer(Transfer),
    Promote(Promote),
}

/// List the masters and how far each is
#[derive(clap::Args)]
struct List {
    #[command(flatten)]
    client: ClientArgs,
}

/// Announce a master that is yet to be started with `perilune master --join`, which announces itself if nobody does
#[derive(clap::Args)]
struct Add {
    /// Its number, one that no master of this group ever had
    id: u64,
    /// Where the other masters will call it: its --peer-listen
    address: String,
    /// Where its HTTP will be, if that is known
    #[arg(long, value_name = "HOST:PORT", default_value = "")]
    node_host: String,
    /// It receives everything and does not vote, until it is promoted
    #[arg(long)]
    learner: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// Remove a master for good: its number is not used again
#[derive(clap::Args)]
struct Remove {
    /// Its number; the one that leads cannot be removed
    id: u64,
    /// Even if the masters that are up are no majority of those that are left: nothing can be stored until enough of them are back
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// Let another master lead
#[derive(clap::Args)]
struct Transfer {
    /// Its number
    id: u64,
    #[command(flatten)]
    client: ClientArgs,
}

/// Let a learner vote
#[derive(clap::Args)]
struct Promote {
    /// Its number; it must be up and lack next to nothing
    id: u64,
    #[command(flatten)]
    client: ClientArgs,
}

impl Members {
    pub(crate) fn run(self, global: &Global) -> Result<(), Failure> {
        match self.what {
            What::List(List { client }) => list(global, &client),
            What::Add(Add { id, address, node_host: http, learner, client }) => {
                change(global, &client, MemberChange::Add { id, address, http, rises: !learner })
            }
            What::Remove(Remove { id, force, client }) => change(global, &client, MemberChange::Remove { id, force }),
            What::Transfer(Transfer { id, client }) => change(global, &client, MemberChange::Transfer { to: id }),
            What::Promote(Promote { id, client }) => change(global, &client, MemberChange::Promote { id }),
        }
    }
}

/// Says how the group is afterwards.
fn change(global: &Global, client: &ClientArgs, change: MemberChange) -> Result<(), Failure> {
    client.connect()?.call(&ChangeMembers { change })?;
    list(global, client)
}

fn list(global: &Global, client: &ClientArgs) -> Result<(), Failure> {
    let members = client.connect()?.call(&ListMembers {})?;
    let mut table = Table::new(["master", "is", "heard", "lacks", "peers call", "clients call", "HTTP"]).left(1).left(4).left(5).left(6);
    for member in &members {
        if global.json {
            output::json(member)?;
        }
        table.row([
            member.id.to_string(),
            word(member).to_owned(),
            if member.active { "yes" } else { "no" }.to_owned(),
            member.lag.to_string(),
            member.address.clone(),
            member.rpc.clone(),
            member.http.clone(),
        ]);
    }
    if global.json { Ok(()) } else { output::bytes(table.to_string().as_bytes()) }
}

fn word(member: &MemberState) -> &'static str {
    match (member.leads, member.votes, member.rises) {
        (true, ..) => "leader",
        (_, true, _) => "voter",
        (.., true) => "learner, votes soon",
        _ => "learner",
    }
}
