//! The paths of the API, one file per noun.

mod audit;
mod backend;
mod config;
mod leader;
mod lock;
mod plugin;
mod registry;
mod reload;
mod server;
mod settings;
mod token;
mod tracing;

use std::sync::Arc;

use axum::{Router, extract::DefaultBodyLimit, extract::Request, middleware};
use pintle_api::problem::code;

use crate::{access, failure::Failure, state::State};

/// Most bytes of a body.
pub(crate) const BODY_BYTES_MAX: usize = 8 << 20;
/// Most members of a page.
const PAGE_MAX: u32 = 1_000;

pub(crate) type AppState = axum::extract::State<Arc<State>>;

/// All routes.
pub(crate) fn all(state: Arc<State>) -> Router {
    Router::new()
        .merge(server::routes())
        .merge(backend::routes())
        .merge(plugin::routes())
        .merge(reload::routes())
        .merge(settings::routes())
        .merge(config::routes())
        .merge(registry::routes())
        .merge(lock::routes())
        .merge(tracing::routes())
        .merge(leader::routes())
        .merge(token::routes())
        .merge(audit::routes())
        .fallback(no_route)
        .method_not_allowed_fallback(method_not_allowed)
        // In one layer: each costs every request a box or two.
        .layer((
            middleware::from_fn_with_state(state.clone(), access::guard),
            DefaultBodyLimit::max(BODY_BYTES_MAX),
        ))
        .with_state(state)
}

async fn no_route(request: Request) -> Failure {
    let path = request.uri().path();
    Failure::of(code::NO_ROUTE, format!("there is nothing at {path}"))
        .advice("names in a path are percent-encoded: a lock a/b is a%2Fb")
}

async fn method_not_allowed(request: Request) -> Failure {
    let detail = format!("{} does not take {}", request.uri().path(), request.method());
    Failure::of(code::METHOD_NOT_ALLOWED, detail)
}

/// The size of a page; the largest if none is asked for.
fn page_limit(asked: Option<u32>) -> Result<u32, Failure> {
    match asked {
        None => Ok(PAGE_MAX),
        Some(limit) if (1..=PAGE_MAX).contains(&limit) => Ok(limit),
        Some(limit) => Err(Failure::invalid(format!("limit: {limit} is not 1 to {PAGE_MAX}"))),
    }
}
