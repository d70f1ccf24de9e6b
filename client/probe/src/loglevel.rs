//! What the process logs, changed while it runs. As global as the subscriber of `tracing`, which whoever starts the process sets up.

use std::sync::OnceLock;

type Change = Box<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

static CHANGE: OnceLock<Change> = OnceLock::new();

/// Says how it is changed. Only the first counts, as with the subscriber.
pub fn changed_by(change: impl Fn(&str) -> Result<(), String> + Send + Sync + 'static) {
    let _ = CHANGE.set(Box::new(change));
}

/// From now on the process logs this: a level, or `module=level,...`. Until it is said anew, or the process ends.
///
/// # Errors
/// What is wrong with it; or this process logs nothing that could be changed.
pub fn set(filter: &str) -> Result<(), String> {
    CHANGE.get().ok_or("nobody set up a log in this process")?(filter)
}
