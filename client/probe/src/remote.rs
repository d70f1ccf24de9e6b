//! The cold tier as a whole, on TiFlash's page: how it is answered, by masters and by store nodes that asked one.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// Who collects garbage, as the process that is asked sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// There is no cold tier.
    None,
    /// There is one, and nobody has the lease at the moment.
    Nobody,
    /// This process.
    This(String),
    /// Another, at this address.
    Other(String),
}

/// Who it is, in the order of the page.
#[derive(Serialize)]
struct Said<'a> {
    status: &'static str,
    owner_id: &'a str,
    /// `true` or `false` in a text, where something was to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    execute: Option<String>,
}

#[derive(Serialize)]
struct Told<'a> {
    message: &'a str,
}

impl Owner {
    fn said(&self, execute: Option<String>) -> Response {
        let (status, owner_id) = match self {
            Self::None | Self::Nobody => ("NoLeader", ""),
            Self::This(at) => ("IsOwner", &**at),
            Self::Other(at) => ("NotOwner", &**at),
        };
        Json(Said { status, owner_id, execute }).into_response()
    }

    /// Who it is.
    pub fn info(&self) -> Response {
        match self {
            Self::None => told("can not get gc owner, disagg_mode=None"),
            _ => self.said(None),
        }
    }

    /// Whether garbage is looked for now: by the owner alone.
    pub fn gc(&self) -> Response {
        match self {
            Self::None => told("can not trigger gc, disagg_mode=None"),
            _ => self.said(Some(self.is_this().to_string())),
        }
    }

    /// Whether it was given up.
    pub fn resigned(&self, done: bool) -> Response {
        told(match self {
            Self::None => "can not resign gc owner, disagg_mode=None",
            _ if done => "Done",
            _ => "This node is not the remote gc owner, can't be resigned.",
        })
    }

    /// Whether it is this process.
    pub fn is_this(&self) -> bool {
        matches!(self, Self::This(_))
    }
}

/// Whether everything is to be brought to the cold tier now; `None` where there is none.
pub fn upload(flag: Option<bool>) -> Response {
    match flag {
        None => told("can not sync remote store, disagg_mode=None"),
        Some(set) => told(&format!("flag_set={set}")),
    }
}

/// The numbers of vaults, with commas between. `None`: these are none.
pub fn ids(text: &str) -> Option<Vec<u64>> {
    text.split(',').map(|id| id.parse().ok().filter(|_| id.bytes().all(|b| b.is_ascii_digit()))).collect()
}

fn told(message: &str) -> Response {
    Json(Told { message }).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_said_stands_in_the_order_of_the_page() {
        let owner = Owner::This("172.31.9.1:3930".into());
        let other = Owner::Other("172.31.9.1:3930".into());
        for (answer, expected) in [
            (owner.info(), r#"{"status":"IsOwner","owner_id":"172.31.9.1:3930"}"#),
            (owner.gc(), r#"{"status":"IsOwner","owner_id":"172.31.9.1:3930","execute":"true"}"#),
            (other.gc(), r#"{"status":"NotOwner","owner_id":"172.31.9.1:3930","execute":"false"}"#),
            (Owner::Nobody.info(), r#"{"status":"NoLeader","owner_id":""}"#),
            (Owner::None.gc(), r#"{"message":"can not trigger gc, disagg_mode=None"}"#),
        ] {
            let body = axum::body::to_bytes(answer.into_body(), 1000).await.unwrap();
            assert_eq!(String::from_utf8_lossy(&body), expected);
        }
    }

    #[test]
    fn vaults_are_named_by_numbers() {
        assert_eq!((ids("1"), ids("1,20")), (Some(vec![1]), Some(vec![1, 20])));
        for wrong in ["", "x", "1,", "1,,2", "-1", "+1", "1 ", "99999999999999999999"] {
            assert_eq!(ids(wrong), None, "{wrong}");
        }
    }
}
