//! How requests reach the server: over HTTP, or straight into a router in the same process.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, Uri, header,
    uri::{Authority, Scheme},
};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper_rustls::{ConfigBuilderExt, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{
        Client as HyperClient,
        connect::{Connect, HttpConnector},
    },
    rt::TokioExecutor,
};
use pintle_api::{PROBLEM_JSON, Problem, problem};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceExt, util::BoxCloneSyncService};

use crate::{admin::Admin, config::Config, error::ClientError, lock::Lock, registry::Registry};

/// Any error, as transports give it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Body of a request.
pub type RequestBody = Full<Bytes>;

pub(crate) type ResponseBody = UnsyncBoxBody<Bytes, BoxError>;

/// Most bytes of an answer that is no stream.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// Time for a call unless the client was given another.
const TIMEOUT: Duration = Duration::from_secs(30);

type Transport = BoxCloneSyncService<Request<RequestBody>, Response<ResponseBody>, SendError>;

/// A client of one server. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    transport: Transport,
    scheme: Scheme,
    authority: Authority,
    token: Option<Token>,
    timeout: Duration,
    /// What dropped guards left to be done.
    background: TaskTracker,
}

/// Where the value of `Authorization` comes from.
#[derive(Clone)]
enum Token {
    Given(HeaderValue),
    /// Another one each time that the server is started.
    File(Arc<Path>),
}

impl Token {
    fn value(&self) -> Option<HeaderValue> {
        match self {
            Self::Given(value) => Some(value.clone()),
            Self::File(path) => bearer(std::fs::read_to_string(path).ok()?.trim()).ok(),
        }
    }
}

fn bearer(token: &str) -> Result<HeaderValue, ClientError> {
    // Nothing of it belongs in a text.
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| {
        ClientError::Invalid("the access token has characters that no token has".into())
    })?;
    value.set_sensitive(true);
    Ok(value)
}

impl Client {
    /// A client of the server at `url`, like `http://127.0.0.1:7468`. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] when the URL cannot be used.
    pub fn http(url: &str) -> Result<Self, ClientError> {
        Self::connect(url, None)
    }

    /// A client of the server at `url`, like `https://pintle.example:7468`, that trusts the
    /// authorities in `ca` (PEM) instead of the system's. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] when the URL or the certificates cannot be used.
    pub fn connect(url: &str, ca: Option<&[u8]>) -> Result<Self, ClientError> {
        let (scheme, authority) = parts_of(url)?;
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(Duration::from_secs(5)));
        connector.enforce_http(false);
        let transport = if scheme == Scheme::HTTPS {
            let connector = HttpsConnectorBuilder::new()
                .with_tls_config(tls(ca)?)
                .https_only()
                .enable_http1()
                .wrap_connector(connector);
            over(connector)
        } else {
            over(connector)
        };
        Ok(Self::new(transport, scheme, authority))
    }

    /// The same client with an access token.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] when that can be no token.
    pub fn with_token(mut self, token: &str) -> Result<Self, ClientError> {
        self.token = Some(Token::Given(bearer(token)?));
        Ok(self)
    }

    /// The same client with the access token in a file, which is read for each request: a server that
    /// is started again writes another one. Without the file, requests have no token.
    #[must_use]
    pub fn with_token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.token = Some(Token::File(path.into().into()));
        self
    }

    /// A client of a service in this process, such as a server's router.
    pub fn in_process<S, B>(service: S) -> Self
    where
        S: Service<Request<RequestBody>, Response = Response<B>>,
        S: Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let transport = service
            .map_response(|response: Response<B>| {
                response.map(|body| body.map_err(Into::into).boxed_unsync())
            })
            .map_err(|error: S::Error| SendError { connected: true, source: error.into() });
        let localhost = Authority::from_static("localhost");
        Self::new(BoxCloneSyncService::new(transport), Scheme::HTTP, localhost)
    }

    fn new(transport: Transport, scheme: Scheme, authority: Authority) -> Self {
        let (timeout, background) = (TIMEOUT, TaskTracker::new());
        Self { transport, scheme, authority, token: None, timeout, background }
    }

    /// The same client with another time for a call. Streams have none, and waiting for a lock comes
    /// on top. Default: 30 seconds.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Configuration of a backend; `default` for the default one.
    #[must_use]
    pub fn config(&self, backend: &str) -> Config {
        Config::new(self.clone(), backend)
    }

    /// Registry of a backend; `default` for the default one.
    #[must_use]
    pub fn registry(&self, backend: &str) -> Registry {
        Registry::new(self.clone(), backend)
    }

    /// Locks of a backend; `default` for the default one.
    #[must_use]
    pub fn lock(&self, backend: &str) -> Lock {
        Lock::new(self.clone(), backend)
    }

    /// Backends, plugins, settings and the server itself.
    #[must_use]
    pub fn admin(&self) -> Admin {
        Admin::new(self.clone())
    }

    /// Waits until everything is done that dropped guards left to be done. No more of it may be
    /// begun meanwhile; call it before a process ends.
    pub async fn finish(&self) {
        self.background.close();
        self.background.wait().await;
    }

    /// Goes on after the caller is gone. Does nothing outside of a runtime.
    pub(crate) fn in_background(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            self.background.spawn_on(task, &runtime);
        }
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.authority)
    }

    /// Sends a call and reads the whole answer.
    pub(crate) async fn call(&self, call: Call) -> Result<Bytes, ClientError> {
        let after = call.timeout.unwrap_or(self.timeout);
        let exchange = async {
            let response = self.open(call).await?;
            self.collect(response.into_body()).await
        };
        match tokio::time::timeout(after, exchange).await {
            Ok(result) => result,
            Err(_) => Err(ClientError::Timeout { url: self.url(), after }),
        }
    }

    /// Sends a call and reads its answer from JSON.
    pub(crate) async fn json<T: DeserializeOwned>(&self, call: Call) -> Result<T, ClientError> {
        let body = self.call(call).await?;
        self.parse(&body)
    }

    /// Sends a call and hands out the answer with its body still to come.
    pub(crate) async fn open(&self, call: Call) -> Result<Response<ResponseBody>, ClientError> {
        let request = self.request(call)?;
        let response = self.transport.clone().oneshot(request).await.map_err(|error| {
            let (url, source) = (self.url(), error.source);
            if error.connected {
                ClientError::Interrupted { url, source }
            } else {
                ClientError::Unreachable { url, source }
            }
        })?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(self.failure(response).await)
    }

    fn request(&self, call: Call) -> Result<Request<RequestBody>, ClientError> {
        let uri = Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(call.target)
            .build()
            .map_err(|error| ClientError::Invalid(error.to_string()))?;
        let host = HeaderValue::from_str(self.authority.as_str())
            .map_err(|error| ClientError::Invalid(error.to_string()))?;
        let mut request = Request::new(Full::new(call.body));
        *request.method_mut() = call.method;
        *request.uri_mut() = uri;
        *request.headers_mut() = call.headers;
        request.headers_mut().insert(header::HOST, host);
        if let Some(token) = self.token.as_ref().and_then(Token::value) {
            request.headers_mut().insert(header::AUTHORIZATION, token);
        }
        Ok(request)
    }

    async fn failure(&self, response: Response<ResponseBody>) -> ClientError {
        let status = response.status();
        let is_problem = response
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(PROBLEM_JSON.as_bytes()));
        let body = match self.collect(response.into_body()).await {
            Ok(body) => body,
            Err(error) => return error,
        };
        if is_problem {
            return match self.parse::<Problem>(&body) {
                Ok(problem) => ClientError::Problem(Box::new(problem)),
                Err(error) => error,
            };
        }
        ClientError::Malformed { url: self.url(), reason: format!("status {status}") }
    }

    async fn collect(&self, mut body: ResponseBody) -> Result<Bytes, ClientError> {
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame =
                frame.map_err(|source| ClientError::Interrupted { url: self.url(), source })?;
            let piece = frame.into_data().unwrap_or_default();
            if bytes.len() + piece.len() > ANSWER_BYTES_MAX {
                return Err(self.malformed(format!("more than {ANSWER_BYTES_MAX} bytes")));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes.freeze())
    }

    pub(crate) fn parse<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(body).map_err(|error| self.malformed(error))
    }

    pub(crate) fn malformed(&self, reason: impl fmt::Display) -> ClientError {
        ClientError::Malformed { url: self.url(), reason: reason.to_string() }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("url", &self.url()).finish_non_exhaustive()
    }
}

/// A request that was not answered.
pub(crate) struct SendError {
    connected: bool,
    source: BoxError,
}

/// One request before it is sent.
pub(crate) struct Call {
    method: Method,
    target: String,
    headers: HeaderMap,
    body: Bytes,
    timeout: Option<Duration>,
}

impl Call {
    pub(crate) fn new(method: Method, path: String) -> Self {
        Self { method, target: path, headers: HeaderMap::new(), body: Bytes::new(), timeout: None }
    }

    pub(crate) fn get(path: String) -> Self {
        Self::new(Method::GET, path)
    }

    pub(crate) fn put(path: String) -> Self {
        Self::new(Method::PUT, path)
    }

    pub(crate) fn post(path: String) -> Self {
        Self::new(Method::POST, path)
    }

    pub(crate) fn delete(path: String) -> Self {
        Self::new(Method::DELETE, path)
    }

    pub(crate) fn query(mut self, query: &impl Serialize) -> Result<Self, ClientError> {
        let encoded = serde_urlencoded::to_string(query)
            .map_err(|error| ClientError::Invalid(error.to_string()))?;
        if !encoded.is_empty() {
            self.target.push('?');
            self.target.push_str(&encoded);
        }
        Ok(self)
    }

    pub(crate) fn header(
        mut self,
        name: http::HeaderName,
        value: &str,
    ) -> Result<Self, ClientError> {
        let value = HeaderValue::from_str(value)
            .map_err(|_| ClientError::Invalid(format!("{value:?} cannot stand in `{name}`")))?;
        self.headers.insert(name, value);
        Ok(self)
    }

    pub(crate) fn body(mut self, body: Bytes) -> Self {
        self.body = body;
        self
    }

    pub(crate) fn json(self, body: &impl Serialize) -> Result<Self, ClientError> {
        let body = serde_json::to_vec(body).map_err(|e| ClientError::Invalid(e.to_string()))?;
        self.body(body.into()).header(header::CONTENT_TYPE, "application/json")
    }

    /// Path and query.
    pub(crate) fn into_target(self) -> String {
        self.target
    }

    pub(crate) fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

/// Turns one code of a problem into a result.
pub(crate) fn unless_not_found<T>(
    result: Result<T, ClientError>,
) -> Result<Option<T>, ClientError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.code() == problem::code::NOT_FOUND => Ok(None),
        Err(error) => Err(error),
    }
}

/// Speaks HTTP over what a connector opens.
fn over<C>(connector: C) -> Transport
where
    C: Connect + Clone + Send + Sync + 'static,
{
    let client = HyperClient::builder(TokioExecutor::new()).build(connector);
    let transport = client
        .map_response(|response: Response<hyper::body::Incoming>| {
            response.map(|body| body.map_err(BoxError::from).boxed_unsync())
        })
        .map_err(|error: hyper_util::client::legacy::Error| SendError {
            connected: !error.is_connect(),
            source: error.into(),
        });
    BoxCloneSyncService::new(transport)
}

fn tls(ca: Option<&[u8]>) -> Result<ClientConfig, ClientError> {
    let invalid = |error: &dyn fmt::Display| ClientError::Invalid(format!("TLS: {error}"));
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid(&error))?;
    let Some(ca) = ca else {
        let trusting = builder.with_native_roots().map_err(|error| invalid(&error))?;
        return Ok(trusting.with_no_client_auth());
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca) {
        let certificate = certificate.map_err(|error| invalid(&error))?;
        roots.add(certificate).map_err(|error| invalid(&error))?;
    }
    if roots.is_empty() {
        return Err(invalid(&"the file of authorities holds no certificate"));
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn parts_of(url: &str) -> Result<(Scheme, Authority), ClientError> {
    let invalid = |reason: &str| ClientError::Invalid(format!("server {url:?}: {reason}"));
    let example = "expected a URL like \"http://127.0.0.1:7468\"";
    let uri: Uri = url.parse().map_err(|_| invalid(example))?;
    let parts = uri.into_parts();
    let scheme = match parts.scheme {
        Some(scheme) if scheme == Scheme::HTTP || scheme == Scheme::HTTPS => scheme,
        _ => return Err(invalid(example)),
    };
    if parts.path_and_query.is_some_and(|path| path.as_str() != "/") {
        return Err(invalid("a path has no place here"));
    }
    let authority = parts.authority.ok_or_else(|| invalid(example))?;
    if authority.as_str().contains('@') {
        return Err(ClientError::Invalid(
            "server: a URL with a user has no place here; give an access token".into(),
        ));
    }
    Ok((scheme, authority))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_server_and_nothing_else() {
        let authority = |url| parts_of(url).unwrap().1.to_string();
        assert_eq!(authority("http://localhost:7468"), "localhost:7468");
        assert_eq!(authority("https://[::1]:7468/"), "[::1]:7468");
        for wrong in ["localhost:7468", "127.0.0.1", "http://x/v1", "http://a:b@x", "", "ftp://x"] {
            let message = parts_of(wrong).unwrap_err().to_string();
            assert!(message.contains("server"), "{message}");
        }
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_named_with_the_reason() {
        let port = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().port()
        };
        let client = Client::http(&format!("http://127.0.0.1:{port}")).unwrap();
        let error = client.admin().backends().await.unwrap_err();
        assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(&port.to_string()) && text.contains("refused"), "{text}");
    }
}
