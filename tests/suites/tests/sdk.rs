//! The SDK's network inside the sandbox: TCP, HTTP through the host, and HTTP/2 of the plugin's own.

use anyhow::Result;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pintle::Pintle;
use pintle_test_suites::{Sandbox, within};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

/// A host with the echo plugin, which may reach one port.
async fn host(port: u16) -> Result<(Sandbox, Pintle)> {
    let sandbox = Sandbox::new(&["fixtures/echo"])?;
    let settings =
        format!("[backends.main]\nplugin = \"echo\"\nendpoints = [\"127.0.0.1:{port}\"]\n");
    let pintle = sandbox.start(&settings).await?;
    Ok((sandbox, pintle))
}

async fn listener() -> Result<(TcpListener, u16)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

/// Speaks HTTP/2 with prior knowledge; answers each request with its path.
async fn serve_http2(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let service = service_fn(|request: Request<Incoming>| async move {
            let path = request.uri().path().to_owned();
            Ok::<_, hyper::Error>(Response::new(Full::new(Bytes::from(path))))
        });
        let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service);
        tokio::spawn(serving);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_go_there_and_back() -> Result<()> {
    let (listener, port) = listener().await?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 256];
            let count = stream.read(&mut buffer).await.unwrap_or(0);
            stream.write_all(&buffer[..count]).await.ok();
        }
    });
    let (_sandbox, pintle) = host(port).await?;
    for kind in ["tcp", "drain"] {
        let key = format!("{kind}/127.0.0.1/{port}");
        let entry = within("an echo", pintle.config("main")?.get(&key)).await??.unwrap();
        assert_eq!(entry.value, key.as_bytes());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_share_one_http2_connection_of_the_plugin() -> Result<()> {
    let (listener, port) = listener().await?;
    tokio::spawn(serve_http2(listener));
    let (_sandbox, pintle) = host(port).await?;
    let config = pintle.config("main")?;
    for _ in 0..5 {
        let gets = (0..50).map(|number| {
            let config = config.clone();
            async move {
                let key = format!("http2/127.0.0.1/{port}/{number}");
                let entry = within("an answer", config.get(&key)).await??.unwrap();
                assert_eq!(entry.value, format!("/{number}").as_bytes());
                anyhow::Ok(())
            }
        });
        futures::future::try_join_all(gets).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_is_named() -> Result<()> {
    let (listener, port) = listener().await?;
    drop(listener);
    let (_sandbox, pintle) = host(port).await?;
    let key = format!("tcp/127.0.0.1/{port}");
    let error = within("an error", pintle.config("main")?.get(&key)).await?.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("connection refused") && text.contains(&port.to_string()), "{text}");
    Ok(())
}
