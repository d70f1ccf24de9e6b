//! The cold tier as a whole, on TiFlash's page: how it is answered, by masters and by store nodes that asked one.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::json;

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

impl Owner {
    fn said(&self) -> (&'static str, &str) {
        match self {
            Self::None | Self::Nobody => ("NoLeader", ""),
            Self::This(at) => ("IsOwner", at),
            Self::Other(at) => ("NotOwner", at),
        }
    }

    /// Who it is.
    pub fn info(&self) -> Response {
        let (status, owner_id) = self.said();
        match self {
            Self::None => told("can not get gc owner, disagg_mode=None"),
            _ => Json(json!({"status": status, "owner_id": owner_id})).into_response(),
        }
    }

    /// Whether garbage is looked for now: by the owner alone.
    pub fn gc(&self) -> Response {
        let (status, owner_id) = self.said();
        match self {
            Self::None => told("can not trigger gc, disagg_mode=None"),
            _ => Json(json!({"status": status, "owner_id": owner_id, "execute": self.is_this().to_string()})).into_response(),
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
    Json(json!({ "message": message })).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vaults_are_named_by_numbers() {
        assert_eq!((ids("1"), ids("1,20")), (Some(vec![1]), Some(vec![1, 20])));
        for wrong in ["", "x", "1,", "1,,2", "-1", "+1", "1 ", "99999999999999999999"] {
            assert_eq!(ids(wrong), None, "{wrong}");
        }
    }
}
