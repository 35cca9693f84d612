//! Who may speak to the API, and do what: each request passes here before it reaches its route.

mod attempts;
mod origin;
mod tokens;

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
use percent_encoding::percent_decode_str;
use pintle_api::{
    DEFAULT_BACKEND,
    access::{Access, Role},
    problem::code,
};

use crate::{
    audit::Trail,
    calls::{self, CallerKey},
    failure::{Answer, Failure},
    operations::{self, Kind, Operation},
    routes::AppState,
    state::State,
};
use attempts::Attempts;
pub use tokens::TokensError;
pub(crate) use tokens::{CreateError, Found, Live, Tokens};

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
    Anyone(IpAddr),
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
            Self::Anyone(_) => "anyone",
            Self::Holder(live) => &live.token.name,
            Self::Nobody(_) => "unknown",
        }
    }

    pub(crate) fn role(&self) -> Option<Role> {
        match self {
            Self::Owner | Self::Anyone(_) => Some(Role::Admin),
            Self::Holder(live) => Some(live.token.role),
            Self::Nobody(_) => None,
        }
    }

    /// The backends that the caller is limited to; empty for all.
    pub(crate) fn backends(&self) -> &[String] {
        match self {
            Self::Holder(live) => &live.token.backends,
            Self::Owner | Self::Anyone(_) | Self::Nobody(_) => &[],
        }
    }

    /// Whether the caller may know of a backend.
    pub(crate) fn may_use(&self, backend: &str) -> bool {
        let backends = self.backends();
        backends.is_empty() || backends.iter().any(|name| name == backend)
    }

    /// Completes when the caller may not go on: the token was revoked, or its time is over.
    pub(crate) async fn ended(&self) {
        match self {
            Self::Holder(live) => live.ended().await,
            Self::Owner | Self::Anyone(_) | Self::Nobody(_) => std::future::pending().await,
        }
    }

    fn key(&self) -> CallerKey {
        match self {
            Self::Owner => CallerKey::Owner,
            Self::Anyone(address) | Self::Nobody(address) => CallerKey::Address(*address),
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

    /// What the caller is taken for.
    pub(crate) fn describe(&self, caller: &Caller) -> Access {
        Access {
            caller: caller.name().into(),
            role: caller.role().unwrap_or(Role::Viewer),
            backends: caller.backends().into(),
            expires_ms: match caller {
                Caller::Holder(live) => live.token.expires_ms,
                Caller::Owner | Caller::Anyone(_) | Caller::Nobody(_) => None,
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
    mut request: Request,
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
    let trail = Trail::of(operation);
    let caller = match authenticate(&state, operation, &request, address) {
        Ok(caller) => caller,
        Err(failure) => {
            state.metrics.refused(failure.problem().code());
            if failure.problem().code() == code::TOKEN_REFUSED {
                state.audit.refused_token(operation, address, &failure);
            }
            return failure.into_response();
        }
    };
    let outcome = match authorize(&state, operation, &caller, request.uri().path()) {
        Ok(()) => {
            let key = caller.key();
            request.extensions_mut().insert(caller.clone());
            if operation.kind != Kind::Read {
                request.extensions_mut().insert(trail.clone());
            }
            admit(&state, operation, key, request, next).await
        }
        Err(failure) => {
            trail.detail(request.uri().path());
            Err(failure)
        }
    };
    let response = outcome.unwrap_or_else(|failure| {
        state.metrics.refused(failure.problem().code());
        failure.into_response()
    });
    state.metrics.answered(index, response.status(), begun.elapsed());
    if operation.kind != Kind::Read {
        state.audit.record(operation, &caller, peer, &trail, &response);
    }
    response
}

/// Runs the route within the limits of the caller.
async fn admit(
    state: &Arc<State>,
    operation: &Operation,
    key: CallerKey,
    request: Request,
    next: Next,
) -> Answer<Response> {
    let place = state.calls.enter(key, operation.waits)?;
    let response = next.run(request).await;
    // The place of a stream is taken until its end.
    Ok(if operation.waits { calls::hold(response, place) } else { response })
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
    let tokens = &state.gate.tokens;
    match secret(request.headers())? {
        Some(secret) => match tokens.find(secret) {
            Some(Found::Owner) => Ok(Caller::Owner),
            Some(Found::Holder(live)) => Ok(Caller::Holder(live)),
            None => Err(wrong_token(state, address)),
        },
        None if !tokens.are_required() => Ok(Caller::Anyone(address)),
        None if operation.role.is_none() => Ok(Caller::Nobody(address)),
        None => Err(Failure::of(code::TOKEN_MISSING, "this server asks for an access token")
            .advice("send `Authorization: Bearer TOKEN`; an administrator makes tokens")),
    }
}

fn wrong_token(state: &State, address: IpAddr) -> Failure {
    match state.gate.attempts.count(address, Instant::now()) {
        Ok(()) => {
            let detail = "the access token is not known: mistyped, revoked, or over its time";
            Failure::of(code::TOKEN_REFUSED, detail)
        }
        Err(wait) => {
            let detail = "too many requests with unknown tokens came from this address";
            let wait = crate::convert::milliseconds(wait);
            Failure::of(code::TOO_MANY_ATTEMPTS, detail)
                .with(|problem| problem.retry_after_ms = Some(wait))
        }
    }
}

/// The secret in the request.
fn secret(headers: &HeaderMap) -> Answer<Option<&str>> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let unreadable =
        || Failure::of(code::TOKEN_REFUSED, "Authorization: only `Bearer TOKEN` is understood");
    let text = value.to_str().map_err(|_| unreadable())?;
    let (scheme, secret) = text.split_once(' ').ok_or_else(unreadable)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(unreadable());
    }
    Ok(Some(secret.trim()))
}

fn authorize(state: &State, operation: &Operation, caller: &Caller, path: &str) -> Answer<()> {
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
        let Some(backend) = operation.names_backend().then(|| backend_in(path)).flatten() else {
            return forbidden(format!(
                "{} is about the whole server, and the token of {whose:?} is for {limited} only",
                operation.id
            ));
        };
        let name = resolve(state, operation, &backend)?;
        if !caller.may_use(&name) {
            return forbidden(format!("the token of {whose:?} is for {limited}, not for {name}"));
        }
    }
    if state.gate.read_only && operation.kind == Kind::Change {
        return Err(Failure::of(code::READ_ONLY, "this server refuses changes")
            .advice("ask another server, or take `read_only` out of [server]"));
    }
    Ok(())
}

/// The name after `/v1/backends/`.
fn backend_in(path: &str) -> Option<String> {
    let segment = path.split('/').nth(3)?;
    percent_decode_str(segment).decode_utf8().ok().map(Into::into)
}

/// What `default` means for this operation.
fn resolve(state: &State, operation: &Operation, backend: &str) -> Answer<String> {
    if backend != DEFAULT_BACKEND {
        return Ok(backend.into());
    }
    let pintle = &state.pintle;
    Ok(match operation.id.split('.').next() {
        Some("config") => pintle.config(backend)?.backend().into(),
        Some("registry") => pintle.registry(backend)?.backend().into(),
        Some("lock" | "leader") => pintle.lock(backend)?.backend().into(),
        Some("trace") => pintle.tracing(backend)?.backend().into(),
        _ => backend.into(),
    })
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
            assert_eq!(of(wrong).unwrap_err().problem().status, 401, "{wrong}");
        }
        assert!(secret(&HeaderMap::new()).unwrap().is_none());
    }

    #[test]
    fn the_backend_of_a_path_is_its_third_segment() {
        assert_eq!(backend_in("/v1/backends/a%62/config/keys/x").as_deref(), Some("ab"));
        assert_eq!(backend_in("/v1/backends").as_deref(), None);
    }
}
