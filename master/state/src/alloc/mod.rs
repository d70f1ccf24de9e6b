//! Reserve, commit, release: the promise of an extent.
