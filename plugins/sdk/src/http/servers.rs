//! Several servers that offer the same over HTTP.

use super::{HeaderMap, HttpError, Limits, Method, Request, Response, StatusCode, header, send};
use crate::endpoints::Endpoints;
use crate::{Endpoint, Error};
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::time::Duration;

/// As much of a server's words as goes into an error.
const WORDS_MAX: usize = 300;

/// Sends to one server until it fails, then to the next.
pub struct Servers {
    endpoints: RefCell<Endpoints>,
    current: RefCell<Endpoint>,
    /// Why the last request got no answer, unless a later one got one.
    trouble: RefCell<Option<String>>,
    answered: Cell<u64>,
    moves: Cell<u64>,
}

impl Servers {
    /// # Errors
    ///
    /// `invalid` when there are no endpoints.
    pub fn new(endpoints: Vec<Endpoint>) -> Result<Self, Error> {
        let mut endpoints = Endpoints::new(endpoints)?;
        let current = RefCell::new(endpoints.next_endpoint());
        Ok(Self {
            endpoints: RefCell::new(endpoints),
            current,
            trouble: RefCell::default(),
            answered: Cell::new(0),
            moves: Cell::new(0),
        })
    }

    /// The server that the next request goes to.
    pub fn current(&self) -> Endpoint {
        self.current.borrow().clone()
    }

    /// Why the last request got no answer, unless a later one got one.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.borrow().clone()
    }

    /// Requests that were answered.
    pub fn answered(&self) -> u64 {
        self.answered.get()
    }

    /// How often another server was turned to.
    pub fn moves(&self) -> u64 {
        self.moves.get()
    }

    /// Sends a request to one server. When that certainly got nothing, the others are tried, each
    /// once; the next request goes to where the last one was answered.
    ///
    /// # Errors
    ///
    /// Of the last server that was tried. An answer with an error status is none; see [`error_of`].
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &HeaderMap,
        body: Bytes,
        limits: Limits,
    ) -> Result<Response<Bytes>, HttpError> {
        let count = self.endpoints.borrow().count();
        let mut tried = 1;
        loop {
            let endpoint = self.current();
            let exchange = match request(&endpoint, &method, path, headers, &body) {
                Ok(request) => send(request, limits).await,
                Err(error) => Err(error),
            };
            match exchange {
                Ok(response) => {
                    self.answered.set(self.answered.get() + 1);
                    self.trouble.replace(None);
                    return Ok(response);
                }
                Err(error) => {
                    self.trouble.replace(Some(error.to_string()));
                    if *self.current.borrow() == endpoint && count > 1 {
                        let next = self.endpoints.borrow_mut().next_endpoint();
                        self.current.replace(next);
                        self.moves.set(self.moves.get() + 1);
                    }
                    if tried >= count || !error.came_too_early() {
                        return Err(error);
                    }
                    tried += 1;
                }
            }
        }
    }
}

fn request(
    endpoint: &Endpoint,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Request<Bytes>, HttpError> {
    let scheme = if endpoint.tls { "https" } else { "http" };
    let built = Request::builder()
        .method(method.clone())
        .uri(format!("{scheme}://{endpoint}{path}"))
        .body(body.clone());
    let mut request = built.map_err(|error| {
        HttpError::new(&endpoint.to_string(), "invalid-request", Some(error.to_string()))
    })?;
    request.headers_mut().extend(headers.clone());
    Ok(request)
}

/// What an answer with an error status means.
///
/// A server that is overloaded or going down (408, 429, 502, 503, 504) and one that failed (500)
/// may do better later; `Retry-After` in seconds is told on.
pub fn error_of(response: &Response<Bytes>, endpoint: &Endpoint) -> Error {
    let status = response.status();
    let words = String::from_utf8_lossy(response.body());
    let words: String = words
        .chars()
        .map(|character| if character.is_control() { ' ' } else { character })
        .take(WORDS_MAX)
        .collect();
    let words = words.trim();
    let message = if words.is_empty() {
        format!("{endpoint} answers {status}")
    } else {
        format!("{endpoint} answers {status}: {words}")
    };
    let made = match status {
        StatusCode::UNAUTHORIZED => Error::unauthenticated(message),
        StatusCode::FORBIDDEN => Error::denied(message),
        StatusCode::PAYLOAD_TOO_LARGE => {
            Error::too_large(message).detail("limit", "bytes of a request")
        }
        StatusCode::TOO_MANY_REQUESTS => Error::exhausted(message),
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {
            Error::unsupported(message)
        }
        StatusCode::REQUEST_TIMEOUT => Error::unavailable(message).effect_unknown(),
        status if status.is_server_error() => Error::unavailable(message).effect_unknown(),
        _ => Error::invalid(message),
    };
    let made = match retry_after(response.headers()) {
        Some(wait) => made.retry_after(wait),
        None => made,
    };
    made.detail("endpoint", endpoint.to_string()).detail("status", status.as_str())
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Effect;
    use crate::testing::{answer_http, run};

    fn endpoint(host: &str) -> Endpoint {
        Endpoint { host: host.to_owned(), port: 80, tls: false }
    }

    async fn ask(servers: &Servers) -> Result<Response<Bytes>, HttpError> {
        let headers = HeaderMap::new();
        servers.send(Method::POST, "/x", &headers, Bytes::new(), Limits::default()).await
    }

    #[test]
    fn a_server_that_refuses_is_left_for_one_that_answers() {
        run(async {
            answer_http(|request| async move {
                let host = request.uri().host().unwrap_or_default().to_owned();
                if host == "up" {
                    Ok(Response::new(Bytes::from_static(b"here")))
                } else {
                    Err(HttpError::new(&host, "connection-refused", None))
                }
            });
            let servers = Servers::new(vec![endpoint("down"), endpoint("up")]).unwrap();
            for _ in 0..3 {
                assert_eq!(ask(&servers).await.unwrap().body(), "here");
            }
            assert!(servers.moves() <= 1 && servers.trouble().is_none());
            assert_eq!(servers.current(), endpoint("up"));
        });
    }

    #[test]
    fn what_may_have_arrived_is_not_sent_to_another() {
        run(async {
            answer_http(|request| async move {
                let host = request.uri().host().unwrap_or_default().to_owned();
                Err(HttpError::new(&host, "connection-terminated", None))
            });
            let servers = Servers::new(vec![endpoint("a"), endpoint("b")]).unwrap();
            let first = servers.current().to_string();
            let error = ask(&servers).await.unwrap_err();
            assert!(first.starts_with(error.authority()), "{first} {error}");
            assert_eq!(servers.moves(), 1, "the next request goes elsewhere");
        });
    }

    #[test]
    fn a_status_says_whether_later_may_help_and_when() {
        let answer = |status: u16, retry: Option<&'static str>| {
            let mut builder = Response::builder().status(status);
            if let Some(retry) = retry {
                builder = builder.header("retry-after", retry);
            }
            let response = builder.body(Bytes::from_static(b"why\nnot")).unwrap();
            error_of(&response, &endpoint("a"))
        };
        for (status, code) in [
            (400, "invalid"),
            (401, "unauthenticated"),
            (403, "denied"),
            (404, "unsupported"),
            (413, "too-large"),
            (429, "exhausted"),
            (503, "unavailable"),
        ] {
            let error = answer(status, None);
            assert_eq!(error.code(), code);
            assert!(error.message().contains("why not"), "{error}");
        }
        assert_eq!(answer(400, None).effect(), Effect::None);
        assert_eq!(answer(502, None).effect(), Effect::Unknown);
        let wait = crate::bindings::wire::types::Error::from(answer(503, Some("7")));
        assert_eq!(wait.retry_after_ms, Some(7_000));
    }
}
