//! Elections.

use anyhow::Result;
use pintle_client::api::{leader::Election, lock::Lease};

use crate::served::Served;

const TERMS: &str = "/v1/backends/main/leaders/scheduler/leases";

#[tokio::test(flavor = "multi_thread")]
async fn one_leads_and_who_comes_later_is_told_who() -> Result<()> {
    let served = Served::new().await?;
    let nobody: Election = served.get("/v1/backends/main/leaders/scheduler").await?.json()?;
    assert_eq!((nobody.leader, nobody.candidates.len()), (None, 0));

    let first = served.put(&format!("{TERMS}/a"), r#"{"owner":"node-1"}"#).await?;
    let term: Lease = first.json()?;
    assert!(term.token.is_some());
    let busy = served.put(&format!("{TERMS}/b"), r#"{"owner":"node-2"}"#).await?.problem()?;
    assert_eq!((busy.code(), busy.holders[0].owner.as_str()), ("lock-busy", "node-1"));
    let election = served.client().lock("main").election("scheduler").await?;
    assert_eq!(election.leader.map(|leader| leader.owner).as_deref(), Some("node-1"));

    assert_eq!(served.post(&format!("{TERMS}/a/keepalive"), "").await?.status, 200);
    assert_eq!(served.delete(&format!("{TERMS}/a")).await?.status, 200);
    let next = served.put(&format!("{TERMS}/b"), r#"{"owner":"node-2"}"#).await?;
    let later: Lease = next.json()?;
    let value = |lease: &Lease| lease.token.as_ref().map(|token| token.value);
    assert!(value(&later) > value(&term));
    assert_eq!(served.get(&format!("{TERMS}/a")).await?.problem()?.status, 410);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_who_leads() -> Result<()> {
    let served = Served::local().await?;
    served.put("/v1/backends/main/leaders/s/leases/a", r#"{"owner":"node-1"}"#).await?;
    let events = served.events("/v1/backends/main/leaders/s/watch", None, "node-1").await?;
    assert!(events.contains("event: state"), "{events}");
    Ok(())
}
