//! `pintle trace`, and `pintle serve` with a receiver of spans.

use anyhow::Result;
use pintle_client::api::tracing::{Carried, Status};

use crate::shell::Shell;

const TRACE: &str = "80f198ee56343ba864fe8b2a57d3eff7";

#[tokio::test]
async fn headers_of_one_convention_become_those_of_another() -> Result<()> {
    let shell = Shell::new()?;
    let b3 = format!("b3: {TRACE}-e457b5a2e4d86bd1-1");
    let carried: Carried = shell.run(&["trace", "extract", &b3, "-o", "json"]).await?.json()?;
    assert_eq!((carried.trace_id.as_deref(), carried.sampled), (Some(TRACE), Some(true)));
    let inject = ["trace", "inject", "--trace-id", TRACE, "--span-id", "e457b5a2e4d86bd1"];
    let more = ["--sampled", "true", "--baggage", "user=ann"];
    let written = shell.run(&[&inject[..], &more].concat()).await?.text()?;
    assert!(written.contains(&format!("traceparent: 00-{TRACE}-e457b5a2e4d86bd1-01")), "{written}");
    assert!(written.contains("baggage: user=ann"), "{written}");
    let none = shell.run(&["trace", "extract", "accept: */*"]).await?;
    assert!(none.code == Some(1) && none.stderr.contains("no trace"), "{none:?}");
    let baggage = shell.run(&["trace", "extract", "baggage: user=ann"]).await?;
    let text = String::from_utf8_lossy(&baggage.stdout);
    assert!(baggage.code == Some(1) && text.contains("user=ann"), "{baggage:?}");
    let wrong = shell.run(&[&inject[..], &["--format", "morse"]].concat()).await?;
    assert!(wrong.code != Some(0) && wrong.stderr.contains("b3-single"), "{wrong:?}");
    Ok(())
}

#[tokio::test]
async fn what_became_of_spans_is_shown() -> Result<()> {
    let shell = Shell::new()?;
    let status: Status = shell.run(&["trace", "status", "-o", "json"]).await?.json()?;
    assert_eq!((status.received, status.sinks.len()), (0, 1));
    assert_eq!(status.sinks[0].backend, "local");
    let text = shell.run(&["trace", "status"]).await?.text()?;
    assert!(text.contains("DELIVERED") && text.contains("local"), "{text}");
    Ok(())
}
