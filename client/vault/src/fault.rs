//! What may go wrong with a vault, in classes that say what to do about it.

use std::fmt;
use std::io::ErrorKind;

/// What went wrong, by what the caller is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The vault does not take the credentials, or they do not allow this: ask for the newest and open the vault again.
    Refused,
    /// The bucket or directory is not there: the vault's target is wrong, or it was removed.
    NoBucket,
    /// There is nothing of that name.
    NoObject,
    /// There is something of that name already, where it was to be created.
    Exists,
    /// Slow, overloaded, out of space or not reached; repeated until the deadline, or told at once while the vault is away.
    Away,
    /// What lies there is not what was put there: altered, cut, of another version or name, or sealed with another key.
    Damaged,
    /// The bytes to be uploaded are not those they were said to be; nothing of that name was made.
    Wrong,
    /// The target or the request cannot be right, and would not be the next time.
    Invalid,
    /// The caller's own reader or writer gave up.
    Caller,
}

/// A class, and a sentence that says what was wrong, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultFault {
    /// What to do about it.
    pub class: Class,
    /// The sentence. Holds no secret.
    pub message: String,
}

/// A value or what went wrong.
pub type Vaulted<T> = Result<T, VaultFault>;

impl Class {
    /// A fault of this class.
    pub fn with(self, message: impl Into<String>) -> VaultFault {
        VaultFault { class: self, message: message.into() }
    }
}

impl VaultFault {
    /// The same, with where it happened before it.
    pub(crate) fn at(mut self, place: impl fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }
}

impl fmt::Display for VaultFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for VaultFault {}

impl From<object_store::Error> for VaultFault {
    fn from(error: object_store::Error) -> Self {
        use object_store::Error as E;
        let text = whole_text(&error);
        let class = match &error {
            _ if text.contains("NoSuchBucket") => Class::NoBucket,
            // S3 is still deciding about another request for the same name.
            _ if text.contains("ConditionalRequestConflict") => Class::Away,
            E::NotFound { .. } => Class::NoObject,
            E::AlreadyExists { .. } | E::Precondition { .. } | E::NotModified { .. } => Class::Exists,
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => Class::Refused,
            E::Generic { .. } => class_of_status(&text),
            _ => Class::Invalid,
        };
        class.with(text)
    }
}

/// Whether an answer that has no class of its own is worth asking for again.
fn class_of_status(text: &str) -> Class {
    let status = text.split_once("status code: ").and_then(|(_, rest)| rest.get(..3)).and_then(|digits| digits.parse::<u16>().ok());
    match status {
        Some(408 | 429) => Class::Away,
        Some(416) => Class::Damaged,
        // S3's way of saying that the request came too slowly.
        Some(400) if text.contains("RequestTimeout") => Class::Away,
        Some(300..=499) => Class::Invalid,
        _ if text.contains("redirect without LOCATION") => Class::Invalid,
        _ => Class::Away,
    }
}

/// An error with its causes, each said once.
fn whole_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}

impl From<std::io::Error> for VaultFault {
    fn from(error: std::io::Error) -> Self {
        let class = match error.kind() {
            ErrorKind::NotFound => Class::NoObject,
            ErrorKind::AlreadyExists => Class::Exists,
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Class::Refused,
            ErrorKind::IsADirectory | ErrorKind::NotADirectory | ErrorKind::InvalidInput => Class::Invalid,
            _ => Class::Away,
        };
        class.with(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_service_says_has_the_class_of_what_is_to_be_done() {
        let generic = |text: &str| object_store::Error::Generic { store: "S3", source: text.into() };
        let said = |status: &str| generic(&format!("Server returned non-2xx status code: {status}"));
        let exists = |text: &str| object_store::Error::AlreadyExists { path: "a".into(), source: text.into() };
        for (error, class) in [
            (said("503 Service Unavailable: SlowDown"), Class::Away),
            (said("500 Internal Server Error"), Class::Away),
            (said("429 Too Many Requests"), Class::Away),
            (said("400 Bad Request: <Code>RequestTimeout</Code>"), Class::Away),
            (said("400 Bad Request: <Code>InvalidRequest</Code>"), Class::Invalid),
            (said("301 Moved Permanently"), Class::Invalid),
            (said("416 Range Not Satisfiable"), Class::Damaged),
            (generic("connection reset"), Class::Away),
            (exists("412 Precondition Failed"), Class::Exists),
            (exists("409 Conflict: <Code>ConditionalRequestConflict</Code>"), Class::Away),
            (object_store::Error::NotFound { path: "a".into(), source: "<Code>NoSuchBucket</Code>".into() }, Class::NoBucket),
            (object_store::Error::NotFound { path: "a".into(), source: "<Code>NoSuchKey</Code>".into() }, Class::NoObject),
        ] {
            let told = VaultFault::from(error);
            assert_eq!(told.class, class, "{told}");
        }
    }
}
