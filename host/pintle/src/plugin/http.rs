//! Outgoing `wasi:http@0.3`: one pooled client per incarnation, under the same grants, TLS and
//! resolution as sockets.
//!
//! HTTP/2 is spoken where the server agrees to it in TLS, or where the operator says so for plain
//! connections. A request goes out as `https` wherever the operator set TLS, whatever scheme the guest
//! wrote, so that no credential leaves in clear text. Redirects go back to the guest: following one
//! takes a request of its own, which is checked like any other.

use std::fmt;
use std::sync::Arc;

use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioTimer;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::{Duration, timeout};
use tokio_util::task::AbortOnDropHandle;
use wasmtime_wasi_http::p3::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use crate::plugin::grants::Target;
use crate::plugin::sockets::Dialer;

mod body;
mod connector;
mod errors;

use body::{InFlight, ResponseBody};
use connector::{Connector, Proxy};

/// How often a busy HTTP/2 connection is checked, and how long the answer may take, before its
/// requests fail instead of waiting on a server that is gone.
const H2_PING_INTERVAL: Duration = Duration::from_secs(20);
const H2_PING_TIMEOUT: Duration = Duration::from_secs(10);

/// hyper refuses to parse with less.
const HEADER_BYTES_MIN: usize = 8 * 1024;

/// How a backend's HTTP requests are sent.
#[derive(Clone, Default)]
pub(crate) struct HttpOptions {
    /// Speak HTTP/2 on plain connections without asking first ("h2c, prior knowledge").
    pub(crate) h2c: bool,
    /// `http://[user:password@]host:port` of a proxy for all requests. It resolves the names, so what
    /// wildcards resolve to cannot be checked behind it.
    pub(crate) proxy: Option<String>,
}

impl fmt::Debug for HttpOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { h2c, proxy } = self;
        // The proxy's URL may carry a password.
        let proxy = proxy.is_some();
        formatter.debug_struct("HttpOptions").field("h2c", h2c).field("proxy", &proxy).finish()
    }
}

/// The hooks through which a guest's requests leave.
pub(crate) struct HttpClient {
    shared: Arc<Shared>,
}

struct Shared {
    dialer: Arc<Dialer>,
    /// HTTP/1.1, or HTTP/2 where TLS agreed on it.
    client: Client<Connector, WasiBody>,
    /// HTTP/2 on plain connections.
    h2c: Option<Client<Connector, WasiBody>>,
    requests: Arc<Semaphore>,
    proxy: Option<Arc<Proxy>>,
}

impl HttpClient {
    pub(crate) fn new(dialer: Arc<Dialer>, options: &HttpOptions) -> Result<Self, &'static str> {
        let proxy = options.proxy.as_deref().map(Proxy::parse).transpose()?.map(Arc::new);
        let connector = Connector::new(Arc::clone(&dialer), proxy.clone());
        let client = pooled(&dialer, connector.clone(), false);
        // A proxy forwards plain requests over HTTP/1.1.
        let h2c = (options.h2c && proxy.is_none()).then(|| pooled(&dialer, connector, true));
        let requests = Arc::new(Semaphore::new(dialer.limits.requests_max));
        Ok(Self { shared: Arc::new(Shared { dialer, client, h2c, requests, proxy }) })
    }
}

fn pooled(dialer: &Dialer, connector: Connector, h2_only: bool) -> Client<Connector, WasiBody> {
    let limits = &dialer.limits;
    let header_bytes_max = limits.header_bytes_max.max(HEADER_BYTES_MIN);
    let mut builder = Client::builder(OnRuntime(dialer.runtime.clone()));
    builder
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(limits.idle_timeout)
        .pool_max_idle_per_host(limits.connections_max)
        .http1_max_buf_size(header_bytes_max)
        .http2_only(h2_only)
        .http2_max_header_list_size(u32::try_from(header_bytes_max).unwrap_or(u32::MAX))
        .http2_adaptive_window(true)
        .http2_keep_alive_interval(H2_PING_INTERVAL)
        .http2_keep_alive_timeout(H2_PING_TIMEOUT);
    builder.build(connector)
}

impl Shared {
    async fn send(
        self: Arc<Self>,
        mut request: Request<WasiBody>,
        options: RequestOptions,
    ) -> Result<Response<WasiBody>, Error> {
        let target = self.address(request.uri_mut())?;
        self.dialer.check(&target).map_err(|error| errors::from_dial(&error))?;
        let permit =
            timeout(self.dialer.limits.connect_timeout, Arc::clone(&self.requests).acquire_owned());
        let permit = permit.await.ok().and_then(Result::ok).ok_or(Error::ConnectionLimitReached)?;
        let in_flight = InFlight::new(Arc::clone(&self.dialer.counters), permit);

        let secure = request.uri().scheme() == Some(&Scheme::HTTPS);
        if let (Some(proxy), false) = (&self.proxy, secure) {
            proxy.authorize(request.headers_mut());
        }
        let client = match &self.h2c {
            Some(h2c) if !secure => h2c,
            _ => &self.client,
        };
        let limits = &self.dialer.limits;
        let first_byte = options.first_byte_timeout.unwrap_or(limits.first_byte_timeout);
        let between_bytes = options.between_bytes_timeout.unwrap_or(limits.between_bytes_timeout);
        // Connecting has its own limit, and does not eat into the server's time.
        let connect = options.connect_timeout.unwrap_or(limits.connect_timeout);
        let response = timeout(connect.saturating_add(first_byte), client.request(request))
            .await
            .map_err(|_| Error::ConnectionReadTimeout)?
            .map_err(errors::from_client)?;
        Ok(response.map(|body| ResponseBody::new(body, between_bytes, in_flight).boxed_unsync()))
    }

    /// Where the request goes; sets its scheme to `https` where the operator wants TLS.
    fn address(&self, uri: &mut Uri) -> Result<Target, Error> {
        let invalid = || Error::HttpRequestUriInvalid;
        let authority = uri.authority().ok_or_else(invalid)?;
        if authority.as_str().contains('@') {
            return Err(invalid());
        }
        let host = authority.host().trim_matches(['[', ']']);
        let secure = uri.scheme() == Some(&Scheme::HTTPS);
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let target = Target::new(host, port).ok_or_else(invalid)?;
        if secure || self.dialer.tls.client_for(&target).is_none() {
            return Ok(target);
        }
        // The port stays what it would have been.
        let authority = Authority::try_from(target.to_string()).map_err(|_| invalid())?;
        let mut parts = std::mem::take(uri).into_parts();
        parts.scheme = Some(Scheme::HTTPS);
        parts.authority = Some(authority);
        *uri = Uri::from_parts(parts).map_err(|_| invalid())?;
        Ok(target)
    }
}

type Sent = Result<(Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>), Error>;

impl WasiHttpHooks for HttpClient {
    /// hyper writes the header that fits the version of the connection.
    fn set_host_header(&mut self) -> bool {
        false
    }

    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        let shared = Arc::clone(&self.shared);
        Box::new(async move {
            let runtime = shared.dialer.runtime.clone();
            let sending = runtime.spawn(shared.send(request, options.unwrap_or_default()));
            let response = AbortOnDropHandle::new(sending).await.map_err(|_| {
                Error::InternalError(Some("request given up: the host is stopping".to_owned()))
            })??;
            // The pool drives the connection; nothing is left to do for the guest's side.
            Ok((response, Box::new(async { Ok(()) }) as Box<dyn Future<Output = _> + Send>))
        })
    }

    fn p3_error_from_hyper(&mut self, error: &hyper::Error) -> ErrorCode {
        errors::code_of(error)
    }
}

/// Runs the pool's connections on the runtime of the sockets.
#[derive(Clone)]
struct OnRuntime(Handle);

impl<F> hyper::rt::Executor<F> for OnRuntime
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}
