//! Where a sink is, as callers write it: `scheme://[user[:password]@]authority/path?name=value&...`.
//!
//! Not a general parser of URLs, since the authority may be a list of brokers.

use std::collections::BTreeMap;
use std::fmt;

/// What stands for a secret.
const MASK: &str = "xxxxx";
/// A parameter is a secret if one of these is in its name.
const SECRET_WORDS: [&str; 11] =
    ["password", "passwd", "pwd", "access", "token", "secret", "key", "signature", "credential", "private", "client"];
/// The longest, in bytes.
const BYTES_MAX: usize = 8 << 10;

/// A URI in its parts, decoded. Its `Display` is masked.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SinkUri {
    pub(crate) scheme: String,
    pub(crate) user: String,
    pub(crate) password: Option<String>,
    /// `host:port`, or several with commas between.
    pub(crate) authority: String,
    /// With its first `/`; may be empty. Not decoded.
    pub(crate) path: String,
    pub(crate) query: BTreeMap<String, String>,
}

impl SinkUri {
    /// Reads one. Total.
    ///
    /// # Errors
    /// Why it is none, without what it says.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        if text.len() > BYTES_MAX {
            return Err("it is too long");
        }
        if text.chars().any(|c| c.is_control() || c == ' ') {
            return Err("there are blanks or control characters in it");
        }
        let (scheme, rest) = text.split_once(':').ok_or("it names no scheme")?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
        if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.chars().all(plain) {
            return Err("it names no scheme");
        }
        let rest = rest.strip_prefix("//").ok_or("there is no // behind its scheme")?;
        let rest = rest.split_once('#').map_or(rest, |(rest, _)| rest);
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = place.find('/').map_or((place, ""), |at| place.split_at(at));
        let (user, authority) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = user.split_once(':').map_or((user, None), |(user, password)| (user, Some(decoded(password))));
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let query = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(name, value)| (decoded(name), decoded(value)));
        Ok(Self {
            scheme: scheme.to_ascii_lowercase(),
            user: decoded(user),
            password,
            authority: authority.to_owned(),
            path: path.to_owned(),
            query: query.collect(),
        })
    }

    /// A parameter.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The whole of it, unmasked, but for its user and these parameters.
    pub(crate) fn without(&self, names: &[&str]) -> String {
        let rest = self.query.iter().filter(|(name, _)| !names.contains(&name.as_str()));
        let query: Vec<_> = rest.map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
        let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
        format!("{}://{}{}{query}", self.scheme, self.authority, self.path)
    }

    /// The whole of it, unmasked.
    fn revealed(&self) -> String {
        let mut user = encoded(&self.user);
        if let Some(password) = &self.password {
            user.push_str(&format!(":{}", encoded(password)));
        }
        let place = self.without(&[]);
        match place.split_once("://") {
            Some((scheme, rest)) if !user.is_empty() => format!("{scheme}://{user}@{rest}"),
            _ => place,
        }
    }

    /// Whether a mask stands in the place of a secret, as in what was read here.
    pub(crate) fn has_mask(&self) -> bool {
        self.secrets().any(|secret| secret == MASK)
    }

    fn secrets(&self) -> impl Iterator<Item = &str> {
        let in_query = self.query.iter().filter(|(name, _)| is_secret(name)).map(|(_, value)| value.as_str());
        // A user without a password is a token.
        in_query.chain([self.password.as_deref().unwrap_or(&self.user)])
    }

    /// What `text` means to whoever read `old` masked: a mask stands for what is there. Not where it would go to another place.
    ///
    /// # Errors
    /// Why that is not known.
    pub(crate) fn unmasked(text: &str, old: &str) -> Result<String, &'static str> {
        let (Ok(mut new), Ok(before)) = (Self::parse(text), Self::parse(old)) else { return Ok(text.to_owned()) };
        if !new.has_mask() {
            return Ok(text.to_owned());
        }
        if (&new.scheme, &new.authority) != (&before.scheme, &before.authority) {
            return Err("another place does not get a secret that is masked here: say it");
        }
        for (name, value) in new.query.iter_mut().filter(|(name, value)| is_secret(name) && *value == MASK) {
            value.clone_from(before.query.get(name).ok_or("a mask stands for a secret that there was not: say it")?);
        }
        match &mut new.password {
            Some(password) if password == MASK => {
                *password = before.password.clone().ok_or("a mask stands for a password that there was not: say it")?;
            }
            None if new.user == MASK => (new.user, new.password) = (before.user.clone(), before.password.clone()),
            _ => {}
        }
        Ok(if new == before { old.to_owned() } else { new.revealed() })
    }

    /// Whether files of both would lie at one place.
    pub(crate) fn is_at(&self, other: &Self) -> bool {
        let place = |uri: &Self| {
            let path: Vec<String> = uri.path.split('/').filter(|part| !["", "."].contains(part)).map(str::to_owned).collect();
            (uri.scheme.clone(), uri.authority.clone(), path, uri.get("endpoint").map(|at| at.trim_end_matches('/').to_owned()))
        };
        ["file", "s3"].contains(&self.scheme.as_str()) && place(self) == place(other)
    }

    /// Whether something in it may be a secret.
    pub(crate) fn has_secret(&self) -> bool {
        // A user without a password is a token.
        self.password.is_some() || !self.user.is_empty() || self.query.keys().any(|name| is_secret(name))
    }
}

impl fmt::Display for SinkUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scheme, user, password, authority, path, query } = self;
        write!(f, "{scheme}://")?;
        if !user.is_empty() || password.is_some() {
            match password {
                Some(_) => write!(f, "{}:{MASK}", encoded(user))?,
                None => f.write_str(MASK)?,
            }
            f.write_str("@")?;
        }
        write!(f, "{authority}{path}")?;
        for (nth, (name, value)) in query.iter().enumerate() {
            let value = if is_secret(name) { MASK.to_owned() } else { encoded(value) };
            write!(f, "{}{}={value}", if nth == 0 { "?" } else { "&" }, encoded(name))?;
        }
        Ok(())
    }
}

impl fmt::Debug for SinkUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_WORDS.iter().any(|word| name.contains(word))
}

/// What is no escape stays as it is.
fn decoded(text: &str) -> String {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while let Some(byte) = bytes.get(at) {
        let escaped = bytes.get(at + 1..at + 3).and_then(|two| digit(two[0]).zip(digit(two[1])));
        match (byte, escaped) {
            (b'%', Some((high, low))) => {
                out.push(high << 4 | low);
                at += 3;
            }
            (byte, _) => {
                out.push(if *byte == b'+' { b' ' } else { *byte });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        SinkUri::parse(text).unwrap().to_string()
    }

    #[test]
    fn no_secret_of_a_uri_is_shown() {
        assert_eq!(shown("kafka://u:p@h:9092/t?sasl-password=q"), "kafka://u:xxxxx@h:9092/t?sasl-password=xxxxx");
        let s3 = "s3://bucket/prefix?secret-access-key=S3CR&region=r&access-key=AK&endpoint=http%3A%2F%2Fh%3A1";
        assert_eq!(shown(s3), "s3://bucket/prefix?access-key=xxxxx&endpoint=http%3A%2F%2Fh%3A1&region=r&secret-access-key=xxxxx");
        assert_eq!(shown("https://h/x?Api_TOKEN=abc&a=b+c"), "https://h/x?Api_TOKEN=xxxxx&a=b%20c");
        for hidden in ["http://u:hidden@h", "https://hidden@h/x"] {
            let uri = SinkUri::parse(hidden).unwrap();
            assert!(!format!("{uri:?}").contains("hidden") && uri.has_secret(), "{hidden}");
        }
        for (plain, secret) in [("file:///a?protocol=csv", false), ("kafka://a:1,b:2/t", false), ("s3://b?session-token=x", true)] {
            assert_eq!(SinkUri::parse(plain).unwrap().has_secret(), secret, "{plain}");
        }
    }

    #[test]
    fn a_mask_means_what_was_there() {
        let old = "http://u:p@h:1/x?protocol=canal-json&secret=s3&token=t";
        let is = |said: &str| SinkUri::unmasked(said, old);
        let masked = shown(old);
        assert_eq!(masked, "http://u:xxxxx@h:1/x?protocol=canal-json&secret=xxxxx&token=xxxxx");
        assert_eq!(is(&masked), Ok(old.into()));
        let another = "http://u:xxxxx@h:1/y?secret=xxxxx&token=new";
        let meant = is(another).unwrap();
        let whole = SinkUri::parse(&meant).unwrap();
        assert_eq!(
            (whole.password.as_deref(), whole.get("secret"), whole.get("token"), whole.path.as_str()),
            (Some("p"), Some("s3"), Some("new"), "/y")
        );
        assert!(!whole.has_mask() && SinkUri::parse(another).unwrap().has_mask());
        for plain in ["http://elsewhere/?secret=a", "nonsense", "http://h:1/xxxxx?protocol=xxxxx"] {
            assert_eq!(is(plain), Ok(plain.into()));
        }
        for wrong in ["http://elsewhere/?secret=xxxxx", "https://u:xxxxx@h:1/x", "http://h:1/x?access-key=xxxxx"] {
            assert!(is(wrong).is_err(), "{wrong}");
        }
        assert_eq!(SinkUri::unmasked("https://xxxxx@h/x", "https://t%3Aa@h/x").unwrap(), "https://t%3Aa@h/x");
    }

    #[test]
    fn places_are_told_apart() {
        let is = |a: &str, b: &str| SinkUri::parse(a).unwrap().is_at(&SinkUri::parse(b).unwrap());
        assert!(is("file:///a/b?protocol=csv", "file:///a//b/?protocol=canal-json"));
        assert!(is("s3://b/p?endpoint=http://h:1&access-key=a", "S3://b/p/?endpoint=http://h:1/"));
        for (a, b) in
            [("file:///a/b", "file:///a"), ("s3://b/p?endpoint=http://h:1", "s3://b/p?endpoint=http://h:2"), ("http://h/x", "http://h/x")]
        {
            assert!(!is(a, b), "{a} {b}");
        }
    }

    #[test]
    fn parts_are_found_and_nonsense_is_refused() {
        let uri = SinkUri::parse("KAFKA://user%40:pa%3ass@a:1,b:2/topic/x?protocol=canal-json&x#frag").unwrap();
        assert_eq!((uri.scheme.as_str(), uri.user.as_str(), uri.password.as_deref()), ("kafka", "user@", Some("pa:ss")));
        assert_eq!(
            (uri.authority.as_str(), uri.path.as_str(), uri.get("protocol"), uri.get("x")),
            ("a:1,b:2", "/topic/x", Some("canal-json"), None)
        );
        let file = SinkUri::parse("file:///tmp/x").unwrap();
        assert_eq!((file.authority.as_str(), file.path.as_str()), ("", "/tmp/x"));
        assert_eq!(SinkUri::parse("blackhole://").unwrap().scheme, "blackhole");
        for wrong in ["", "x", "x:y", "://x", "1a://x", "a b://x", "http://a\nb", "http:/x", &format!("a://{}", "x".repeat(9000))] {
            assert!(SinkUri::parse(wrong).is_err(), "{wrong}");
        }
    }
}
