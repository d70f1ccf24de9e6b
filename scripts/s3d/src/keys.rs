//! Who may come in. Keys come and go while the server runs.

use s3s::auth::{S3Auth, SecretKey};
use s3s::{S3Result, s3_error};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Clone, Default)]
pub(crate) struct KeyRing(Arc<Mutex<HashMap<String, String>>>);

impl KeyRing {
    pub(crate) fn add(&self, ak: &str, sk: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(ak.to_owned(), sk.to_owned());
    }

    pub(crate) fn remove(&self, ak: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(ak);
    }
}

#[async_trait::async_trait]
impl S3Auth for KeyRing {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let found = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(access_key).cloned();
        found.map(SecretKey::from).ok_or_else(|| s3_error!(InvalidAccessKeyId, "there is no such key here"))
    }
}
