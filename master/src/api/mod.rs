//! The faces of the master, listed once.

mod app;
pub mod serve;

pub use app::{App, Boxed, Facade};

use axum::Router;

/// Every face behind one door.
pub fn router(app: App) -> Router {
    Router::new().with_state(app)
}
