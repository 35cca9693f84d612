//! Who may speak to the API, and do what: each request passes here before it reaches its route.

mod attempts;
mod origin;
mod tokens;
mod visit;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use axum::{
    extract::{MatchedPath, Request},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, Method, header};
use pintle_api::{
    DEFAULT_BACKEND,
    access::{Access, Role},
    problem::code,
};

use crate::{
    audit::{Asked, Fate, Trail},
    calls::CallerKey,
    failure::{Answer, Failure},
    operations::{self, Kind, Operation, Subject},
    routes::AppState,
    state::State,
};
use attempts::Attempts;
pub(crate) use attempts::network;
pub use tokens::TokensError;
pub(crate) use tokens::{CreateError, Found, Live, Tokens};
use tokio::sync::watch;
use visit::Visit;

/// The address is not one that may be listened on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// What is said there could be read and changed on the way.
    #[error(
        "{0} can be reached from other machines, and nothing protects it: set `cert` and `key` in \
         [server.tls], or listen on 127.0.0.1 or [::1]"
    )]
    Plain(SocketAddr),
    /// Everybody could do everything.
    #[error(
        "{0} can be reached from other machines, and there is no access token to keep them out: make \
         one with `pintle token create --role admin NAME`, or listen on 127.0.0.1 or [::1]"
    )]
    Open(SocketAddr),
}

/// Refuses addresses that other machines can reach, unless TLS and tokens protect them.
///
/// # Errors
///
/// The address is not a loopback address, and one of the two is missing.
pub fn check_address(address: SocketAddr, tls: bool, tokens: bool) -> Result<(), AddressError> {
    if address.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    match (tls, tokens) {
        (false, _) => Err(AddressError::Plain(address)),
        (true, false) => Err(AddressError::Open(address)),
        (true, true) => Ok(()),
    }
}

/// Where a request came from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) address: IpAddr,
    /// The address at which it was received.
    pub(crate) local: IpAddr,
    pub(crate) tls: bool,
}

/// In the extensions of requests that come from this process itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trusted;

/// Who asks.
#[derive(Debug, Clone)]
pub(crate) enum Caller {
    /// Somebody who may read the data folder.
    Owner,
    /// Anybody, where nobody is asked for a token.
    Anyone {
        address: IpAddr,
        /// Whether callers are asked for one now.
        asked: watch::Receiver<bool>,
    },
    /// The holder of a token.
    Holder(Arc<Live>),
    /// Somebody without a token, who may ask how the server is.
    Nobody(IpAddr),
}

impl Caller {
    /// Name for people and for the audit trail.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Owner => "owner",
            Self::Anyone { .. } => "anyone",
            Self::Holder(live) => &live.token.name,
            Self::Nobody(_) => "unknown",
        }
    }

    pub(crate) fn role(&self) -> Option<Role> {
        match self {
            Self::Owner | Self::Anyone { .. } => Some(Role::Admin),
            Self::Holder(live) => Some(live.token.role),
            Self::Nobody(_) => None,
        }
    }

    /// The backends that the caller is limited to; empty for all.
    pub(crate) fn backends(&self) -> &[String] {
        match self {
            Self::Holder(live) => &live.token.backends,
            Self::Owner | Self::Anyone { .. } | Self::Nobody(_) => &[],
        }
    }

    /// Whether the caller may know of a backend.
    pub(crate) fn may_use(&self, backend: &str) -> bool {
        let backends = self.backends();
        backends.is_empty() || backends.iter().any(|name| name == backend)
    }

    /// Completes when the caller may not go on, and says why: the token was revoked, its time is over,
    /// or callers are asked for a token now.
    pub(crate) async fn ended(&self) -> Failure {
        match self {
            Self::Holder(live) => {
                live.ended().await;
                let detail = "the access token was revoked, or its time is over";
                Failure::of(code::TOKEN_REFUSED, detail)
            }
            Self::Anyone { asked, .. } => {
                let are_asked = asked.clone().wait_for(|asked| *asked).await.is_ok();
                if !are_asked {
                    // The server is gone.
                    std::future::pending::<()>().await;
                }
                token_missing()
            }
            Self::Owner | Self::Nobody(_) => std::future::pending().await,
        }
    }

    fn key(&self) -> CallerKey {
        match self {
            Self::Owner => CallerKey::Owner,
            Self::Anyone { address, .. } | Self::Nobody(address) => CallerKey::Address(*address),
            Self::Holder(live) => CallerKey::Token(live.token.id.as_str().into()),
        }
    }
}

/// Tokens, and who came with what is none.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) tokens: Tokens,
    attempts: Attempts,
    /// Names under which the server is reached.
    hosts: Vec<String>,
    read_only: bool,
}

impl Gate {
    pub(crate) fn new(tokens: Tokens, hosts: Vec<String>, read_only: bool) -> Self {
        Self { tokens, attempts: Attempts::default(), hosts, read_only }
    }

    /// Counts what is no token, and answers that it is none, or that too many came.
    fn wrong_token(&self, address: IpAddr, detail: &str) -> Failure {
        match self.attempts.count(address, Instant::now()) {
            Ok(()) => Failure::of(code::TOKEN_REFUSED, detail),
            Err(wait) => {
                let detail = "too many requests with unknown tokens came from this address";
                let wait = crate::convert::milliseconds(wait);
                Failure::of(code::TOO_MANY_ATTEMPTS, detail)
                    .with(|problem| problem.retry_after_ms = Some(wait))
            }
        }
    }

    /// What the caller is taken for.
    pub(crate) fn describe(&self, caller: &Caller) -> Access {
        Access {
            caller: caller.name().into(),
            role: caller.role().unwrap_or(Role::Viewer),
            backends: caller.backends().into(),
            expires_ms: match caller {
                Caller::Holder(live) => live.token.expires_ms,
                Caller::Owner | Caller::Anyone { .. } | Caller::Nobody(_) => None,
            },
            tokens_required: self.tokens.are_required(),
            read_only: self.read_only,
        }
    }
}

/// Lets a request of a program on this machine through, and none of a page that a browser loaded from
/// elsewhere. For ports on loopback where nobody is asked for a token.
pub(crate) async fn from_here(request: Request, next: Next) -> Response {
    match origin::check(request.headers(), request.uri(), &[], None) {
        Ok(()) => next.run(request).await,
        Err(failure) => failure.into_response(),
    }
}

/// Lets a request through to its route, or answers why not; counts it, limits it and writes it down.
pub(crate) async fn guard(
    axum::extract::State(state): AppState,
    request: Request,
    next: Next,
) -> Response {
    let peer = request.extensions().get::<Peer>().copied();
    let address = peer.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |peer| peer.address);
    let gate = &state.gate;
    if let Err(failure) =
        origin::check(request.headers(), request.uri(), &gate.hosts, peer.as_ref())
    {
        state.metrics.refused(failure.problem().code());
        return failure.into_response();
    }
    let path = request.extensions().get::<MatchedPath>().cloned();
    let Some(path) = path else { return next.run(request).await };
    let Some((index, operation)) = operations::find(request.method(), path.as_str()) else {
        // Also what has a route and is in no list: nobody has said who may use it.
        return method_not_allowed(request.method(), request.uri().path(), path.as_str());
    };
    let begun = Instant::now();
    let subject = subject(&state, operation, request.uri().path());
    let caller = match authenticate(&state, operation, &request, address) {
        Ok(caller) => caller,
        Err(failure) => {
            state.metrics.refused(failure.problem().code());
            // What comes too often is not written down: there is no end to it.
            if failure.problem().code() == code::TOKEN_REFUSED {
                let trail = &Trail::of(subject);
                let asked = Asked { operation, caller: "unknown", address: Some(address), trail };
                state.audit.record(asked, Fate::Refused(&failure));
            }
            return failure.into_response();
        }
    };
    let allowed = authorize(gate, operation, &caller, subject.backend.as_deref());
    let entered = allowed.and_then(|()| state.calls.enter(caller.key(), operation.waits));
    let trail = Trail::of(subject);
    let state = Arc::clone(&state);
    let visit = Visit { state, operation, index, caller, peer, trail, begun, is_over: false };
    match entered {
        Ok(place) => visit.admit(request, next, place).await,
        Err(failure) => {
            visit.trail.detail(request.uri().path());
            visit.refuse(failure)
        }
    }
}

/// What a request is about; where `default` stands for a backend, that one.
fn subject(state: &State, operation: &Operation, path: &str) -> Subject {
    let mut subject = operation.subject(path);
    if subject.backend.as_deref() == Some(DEFAULT_BACKEND)
        && let Some(name) = default_of(state, operation)
    {
        subject.backend = Some(name);
    }
    subject
}

/// The backend that `default` stands for in an operation.
fn default_of(state: &State, operation: &Operation) -> Option<String> {
    let pintle = &state.pintle;
    let found = match operation.id.split('.').next()? {
        "config" => pintle.config(DEFAULT_BACKEND).ok()?.backend().into(),
        "registry" => pintle.registry(DEFAULT_BACKEND).ok()?.backend().into(),
        "lock" | "leader" => pintle.lock(DEFAULT_BACKEND).ok()?.backend().into(),
        _ => return None,
    };
    Some(found)
}

fn authenticate(
    state: &State,
    operation: &Operation,
    request: &Request,
    address: IpAddr,
) -> Answer<Caller> {
    if request.extensions().get::<Trusted>().is_some() {
        return Ok(Caller::Owner);
    }
    let gate = &state.gate;
    match secret(request.headers()) {
        Ok(Some(secret)) => match gate.tokens.find(secret) {
            Some(Found::Owner) => Ok(Caller::Owner),
            Some(Found::Holder(live)) => Ok(Caller::Holder(live)),
            None => {
                let detail = "the access token is not known: mistyped, revoked, or over its time";
                Err(gate.wrong_token(address, detail))
            }
        },
        Ok(None) if !gate.tokens.are_required() => {
            Ok(Caller::Anyone { address, asked: gate.tokens.required() })
        }
        Ok(None) if operation.role.is_none() => Ok(Caller::Nobody(address)),
        Ok(None) => Err(token_missing()),
        Err(detail) => Err(gate.wrong_token(address, detail)),
    }
}

fn token_missing() -> Failure {
    Failure::of(code::TOKEN_MISSING, "this server asks for an access token")
        .advice("send `Authorization: Bearer TOKEN`; an administrator makes tokens")
}

/// The secret in the request.
///
/// # Errors
///
/// There is something else.
fn secret(headers: &HeaderMap) -> Result<Option<&str>, &'static str> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let pair = value.to_str().ok().and_then(|text| text.split_once(' '));
    match pair.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")) {
        Some((_, secret)) => Ok(Some(secret.trim())),
        None => Err("Authorization: only `Bearer TOKEN` is understood"),
    }
}

fn authorize(
    gate: &Gate,
    operation: &Operation,
    caller: &Caller,
    backend: Option<&str>,
) -> Answer<()> {
    let forbidden = |detail: String| Err(Failure::of(code::FORBIDDEN, detail));
    if let Some(needed) = operation.role
        && caller.role().is_none_or(|role| role < needed)
    {
        let role = caller.role().map_or("no", Role::as_str);
        return forbidden(format!(
            "{} needs the role {needed}, and the token of {:?} has the role {role}",
            operation.id,
            caller.name()
        ));
    }
    if !caller.backends().is_empty() && !operation.for_limited {
        let limited = caller.backends().join(", ");
        let whose = caller.name();
        match backend {
            None => {
                return forbidden(format!(
                    "{} is about the whole server, and the token of {whose:?} is for {limited} only",
                    operation.id
                ));
            }
            // Nor is it told what others there are, and which one `default` stands for.
            Some(backend) if !caller.may_use(backend) => {
                return forbidden(format!("the token of {whose:?} is for {limited} only"));
            }
            Some(_) => {}
        }
    }
    if gate.read_only && operation.kind == Kind::Change {
        return Err(Failure::of(code::READ_ONLY, "this server refuses changes")
            .advice("ask another server, or take `read_only` out of [server]"));
    }
    Ok(())
}

fn method_not_allowed(method: &Method, path: &str, route: &str) -> Response {
    let detail = format!("{path} does not take {method}");
    let mut response = Failure::of(code::METHOD_NOT_ALLOWED, detail).into_response();
    let allowed: Vec<&str> = operations::methods_of(route).collect();
    if let Ok(value) = HeaderValue::from_str(&allowed.join(", ")) {
        response.headers_mut().insert(header::ALLOW, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_for_others_needs_both_tls_and_a_token() {
        let check =
            |address: &str, tls, tokens| check_address(address.parse().unwrap(), tls, tokens);
        assert!(check("127.0.0.1:0", false, false).is_ok());
        assert!(check("[::1]:7468", false, false).is_ok());
        for address in ["0.0.0.0:7468", "[::]:7468", "192.168.0.7:1"] {
            for (tls, tokens, remedy) in [(false, true, "TLS"), (true, false, "token create")] {
                let text = check(address, tls, tokens).unwrap_err().to_string().to_uppercase();
                assert!(text.contains(address), "{text}");
                assert!(text.contains(&remedy.to_uppercase()), "{text}");
            }
            assert!(check(address, true, true).is_ok());
        }
    }

    #[test]
    fn only_bearer_tokens_are_understood() {
        let of = |value: &str| {
            let value = HeaderValue::from_str(value).unwrap();
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
            secret(&headers).map(|secret| secret.map(str::to_owned))
        };
        assert_eq!(of("Bearer abc").unwrap().as_deref(), Some("abc"));
        assert_eq!(of("bearer  abc ").unwrap().as_deref(), Some("abc"));
        for wrong in ["Basic YTpi", "Bearer", "abc"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
        assert!(secret(&HeaderMap::new()).unwrap().is_none());
    }
}
