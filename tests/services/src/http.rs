//! One small request to a server on loopback, for ready checks.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{Error, Result};

const LIMIT: Duration = Duration::from_secs(2);

/// The whole answer, head and body, to `GET path`.
pub(crate) async fn request(address: SocketAddr, path: &str) -> Result<String> {
    // Version 1.0, so that the server closes the connection after its answer.
    exchange(address, &format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")).await
}

/// The status of the answer to `GET path`, from a server that may keep the connection open.
///
/// # Errors
/// [`Error::Request`], also past two seconds or when the answer is none.
pub(crate) async fn status(address: SocketAddr, path: &str) -> Result<u16> {
    let answer = async {
        let mut stream = TcpStream::connect(address).await?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        // `HTTP/1.1 200`
        let mut begin = [0; 12];
        stream.read_exact(&mut begin).await?;
        let code = std::str::from_utf8(&begin).ok().and_then(|text| text.get(9..)?.parse().ok());
        code.ok_or_else(|| io::ErrorKind::InvalidData.into())
    };
    let result = tokio::time::timeout(LIMIT, answer).await;
    result
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|source| Error::Request { address: address.to_string(), source })
}

/// Sends a text and reads until the server closes.
///
/// # Errors
/// [`Error::Request`], also past two seconds or when the answer is no text.
pub(crate) async fn exchange(address: SocketAddr, text: &str) -> Result<String> {
    let answer = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(text.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    let result = tokio::time::timeout(LIMIT, answer).await;
    result
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|source| Error::Request { address: address.to_string(), source })
}
