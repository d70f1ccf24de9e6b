//! `perilune vaults`: places outside memory where the objects of a tenant may lie, through the meta service of the masters.

use super::client::in_shell;
use super::meta::Service;
use crate::failure::Failure;
use crate::output;
use crate::settings::Global;
use crate::values::Span;
use perilune_benches::report::Table;
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// List the vaults of a tenant, or change what they are and what opens them
///
/// A vault is a folder of an S3 bucket, or a directory. New objects that leave memory go to the newest one; those in the others are read where
/// they are.
#[derive(clap::Args)]
pub(crate) struct Vaults {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// List the vaults of a tenant, and whether each could be used just now
    List {
        /// Whose
        tenant: String,
        #[command(flatten)]
        service: Service,
    },
    /// Add a vault: a bucket, or with --dir a directory
    ///
    /// What a node that was killed left of a multipart upload is aborted by the masters, within the hour or when the tenant is dropped: the keys
    /// of a bucket are to allow that (s3:AbortMultipartUpload).
    Add {
        /// Whose
        tenant: String,
        /// Its name: letters, digits, - and _, beginning with a letter. Left out where the buckets of the tenant have none, as its first one
        /// decides
        name: Option<String>,
        #[command(flatten)]
        service: Service,
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        keys: Option<Keys>,
    },
    /// Have requests to a bucket signed with other keys, from now on; one without a name is meant by its number
    Rotate {
        #[command(flatten)]
        vault: Named,
        #[command(flatten)]
        keys: Keys,
    },
    /// Call the vault of a bucket by another name
    Rename {
        #[command(flatten)]
        vault: Named,
        /// The new one
        new_name: String,
    },
    /// Drop a vault that no object lies in
    ///
    /// What nothing refers to any more is deleted there first. For some time after the leader changed, or a node went in the middle of an upload,
    /// something may yet come to lie there: then it is refused, and says how long that is.
    Drop {
        #[command(flatten)]
        vault: Named,
        /// It is a directory
        #[arg(long)]
        dir: bool,
        /// Drop it also where it cannot be emptied, as one that is gone; what lies there stays. No object may have its copy there all the same
        #[arg(long)]
        force: bool,
    },
    /// Bring everything to its vault, and then what the masters know to that of the tenant default, so that a new cluster can begin from it
    ///
    /// Waits until it is done: `perilune master --restore vault://NAME` begins with it then. Tenants that have no vault keep theirs in memory
    /// only.
    Checkpoint {
        #[command(flatten)]
        service: Service,
        /// Give up waiting after so long; it goes on all the same
        #[arg(long, value_name = "DURATION", default_value = "10m")]
        deadline: Span,
    },
    /// List the checkpoints that are kept, and the one that is being made
    Checkpoints {
        #[command(flatten)]
        service: Service,
    },
    /// Encrypt what is written from now on: in buckets by the service (AES256), in directories with a key of the tenant
    Encrypt {
        /// Whose vaults
        tenant: String,
        /// Do so no longer; what is encrypted stays so, and is read
        #[arg(long)]
        off: bool,
        #[command(flatten)]
        service: Service,
    },
}

#[derive(clap::Args)]
struct Named {
    /// Whose
    tenant: String,
    /// Its name: letters, digits, - and _, beginning with a letter
    name: String,
    #[command(flatten)]
    service: Service,
}

#[derive(clap::Args)]
struct Place {
    /// The directory, below --vault-root of masters and store nodes
    #[arg(long, value_name = "DIR", conflicts_with_all = ["bucket", "endpoint", "region", "provider", "ak"])]
    dir: Option<PathBuf>,
    /// The bucket
    #[arg(long, value_name = "NAME", required_unless_present = "dir", requires_all = ["endpoint", "ak"])]
    bucket: Option<String>,
    /// Where the service is called, http:// before it where it speaks no TLS
    #[arg(long, value_name = "[http://]HOST:PORT")]
    endpoint: Option<String>,
    /// The region that requests are signed for
    #[arg(long, value_name = "NAME", default_value = "us-east-1")]
    region: String,
    /// Whose service it is: OSS, S3, COS, OBS, BOS, GCP, AZURE or TOS
    #[arg(long, value_name = "NAME", default_value = "S3")]
    provider: String,
    /// The folder
    #[arg(long, value_name = "PREFIX", default_value = "")]
    prefix: String,
}

#[derive(clap::Args)]
struct Keys {
    /// The name of the access key
    #[arg(long, value_name = "AK", required = false)]
    ak: String,
    /// A file that holds the secret key; without it PERILUNE_VAULT_SK holds the key itself
    #[arg(long, value_name = "FILE")]
    sk_file: Option<PathBuf>,
}

impl Keys {
    fn obj_info(&self, service: &Service) -> Result<Value, Failure> {
        // What is only shown has no secret in it.
        let sk = if service.only_shows() { in_shell(self.sk_file.as_deref(), "PERILUNE_VAULT_SK") } else { self.sk()? };
        Ok(json!({"ak": self.ak, "sk": sk}))
    }

    fn sk(&self) -> Result<String, Failure> {
        let text = match &self.sk_file {
            Some(file) => std::fs::read_to_string(file).map_err(|e| Failure::Usage(format!("--sk-file {}: {e}", file.display())))?,
            None => std::env::var("PERILUNE_VAULT_SK")
                .map_err(|_| Failure::Usage("where is the secret key? --sk-file FILE, or PERILUNE_VAULT_SK".into()))?,
        };
        match text.trim() {
            "" => Err(Failure::Usage("the secret key is empty".into())),
            sk => Ok(sk.to_owned()),
        }
    }
}

impl Vaults {
    pub(crate) fn run(self, global: &Global) -> Result<(), Failure> {
        match self.what {
            What::List { tenant, service } => list(&service, &tenant, global),
            What::Add { tenant, name: Some(name), service, place, keys } => {
                let vault = Named { tenant, name, service };
                add(&vault, &place, keys.as_ref())?;
                warn(&vault.service, &vault.tenant, |one| one["name"] == *vault.name)
            }
            What::Add { tenant, name: None, service, place, keys } => {
                if place.dir.is_some() {
                    return Err(Failure::Usage("a directory has a name: perilune vaults add TENANT NAME --dir DIR".into()));
                }
                ask_nameless(&service, &tenant, "add_obj_info", place.obj_info(keys.as_ref(), &service)?)?;
                warn(&service, &tenant, |one| one["is_default"] == true)
            }
            What::Rotate { vault, keys } => {
                let Named { tenant, name, service } = &vault;
                let mut obj_info = keys.obj_info(service)?;
                // No name is a number.
                if name.bytes().all(|byte| byte.is_ascii_digit()) {
                    obj_info["id"] = name.as_str().into();
                    ask_nameless(service, tenant, "legacy_update_ak_sk", obj_info)?;
                    return warn(service, tenant, |one| one["id"] == **name);
                }
                vault.ask("alter_s3_vault", json!({"obj_info": obj_info}))?;
                warn(service, tenant, |one| one["name"] == **name)
            }
            What::Rename { vault, new_name } => vault.ask("alter_s3_vault", json!({"alter_name": new_name})),
            What::Drop { vault, dir, force } => {
                vault.ask(if dir { "drop_hdfs_vault" } else { "drop_s3_vault" }, if force { json!({"force": true}) } else { json!({}) })
            }
            What::Checkpoint { service, deadline } => checkpoint(&service, deadline.0, global),
            What::Checkpoints { service } => checkpoints(&service, global),
            What::Encrypt { tenant, off, service } => {
                let call = if off { "disable_instance_sse" } else { "enable_instance_sse" };
                service.ask(call, json!({"instance_id": tenant})).map(drop)
            }
        }
    }
}

/// What is asked about a bucket by the calls that came before vaults: they are told the tenant by what its nodes present.
fn ask_nameless(service: &Service, tenant: &str, call: &str, obj: Value) -> Result<(), Failure> {
    service.ask(call, json!({"cloud_unique_id": format!("1:{tenant}:perilune"), "obj": obj})).map(drop)
}

impl Named {
    fn ask(&self, call: &str, mut vault: Value) -> Result<(), Failure> {
        vault["name"] = self.name.as_str().into();
        self.service.ask(call, json!({"instance_id": self.tenant, "vault": vault})).map(drop)
    }
}

/// Says why a vault cannot be used, if it cannot: it is recorded all the same, as its bucket may be made later.
fn warn(service: &Service, tenant: &str, is_it: impl Fn(&Value) -> bool) -> Result<(), Failure> {
    if service.only_shows() {
        return Ok(());
    }
    let found = shown(service, tenant)?;
    let not_ready = found.iter().find(|vault| is_it(vault) && vault["ready"] != true);
    if let Some((vault, why)) = not_ready.and_then(|vault| Some((vault, vault["reason"].as_str()?))) {
        let name = vault["name"].as_str().or(vault["id"].as_str()).unwrap_or_default();
        eprintln!("perilune: the vault {name} is recorded, but cannot be used at present: {why}");
    }
    Ok(())
}

fn add(vault: &Named, place: &Place, keys: Option<&Keys>) -> Result<(), Failure> {
    if let Some(dir) = &place.dir {
        let build_conf = json!({"fs_name": url(dir)?});
        return vault.ask("add_hdfs_vault", json!({"hdfs_info": {"build_conf": build_conf, "prefix": place.prefix}}));
    }
    vault.ask("add_s3_vault", json!({"obj_info": place.obj_info(keys, &vault.service)?}))
}

impl Place {
    /// A bucket, and what opens it.
    fn obj_info(&self, keys: Option<&Keys>, service: &Service) -> Result<Value, Failure> {
        let keys = keys.ok_or_else(|| Failure::Usage("a bucket needs --ak and a secret key".into()))?;
        let mut obj_info = keys.obj_info(service)?;
        for (name, value) in [
            ("bucket", self.bucket.as_deref().unwrap_or_default()),
            ("endpoint", self.endpoint.as_deref().unwrap_or_default()),
            ("region", &self.region),
            ("provider", &self.provider),
            ("prefix", &self.prefix),
        ] {
            obj_info[name] = value.into();
        }
        Ok(obj_info)
    }
}

fn url(dir: &Path) -> Result<String, Failure> {
    let text = dir.to_str().filter(|text| text.starts_with('/'));
    text.map(|text| format!("file://{text}")).ok_or_else(|| Failure::Usage("--dir is a whole path, beginning with /".into()))
}

/// The vaults of a tenant; none where the call is only shown.
fn shown(service: &Service, tenant: &str) -> Result<Vec<Value>, Failure> {
    let found = service.ask("show_storage_vaults", json!({"instance_id": tenant}))?;
    Ok(found.and_then(|found| found["storage_vault"].as_array().cloned()).unwrap_or_default())
}

fn list(service: &Service, tenant: &str, global: &Global) -> Result<(), Failure> {
    let vaults = shown(service, tenant)?;
    if service.only_shows() {
        return Ok(());
    }
    if global.json {
        return vaults.iter().try_for_each(output::json);
    }
    let mut table = Table::new(["number", "name", "where", "new objects", "ready", "state", "for", "why not, or what went wrong last"]);
    table = (0..8).fold(table, Table::left);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    for vault in &vaults {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let place = match (&vault["obj_info"], &vault["hdfs_info"]) {
            (Value::Null, hdfs) => format!("{}/{}", text(&hdfs["build_conf"]["fs_name"]).trim_end_matches('/'), text(&hdfs["prefix"])),
            (s3, _) => format!("s3://{}/{} at {}", text(&s3["bucket"]), text(&s3["prefix"]), text(&s3["endpoint"])),
        };
        let yes = |name: &str| if vault[name] == true { "yes" } else { "no" }.to_owned();
        let name = vault["name"].as_str().unwrap_or("-").to_owned();
        let since = vault["since"].as_str().and_then(|since| since.parse::<u64>().ok());
        let since = since.map_or_else(String::new, |since| format!("{:?}", Duration::from_secs(now.saturating_sub(since))));
        let why = vault["reason"].as_str().or(vault["last_error"].as_str()).unwrap_or_default().to_owned();
        table.row([text(&vault["id"]), name, place, yes("is_default"), yes("ready"), text(&vault["state"]), since, why]);
    }
    let mut lost = String::new();
    for vault in &vaults {
        let (name, objects) = (vault["name"].as_str().unwrap_or("-"), vault["evicted_unsaved"].as_str().unwrap_or("0"));
        if objects != "0" {
            let _ = writeln!(lost, "{objects} objects left memory that vault {name} had not taken, since this master leads");
        }
    }
    output::bytes(format!("{table}{lost}").as_bytes())
}

/// Between two looks at how far a checkpoint is.
const LOOK: Duration = Duration::from_millis(200);
const CHECKPOINTS: &str = "/tiflash/remote/checkpoints";

fn checkpoint(service: &Service, deadline: Duration, global: &Global) -> Result<(), Failure> {
    let until = Instant::now() + deadline;
    let Some(said) = service.page_until(true, "/tiflash/remote/upload", until)? else { return Ok(()) };
    match said["message"].as_str().unwrap_or_default() {
        "flag_set=true" => {}
        "flag_set=false" => {
            let how = "the tenant default has no vault that can be used, or `checkpoint_vault` names none of its vaults";
            return Err(Failure::Failed(format!("there is nowhere to bring a checkpoint: {how}")));
        }
        other => return Err(Failure::Failed(format!("there is nowhere to bring a checkpoint: {other}"))),
    }
    loop {
        let Some(found) = service.page_until(false, CHECKPOINTS, until)? else { return Ok(()) };
        if found["asked"] == false {
            return match found["checkpoints"].as_array().and_then(|all| all.iter().rfind(|one| one["whole"] == true)) {
                Some(newest) if global.json => output::json(newest),
                Some(newest) => output::line(format_args!(
                    "checkpoint {} is kept: {} objects, {} of them in a vault\n\
                     Whoever restores from it needs the masters' secret key as well: keep a copy of it elsewhere",
                    newest["number"], newest["objects"], newest["saved"]
                )),
                None => Err(Failure::Failed("the checkpoint was made, and is not kept any more".into())),
            };
        }
        if Instant::now() >= until {
            let why = found["last_error"]
                .as_str()
                .filter(|why| !why.is_empty())
                .map_or_else(String::new, |why| format!("; what went wrong last: {why}"));
            return Err(Failure::Failed(format!("the checkpoint is not made after {deadline:?}, and is still worked on{why}")));
        }
        std::thread::sleep(LOOK);
    }
}

fn checkpoints(service: &Service, global: &Global) -> Result<(), Failure> {
    let Some(found) = service.page(false, CHECKPOINTS)? else { return Ok(()) };
    let all = found["checkpoints"].as_array().map_or(&[][..], Vec::as_slice);
    if global.json {
        return all.iter().try_for_each(output::json);
    }
    let mut table = Table::new(["number", "vault", "whole", "begun", "objects", "in a vault"]).left(2);
    for one in all {
        let number = |name: &str| one[name].to_string();
        let whole = if one["whole"] == true { "yes" } else { "not yet" }.to_owned();
        let begun = UNIX_EPOCH + Duration::from_millis(one["at_ms"].as_u64().unwrap_or_default());
        let begun = humantime::format_rfc3339_seconds(begun).to_string();
        table.row([number("number"), number("vault"), whole, begun, number("objects"), number("saved")]);
    }
    let error =
        found["last_error"].as_str().filter(|why| !why.is_empty()).map_or_else(String::new, |why| format!("what went wrong last: {why}\n"));
    let asked = if found["asked"] == true { "one more is asked for\n" } else { "" };
    output::bytes(format!("{table}{asked}{error}").as_bytes())
}
