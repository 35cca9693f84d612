//! Small HTTP exchanges with receivers.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Request, StatusCode, response::Parts};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// Sends one request, on a connection of its own.
pub(crate) async fn send(
    address: SocketAddr,
    request: Request<Bytes>,
) -> Result<(StatusCode, Bytes)> {
    let (head, body) = exchange(address, request).await?;
    Ok((head.status, body))
}

/// As [`send`], with the whole head of the answer.
pub(crate) async fn exchange(
    address: SocketAddr,
    request: Request<Bytes>,
) -> Result<(Parts, Bytes)> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request.map(Full::new)).await?;
    let (head, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    driver.abort();
    Ok((head, body))
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> Result<(StatusCode, Bytes)> {
    let request = Request::get(path).header("host", address.to_string()).body(Bytes::new())?;
    send(address, request).await
}

/// The JSON that a path answers with; none where there is nothing.
pub(crate) async fn get_json(address: SocketAddr, path: &str) -> Result<Option<Value>> {
    let (status, body) = get(address, path).await?;
    if status == StatusCode::NOT_FOUND {
        return Ok(None);
    }
    ensure!(status.is_success(), "{path}: {status}: {}", String::from_utf8_lossy(&body));
    Ok(Some(serde_json::from_slice(&body)?))
}

pub(crate) async fn post_json(address: SocketAddr, path: &str, body: &Value) -> Result<Value> {
    let request = Request::post(path)
        .header("host", address.to_string())
        .header("content-type", "application/json")
        .body(Bytes::from(body.to_string()))?;
    let (status, body) = send(address, request).await?;
    ensure!(status.is_success(), "{path}: {status}: {}", String::from_utf8_lossy(&body));
    serde_json::from_slice(&body).context("the answer is no JSON")
}
