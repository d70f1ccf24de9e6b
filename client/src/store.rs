//! `Store`: put, get, remove, exist. The facade and nothing else.

use crate::StoreConfig;
use perilune_protocol::rpc::Call;
use perilune_protocol::{FaultCode, ObjectKey, Outcome, PutConfig};
use perilune_transfer_engine::Engine;

/// What became of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The value is stored.
    Stored,
    /// The key existed (or was being put); its value was left as it is.
    Existed,
}

/// The store, as seen by one process. Cheap to clone; every method blocks and may be called from any thread.
#[derive(Clone)]
pub struct Store(Engine);

#[expect(missing_docs, reason = "filled in next")]
#[expect(unused_variables, reason = "filled in next")]
impl Store {
    pub fn connect(config: StoreConfig) -> Outcome<Store> {
        Err(FaultCode::NotSupported.with("not built yet"))
    }
    pub fn put(&self, key: &ObjectKey, value: &[u8], config: &PutConfig) -> Outcome<Put> {
        Err(FaultCode::NotSupported.with("not built yet"))
    }
    pub fn put_batch(&self, items: &[(ObjectKey, &[u8])], config: &PutConfig) -> Vec<Outcome<Put>> {
        Vec::new()
    }
    pub fn get(&self, key: &ObjectKey) -> Outcome<Vec<u8>> {
        Err(FaultCode::NotSupported.with("not built yet"))
    }
    pub fn get_into(&self, key: &ObjectKey, into: &mut [u8]) -> Outcome<usize> {
        Err(FaultCode::NotSupported.with("not built yet"))
    }
    pub fn get_batch(&self, keys: &[ObjectKey]) -> Vec<Outcome<Vec<u8>>> {
        Vec::new()
    }
    pub fn get_batch_into(&self, items: &mut [(ObjectKey, &mut [u8])]) -> Vec<Outcome<usize>> {
        Vec::new()
    }
    pub fn exists(&self, keys: &[ObjectKey]) -> Outcome<Vec<bool>> {
        Err(FaultCode::NotSupported.with("not built yet"))
    }
    pub fn match_prefix(&self, keys: &[ObjectKey]) -> Outcome<u64> {
        Err(FaultCode::NotSupported.with("not built yet"))
    }
    pub fn size(&self, key: &ObjectKey) -> Outcome<u64> {
        Err(FaultCode::NotSupported.with("not built yet"))
    }
    pub fn remove(&self, keys: &[ObjectKey], force: bool) -> Vec<Outcome<()>> {
        Vec::new()
    }
    pub fn remove_matching(&self, pattern: &str, force: bool) -> Outcome<u64> {
        Err(FaultCode::NotSupported.with("not built yet"))
    }
    pub fn call<C: Call>(&self, question: &C) -> Outcome<C::Reply> {
        Err(FaultCode::NotSupported.with("not built yet"))
    }
    /// # Safety
    /// `ptr` must stay valid for `len` bytes until [`Store::unregister`].
    pub unsafe fn register(&self, ptr: *mut u8, len: usize) -> Outcome<()> {
        Err(FaultCode::NotSupported.with("not built yet"))
    }
    pub fn unregister(&self, ptr: *mut u8) -> Outcome<()> {
        Err(FaultCode::NotSupported.with("not built yet"))
    }
    pub fn engine(&self) -> &Engine {
        &self.0
    }
}
