//! How commands ask the meta service of the masters, and say what curl would do the same.

use super::client::{TokenArgs, in_shell, quoted};
use crate::failure::Failure;
use crate::output;
use perilune_client::token;
use perilune_protocol::access::Token;
use serde_json::Value;
use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Where the meta service is, and who asks.
#[derive(clap::Args)]
pub(crate) struct Service {
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
/// Between two attempts while no master leads.
const PAUSE: Duration = Duration::from_millis(200);

fn agent() -> ureq::Agent {
    ureq::Agent::new_with_config(ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(ANSWER)).build())
}

/// How the caller says who it is.
enum Proof {
    /// With what a shell puts in its place.
    Meta(Token, String),
    Admin(Token),
}

/// Where the secret key of a vault, or of a bucket, is in a body; where that is only shown, it is what a shell puts in its place.
const SECRETS: [&str; 2] = ["/vault/obj_info/sk", "/obj/sk"];
/// Some calls answer with a text where this is not asked for.
const ACCEPT: &str = "application/json";

impl Service {
    /// Whether nothing is done, so that no secret is needed.
    pub(crate) fn only_shows(&self) -> bool {
        self.curl
    }

    /// The result of a call; nothing where it was only shown.
    pub(crate) fn ask(&self, call: &str, body: Value) -> Result<Option<Value>, Failure> {
        let proof = self.proof()?;
        let url = format!("http://{}/MetaService/http/v1/{call}", self.http);
        if self.curl {
            let (query, option) = match proof {
                Proof::Meta(token, shown) if is_plain(&token) => (format!("?token={shown}"), String::new()),
                Proof::Meta(_, shown) => (String::new(), format!(r#" --url-query "token={shown}""#)),
                Proof::Admin(token) => (String::new(), self.token.header(Some(&token))),
            };
            output::line(format_args!(r#"curl -X PUT -H 'Accept: {ACCEPT}'{option} "{url}{query}" -d {}"#, shown(&body)))?;
            return Ok(None);
        }
        let asked = agent().put(&url).header("Accept", ACCEPT);
        let request = match &proof {
            Proof::Meta(token, _) => asked.query("token", token.secret()),
            Proof::Admin(token) => asked.header("Authorization", format!("Bearer {}", token.secret())),
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

    /// As [`Service::page`], and asks again until then while no master leads, or none answers.
    pub(crate) fn page_until(&self, acts: bool, path: &str, until: Instant) -> Result<Option<Value>, Failure> {
        loop {
            match self.page_once(acts, path) {
                Err((passes, failure)) if !passes || Instant::now() >= until => return Err(failure),
                Err(_) => std::thread::sleep(PAUSE),
                Ok(said) => return Ok(said),
            }
        }
    }

    /// What a page of the masters says, asked with the admin's token; nothing where that was only shown.
    pub(crate) fn page(&self, acts: bool, path: &str) -> Result<Option<Value>, Failure> {
        self.page_once(acts, path).map_err(|(_, failure)| failure)
    }

    /// The same; with a failure, whether it passes when a master leads again.
    fn page_once(&self, acts: bool, path: &str) -> Result<Option<Value>, (bool, Failure)> {
        let token = self.token.find().map_err(|failure| (false, failure))?;
        let url = format!("http://{}{path}", self.http);
        if self.curl {
            let header = self.token.header(token.as_ref());
            let shown = output::line(format_args!(r#"curl -X {}{header} "{url}""#, if acts { "POST" } else { "GET" }));
            return shown.map(|()| None).map_err(|failure| (false, failure));
        }
        let bearer = token.map(|token| format!("Bearer {}", token.secret())).unwrap_or_default();
        let asking = |e: ureq::Error| (true, Failure::of(format_args!("asking {}", self.http), e));
        let said = if acts {
            agent().post(&url).header("Authorization", bearer).send_empty()
        } else {
            agent().get(&url).header("Authorization", bearer).call()
        };
        let mut answer = said.map_err(asking)?;
        let text = answer.body_mut().read_to_string().map_err(asking)?;
        match serde_json::from_str(&text) {
            Ok(said) if answer.status().is_success() => Ok(Some(said)),
            said => {
                let why = said.ok().and_then(|said: Value| said["error"].as_str().map(str::to_owned));
                Err((answer.status() == 503, Failure::of(&self.http, why.as_deref().unwrap_or(text.trim()))))
            }
        }
    }

    fn proof(&self) -> Result<Proof, Failure> {
        let (file, page) = (self.meta_token_file.as_deref(), Token::of_the_page());
        let of_the_page = || Proof::Meta(page.clone(), page.secret().to_owned());
        // It is no secret, and shorter than one may be.
        if file.is_none() && std::env::var(token::META_VARIABLE).is_ok_and(|said| said.trim() == page.secret()) {
            return Ok(of_the_page());
        }
        if let Some(token) = token::find_meta(file).map_err(Failure::Usage)? {
            return Ok(Proof::Meta(token, in_shell(file, token::META_VARIABLE)));
        }
        if let Some(token) = self.token.find()? {
            return Ok(Proof::Admin(token));
        }
        let here = self.http.to_socket_addrs().is_ok_and(|mut all| all.all(|at| at.ip().is_loopback()));
        if here {
            return Ok(of_the_page());
        }
        Err(Failure::Usage(format!("{} asks who you are: --meta-token-file FILE, or PERILUNE_META_TOKEN", self.http)))
    }
}

/// Whether a token stands in a query as it is; any other a newer curl (7.87) encodes.
fn is_plain(token: &Token) -> bool {
    token.secret().bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
}

/// A body for curl.
fn shown(body: &Value) -> String {
    let text = body.to_string();
    let secret =
        SECRETS.iter().find_map(|place| body.pointer(place)).and_then(|sk| Some((sk.as_str()?, text.split_once(&sk.to_string())?)));
    let Some((secret, (before, after))) = secret else { return quoted(&text) };
    format!(r#"{}"{secret}"{}"#, quoted(&format!("{before}\"")), quoted(&format!("\"{after}")))
}
