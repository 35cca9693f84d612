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
