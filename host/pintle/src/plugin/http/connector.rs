//! Connections for the pool: direct, or through the operator's proxy.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Uri, header};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use thiserror::Error;
use tokio::time::timeout;
use tower::Service;

use crate::plugin::grants::Target;
use crate::plugin::sockets::{DialError, Dialer, Link, Security};

/// Makes the pool's connections.
#[derive(Clone)]
pub(super) struct Connector {
    dialer: Arc<Dialer>,
    proxy: Option<Arc<Proxy>>,
}

/// Why the pool got no connection.
#[derive(Debug, Error)]
pub(super) enum ConnectError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("proxy {proxy} gave no way to {target}: {fault}")]
    Proxy { proxy: Target, target: Target, fault: String },
    #[error("{0} names no server")]
    Uri(Uri),
}

/// The operator's proxy.
pub(super) struct Proxy {
    target: Target,
    uri: Uri,
    authorization: Option<HeaderValue>,
}

/// A connection of the pool.
pub(super) struct Pooled {
    io: TokioIo<Link>,
    speaks_h2: bool,
    forwarded: bool,
}

impl Connector {
    pub(super) fn new(dialer: Arc<Dialer>, proxy: Option<Arc<Proxy>>) -> Self {
        Self { dialer, proxy }
    }

    async fn connect(self, uri: Uri) -> Result<Pooled, ConnectError> {
        let secure = uri.scheme() == Some(&Scheme::HTTPS);
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let Some(target) = Target::new(host, port) else { return Err(ConnectError::Uri(uri)) };
        let (link, forwarded) = match self.proxy {
            None => {
                let security = if secure { Security::Https } else { Security::Plain };
                (self.dialer.dial_for_http(target, security).await?, false)
            }
            Some(proxy) if secure => (tunnel(&self.dialer, &proxy, &target, uri).await?, false),
            Some(proxy) => (self.dialer.dial_proxy(proxy.target.clone()).await?, true),
        };
        Ok(Pooled { speaks_h2: link.speaks_h2(), io: TokioIo::new(link), forwarded })
    }
}

/// Asks the proxy for a tunnel to `target`, and speaks TLS through it.
async fn tunnel(
    dialer: &Arc<Dialer>,
    proxy: &Proxy,
    target: &Target,
    uri: Uri,
) -> Result<Link, ConnectError> {
    let mut tunnel =
        Tunnel::new(proxy.uri.clone(), ToProxy(Arc::clone(dialer), proxy.target.clone()));
    if let Some(authorization) = &proxy.authorization {
        tunnel = tunnel.with_auth(authorization.clone());
    }
    let limit = dialer.limits.connect_timeout;
    let establish = async {
        let io = tunnel.call(uri).await.map_err(|error| ConnectError::Proxy {
            proxy: proxy.target.clone(),
            target: target.clone(),
            fault: error.to_string(),
        })?;
        Ok(io
            .into_inner()
            .secure(target, dialer)
            .await
            .map_err(|error| dialer.count_failure(error))?)
    };
    timeout(limit, establish).await.unwrap_or_else(|_| {
        Err(DialError::Timeout { target: target.clone(), timeout: limit }.into())
    })
}

/// Connects to the proxy, whatever the URI.
struct ToProxy(Arc<Dialer>, Target);

type Connecting<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

impl Service<Uri> for ToProxy {
    type Response = TokioIo<Link>;
    type Error = DialError;
    type Future = Connecting<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let (dialer, proxy) = (Arc::clone(&self.0), self.1.clone());
        Box::pin(async move { dialer.dial_proxy(proxy).await.map(TokioIo::new) })
    }
}

impl Service<Uri> for Connector {
    type Response = Pooled;
    type Error = ConnectError;
    type Future = Connecting<Pooled, ConnectError>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

impl Proxy {
    /// Reads `http://[user:password@]host:port`.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let uri: Uri = text.parse().map_err(|_| "is no URL; write http://host:port")?;
        if uri.scheme() != Some(&Scheme::HTTP) {
            return Err("has another scheme than http; write http://host:port");
        }
        let authority = uri.authority().ok_or("has no host; write http://host:port")?;
        let port = authority.port_u16().ok_or("has no port; write http://host:port")?;
        let target = Target::new(authority.host().trim_matches(['[', ']']), port)
            .ok_or("has no valid host; write http://host:port")?;
        let authorization = match authority.as_str().rsplit_once('@') {
            Some((credentials, _)) => Some(basic(credentials)?),
            None => None,
        };
        Ok(Self { target, uri, authorization })
    }

    /// Adds the proxy's credentials to a request that it forwards.
    pub(super) fn authorize(&self, headers: &mut HeaderMap) {
        if let Some(authorization) = &self.authorization {
            headers.insert(header::PROXY_AUTHORIZATION, authorization.clone());
        }
    }
}

fn basic(credentials: &str) -> Result<HeaderValue, &'static str> {
    let bytes: Vec<u8> = percent_decode_str(credentials).collect();
    let value = format!("Basic {}", STANDARD.encode(bytes));
    let mut value = HeaderValue::from_str(&value).map_err(|_| "has credentials that do not fit")?;
    value.set_sensitive(true);
    Ok(value)
}

impl Connection for Pooled {
    fn connected(&self) -> Connected {
        let connected = Connected::new().proxy(self.forwarded);
        if self.speaks_h2 { connected.negotiated_h2() } else { connected }
    }
}

impl Read for Pooled {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl Write for Pooled {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
