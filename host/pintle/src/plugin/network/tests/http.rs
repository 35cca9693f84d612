//! `wasi:http`: pooled, under the same rules as sockets.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::guest::{Guest, Names, PATIENCE, Response as Fetched, call, options};
use super::servers::{Authority, ClosedPort, TlsServer, echo_server, serve};
use crate::plugin::network::{Network, NetworkOptions};
use crate::plugin::tls::TlsSetting;
use crate::settings::TlsSettings;

type Body = Either<Full<Bytes>, Silent>;

/// A body that never comes.
struct Silent;

impl hyper::body::Body for Silent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        std::task::Poll::Pending
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let text = |text: String| Response::new(Either::Left(Full::from(text)));
    Ok(match request.uri().path() {
        "/version" => text(format!("{:?}", request.version())),
        "/host" => {
            let host = request.headers().get(header::HOST).map(|host| host.to_str().unwrap());
            let authority = request.uri().authority().map(|authority| authority.as_str());
            text(host.or(authority).unwrap_or_default().to_owned())
        }
        "/echo" => {
            let bytes = request.into_body().collect().await.unwrap().to_bytes();
            Response::new(Either::Left(Full::new(bytes)))
        }
        "/redirect" => Response::builder()
            .status(StatusCode::FOUND)
            .header(header::LOCATION, "http://127.0.0.1:1/elsewhere")
            .body(Either::Left(Full::default()))
            .unwrap(),
        "/silent" => Response::new(Either::Right(Silent)),
        "/headers" => {
            let mut response = text(String::new());
            let value = "x".repeat(200 * 1024).parse().unwrap();
            response.headers_mut().insert("x-large", value);
            response
        }
        _ => text("hello".to_owned()),
    })
}

async fn serve_http(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service_fn(answer))
        .await;
}

async fn http_server() -> SocketAddr {
    serve(serve_http).await
}

async fn https_server(authority: &Authority, alpn: Vec<&'static str>) -> SocketAddr {
    let server = TlsServer { alpn, ..TlsServer::default() };
    let acceptor = server.acceptor(&authority.identity(&["127.0.0.1"]));
    serve(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                serve_http(stream).await;
            }
        }
    })
    .await
}

fn https_options(server: SocketAddr, authority: &Authority) -> NetworkOptions {
    let mut options = options(&[&server.to_string()]);
    let ca = Some(authority.file());
    options.tls = TlsSetting::On(TlsSettings { ca, ..TlsSettings::default() });
    options
}

async fn fetch(guest: &mut Guest, url: &str) -> Result<Fetched, String> {
    call!(*guest, call_fetch("GET".to_owned(), url.to_owned(), Vec::new()))
}

async fn text(guest: &mut Guest, url: &str) -> String {
    String::from_utf8(fetch(guest, url).await.unwrap().body).unwrap()
}

#[tokio::test]
async fn requests_in_turn_share_one_connection() {
    let server = http_server().await;
    let mut guest = Guest::start(options(&[&server.to_string()])).await;
    for _ in 0..10 {
        assert_eq!(text(&mut guest, &format!("http://{server}/hello")).await, "hello");
    }
    assert_eq!(text(&mut guest, &format!("http://{server}/version")).await, "HTTP/1.1");
    assert_eq!(text(&mut guest, &format!("http://{server}/host")).await, server.to_string());
    let counters = guest.counters();
    assert_eq!((counters.connections_total, counters.requests_total), (1, 12));
    assert_eq!(counters.requests_open, 0);
}

#[tokio::test]
async fn requests_at_once_share_one_http2_connection() {
    let authority = Authority::new("ca");
    let server = https_server(&authority, vec!["h2", "http/1.1"]).await;
    let mut guest = Guest::start(https_options(server, &authority)).await;
    let url = format!("https://{server}/version");
    assert_eq!(text(&mut guest, &url).await, "HTTP/2.0");
    let versions = guest
        .run(async |accessor, probe| {
            let fetch = || probe.call_fetch(accessor, "GET".to_owned(), url.clone(), Vec::new());
            join_all((0..20).map(|_| fetch())).await
        })
        .await;
    for version in versions {
        assert_eq!(version.unwrap().unwrap().body, b"HTTP/2.0");
    }
    let host = text(&mut guest, &format!("https://{server}/host")).await;
    assert_eq!(host, server.to_string());
    assert_eq!(guest.counters().connections_total, 1);
}

#[tokio::test]
async fn a_tls_server_without_http2_gets_http1() {
    let authority = Authority::new("ca");
    for alpn in [vec!["http/1.1"], vec![]] {
        let server = https_server(&authority, alpn).await;
        let mut guest = Guest::start(https_options(server, &authority)).await;
        assert_eq!(text(&mut guest, &format!("https://{server}/version")).await, "HTTP/1.1");
    }
}

#[tokio::test]
async fn http2_without_tls_is_spoken_where_the_operator_says_so() {
    let server = http_server().await;
    let mut options = options(&[&server.to_string()]);
    options.http.h2c = true;
    let mut guest = Guest::start(options).await;
    assert_eq!(text(&mut guest, &format!("http://{server}/version")).await, "HTTP/2.0");
}

#[tokio::test]
async fn bodies_pass_both_ways() {
    let server = http_server().await;
    let mut guest = Guest::start(options(&[&server.to_string()])).await;
    let body: Vec<u8> = (0..2 << 20).map(|index| (index % 251) as u8).collect();
    let url = format!("http://{server}/echo");
    let response = call!(guest, call_fetch("POST".to_owned(), url, body.clone())).unwrap();
    assert!(response.body == body, "what came back differs");
}

#[tokio::test]
async fn a_request_without_a_grant_is_denied() {
    let server = http_server().await;
    let mut guest = Guest::start(options(&[])).await;
    for host in [server.to_string(), "example.com".to_owned()] {
        let denied = fetch(&mut guest, &format!("http://{host}/hello")).await.unwrap_err();
        assert_eq!(denied, "ErrorCode::HttpRequestDenied");
    }
    let counters = guest.counters();
    assert_eq!((counters.denials, counters.connections_total, counters.requests_total), (2, 0, 0));
    assert!(counters.last_denial.unwrap().contains("add allow = [\"example.com:80\"]"));
}

#[tokio::test]
async fn a_name_that_resolves_to_a_forbidden_address_is_denied() {
    let port = http_server().await.port();
    let mut options = options(&[]);
    options.allow = vec![format!("*.example.com:{port}")];
    options.resolver = Names::with(&[("a.example.com", &["127.0.0.1"])]);
    let mut guest = Guest::start(options).await;
    let denied = fetch(&mut guest, &format!("http://a.example.com:{port}/")).await.unwrap_err();
    assert_eq!(denied, "ErrorCode::HttpRequestDenied");
    let counters = guest.counters();
    assert_eq!((counters.denials, counters.connections_total), (1, 0));
}

#[tokio::test]
async fn a_redirect_goes_back_to_the_guest_and_its_target_is_checked() {
    let server = http_server().await;
    let mut guest = Guest::start(options(&[&server.to_string()])).await;
    let response = fetch(&mut guest, &format!("http://{server}/redirect")).await.unwrap();
    assert_eq!(response.status, 302);
    let (_, location) = response.headers.into_iter().find(|(name, _)| name == "location").unwrap();
    assert_eq!(guest.counters().denials, 0);
    let denied = fetch(&mut guest, &location).await.unwrap_err();
    assert_eq!(denied, "ErrorCode::HttpRequestDenied");
}

#[tokio::test]
async fn a_request_never_leaves_in_clear_text_where_tls_is_set() {
    let authority = Authority::new("ca");
    let server = https_server(&authority, vec!["h2"]).await;
    let mut guest = Guest::start(https_options(server, &authority)).await;
    assert_eq!(text(&mut guest, &format!("http://{server}/version")).await, "HTTP/2.0");
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_explained() {
    let authority = Authority::new("ca");
    let server = https_server(&authority, vec![]).await;
    let foreign = Authority::new("another ca");
    let mut guest = Guest::start(https_options(server, &foreign)).await;
    let error = fetch(&mut guest, &format!("https://{server}/")).await.unwrap_err();
    assert!(error.contains("not signed by an authority that this backend trusts"), "{error}");
    assert_eq!(guest.counters().failures, 1);
}

#[tokio::test]
async fn a_closed_port_is_refused() {
    let closed = ClosedPort::new();
    let address = closed.address();
    let mut guest = Guest::start(options(&[&address.to_string()])).await;
    let error = fetch(&mut guest, &format!("http://{address}/")).await.unwrap_err();
    assert_eq!(error, "ErrorCode::ConnectionRefused");
}

#[tokio::test]
async fn a_server_that_falls_silent_fails_the_body() {
    let server = http_server().await;
    let mut options = options(&[&server.to_string()]);
    options.limits.between_bytes_timeout = Duration::from_millis(50);
    let mut guest = Guest::start(options).await;
    let error = fetch(&mut guest, &format!("http://{server}/silent")).await.unwrap_err();
    assert_eq!(error, "ErrorCode::ConnectionReadTimeout");
    assert_eq!(guest.counters().requests_open, 0);
}

#[tokio::test]
async fn a_server_that_does_not_answer_times_out() {
    let server = serve(|mut stream| async move {
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    })
    .await;
    let mut options = options(&[&server.to_string()]);
    options.limits.first_byte_timeout = Duration::from_millis(50);
    options.limits.connect_timeout = Duration::from_millis(50);
    let mut guest = Guest::start(options).await;
    let error = fetch(&mut guest, &format!("http://{server}/")).await.unwrap_err();
    assert_eq!(error, "ErrorCode::ConnectionReadTimeout");
}

#[tokio::test]
async fn a_response_that_is_cut_is_incomplete() {
    let server = serve(|stream| async move {
        read_head(&mut BufReader::new(stream)).await;
    })
    .await;
    let mut guest = Guest::start(options(&[&server.to_string()])).await;
    let error = fetch(&mut guest, &format!("http://{server}/")).await.unwrap_err();
    assert_eq!(error, "ErrorCode::HttpResponseIncomplete");
}

#[tokio::test]
async fn headers_beyond_the_limit_are_refused() {
    let server = http_server().await;
    let mut guest = Guest::start(options(&[&server.to_string()])).await;
    let error = fetch(&mut guest, &format!("http://{server}/headers")).await.unwrap_err();
    assert!(error.contains("HttpResponseHeaderSectionSize"), "{error}");
}

#[tokio::test]
async fn requests_beyond_the_limit_wait_for_their_turn() {
    let server = http_server().await;
    let mut options = options(&[&server.to_string()]);
    options.limits.requests_max = 2;
    options.limits.connections_max = 1;
    let mut guest = Guest::start(options).await;
    let url = format!("http://{server}/hello");
    let responses = guest
        .run(async |accessor, probe| {
            let fetch = || probe.call_fetch(accessor, "GET".to_owned(), url.clone(), Vec::new());
            join_all((0..10).map(|_| fetch())).await
        })
        .await;
    for response in responses {
        assert_eq!(response.unwrap().unwrap().body, b"hello");
    }
    assert_eq!(guest.counters().connections_total, 1);
}

#[tokio::test]
async fn a_proxy_forwards_plain_requests_and_tunnels_the_others() {
    let authority = Authority::new("ca");
    let secure = https_server(&authority, vec!["h2"]).await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let proxy = proxy_server(Arc::clone(&seen)).await;
    let mut options = https_options(secure, &authority);
    options.http.proxy = Some(format!("http://user:pass%20word@{proxy}"));
    options.endpoints.push("plain.example:80".into());
    options.endpoints[1].tls = Some(TlsSetting::Off);
    let mut guest = Guest::start(options).await;
    assert_eq!(text(&mut guest, &format!("https://{secure}/version")).await, "HTTP/2.0");
    assert_eq!(text(&mut guest, "http://plain.example/here").await, "from the proxy");
    let denied = fetch(&mut guest, "http://other.example/").await.unwrap_err();
    assert_eq!(denied, "ErrorCode::HttpRequestDenied");

    let seen = seen.lock().unwrap();
    assert!(seen[0].starts_with(&format!("CONNECT {secure} HTTP/1.1\r\n")), "{}", seen[0]);
    assert!(seen[1].starts_with("GET http://plain.example/here HTTP/1.1\r\n"), "{}", seen[1]);
    for head in seen.iter() {
        let head = head.to_lowercase();
        assert!(head.contains("proxy-authorization: basic dxnlcjpwyxnzihdvcmq="), "{head}");
    }
    assert_eq!(seen.len(), 2);
}

#[test]
fn a_proxy_that_cannot_be_used_is_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for proxy in ["proxy:3128", "https://proxy:3128", "http://proxy", "socks5://proxy:1", ""] {
        let mut options = NetworkOptions::new("main", runtime.handle().clone());
        options.http.proxy = Some(proxy.to_owned());
        let text = Network::new(options).unwrap_err().to_string();
        assert!(text.starts_with("backends.main.proxy: "), "{text}");
    }
}

/// Keeps the heads of the requests; tunnels `CONNECT`, answers everything else itself.
async fn proxy_server(seen: Arc<Mutex<Vec<String>>>) -> SocketAddr {
    serve(move |stream| {
        let seen = Arc::clone(&seen);
        async move {
            let mut stream = BufReader::new(stream);
            let head = read_head(&mut stream).await;
            seen.lock().unwrap().push(head.clone());
            let Some(rest) = head.strip_prefix("CONNECT ") else {
                let answer = "HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\nfrom the proxy";
                stream.write_all(answer.as_bytes()).await.unwrap();
                return;
            };
            let mut server = TcpStream::connect(rest.split(' ').next().unwrap()).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut server).await;
        }
    })
    .await
}

async fn read_head(stream: &mut BufReader<TcpStream>) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(stream.read_line(&mut head).await.unwrap() > 0, "the request was cut");
    }
    head
}

#[tokio::test]
async fn a_server_that_speaks_no_http_is_a_protocol_error() {
    let server = echo_server().await;
    let mut guest = Guest::start(options(&[&server.to_string()])).await;
    let error = fetch(&mut guest, &format!("http://{server}/")).await.unwrap_err();
    assert_eq!(error, "ErrorCode::HttpProtocolError");
}
