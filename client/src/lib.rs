//! The store library and the store node.
