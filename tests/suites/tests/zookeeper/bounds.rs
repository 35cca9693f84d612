//! What is too large for a sandbox fails with the name of its limit, and nothing else does.

use anyhow::{Context, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use pintle::Error;
use pintle::config::{Config, Delete, ListRequest, Put, Target, Watch};
use pintle_test_suites::within;
use zookeeper_client::{Acls, Client, CreateMode};

use crate::support::{Host, create, next, other_client, shared, take};

/// The least that both limits can be set to.
const SMALL: &str = "answer_bytes_max = 65536\nrequest_bytes_max = 4096\nwatched_bytes_max = 65536";

async fn small(root: &str) -> Result<Host> {
    Host::start(&[shared().await?.endpoint()], &format!("root = \"{root}\"\n{SMALL}")).await
}

/// Creates so many nodes with a value in a directory.
async fn fill(other: &Client, directory: &str, count: usize) -> Result<()> {
    let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
    let creations = (0..count).map(|number| {
        let path = format!("{directory}/with-a-name-of-some-length-{number:06}");
        let options = &options;
        async move { other.create(&path, b"1", options).await.map(drop) }
    });
    Ok(stream::iter(creations).buffer_unordered(200).try_collect().await?)
}

fn list(prefix: &str) -> ListRequest {
    ListRequest { prefix: prefix.to_owned(), keys_only: true, ..ListRequest::default() }
}

/// The error that a watch ends with.
async fn end(mut watch: Watch) -> Result<Error> {
    loop {
        match within("the end", watch.next()).await?.context("it ended without a reason")? {
            Ok(_) => {}
            Err(error) => return Ok(error),
        }
    }
}

fn names(error: &Error, code: &str, limit: &str) {
    assert_eq!(error.code(), code, "{error}");
    assert!(error.to_string().contains(limit), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_with_too_many_nodes_fails_those_who_ask_and_nobody_else() -> Result<()> {
    let (host, other) = (small("/bound-wide").await?, other_client().await?);
    let config = host.config()?;
    config.put(Put::new("few/a", "1")).await?;
    let mut watch = config.watch(Target::Prefix("few".into())).await?;
    assert_eq!(take(&mut watch, 3).await?, ["begin", "few/a=1", "end"]);
    create(&other, "/bound-wide/many", b"").await?;
    fill(&other, "/bound-wide/many", 3_000).await?;

    names(&config.list(list("many")).await.unwrap_err(), "too-large", "`answer_bytes_max`");
    names(&config.delete_prefix("many", None).await.unwrap_err(), "too-large", "answer_bytes_max");
    let many = config.watch(Target::Prefix("many".into())).await?;
    names(&end(many).await?, "too-large", "`answer_bytes_max`");

    assert_eq!(config.list(list("few")).await?.entries.len(), 1);
    config.put(Put::new("few/a", "2")).await?;
    assert_eq!(next(&mut watch).await?, "few/a=2", "on the same connection, without a gap");
    assert_eq!(host.counter("reconnects").await?, 0);
    assert!(host.counter("errors.too-large").await? >= 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_that_would_keep_too_much_end_and_leave_room_for_the_others() -> Result<()> {
    let (host, other) = (small("/bound-watch").await?, other_client().await?);
    let config = host.config()?;
    create(&other, "/bound-watch/grows", b"").await?;
    fill(&other, "/bound-watch/grows", 100).await?;
    config.put(Put::new("few/a", "1")).await?;
    let mut few = config.watch(Target::Prefix("few".into())).await?;
    assert_eq!(take(&mut few, 3).await?.len(), 3);
    let mut grows = config.watch(Target::Prefix("grows".into())).await?;
    assert_eq!(take(&mut grows, 102).await?.last().map(String::as_str), Some("end"));
    create(&other, "/bound-watch/grows/more", b"").await?;
    fill(&other, "/bound-watch/grows/more", 200).await?;
    names(&end(grows).await?, "exhausted", "`watched_bytes_max`");
    let again = config.watch(Target::Prefix("grows".into())).await?;
    names(&end(again).await?, "exhausted", "`watched_bytes_max`");

    config.put(Put::new("few/a", "2")).await?;
    assert_eq!(next(&mut few).await?, "few/a=2");
    assert_eq!(config.delete_prefix("grows", None).await?, 301, "bounded however much it is");
    let mut fits = config.watch(Target::Prefix("grows".into())).await?;
    assert_eq!(take(&mut fits, 2).await?, ["begin", "end"], "what the others kept is given back");
    Ok(())
}

async fn listed(config: &Config, prefix: &str) -> Result<usize> {
    let (mut count, mut page) = (0, None);
    loop {
        let found = config.list(ListRequest { page, ..list(prefix) }).await?;
        count += found.entries.len();
        match found.next {
            Some(next) => page = Some(next),
            None => return Ok(count),
        }
    }
}

/// More than is looked at together, in one directory and in several.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_tree_is_listed_in_pages_and_deleted_in_parts() -> Result<()> {
    let (host, other) = (Host::at("/bound-tree").await?, other_client().await?);
    let config = host.config()?;
    for directory in ["wide", "deep/a", "deep/b"] {
        create(&other, &format!("/bound-tree/tree/{directory}"), b"").await?;
    }
    fill(&other, "/bound-tree/tree/wide", 9_000).await?;
    fill(&other, "/bound-tree/tree/deep/a", 600).await?;
    fill(&other, "/bound-tree/tree/deep/b", 600).await?;
    config.put(Put::new("beside", "1")).await?;
    // With what the other client has written above them.
    let keys = 9_000 + 600 + 600 + 4;
    assert_eq!(listed(&config, "tree").await?, keys);
    assert_eq!(config.delete_prefix("tree", None).await?, keys as u64);
    assert!(other.list_children("/bound-tree/tree").await?.is_empty());
    assert!(config.get("beside").await?.is_some());
    config.delete(Delete::new("beside")).await?;
    Ok(())
}

/// A key has 1,024 bytes at most, so nothing that lies deeper is one; but all of it would be deleted.
#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_is_too_deep_is_shown_as_far_as_there_are_keys_and_not_deleted() -> Result<()> {
    // A thousand levels are read one after the other, and other tests run besides.
    let text = format!(
        "[backends.main]\nplugin = \"zookeeper\"\nendpoints = [{:?}]\nlimits = {{ call = \"1min\" }}\n\
         [backends.main.settings]\nroot = \"/bound-deep\"\n",
        shared().await?.endpoint()
    );
    let (host, other) = (Host::with(&text).await?, other_client().await?);
    let config = host.config()?;
    let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
    let mut path = "/bound-deep/deep".to_owned();
    create(&other, &path, b"").await?;
    for _ in 0..1_002 {
        path.push_str("/x");
        other.create(&path, b"", &options).await?;
    }
    let keys = (1_024 - "deep".len()) / "/x".len();
    let page = config.list(list("deep")).await?;
    assert_eq!((page.entries.len(), page.next, page.skipped), (keys, None, 1));
    let mut watch = config.watch(Target::Prefix("deep".into())).await?;
    let snapshot = take(&mut watch, keys + 2).await?;
    assert_eq!(snapshot.last().map(String::as_str), Some("end"));
    let error = config.delete_prefix("deep", None).await.unwrap_err();
    names(&error, "exhausted", "too many levels deep (at most 1000)");
    Ok(())
}
