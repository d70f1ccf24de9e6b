//! What opens a vault: told to the nodes of its tenant, sealed under their tokens, and to nobody else.

use super::*;
use perilune_protocol::access::Token;
use perilune_protocol::principal::{Principal, Role};
use perilune_protocol::rpc::vault::{Passed, VaultAccess, VaultKeys};
use perilune_protocol::{FaultCode, VaultId};
use perilune_vault::{Limits, Vault};

const ADMIN: &str = "a-token-nobody-guesses";
const SK: &str = "wJalrXUtnFEMI/K7MDENG";

fn ask(master: &Master, call: &str, body: &str) {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let url = format!("http://{}/MetaService/http/{call}", master.http_addrs()[0]);
    let mut answer = agent.put(url).header("Authorization", format!("Bearer {ADMIN}")).send(body).unwrap();
    assert_eq!(answer.status(), 200, "{call}: {}", answer.body_mut().read_to_string().unwrap());
}

fn speaker(master: &Master, tenant: &str, role: Role) -> (Peer, Token) {
    let principal = Principal { tenant: tenant.into(), user: String::new(), role, generation: 0 };
    let token = principal.token(&Token::new(ADMIN).unwrap()).unwrap();
    let mut peer = Peer::connect(master);
    peer.call(&session::Authenticate { token: token.clone() }).unwrap();
    peer.call(&session::Hello { agent: "test".into(), tenant: String::new() }).unwrap();
    (peer, Token::new(&token).unwrap())
}

fn opens(access: &VaultAccess, token: Option<&Token>) -> bool {
    Vault::of_access(access, token, None, Limits::default()).is_ok()
}

#[test]
fn a_node_of_the_tenant_is_told_what_opens_its_vault_and_nobody_else_is() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(MasterConfig { token: Some(Token::new(ADMIN).unwrap()), ..config(dir.path()) }).unwrap();
    for tenant in ["acme", "other"] {
        ask(&master, "create_instance", &format!(r#"{{"instance_id": "{tenant}"}}"#));
    }
    let obj =
        format!(r#""ak": "AKIA", "sk": "{SK}", "bucket": "bucket", "endpoint": "http://127.0.0.1:9", "region": "r", "provider": "S3""#);
    ask(&master, "add_s3_vault", &format!(r#"{{"instance_id": "acme", "vault": {{"name": "v", "obj_info": {{{obj}}}}}}}"#));
    let vault = VaultId(1);

    let (mut node, token) = speaker(&master, "acme", Role::Node);
    let refused = node.call(&VaultKeys { node: NodeId::random(), vault }).unwrap_err();
    assert!(refused.code == FaultCode::Forbidden && refused.message.contains("may lend it none"), "{refused}");
    let lent = node.lend();
    let question = VaultKeys { node: lent.node, vault };
    let access = node.call(&question).unwrap();
    let Passed::Sealed(sealed) = &access.secrets else { panic!("not sealed") };
    assert!(!sealed.bytes.windows(8).any(|w| w == &SK.as_bytes()[..8]));
    let admin = Token::new(ADMIN).unwrap();
    assert_eq!((opens(&access, Some(&token)), opens(&access, Some(&admin)), opens(&access, None)), (true, false, false));
    assert_eq!(access.revision, 1);
    let unknown = node.call(&VaultKeys { vault: VaultId(2), ..question.clone() }).unwrap_err();
    assert!(unknown.code == FaultCode::WrongState && unknown.message.contains("no vault 2"), "{unknown}");

    // Neither another tenant's node, nor one who only writes.
    let (mut other, _) = speaker(&master, "other", Role::Node);
    let theirs = other.lend();
    assert_eq!(other.call(&VaultKeys { node: theirs.node, vault }).unwrap_err().code, FaultCode::WrongState);
    assert_eq!(other.call(&question).unwrap_err().code, FaultCode::WrongState);
    let (mut writer, _) = speaker(&master, "acme", Role::Writer);
    assert_eq!(writer.call(&question).unwrap_err().code, FaultCode::Forbidden);

    // Other keys, and encryption, are newer revisions.
    let keys = r#"{"instance_id": "acme", "vault": {"name": "v", "obj_info": {"ak": "AKIB", "sk": "other"}}}"#;
    ask(&master, "alter_s3_vault", keys);
    ask(&master, "enable_instance_sse", r#"{"instance_id": "acme"}"#);
    let access = node.call(&question).unwrap();
    assert_eq!((access.revision, access.sse, opens(&access, Some(&token))), (3, true, true));
    assert!(
        opens(&VaultAccess { revision: 3, ..access.clone() }, Some(&token)) && !opens(&VaultAccess { revision: 2, ..access }, Some(&token))
    );

    // A master that starts again finds its key, and everything opens as before.
    drop(master);
    let master = Master::start(MasterConfig { token: Some(admin), ..config(dir.path()) }).unwrap();
    let (mut node, token) = speaker(&master, "acme", Role::Node);
    node.register(&lent, true);
    assert!(opens(&node.call(&question).unwrap(), Some(&token)));
}

#[test]
fn where_nobody_is_asked_for_a_token_a_node_is_believed() {
    let dir = tempfile::tempdir().unwrap();
    let master = start(dir.path());
    let mut node = Peer::hello(&master);
    let question = VaultKeys { node: node.lend().node, vault: VaultId(1) };
    assert_eq!(node.call(&question).unwrap_err().code, FaultCode::WrongState, "there is none");
}
