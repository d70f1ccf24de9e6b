//! Moves bytes between registered memories; knows no key and no tenant.
