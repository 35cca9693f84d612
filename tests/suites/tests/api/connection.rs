//! What one connection may take.

use std::time::{Duration, Instant};

use anyhow::Result;
use http::{Method, StatusCode};
use pintle_test_suites::within;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::served::{Served, request};

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_does_not_end_is_refused_before_it_is_large() -> Result<()> {
    let served = Served::new().await?;
    let listening = served.listen(0).await?;
    let begun = Instant::now();
    let mut stream = TcpStream::connect(listening.address).await?;
    let head = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: {}", "x".repeat(100 << 10));
    // The server may have had enough before everything is sent.
    let _ = stream.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = within("the end", stream.read_to_end(&mut answer)).await?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    // The answer is lost where more of the head was under way.
    assert!(answer.starts_with("HTTP/1.1 431") || answer.is_empty(), "{answer}");
    // Not only when it has taken too long.
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_an_answer_keeps_the_place_for_it() -> Result<()> {
    let served = Served::guarded("[server]\nlimits = { calls = 1 }").await?;
    let unread = served.open(request(Method::GET, "/v1/backends", "")?).await;
    assert_eq!(unread.status(), StatusCode::OK);
    let second = served.get("/v1/backends").await?;
    assert_eq!(second.problem()?.code(), "too-many-calls");
    drop(unread);
    assert_eq!(served.get("/v1/backends").await?.status, StatusCode::OK);
    Ok(())
}
