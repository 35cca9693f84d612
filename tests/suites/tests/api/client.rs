//! What the client does when a server is away, breaks off, or has had enough.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use pintle_client::{
    Client,
    api::{Effect, PROBLEM_JSON, Problem, lock::Acquire},
};
use pintle_test_suites::{eventually, within};
use tower::service_fn;

type Asked = Request<Full<Bytes>>;
type Answered = Result<Response<Full<Bytes>>, std::io::Error>;

/// A client of a server that answers like this.
fn client(answer: impl Fn(&Asked) -> Answered + Send + Sync + 'static) -> Client {
    let answer = Arc::new(answer);
    Client::in_process(service_fn(move |asked: Asked| {
        let answer = answer(&asked);
        async move { answer }
    }))
}

fn problem(code: &str, status: StatusCode, retry_after: Option<Duration>) -> Result<String> {
    Ok(serde_json::to_string(&Problem {
        kind: format!("urn:pintle:problem:{code}"),
        status: status.as_u16(),
        effect: Effect::None,
        retry_after_ms: retry_after
            .map(|after| after.as_millis())
            .map(u64::try_from)
            .transpose()?,
        ..Problem::default()
    })?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_whose_backend_is_away_asks_no_sooner_than_it_was_told() -> Result<()> {
    const PAUSE: Duration = Duration::from_millis(300);
    let data = problem("unavailable", StatusCode::SERVICE_UNAVAILABLE, Some(PAUSE))?;
    let asked = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&asked);
    let client = client(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        let body = format!("event: problem\ndata: {data}\n\n");
        Ok(Response::builder()
            .header(header::CONTENT_TYPE, "text/event-stream")
            .body(Full::from(body))
            .unwrap_or_default())
    });
    let begun = Instant::now();
    let mut watch = client.config("main").watch_prefix("").await?;
    let mut told = 0;
    let watching = async {
        while let Some(Ok(_)) = watch.next().await {
            told += 1;
        }
    };
    let often = eventually("four connections", async || {
        Ok((asked.load(Ordering::Relaxed) >= 4).then_some(()))
    });
    tokio::select! {
        () = watching => bail!("the watch ended"),
        reached = often => reached?,
    }
    assert!(begun.elapsed() >= 3 * PAUSE, "{:?}", begun.elapsed());
    assert_eq!(told, 1, "one loss of the connection is told once");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_answer_may_have_granted_is_given_back_whatever_the_next_answer_says()
-> Result<()> {
    let refusal = problem("forbidden", StatusCode::FORBIDDEN, None)?;
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let client = client(move |request| {
        let Ok(mut asked) = seen.lock() else { return Err(std::io::Error::other("poisoned")) };
        asked.push((request.method().clone(), request.uri().path().to_owned()));
        if asked.len() == 1 {
            return Err(std::io::Error::other("broken off"));
        }
        Ok(Response::builder()
            .status(StatusCode::FORBIDDEN)
            .header(header::CONTENT_TYPE, PROBLEM_JSON)
            .body(Full::from(refusal.clone()))
            .unwrap_or_default())
    });
    let refused = within("an answer", client.lock("main").acquire("l", Acquire::default())).await?;
    assert_eq!(refused.err().map(|error| error.code().to_owned()).as_deref(), Some("forbidden"));
    within("the release", client.finish()).await?;
    let asked = asked.lock().map_err(|_| anyhow::anyhow!("poisoned"))?;
    let methods: Vec<_> = asked.iter().map(|(method, _)| method.clone()).collect();
    assert_eq!(methods, [Method::PUT, Method::PUT, Method::DELETE]);
    assert!(asked.iter().all(|(_, path)| *path == asked[0].1), "{asked:?}");
    Ok(())
}
