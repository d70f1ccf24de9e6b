//! The brain: decides without clock, socket or thread.
#![forbid(unsafe_code)]

pub mod alloc;
