//! The project's chores by name: cargo xtask.
fn main() {}
