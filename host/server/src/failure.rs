//! Every answer that is not a success: one table from codes to statuses and titles.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use pintle_api::{Effect, PROBLEM_JSON, Problem, problem};

/// What a route answers.
pub(crate) type Answer<T> = Result<T, Failure>;

/// An answer that is not a success.
#[derive(Debug, Clone)]
pub(crate) struct Failure(Box<Problem>);

/// The code of a problem, in the extensions of its answer.
#[derive(Debug, Clone)]
pub(crate) struct ProblemCode(pub(crate) String);

/// Code, status, title. A code that is not here is one that a plugin made up.
const TABLE: &[(&str, StatusCode, &str)] = &[
    // What plugins say.
    ("invalid", StatusCode::BAD_REQUEST, "The request can never succeed as it stands"),
    ("unsupported", StatusCode::UNPROCESSABLE_ENTITY, "The backend does not offer this"),
    ("unauthenticated", StatusCode::BAD_GATEWAY, "The backend's server does not know us"),
    ("denied", StatusCode::BAD_GATEWAY, "The backend's server refuses"),
    ("not-found", StatusCode::NOT_FOUND, "Not found"),
    ("conflict", StatusCode::CONFLICT, "The request clashes with the state of the server"),
    ("compacted", StatusCode::GONE, "The version is no longer kept"),
    ("too-large", StatusCode::PAYLOAD_TOO_LARGE, "Too large"),
    ("exhausted", StatusCode::TOO_MANY_REQUESTS, "A quota is used up"),
    ("unavailable", StatusCode::SERVICE_UNAVAILABLE, "The backend's server cannot be reached"),
    ("timeout", StatusCode::GATEWAY_TIMEOUT, "The backend did not answer in time"),
    ("cancelled", StatusCode::SERVICE_UNAVAILABLE, "The call was cancelled"),
    ("internal", StatusCode::BAD_GATEWAY, "A defect of the plugin"),
    // What the host says.
    ("unknown-backend", StatusCode::NOT_FOUND, "No such backend"),
    ("no-default", StatusCode::NOT_FOUND, "No default backend"),
    ("no-capability", StatusCode::NOT_FOUND, "The backend does not offer this capability"),
    ("not-running", StatusCode::SERVICE_UNAVAILABLE, "The backend is not running"),
    ("busy", StatusCode::SERVICE_UNAVAILABLE, "Too many calls are waiting"),
    ("foreign-lease", StatusCode::CONFLICT, "The lease is of another backend"),
    ("shutting-down", StatusCode::SERVICE_UNAVAILABLE, "The host is shutting down"),
    ("plugin-ended", StatusCode::BAD_GATEWAY, "The plugin ended during the call"),
    // What the API says.
    (problem::code::STALE, StatusCode::PRECONDITION_FAILED, "The expectation does not hold"),
    (problem::code::FENCED, StatusCode::CONFLICT, "The lease is not held any more"),
    (problem::code::LOCK_BUSY, StatusCode::CONFLICT, "The lock is held by others"),
    (problem::code::TAKEN, StatusCode::CONFLICT, "Another owner has the name"),
    (problem::code::LEASE_UNKNOWN, StatusCode::GONE, "The lease is not known here"),
    (problem::code::LEASE_LOST, StatusCode::GONE, "The lease is lost"),
    (problem::code::LEASE_RELEASED, StatusCode::GONE, "The lease was released"),
    (problem::code::LEASE_ID_IN_USE, StatusCode::CONFLICT, "The id is in use"),
    (problem::code::REGISTRATION_UNKNOWN, StatusCode::GONE, "The registration is not known here"),
    (problem::code::UNKNOWN_PLUGIN, StatusCode::NOT_FOUND, "No such plugin"),
    (problem::code::BROKEN_PLUGIN, StatusCode::UNPROCESSABLE_ENTITY, "The plugin does not work"),
    (problem::code::NO_ROUTE, StatusCode::NOT_FOUND, "No such path"),
    (problem::code::METHOD_NOT_ALLOWED, StatusCode::METHOD_NOT_ALLOWED, "Not with this method"),
    (problem::code::TOKEN_MISSING, StatusCode::UNAUTHORIZED, "An access token is needed"),
    (problem::code::TOKEN_REFUSED, StatusCode::UNAUTHORIZED, "The access token is not known"),
    (problem::code::FORBIDDEN, StatusCode::FORBIDDEN, "The access token is not good for this"),
    (problem::code::READ_ONLY, StatusCode::FORBIDDEN, "The server refuses changes"),
    (problem::code::TOO_MANY_ATTEMPTS, StatusCode::TOO_MANY_REQUESTS, "Too many wrong tokens"),
    (problem::code::TOO_MANY_CALLS, StatusCode::TOO_MANY_REQUESTS, "Too much is under way"),
    (problem::code::UNKNOWN_TOKEN, StatusCode::NOT_FOUND, "No such token"),
    (problem::code::TOKEN_EXISTS, StatusCode::CONFLICT, "The name is in use"),
    (problem::code::SLOW_REQUEST, StatusCode::REQUEST_TIMEOUT, "The body did not come in time"),
    (problem::code::NOT_KEPT, StatusCode::NOT_IMPLEMENTED, "This server does not keep that"),
    (problem::code::SERVER_FAILED, StatusCode::INTERNAL_SERVER_ERROR, "The server failed"),
    (problem::code::FOREIGN_HOST, StatusCode::MISDIRECTED_REQUEST, "Not this host"),
    (problem::code::FOREIGN_ORIGIN, StatusCode::FORBIDDEN, "Not from this origin"),
    (problem::code::PLUGINS_UNREADABLE, StatusCode::INTERNAL_SERVER_ERROR, "No plugins' directory"),
];

impl Failure {
    /// A failure of the API itself. Nothing happened.
    pub(crate) fn of(code: &str, detail: impl Into<String>) -> Self {
        let (status, title) = look_up(code);
        Self(Box::new(Problem {
            kind: format!("{}{code}", problem::TYPE_PREFIX),
            title: title.into(),
            status: status.as_u16(),
            detail: detail.into(),
            effect: Effect::None,
            ..Problem::default()
        }))
    }

    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        Self::of(problem::code::INVALID, detail)
    }

    pub(crate) fn advice(mut self, advice: impl Into<String>) -> Self {
        self.0.advice = Some(advice.into());
        self
    }

    /// The same with more in it.
    pub(crate) fn with(mut self, fill: impl FnOnce(&mut Problem)) -> Self {
        fill(&mut self.0);
        self
    }

    pub(crate) fn problem(&self) -> &Problem {
        &self.0
    }

    pub(crate) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

fn look_up(code: &str) -> (StatusCode, &'static str) {
    TABLE
        .iter()
        .find(|(known, ..)| *known == code)
        .map_or((StatusCode::BAD_GATEWAY, "The backend failed"), |(_, status, title)| {
            (*status, *title)
        })
}

impl From<pintle::Error> for Failure {
    fn from(error: pintle::Error) -> Self {
        let detail = error.cause().to_string();
        let failure = Self::of(error.code(), detail);
        failure.with(|problem| {
            if let Some(place) = error.place() {
                problem.backend = Some(place.backend.to_string());
                problem.plugin = Some(place.plugin.to_string()).filter(|text| !text.is_empty());
                problem.operation = Some(place.operation.to_owned());
            }
            problem.effect = match error.effect() {
                pintle::Effect::None => Effect::None,
                pintle::Effect::Unknown => Effect::Unknown,
            };
            problem.retry_after_ms = error
                .retry_after()
                .map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
            problem.advice = error.advice().map(str::to_owned);
        })
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = self.status();
        let retry_after = self.0.retry_after_ms.map(|ms| ms.div_ceil(1_000));
        let mut response = (status, axum::Json(&self.0)).into_response();
        response.extensions_mut().insert(ProblemCode(self.0.code().to_owned()));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::UNAUTHORIZED {
            let asked = HeaderValue::from_static("Bearer realm=\"pintle\"");
            headers.insert(header::WWW_AUTHENTICATE, asked);
        }
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_stands_in_the_table_once() {
        let mut codes: Vec<_> = TABLE.iter().map(|(code, ..)| *code).collect();
        codes.sort_unstable();
        let count = codes.len();
        codes.dedup();
        assert_eq!(codes.len(), count);
    }

    #[test]
    fn a_problem_has_its_status_and_its_own_media_type() {
        let failure = Failure::of("stale", "a is at version 3").with(|problem| {
            problem.retry_after_ms = Some(1_500);
        });
        let response = failure.into_response();
        assert_eq!(response.status(), 412);
        assert_eq!(response.headers()[header::CONTENT_TYPE], PROBLEM_JSON);
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
    }

    #[test]
    fn a_code_that_a_plugin_made_up_is_a_failure_of_the_backend() {
        let failure = Failure::of("moon-phase", "it is new");
        assert_eq!(failure.problem().status, 502);
        assert_eq!(failure.problem().code(), "moon-phase");
    }

    #[test]
    fn an_error_of_the_host_names_what_is_known() {
        let refusal = pintle::error::Refusal::UnknownBackend {
            name: "man".into(),
            known: vec!["main".into()],
        };
        let failure = Failure::from(pintle::Error::from(refusal));
        assert_eq!((failure.problem().status, failure.problem().code()), (404, "unknown-backend"));
        assert!(failure.problem().detail.contains("main"));
        assert_eq!(failure.problem().effect, Effect::None);
    }
}
