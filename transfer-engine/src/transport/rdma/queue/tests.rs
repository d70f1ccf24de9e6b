//! The life of queue pairs; on real devices as far as they are there.
