//! The C ABI of the engine and the store.
