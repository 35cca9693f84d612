//! What is stored is what `docs/layout.md` says.

use std::time::Duration;

use anyhow::Result;
use pintle::config::Put;
use pintle::lock::{LockRequest, Mode};
use pintle::registry::{Instance, Override, RegisterOutcome};
use zookeeper_client::Client;

use crate::support::{Host, other_client, shared};

const GOLDEN: &str = include_str!("layout.golden");

/// All nodes below one, in order. Containers look like persistent nodes to clients.
async fn dump(client: &Client, path: &str, into: &mut Vec<String>) -> Result<()> {
    let (mut children, _) = client.get_children(path).await?;
    children.sort();
    for name in children {
        let path = format!("{path}/{name}");
        let (data, stat) = client.get_data(&path).await?;
        let kind = match stat.ephemeral_owner {
            0 => "persistent",
            _ => "ephemeral",
        };
        let mut data = String::from_utf8_lossy(&data).into_owned();
        if path.ends_with("/identity") {
            assert!(
                data.len() == 32 && data.bytes().all(|byte| byte.is_ascii_hexdigit()),
                "{data}"
            );
            data = "*".to_owned();
        }
        into.push(
            format!("{} {kind} {}", without_chance(&path), without_chance(&data)).trim().into(),
        );
        Box::pin(dump(client, &path, into)).await?;
    }
    Ok(())
}

/// A text without what chance or the clock has made: the id of a claim, a time.
fn without_chance(text: &str) -> String {
    const UUID: usize = 36;
    let mut text = text.to_owned();
    if let Some(at) = text.find("/_c_").map(|at| at + 4) {
        text.replace_range(at..at + UUID, "UUID");
    }
    if let Some(at) = text.find("_ms\":").map(|at| at + 5) {
        let end = text[at..].find(|byte: char| !byte.is_ascii_digit()).unwrap_or(0);
        text.replace_range(at..at + end, "*");
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_has_the_documented_form() -> Result<()> {
    let endpoint = shared().await?.endpoint();
    let host = Host::with(&format!(
        "node = \"golden\"\n[backends.main]\nplugin = \"zookeeper\"\n\
         endpoints = [\"{endpoint}\"]\n[backends.main.settings]\nroot = \"/layout\"\n"
    ))
    .await?;
    host.config()?.put(Put::new("app/50%25/url", "value")).await?;
    let ttl = Duration::from_secs(8);
    let request = |name: &str| LockRequest::new(name).ttl(ttl).owner("me");
    let _exclusive = host.acquire(request("jobs/nightly")).await?;
    let _shared = host.acquire(request("shared").mode(Mode::Shared)).await?;
    let _permit = host.acquire(request("permits").mode(Mode::Permit(3))).await?;
    let registry = host.pintle.registry("main")?;
    let instance =
        Instance { version: "1.2.3".into(), ..Instance::new("shop/eu", "a", "10.0.0.1", 80) };
    let RegisterOutcome::Registered(_kept) = registry.register(instance, ttl).await? else {
        anyhow::bail!("taken")
    };
    registry.add(Instance::new("shop/eu", "p", "10.0.0.2", 80), false).await?;
    let operator = Override { enabled: Some(false), weight: Some(10), note: "drained".into() };
    registry.set_override("shop/eu", "a", Some(operator)).await?;

    let mut nodes = Vec::new();
    dump(&other_client().await?, "/layout", &mut nodes).await?;
    let found = nodes.join("\n");
    assert_eq!(found.trim(), GOLDEN.trim(), "docs/layout.md describes another form:\n{found}");
    Ok(())
}
