//! The one binary: perilune master, store, dev, put, get and the rest.
fn main() {}
