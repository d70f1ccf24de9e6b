//! What walks the index or waits for a vault goes aside: off the threads that serve connections.

use perilune_protocol::{FaultCode, Outcome};
use tokio::runtime::{Handle, RuntimeFlavor};

/// Has it done there. Where all there is is one thread, as in the simulation, it is done there, when it is its turn.
///
/// # Errors
/// [`FaultCode::Internal`] when it panics.
pub(crate) async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Outcome<T> {
    if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
        tokio::task::yield_now().await;
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(|e| FaultCode::Internal.with(format!("what was done aside stopped: {e}")))
}
