//! A host that serves its API, and plain requests to it.

use std::{
    net::SocketAddr,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use pintle::Pintle;
use pintle_client::{
    Client,
    api::{
        Problem,
        access::{CreateToken, Role},
    },
};
use pintle_server::{Api, LogControl};
use pintle_test_suites::{Sandbox, within};
use serde::de::DeserializeOwned;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tower::ServiceExt;

const ONE_BACKEND: &str = "[backends.main]\nplugin = \"memory\"\n";

/// A host, and its API without a network.
pub(crate) struct Served {
    _sandbox: Sandbox,
    pub(crate) pintle: Pintle,
    pub(crate) api: Api,
}

/// A log that remembers how it was set.
#[derive(Default)]
struct Log(Mutex<String>);

impl LogControl for Log {
    fn filter(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_filter(&self, filter: &str) -> Result<(), String> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = filter.into();
        Ok(())
    }
}

/// The API of a host on a port.
pub(crate) struct Listening {
    pub(crate) address: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<std::io::Result<()>>,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: bytes::Bytes,
}

impl Served {
    pub(crate) async fn new() -> Result<Self> {
        let sandbox = Sandbox::new(&["fixtures/memory"])?;
        let pintle = sandbox.start(ONE_BACKEND).await?;
        let api = Api::new(pintle.clone());
        Ok(Self { _sandbox: sandbox, pintle, api })
    }

    /// A host with the embedded backend.
    pub(crate) async fn local() -> Result<Self> {
        let sandbox = Sandbox::new(&["plugins/local"])?;
        let data_dir = sandbox.path().join("local").display().to_string();
        let settings = format!("[backends.main]\nplugin = \"local\"\ndata_dir = {data_dir:?}\n");
        let pintle = sandbox.start(&settings).await?;
        let api = Api::new(pintle.clone());
        Ok(Self { _sandbox: sandbox, pintle, api })
    }

    /// A host with two backends, access tokens and an audit trail; more settings go before them.
    pub(crate) async fn guarded(more: &str) -> Result<Self> {
        let sandbox = Sandbox::new(&["fixtures/memory"])?;
        let other = "[backends.other]\nplugin = \"memory\"\n";
        let defaults = "[defaults]\nconfig = \"main\"\nregistry = \"main\"\nlock = \"main\"\n";
        let pintle = sandbox.start(&format!("{more}\n{defaults}{ONE_BACKEND}{other}")).await?;
        let api = Api::open(pintle.clone(), None)?;
        Ok(Self { _sandbox: sandbox, pintle, api })
    }

    /// The same with the embedded backend under the name that it has without settings, and a log
    /// that can be set.
    pub(crate) async fn whole() -> Result<Self> {
        let sandbox = Sandbox::new(&["plugins/local"])?;
        let data_dir = sandbox.path().join("local").display().to_string();
        let settings = format!("[backends.local]\nplugin = \"local\"\ndata_dir = {data_dir:?}\n");
        let pintle = sandbox.start(&settings).await?;
        let api = Api::open(pintle.clone(), Some(Box::<Log>::default()))?;
        Ok(Self { _sandbox: sandbox, pintle, api })
    }

    /// A client for whom everything is allowed, in this process.
    pub(crate) fn owner(&self) -> Client {
        Client::in_process(self.api.router_of_owner())
    }

    /// Makes a token, and answers its secret.
    pub(crate) async fn token(&self, name: &str, role: Role, backends: &[&str]) -> Result<String> {
        let backends = backends.iter().map(ToString::to_string).collect();
        let request = CreateToken { name: name.into(), role, backends, expires_in_ms: None };
        Ok(self.owner().admin().create_token(&request).await?.secret)
    }

    /// The same host with an API that knows nothing of what was.
    pub(crate) fn restarted(self) -> Self {
        Self { api: Api::new(self.pintle.clone()), ..self }
    }

    /// A client in this process.
    pub(crate) fn client(&self) -> Client {
        Client::in_process(self.api.router())
    }

    /// Listens on a free port, or on the one that is given.
    pub(crate) async fn listen(&self, port: u16) -> Result<Listening> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let api = self.api.clone();
        let serving = tokio::spawn(async move {
            api.serve(listener, async {
                let _ = stopped.await;
            })
            .await
        });
        Ok(Listening { address, stop, serving })
    }

    /// Sends a request to the router.
    pub(crate) async fn open(
        &self,
        request: Request<Full<bytes::Bytes>>,
    ) -> Response<axum::body::Body> {
        self.api.router().oneshot(request).await.unwrap_or_else(|never| match never {})
    }

    pub(crate) async fn send(&self, request: Request<Full<bytes::Bytes>>) -> Result<Reply> {
        let (parts, body) = within("an answer", self.open(request)).await?.into_parts();
        let body = within("the body", body.collect()).await??.to_bytes();
        Ok(Reply { status: parts.status, headers: parts.headers, body })
    }

    pub(crate) async fn get(&self, target: &str) -> Result<Reply> {
        self.send(request(Method::GET, target, "")?).await
    }

    /// Events of a stream as they are on the wire, until one that contains `last`.
    pub(crate) async fn events(
        &self,
        target: &str,
        last_id: Option<&str>,
        last: &str,
    ) -> Result<String> {
        let mut watch = request(Method::GET, target, "")?;
        if let Some(id) = last_id {
            watch.headers_mut().insert("last-event-id", id.parse()?);
        }
        let mut body = within("an answer", self.open(watch)).await?.into_body();
        let mut text = String::new();
        while !text.contains(last) || !text.ends_with("\n\n") {
            let frame = within("more of the stream", body.frame()).await?.context("the end")??;
            text.push_str(std::str::from_utf8(frame.data_ref().context("data")?)?);
        }
        Ok(text)
    }

    pub(crate) async fn put(&self, target: &str, body: &'static str) -> Result<Reply> {
        self.send(request(Method::PUT, target, body)?).await
    }

    pub(crate) async fn post(&self, target: &str, body: &'static str) -> Result<Reply> {
        self.send(request(Method::POST, target, body)?).await
    }

    pub(crate) async fn delete(&self, target: &str) -> Result<Reply> {
        self.send(request(Method::DELETE, target, "")?).await
    }
}

impl Listening {
    pub(crate) fn client(&self) -> Result<Client> {
        Ok(Client::http(&format!("http://{}", self.address))?)
    }

    /// Stops as `pintle serve` does.
    pub(crate) async fn stop(self) -> Result<()> {
        // The server may have ended by itself.
        let _ = self.stop.send(());
        Ok(within("the end of the server", self.serving).await???)
    }
}

impl Reply {
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("{}: {}", self.status, String::from_utf8_lossy(&self.body)))
    }

    /// The problem document, checked for what each has to have.
    pub(crate) fn problem(&self) -> Result<Problem> {
        let problem: Problem = self.json()?;
        let media_type = self.headers.get(http::header::CONTENT_TYPE).context("a media type")?;
        assert_eq!(media_type, "application/problem+json");
        assert_eq!(self.status.as_u16(), problem.status);
        assert!(problem.kind.starts_with("urn:pintle:problem:"), "{problem:?}");
        assert!(!problem.title.is_empty() && !problem.detail.is_empty(), "{problem:?}");
        Ok(problem)
    }
}

/// A request as curl would send it.
pub(crate) fn request(
    method: Method,
    target: &str,
    body: &'static str,
) -> Result<Request<Full<bytes::Bytes>>> {
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header(http::header::HOST, "localhost:7468")
        .body(Full::new(bytes::Bytes::from_static(body.as_bytes())));
    Ok(request?)
}
