//! What a listener serves, which changes while the process comes and goes, so that it can be asked how far it is before all else works.

use axum::Router;
use axum::extract::Request;
use tokio::sync::watch;
use tower::ServiceExt;

/// The routes that are served at the moment.
pub struct Front(watch::Sender<Router>);

impl Front {
    /// Begins with these.
    pub fn new(routes: Router) -> Self {
        Self(watch::channel(routes).0)
    }

    /// Serves these from now on; requests under way end with what they began with.
    pub fn show(&self, routes: Router) {
        // The old ones live as long as requests that began with them.
        drop(self.0.send_replace(routes));
    }

    /// For a listener: answers each request by the routes there are when it comes.
    pub fn router(&self) -> Router {
        let routes = self.0.subscribe();
        Router::new().fallback(move |request: Request| {
            let routes = routes.borrow().clone();
            routes.oneshot(request)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::{Body, to_bytes};
    use axum::routing::get;

    #[tokio::test]
    async fn what_is_shown_is_answered() {
        let front = Front::new(Router::new().route("/", get(|| async { "before" })));
        let listener = front.router();
        let ask = || async {
            let answer = listener.clone().oneshot(Request::new(Body::empty())).await.unwrap();
            to_bytes(answer.into_body(), 64).await.unwrap()
        };
        assert_eq!(ask().await, "before");
        front.show(Router::new().route("/", get(|| async { "after" })));
        assert_eq!(ask().await, "after");
        drop(front);
        assert_eq!(ask().await, "after");
    }
}
