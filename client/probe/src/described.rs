//! What a listener serves, in the words of OpenAPI: made from the very routes, and served beside them.

use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use std::fmt::Write;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, Info, RefOr, Response};
use utoipa::{PartialSchema, ToSchema};
use utoipa_axum::router::OpenApiRouter;

/// Where the description is.
pub const OPENAPI: &str = "/openapi.json";

const BEARER: &str = "token";

/// How every process says that nobody is let in, or that it does not run. The faces have words of their own for all else.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `json!` writes")]
struct NotServed {
    /// Why, in a sentence.
    error: String,
}

/// How the routes of a face refuse.
pub struct Refusing {
    /// The type of the body.
    pub content_type: &'static str,
    /// What it is like.
    pub body: RefOr<utoipa::openapi::Schema>,
    /// With which statuses, and what each means.
    pub statuses: &'static [(u16, &'static str)],
}

impl Refusing {
    /// In JSON like `T`.
    pub fn like<T: PartialSchema>(statuses: &'static [(u16, &'static str)]) -> Self {
        Self { content_type: "application/json", body: T::schema(), statuses }
    }

    /// In plain text.
    pub fn text(statuses: &'static [(u16, &'static str)]) -> Self {
        Self { content_type: "text/plain", body: String::schema(), statuses }
    }

    /// Says so of each route, but for the statuses that it says something of itself.
    pub fn describe<S: Clone + Send + Sync + 'static>(&self, mut routes: OpenApiRouter<S>) -> OpenApiRouter<S> {
        for item in routes.get_openapi_mut().paths.paths.values_mut() {
            for (_, operation) in operations(item) {
                self.add(operation);
            }
        }
        routes
    }

    fn add(&self, operation: &mut Operation) {
        for (status, why) in self.statuses {
            let content = RefOr::T(Content::new(Some(self.body.clone())));
            let known = operation.responses.responses.entry(status.to_string());
            let response = known.or_insert_with(|| Response::new(*why).into());
            if let RefOr::T(response) = response {
                response.content.entry(self.content_type.into()).or_insert(content);
            }
        }
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    let PathItem { get, put, post, delete, .. } = item;
    let all = [("get", get), ("put", put), ("post", post), ("delete", delete)];
    all.into_iter().filter_map(|(method, operation)| operation.as_mut().map(|operation| (method, operation)))
}

/// Serves routes, and what they are at [`OPENAPI`]. Who asks that needs no token: it tells nothing of what is stored.
pub fn served(routes: OpenApiRouter) -> Router {
    let (routes, mut described) = routes.split_for_parts();
    described.info = Info::new("Perilune", env!("CARGO_PKG_VERSION"));
    described.info.description = Some("A distributed memory segment store: every route of this listener.".into());
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("The token of the cluster, where it has one.")).build();
    let components = described.components.get_or_insert_default();
    components.security_schemes.insert(BEARER.into(), RefOr::T(SecurityScheme::Http(scheme)));
    described.security = Some(vec![SecurityRequirement::new(BEARER, Vec::<String>::new()), SecurityRequirement::default()]);
    let common = Refusing::like::<NotServed>(&[
        (401, "No token, or not the one."),
        (403, "A page of another origin, or not for this caller."),
        (503, "This process does not run, not yet or not any more."),
    ]);
    let paths = std::mem::take(&mut described.paths.paths);
    for (path, mut item) in paths {
        // What a router calls the rest of a path, a description calls a parameter.
        let path = path.replace("{*", "{");
        for (method, operation) in operations(&mut item) {
            operation.operation_id = Some(id(method, &path));
            common.add(operation);
        }
        described.paths.paths.insert(path, item);
    }
    match described.to_json() {
        Ok(text) => routes.route(OPENAPI, get(async || ([(header::CONTENT_TYPE, "application/json")], text).into_response())),
        Err(e) => {
            tracing::error!("the description of the routes cannot be written: {e}");
            routes
        }
    }
}

/// The same routes within something else, such as a layer.
pub fn within<S, T>(routes: OpenApiRouter<S>, change: impl FnOnce(Router<S>) -> Router<T>) -> OpenApiRouter<T>
where
    S: Clone + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
{
    let (routes, described) = routes.split_for_parts();
    let mut routes = OpenApiRouter::from(change(routes));
    *routes.get_openapi_mut() = described;
    routes
}

/// Unlike that of any other route.
fn id(method: &str, path: &str) -> String {
    let mut id = method.to_owned();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        // Writing to a `String` does not fail.
        let _ = write!(id, "_{}", part.trim_matches(['{', '}']));
    }
    if path.ends_with('/') { id + "_" } else { id }
}
