//! Who may come in. Every listener, RPC and HTTP, of masters and store nodes, asks [`Access`] and nobody else: what comes later
//! (certificates, roles) is decided here.

use crate::principal::Principal;
use crate::{FaultCode, Outcome};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use subtle::ConstantTimeEq;

/// A secret that callers present. Never shown: not in logs, not in listings, not in `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Shorter ones can be guessed.
    pub const BYTES_MIN: usize = 16;
    /// Longer ones are a mistake, such as the wrong file.
    pub const BYTES_MAX: usize = 1024;

    /// Takes a token as it stands in a file: blanks around it do not count.
    ///
    /// # Errors
    /// What is wrong with it, without repeating it.
    pub fn new(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if !(Self::BYTES_MIN..=Self::BYTES_MAX).contains(&text.len()) {
            let (least, most) = (Self::BYTES_MIN, Self::BYTES_MAX);
            return Err(format!(
                "a token has {least} to {most} characters, this one has {}: make one with `openssl rand -hex 32`",
                text.len()
            ));
        }
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err("a token consists of visible ASCII characters without blanks".into());
        }
        Ok(Self(text.to_owned()))
    }

    /// The one that stands on the meta service's own page (seed 001): for trying things out on one machine.
    pub fn of_the_page() -> Self {
        Self("greedisgood9999".into())
    }

    /// The secret itself, to be sent.
    pub fn secret(&self) -> &str {
        &self.0
    }

    /// Shows who hears it that this token is known, without the token: HMAC-SHA-256 (RFC 2104) of what both sides have said, with a number
    /// drawn by the other side in it. `role` tells the two sides apart, so that neither can be sent back its own proof.
    pub fn prove(&self, role: &str, said: &[&[u8]]) -> [u8; 32] {
        self.mac(role, said).finalize().into_bytes().into()
    }

    /// Whether `proof` is [`Token::prove`] of the same; in constant time.
    pub fn is_proven(&self, proof: &[u8; 32], role: &str, said: &[&[u8]]) -> bool {
        self.mac(role, said).verify_slice(proof).is_ok()
    }

    fn mac(&self, role: &str, said: &[&[u8]]) -> Hmac<Sha256> {
        // A key of any length is one, says the signature that cannot say so.
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.as_bytes()).expect("HMAC takes keys of any length");
        for part in [role.as_bytes()].iter().chain(said) {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac
    }

    /// Whether `presented` is this token; takes as long for a token that is wrong at the end as for one wrong at the beginning.
    pub fn matches(&self, presented: &str) -> bool {
        self.0.as_bytes().ct_eq(presented.as_bytes()).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(masked)")
    }
}

/// What a listener asks of its callers.
#[derive(Clone, Debug, Default)]
pub struct Access {
    token: Option<Token>,
    insecure: bool,
}

impl Access {
    /// Callers present this token; `None` lets everybody in who is on this machine, or, if that is `insecure`, anywhere.
    pub fn new(token: Option<Token>, insecure: bool) -> Self {
        Self { token, insecure }
    }

    /// Whether callers may say nothing.
    pub fn is_open(&self) -> bool {
        self.token.is_none()
    }

    /// Whether who presents this may come in.
    ///
    /// # Errors
    /// [`FaultCode::Unauthorized`].
    pub fn admit(&self, presented: Option<&str>) -> Outcome<()> {
        let refuse = |what| {
            let how = "give it with --admin-token-file or in PERILUNE_ADMIN_TOKEN; over HTTP as `Authorization: Bearer TOKEN`";
            Err(FaultCode::Unauthorized.with(format!("{what}: {how}")))
        };
        match (&self.token, presented) {
            (None, _) => Ok(()),
            (Some(token), Some(presented)) if token.matches(presented) => Ok(()),
            (Some(_), Some(_)) => refuse("the token is not the one that is asked for here"),
            (Some(_), None) => refuse("a token is asked for here"),
        }
    }

    /// Whom a token is of that a caller presents: of the admin (`None`), or of somebody who speaks for one tenant.
    ///
    /// # Errors
    /// As [`Access::admit`].
    pub fn identify(&self, presented: &str) -> Outcome<Option<Principal>> {
        match self.token.as_ref().and_then(|admin| Principal::of(presented, admin)) {
            Some(principal) => Ok(Some(principal)),
            None => self.admit(Some(presented)).map(|()| None),
        }
    }

    /// Whether an HTTP request with these headers may come in.
    ///
    /// # Errors
    /// As [`Access::admit_origin`], [`Access::admit_host`] and [`Access::admit_header`].
    pub fn admit_http<'a>(&self, header: impl Fn(&str) -> Option<&'a [u8]>) -> Outcome<()> {
        let authorization = header("authorization");
        self.admit_page(header)?;
        self.admit_header(authorization)
    }

    /// The same for what asks for a token of its own.
    ///
    /// # Errors
    /// As [`Access::admit_origin`] and [`Access::admit_host`].
    pub fn admit_page<'a>(&self, header: impl Fn(&str) -> Option<&'a [u8]>) -> Outcome<()> {
        Self::admit_origin(header("origin"), header("host"))?;
        self.admit_host(header("host"))
    }

    /// As [`Access::admit`], for the value of an HTTP `Authorization` header (RFC 6750 2.1).
    ///
    /// # Errors
    /// As [`Access::admit`].
    pub fn admit_header(&self, authorization: Option<&[u8]>) -> Outcome<()> {
        self.admit(bearer(authorization))
    }

    /// Whom the token is of that an HTTP request brings, as [`Access::identify`] says: as `Bearer`, or as the password of whatever user in `Basic`.
    ///
    /// # Errors
    /// As [`Access::admit_http`].
    pub fn identify_http<'a>(&self, header: impl Fn(&str) -> Option<&'a [u8]>) -> Outcome<Option<Principal>> {
        let authorization = header("authorization");
        self.admit_page(header)?;
        if let Some(presented) = bearer(authorization) {
            return self.identify(presented);
        }
        match authorization.and_then(basic).as_deref().and_then(|text| text.split_once(':')) {
            Some((_, password)) if self.token.is_some() => self.identify(password),
            _ => self.admit(None).map(|()| None),
        }
    }

    /// As [`Access::admit`], for an `Authorization: Basic` header (RFC 7617) of an administrator: `root` or `admin`, with the admin's token as
    /// password, or `other` where there is such a one. Where nobody is asked for a token the password is empty, but who it is is said all the
    /// same.
    ///
    /// # Errors
    /// [`FaultCode::Unauthorized`].
    pub fn admit_basic(&self, authorization: Option<&[u8]>, other: Option<&Token>) -> Outcome<()> {
        let credentials = authorization.and_then(basic);
        let known = credentials.as_deref().and_then(|text| text.split_once(':')).is_some_and(|(user, password)| {
            let is_right = match &self.token {
                Some(token) => token.matches(password),
                None => password.is_empty(),
            };
            ["root", "admin"].contains(&user) && (is_right || other.is_some_and(|other| other.matches(password)))
        });
        if known { Ok(()) } else { Err(FaultCode::Unauthorized.with("an administrator is asked for here: root, with the admin's token")) }
    }

    /// Whether a browser may have sent a request here: not on behalf of a page of somebody else, which could otherwise steer whatever its
    /// visitor can reach. `origin` and `host` are the headers; who sends no origin is no page.
    ///
    /// # Errors
    /// [`FaultCode::Forbidden`].
    pub fn admit_origin(origin: Option<&[u8]>, host: Option<&[u8]>) -> Outcome<()> {
        let Some(origin) = origin else { return Ok(()) };
        let own = [&b"http://"[..], b"https://"].iter().any(|scheme| origin.strip_prefix(*scheme).is_some_and(|at| Some(at) == host));
        if own { Ok(()) } else { Err(FaultCode::Forbidden.with("a web page of another origin may not ask this")) }
    }

    /// Whether a request may call this place by that name. Where nobody is asked for a token, a page could have its own name resolve to an
    /// address of its visitor's machine, and read what is here as if it were its own: so names that anybody can register are refused.
    ///
    /// # Errors
    /// [`FaultCode::Forbidden`].
    pub fn admit_host(&self, host: Option<&[u8]>) -> Outcome<()> {
        if self.insecure || !self.is_open() {
            return Ok(());
        }
        let Some(host) = host else { return Ok(()) };
        let text = String::from_utf8_lossy(host);
        let without_port =
            text.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())).map_or(&*text, |(name, _)| name);
        let address = without_port.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
        // A name without dots, or below `localhost`, is nobody's to register.
        if address || !without_port.contains('.') || without_port.ends_with(".localhost") {
            return Ok(());
        }
        Err(FaultCode::Forbidden.with(format!("nobody is asked for a token here, so this is not to be called `{text}`: ask by address")))
    }

    /// Whether `address` may be listened on: beyond loopback only when callers present a token, or when it was said that none is needed.
    ///
    /// # Errors
    /// What to do instead.
    pub fn may_listen(&self, address: SocketAddr) -> Result<(), String> {
        if address.ip().is_loopback() || self.insecure || !self.is_open() {
            return Ok(());
        }
        Err(format!(
            "{address} can be reached from other machines and nobody would be asked who they are: ask for a token (--admin-token-file FILE, or \
             PERILUNE_ADMIN_TOKEN), listen on 127.0.0.1, or accept it with --insecure"
        ))
    }
}

/// The token of a `Bearer` header (RFC 6750 2.1).
pub fn bearer(authorization: Option<&[u8]>) -> Option<&str> {
    let (scheme, token) = std::str::from_utf8(authorization?).ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// `user:password` of a `Basic` header.
fn basic(header: &[u8]) -> Option<String> {
    let (scheme, encoded) = std::str::from_utf8(header).ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let (mut bytes, mut held, mut bits) = (Vec::new(), 0_u32, 0);
    for letter in encoded.trim().trim_end_matches('=').bytes() {
        let six = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        held = held << 6 | u32::from(six);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdef";

    #[test]
    fn only_the_token_opens() {
        let access = Access::new(Some(Token::new(&format!(" {SECRET}\n")).unwrap()), false);
        assert_eq!(access.admit(Some(SECRET)), Ok(()));
        for wrong in ["", "0123456789abcde", "0123456789abcdef0", "0123456789abcdeF"] {
            assert_eq!(access.admit(Some(wrong)).unwrap_err().code, FaultCode::Unauthorized, "{wrong}");
        }
        assert_eq!(access.admit(None).unwrap_err().code, FaultCode::Unauthorized);
        assert_eq!(Access::default().admit(None), Ok(()));
    }

    #[test]
    fn a_proof_is_of_one_token_one_role_and_one_conversation() {
        let token = Token::new(SECRET).unwrap();
        let proof = token.prove("caller", &[b"ab", b"c"]);
        assert!(token.is_proven(&proof, "caller", &[b"ab", b"c"]));
        assert!(!token.is_proven(&proof, "listener", &[b"ab", b"c"]));
        assert!(!token.is_proven(&proof, "caller", &[b"a", b"bc"]));
        assert!(!Token::new("0123456789abcdeF").unwrap().is_proven(&proof, "caller", &[b"ab", b"c"]));
    }

    #[test]
    fn a_header_names_its_scheme() {
        let access = Access::new(Some(Token::new(SECRET).unwrap()), false);
        for right in ["Bearer 0123456789abcdef", "bearer  0123456789abcdef"] {
            assert_eq!(access.admit_header(Some(right.as_bytes())), Ok(()), "{right}");
        }
        for wrong in ["0123456789abcdef", "Basic 0123456789abcdef", "Bearer", "Bearer 0123456789abcdeg", "\u{fffd}"] {
            assert!(access.admit_header(Some(wrong.as_bytes())).is_err(), "{wrong}");
        }
        assert!(access.admit_header(Some(b"Bearer \xff")).is_err());
        assert!(access.admit_header(None).is_err());
    }

    #[test]
    fn administrators_say_who_they_are() {
        let (asked_for, open) = (Access::new(Some(Token::new(SECRET).unwrap()), false), Access::default());
        let page = Token::of_the_page();
        // root:0123456789abcdef, admin:0123456789abcdef, root:greedisgood9999, root:
        let [root, admin, pages, nothing] =
            ["cm9vdDowMTIzNDU2Nzg5YWJjZGVm", "YWRtaW46MDEyMzQ1Njc4OWFiY2RlZg==", "cm9vdDpncmVlZGlzZ29vZDk5OTk=", "cm9vdDo="];
        let admits = |access: &Access, said: &str, other| access.admit_basic(Some(format!("Basic {said}").as_bytes()), other).is_ok();
        assert!(admits(&asked_for, root, None) && admits(&asked_for, admin, None) && admits(&asked_for, pages, Some(&page)));
        assert!(!admits(&asked_for, pages, None) && !admits(&asked_for, nothing, Some(&page)));
        assert!(admits(&open, nothing, None) && admits(&open, pages, Some(&page)) && !admits(&open, root, None));
        for wrong in ["bm9ib2R5Og==", "cm9vdA==", "", "%", "cm9v\u{e4}", "/////w=="] {
            assert!(!admits(&open, wrong, None), "{wrong}");
        }
        assert!(open.admit_basic(None, None).is_err() && open.admit_basic(Some(b"Bearer cm9vdDo="), None).is_err());
    }

    #[test]
    fn pages_of_others_are_not_let_in() {
        let host = Some(&b"127.0.0.1:9003"[..]);
        assert_eq!(Access::admit_origin(None, host), Ok(()));
        assert_eq!(Access::admit_origin(Some(b"http://127.0.0.1:9003"), host), Ok(()));
        for other in ["http://example.com", "null", "", "http://127.0.0.1:9004", "127.0.0.1:9003"] {
            assert_eq!(Access::admit_origin(Some(other.as_bytes()), host).unwrap_err().code, FaultCode::Forbidden, "{other}");
        }
        assert!(Access::admit_origin(Some(b"http://"), None).is_err());
    }

    #[test]
    fn names_that_anybody_can_register_do_not_lead_here() {
        let (open, insecure) = (Access::default(), Access::new(None, true));
        let asked_for = Access::new(Some(Token::new(SECRET).unwrap()), false);
        for host in ["127.0.0.1:9003", "127.0.0.1", "[::1]:9003", "localhost:9003", "master-1", "a.localhost:1"] {
            assert_eq!(open.admit_host(Some(host.as_bytes())), Ok(()), "{host}");
        }
        assert_eq!(open.admit_host(None), Ok(()), "HTTP/1.0");
        for host in ["example.com:9003", "127.0.0.1.example.com", "example.com", "127.0.0.1:x.example.com"] {
            assert_eq!(open.admit_host(Some(host.as_bytes())).unwrap_err().code, FaultCode::Forbidden, "{host}");
            assert!(insecure.admit_host(Some(host.as_bytes())).is_ok() && asked_for.admit_host(Some(host.as_bytes())).is_ok());
        }
    }

    #[test]
    fn what_is_no_token_is_refused_and_none_is_shown() {
        assert!(Token::new("short").is_err());
        assert!(Token::new(&"x".repeat(Token::BYTES_MAX + 1)).is_err());
        assert!(Token::new("0123456789 abcdef").unwrap_err().contains("blanks"));
        let shown = format!("{:?}", Access::new(Some(Token::new(SECRET).unwrap()), false));
        assert!(!shown.contains(SECRET), "{shown}");
    }

    #[test]
    fn beyond_loopback_a_token_is_needed() {
        let open = Access::default();
        let beyond = "0.0.0.0:1".parse().unwrap();
        assert!(open.may_listen("127.0.0.1:1".parse().unwrap()).is_ok());
        assert!(open.may_listen("[::1]:1".parse().unwrap()).is_ok());
        assert!(open.may_listen(beyond).unwrap_err().contains("--admin-token-file"));
        assert!(Access::new(None, true).may_listen(beyond).is_ok());
        assert!(Access::new(Some(Token::new(SECRET).unwrap()), false).may_listen(beyond).is_ok());
    }
}
