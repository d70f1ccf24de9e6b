//! Uploads in parts that were begun in a bucket. `object_store` cannot list them, so each has a note, from before its first part until it has ended:
//! whoever is killed meanwhile leaves it, and others know by it what to abort.

use crate::fault::{Class, Vaulted};
use crate::object::ColdObject;
use crate::vault::Vault;
use std::time::Instant;
use uuid::Uuid;

const FOLDER: &str = "uploads";
/// Notes of one page.
const PAGE: usize = 1000;

/// Where the note about an upload of this name lies. It says what the bucket calls the upload.
pub(crate) fn note(name: Uuid) -> String {
    format!("{FOLDER}/{name}")
}

impl Vault {
    /// The names of uploads in parts that were begun and, for all that is known, have not ended.
    ///
    /// # Errors
    /// As [`Vault::list`].
    pub fn begun(&self, deadline: Instant) -> Vaulted<Vec<Uuid>> {
        let (mut found, mut after) = (Vec::new(), None::<String>);
        loop {
            let page = self.list(FOLDER, after.as_deref(), PAGE, deadline)?;
            found.extend(page.iter().filter_map(|listed| listed.name.rsplit('/').next()?.parse::<Uuid>().ok()));
            match page.into_iter().nth(PAGE - 1) {
                Some(last) => after = Some(last.name),
                None => return Ok(found),
            }
        }
    }

    /// Forgets one of them and all that was sent of it. An object that has become of it stays.
    ///
    /// # Errors
    /// As [`Vault::delete`].
    pub fn abandon(&self, name: Uuid, deadline: Instant) -> Vaulted<()> {
        let note = note(name);
        let id = match self.get(&note, None, deadline) {
            Err(fault) if fault.class == Class::NoObject => return Ok(()),
            got => String::from_utf8_lossy(&got?.bytes).into_owned(),
        };
        self.ask("abort the upload of", &ColdObject::path(name), deadline, move |place, path, _| {
            let id = id.clone();
            async move { place.abort(&path, &id).await }
        })?;
        self.delete(&note, deadline)
    }
}
