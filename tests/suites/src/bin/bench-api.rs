//! `cargo xtask bench api`: the HTTP API against bare axum, and the command line against curl.

use std::{
    io::Write,
    net::SocketAddr,
    process::{Command, ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use axum::{
    extract::Path,
    response::sse::{Event, Sse},
    serve::ListenerExt,
};
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use pintle::{Pintle, config::Put};
use pintle_server::Api;
use pintle_test_bench::{Comparison, Measure, Report, Row, Target as Wanted};
use pintle_test_suites::{
    Sandbox,
    arguments::{self, part},
    is_chosen,
    process::{Running, pintle},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, broadcast},
};

/// Streams that one change has to reach.
const WATCHERS: usize = 10_000;
/// What ends each event that is counted.
const PUT: &[u8] = b"event: put\n";

#[tokio::main]
async fn main() -> Result<ExitCode> {
    arguments::bench();
    // One process may not have sockets enough for all sides.
    match part()[..] {
        ["bare"] => return bare_server().await.map(|()| ExitCode::SUCCESS),
        ["watch", url, path] => return watch(url, path).await.map(|()| ExitCode::SUCCESS),
        _ => {}
    }
    let mut report = Report::default();
    if is_chosen("P9") {
        report.extend(http_get().await?);
    }
    if is_chosen("cli-cold") {
        report.push(cold_command().await?);
    }
    if is_chosen("sse-fan-out") {
        report.push(fan_out().await?);
    }
    pintle_test_suites::finish(&report)
}

/// A folder with one plugin in memory, and a host on it.
async fn start() -> Result<(Sandbox, Pintle)> {
    let sandbox = Sandbox::new(&["fixtures/memory"])?;
    let pintle = sandbox.start("[backends.memory]\nplugin = \"memory\"\n").await?;
    Ok((sandbox, pintle))
}

/// P9: a get over the HTTP API against the same read in this process behind a bare server.
async fn http_get() -> Result<Vec<Row>> {
    const API: &str = "/v1/backends/memory/config/keys/bench/key";
    let (_sandbox, pintle) = start().await?;
    let config = pintle.config("memory")?;
    config.put(Put::new("bench/key", vec![b'x'; 100])).await?;
    let read = move |Path(key): Path<String>| {
        let config = config.clone();
        async move {
            let found = config.get(&key).await.map_err(|error| error.to_string())?;
            Ok::<_, String>(found.map(|entry| entry.value).unwrap_or_default())
        }
    };
    let bare = axum::Router::new().route("/{*key}", axum::routing::get(read));
    let (ours, peer) = (listen().await?, listen().await?);
    let (ours_at, peer_at) = (ours.local_addr()?, peer.local_addr()?);
    let api = Api::new(pintle.clone());
    tokio::spawn(async move { api.serve(ours, std::future::pending()).await });
    tokio::spawn(async move { axum::serve(peer.tap_io(no_delay), bare).await });
    let (ours, peer) = (Connection::open(ours_at).await?, Connection::open(peer_at).await?);
    let comparison = Comparison::new("P9", "HTTP get; bare axum over the same read")
        .target(Measure::P50, Wanted::AtMost(1.2))
        .operations(1_000);
    Ok(comparison.run(|| ours.get(API), || peer.get("/bench/key")).await?)
}

async fn listen() -> Result<TcpListener> {
    Ok(TcpListener::bind(("127.0.0.1", 0)).await?)
}

fn no_delay(stream: &mut TcpStream) {
    // Without it the measurement shows, and nobody is worse off.
    let _ = stream.set_nodelay(true);
}

/// One HTTP/1.1 connection that is kept.
struct Connection(tokio::sync::Mutex<http1::SendRequest<Empty<Bytes>>>);

impl Connection {
    async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self(tokio::sync::Mutex::new(sender)))
    }

    async fn get(&self, path: &str) -> Result<()> {
        let mut sender = self.0.lock().await;
        let request = http::Request::get(path).header("host", "localhost").body(Empty::new())?;
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        ensure!(response.status().is_success(), "{path}: {}", response.status());
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(body.len() == 100, "{path}: {} bytes", body.len());
        Ok(())
    }
}

/// `pintle serve` in a process of its own.
struct Served {
    sandbox: Sandbox,
    url: String,
    _server: Running,
}

impl Served {
    fn start() -> Result<Self> {
        let sandbox = Sandbox::new(&["fixtures/memory"])?;
        let settings =
            "[server]\nlimits = { streams = 20000 }\n[backends.memory]\nplugin = \"memory\"\n";
        std::fs::write(sandbox.path().join("pintle.toml"), settings)?;
        let mut command = pintle(&sandbox, &["serve", "-o", "json"])?;
        let mut server = Running::start(&mut command)?;
        let greeting: serde_json::Value = serde_json::from_str(&server.line()?)?;
        let url = greeting.get("url").and_then(|url| url.as_str()).context("a url")?.to_owned();
        Ok(Self { sandbox, url, _server: server })
    }
}

/// A command that finds its server, asks it and ends, against curl that is told where to ask.
async fn cold_command() -> Result<Row> {
    let served = Served::start()?;
    timed(&mut pintle(&served.sandbox, &["config", "put", "bench/key", "value"])?)?;
    let target = format!("{}/v1/backends/memory/config/keys/bench/key", served.url);
    let ours = async || timed(&mut pintle(&served.sandbox, &["config", "get", "bench/key"])?);
    let peer = async || {
        let mut curl = Command::new("curl");
        timed(curl.args(["--silent", "--fail", &target]))
    };
    let comparison =
        Comparison::new("cli-cold", "`pintle config get` with a server running; curl").rounds(60);
    Ok(comparison.run_values("ms", Wanted::AtMost(3.0), ours, peer).await?)
}

/// Milliseconds that a command takes.
fn timed(command: &mut Command) -> Result<f64> {
    command.stdout(Stdio::null());
    let begin = Instant::now();
    let status = command.status().context("cannot be started")?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(begin.elapsed().as_secs_f64() * 1e3)
}

/// One change of one key to ten thousand watchers, against the same bytes over bare axum.
async fn fan_out() -> Result<Row> {
    const KEY: &str = "/v1/backends/memory/config/keys/bench/key";
    const WATCH: &str = "/v1/backends/memory/config/watch?key=bench%2Fkey";
    let served = Served::start()?;
    let mut bare = Running::this(&["bare"])?;
    let bare_url = bare.line()?;
    let (ours, peer) = (Change::of(&served.url, KEY).await?, Change::of(&bare_url, "/").await?);
    ours.make().await?;
    let mut ours_watch = Running::this(&["watch", &served.url, WATCH])?;
    // Each has the present state first.
    ours_watch.line()?;
    let mut peer_watch = Running::this(&["watch", &bare_url, "/"])?;
    peer_watch.line()?;
    let comparison = Comparison::new(
        "sse-fan-out",
        "one change to 10,000 watchers of one key; about the same bytes over bare axum",
    );
    let ours_watch = tokio::sync::Mutex::new(ours_watch);
    let peer_watch = tokio::sync::Mutex::new(peer_watch);
    let row = comparison
        .rounds(20)
        .run_values(
            "ms",
            Wanted::AtMost(3.0),
            async || reach(&ours, &ours_watch).await,
            async || reach(&peer, &peer_watch).await,
        )
        .await?;
    Ok(row)
}

/// Milliseconds until a change has reached all.
async fn reach(change: &Change, watchers: &tokio::sync::Mutex<Running>) -> Result<f64> {
    let mut watchers = watchers.lock().await;
    let begin = Instant::now();
    change.make().await?;
    watchers.line()?;
    Ok(begin.elapsed().as_secs_f64() * 1e3)
}

/// A change, made by a request.
struct Change {
    path: &'static str,
    sender: tokio::sync::Mutex<http1::SendRequest<Full<Bytes>>>,
}

impl Change {
    async fn of(url: &str, path: &'static str) -> Result<Self> {
        let stream = TcpStream::connect(address(url)?).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { path, sender: tokio::sync::Mutex::new(sender) })
    }

    async fn make(&self) -> Result<()> {
        let mut sender = self.sender.lock().await;
        let body = Full::new(Bytes::from(vec![b'x'; 100]));
        let request = http::Request::put(self.path).header("host", "localhost").body(body)?;
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        ensure!(response.status().is_success(), "{}: {}", self.path, response.status());
        response.into_body().collect().await?;
        Ok(())
    }
}

fn address(url: &str) -> Result<SocketAddr> {
    Ok(url.strip_prefix("http://").context("http")?.parse()?)
}

/// Streams over bare axum, each with what was put last as its first event.
async fn bare_server() -> Result<()> {
    let listener = listen().await?;
    println!("http://{}", listener.local_addr()?);
    std::io::stdout().flush()?;
    let (changes, _) = broadcast::channel::<Arc<str>>(16);
    let put = changes.clone();
    let watch = move || {
        let first = Event::default().event("put").data(event_text(""));
        let changes = futures::stream::unfold(changes.subscribe(), |mut changes| async move {
            let text = changes.recv().await.ok()?;
            Some((Event::default().event("put").data(&*text), changes))
        });
        let events = futures::stream::iter([first]).chain(changes);
        std::future::ready(Sse::new(events.map(Ok::<_, std::convert::Infallible>)))
    };
    let put = move |body: String| {
        // Nobody watches yet, the first time.
        let _ = put.send(event_text(&body).into());
        std::future::ready(())
    };
    let router = axum::Router::new().route("/", axum::routing::get(watch).put(put));
    Ok(axum::serve(listener.tap_io(no_delay), router).await?)
}

/// About what one event of ours carries.
fn event_text(value: &str) -> String {
    let entry = serde_json::json!({ "key": "bench/key", "value": value, "version": "1" });
    serde_json::json!({ "entry": entry, "previous": entry }).to_string()
}

/// Ten thousand clients of one stream; prints a line each time that all were reached.
async fn watch(url: &str, path: &str) -> Result<()> {
    let address = address(url)?;
    let counted = Arc::new(AtomicUsize::new(0));
    // No more at a time than wait to be accepted.
    let places = Arc::new(Semaphore::new(100));
    let mut opening = Vec::with_capacity(WATCHERS);
    for _ in 0..WATCHERS {
        let place = Arc::clone(&places).acquire_owned().await?;
        let (counted, path) = (Arc::clone(&counted), path.to_owned());
        opening.push(tokio::spawn(async move {
            let mut stream = TcpStream::connect(address).await?;
            let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut head = [0; 15];
            stream.read_exact(&mut head).await?;
            ensure!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
            drop(place);
            tokio::spawn(count(stream, counted));
            anyhow::Ok(())
        }));
    }
    for opened in opening {
        opened.await??;
    }
    // Ends with its parent.
    std::future::pending().await
}

async fn count(mut stream: TcpStream, counted: Arc<AtomicUsize>) {
    let mut buffer = [0; 4096];
    let mut kept = 0;
    while let Ok(read) = stream.read(buffer.get_mut(kept..).unwrap_or_default()).await {
        if read == 0 {
            return;
        }
        let length = kept + read;
        let text = buffer.get(..length).unwrap_or_default();
        let mut from = 0;
        while let Some(at) =
            text.get(from..).and_then(|rest| rest.windows(PUT.len()).position(|w| w == PUT))
        {
            from += at + PUT.len();
            if (counted.fetch_add(1, Ordering::SeqCst) + 1).is_multiple_of(WATCHERS) {
                println!("all");
            }
        }
        // A beginning of the next may stand at the end.
        kept = length.saturating_sub(from).min(PUT.len() - 1);
        buffer.copy_within(length - kept..length, 0);
    }
}
