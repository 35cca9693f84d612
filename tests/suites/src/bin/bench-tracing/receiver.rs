//! The receiver, in a process of its own.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use axum::routing::get;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use pintle_test_suites::{
    otlp::{router, span_count},
    process::Running,
};
use tokio::net::{TcpListener, TcpStream};

/// What this program is told to be the receiver.
pub(crate) const PART: &str = "receiver";
/// Longest wait for the receiver to have what was exported.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    _process: Running,
}

impl Receiver {
    pub(crate) fn start() -> Result<Self> {
        let mut process = Running::this(&[PART])?;
        let address = process.line()?.parse().context("the receiver's address")?;
        Ok(Self { address, _process: process })
    }

    /// Waits until so many spans were taken since the start, and fails when more were.
    pub(crate) async fn has(&self, wanted: u64) -> Result<()> {
        let arrived = tokio::time::timeout(ARRIVAL_LIMIT, async {
            while self.count().await? < wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            anyhow::Ok(())
        });
        arrived.await.context("spans were lost")??;
        let count = self.count().await?;
        ensure!(count == wanted, "{} spans came more than once", count - wanted);
        Ok(())
    }

    /// How many spans it took so far.
    pub(crate) async fn count(&self) -> Result<u64> {
        let stream = TcpStream::connect(self.address).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = hyper::Request::get("/count").body(Empty::<Bytes>::new())?;
        let body = sender.send_request(request).await?.into_body().collect().await?.to_bytes();
        Ok(std::str::from_utf8(&body)?.parse()?)
    }
}

/// Takes OTLP, and tells over HTTP how many spans that were.
pub(crate) async fn run() -> Result<()> {
    let taken = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&taken);
    let router = router(move |request| {
        counted.fetch_add(span_count(&request), Ordering::Relaxed);
        Box::pin(std::future::ready(()))
    });
    let count = move || std::future::ready(taken.load(Ordering::Relaxed).to_string());
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("{}", listener.local_addr()?);
    Ok(axum::serve(listener, router.route("/count", get(count))).await?)
}
