//! Listens, and hands connections to the router.
