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
