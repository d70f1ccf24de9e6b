//! What the process logs, changed while it runs. As global as the subscriber of `tracing`, which whoever starts the process sets up.

use std::sync::OnceLock;

type Change = Box<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

static CHANGE: OnceLock<Change> = OnceLock::new();

/// Says how it is changed. Only the first counts, as with the subscriber.
pub fn changed_by(change: impl Fn(&str) -> Result<(), String> + Send + Sync + 'static) {
    let _ = CHANGE.set(Box::new(change));
}

/// Whether this says what to log: levels, and `module=level`. A single word that is no level would be taken for a module, and nothing else be logged.
///
/// # Errors
/// What is wrong with it.
pub fn check(filter: &str) -> Result<(), String> {
    let is_level = |word: &str| !word.is_empty() && word.parse::<tracing::level_filters::LevelFilter>().is_ok();
    match filter.split(',').map(str::trim).find(|part| !part.contains('=') && !is_level(part)) {
        None => Ok(()),
        Some(part) => Err(format!("`{part:.100}` is none of error, warn, info, debug, trace, and says nothing as module=level")),
    }
}

/// From now on the process logs this: a level, or `module=level,...`. Until it is said anew, or the process ends.
///
/// # Errors
/// What is wrong with it; or this process logs nothing that could be changed.
pub fn set(filter: &str) -> Result<(), String> {
    check(filter)?;
    CHANGE.get().ok_or("nobody set up a log in this process")?(filter)
}
