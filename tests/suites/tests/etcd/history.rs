//! The past: revisions of a key, reads as of a version, and where it ends.

use anyhow::{Context, Result};
use pintle::config::{
    Delete, HistoryRequest, ListRequest, Put, PutOutcome, ReadOptions, Revision, Version,
};
use pintle_test_services::EtcdOptions;
use pintle_test_suites::{follow::text, within};

use crate::{config::put, stage::Stage};

fn of(key: &str) -> HistoryRequest {
    HistoryRequest { key: key.into(), ..HistoryRequest::default() }
}

/// The values, newest first; nothing for a removal.
fn values(revisions: &[Revision]) -> Vec<Option<String>> {
    let value = |revision: &Revision| revision.entry.as_ref().map(|entry| text(&entry.value));
    revisions.iter().map(value).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_of_a_key_is_told_newest_first_with_its_removals() -> Result<()> {
    let stage = Stage::new().await?;
    let node = stage.node("a").await?;
    let config = &node.config;
    let mut client = stage.client().await?;
    client.put(stage.key("h"), "1", None).await?;
    put(config, "h", "2").await?;
    put(config, "h/below", "no").await?;
    config.delete(Delete::new("h")).await?;
    let last = put(config, "h", "3").await?;
    let page = config.history(of("h")).await?;
    let some = |value: &str| Some(value.to_owned());
    assert_eq!(values(&page.revisions), [some("3"), None, some("2"), some("1")]);
    assert_eq!(page.revisions[0].version, last);
    assert!(page.complete && page.next.is_none());

    let mut request = HistoryRequest { limit: 1, ..of("h") };
    let mut paged = Vec::new();
    loop {
        let page = config.history(request.clone()).await?;
        paged.extend(values(&page.revisions));
        match page.next {
            Some(next) => request.page = Some(next),
            None => break,
        }
    }
    assert_eq!(paged, values(&page.revisions));
    assert!(config.history(of("never")).await?.revisions.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_as_of_a_version_shows_that_time() -> Result<()> {
    let stage = Stage::new().await?;
    let node = stage.node("a").await?;
    let config = &node.config;
    put(config, "r/a", "1").await?;
    let then = put(config, "r/b", "1").await?;
    put(config, "r/a", "2").await?;
    config.delete(Delete::new("r/b")).await?;
    put(config, "r/c", "1").await?;
    let at = || ReadOptions { at: Some(then.clone()), ..ReadOptions::default() };
    assert_eq!(config.get_with("r/a", at()).await?.context("r/a")?.value, "1");
    assert!(config.get_with("r/c", at()).await?.is_none());
    let request = ListRequest { prefix: "r".into(), options: at(), ..ListRequest::default() };
    let page = config.list(request).await?;
    let found: Vec<_> = page.entries.iter().map(|entry| &*entry.key).collect();
    assert_eq!(found, ["r/a", "r/b"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn compaction_ends_the_past_and_says_so() -> Result<()> {
    let stage = Stage::alone(EtcdOptions::default()).await?;
    let node = stage.node("a").await?;
    let config = &node.config;
    let first = put(config, "h", "1").await?;
    put(config, "h", "2").await?;
    put(config, "other", "1").await?;
    let mut client = stage.client().await?;
    let kept = client.get(stage.key("h"), None).await?;
    let compacted = kept.header().context("a header")?.revision();
    put(config, "h", "3").await?;
    client.compact(compacted, None).await?;

    let page = config.history(of("h")).await?;
    let found = values(&page.revisions);
    assert!(!page.complete, "{page:?}");
    assert!(found.starts_with(&[Some("3".into())]) && !found.contains(&Some("1".into())));
    let at = ReadOptions { at: Some(first.clone()), ..ReadOptions::default() };
    let error = config.get_with("h", at).await.unwrap_err();
    assert_eq!(error.code(), "compacted", "{error}");

    // Its version is still good for comparing.
    let expected = Put::new("h", "4").expect(pintle::config::Expect::Version(first));
    assert!(matches!(config.put(expected).await?, PutOutcome::Stale(Some(_))));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_deleted_key_the_rest_is_told_after_compaction() -> Result<()> {
    let stage = Stage::alone(EtcdOptions::default()).await?;
    let node = stage.node("a").await?;
    let config = &node.config;
    put(config, "gone/before", "1").await?;
    config.delete(Delete::new("gone/before")).await?;
    put(config, "gone/after", "1").await?;
    put(config, "gone/after", "2").await?;
    let mut client = stage.client().await?;
    let now = client.get(stage.key("gone"), None).await?;
    client.compact(now.header().context("a header")?.revision(), None).await?;
    put(config, "gone/after", "3").await?;
    config.delete(Delete::new("gone/after")).await?;
    put(config, "other", "1").await?;

    let page = config.history(of("gone/after")).await?;
    assert_eq!(values(&page.revisions)[..2], [None, Some("3".into())]);
    assert!(!values(&page.revisions).contains(&Some("1".into())) && !page.complete, "{page:?}");
    // Nothing of it is left: it may have been there, or never.
    let page = config.history(of("gone/before")).await?;
    assert!(page.revisions.is_empty() && !page.complete, "{page:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_larger_than_the_plugins_memory_comes_in_pages() -> Result<()> {
    const VALUES: usize = 100;
    let stage = Stage::alone(EtcdOptions::default()).await?;
    let node = stage.node("a").await?;
    let mut client = stage.client().await?;
    for number in 0..VALUES {
        let value = format!("{number:07}{}", "x".repeat((1 << 20) - 7));
        client.put(stage.key("h"), value, None).await?;
    }
    let mut request = of("h");
    let mut found = Vec::new();
    loop {
        let page = within("a page", node.config.history(request.clone())).await??;
        for revision in &page.revisions {
            let value = &revision.entry.as_ref().context("a value")?.value;
            assert_eq!(value.len(), 1 << 20);
            found.push(text(&value[..7]).parse::<usize>()?);
        }
        match page.next {
            Some(next) => request.page = Some(next),
            None => break,
        }
    }
    assert!(found.iter().copied().eq((0..VALUES).rev()), "{found:?}");
    assert_eq!(node.pintle.backend("main")?.restarts, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_none_is_refused_by_name() -> Result<()> {
    let stage = Stage::new().await?;
    let node = stage.node("a").await?;
    let config = &node.config;
    let bad = || Version::from("no version");
    let options = ReadOptions { at: Some(bad()), ..ReadOptions::default() };
    assert_eq!(config.get_with("k", options).await.unwrap_err().code(), "invalid");
    let request = ListRequest { page: Some("no page".into()), ..ListRequest::default() };
    assert_eq!(config.list(request).await.unwrap_err().code(), "invalid");
    Ok(())
}
