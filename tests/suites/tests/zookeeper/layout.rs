//! What is stored is what `docs/layout.md` says.

use std::time::Duration;

use anyhow::Result;
use pintle::config::Put;
use pintle::lock::{LockRequest, Mode};
use pintle::registry::{Instance, Override, RegisterOutcome};
use zookeeper_client::Client;

use crate::support::{Host, other_client, shared};

const GOLDEN: &str = include_str!("layout.golden");

/// All nodes below one, in order: what differs from run to run stands as `*`.
async fn dump(client: &Client, path: &str, into: &mut Vec<String>) -> Result<()> {
    let (mut children, _) = client.get_children(path).await?;
    children.sort();
    for name in children {
        let path = format!("{path}/{name}");
        let (data, stat) = client.get_data(&path).await?;
        let kind = match stat.ephemeral_owner {
            0 => "persistent",
            i64::MIN => "container",
            _ => "ephemeral",
        };
        let data = String::from_utf8_lossy(&data).into_owned();
        into.push(
            format!("{} {kind} {}", without_chance(&path), without_chance(&data)).trim().into(),
        );
        Box::pin(dump(client, &path, into)).await?;
    }
    Ok(())
}

/// Runs of hexadecimal digits and dashes that chance or the clock has made.
fn without_chance(text: &str) -> String {
    let by_chance = |byte: char| byte.is_ascii_hexdigit() || byte == '-';
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(by_chance) {
        let (before, run) = rest.split_at(start);
        let length = run.find(|byte| !by_chance(byte)).unwrap_or(run.len());
        let (run, behind) = run.split_at(length);
        out.push_str(before);
        // An id of a claim, an identity, a time.
        let digits = run.chars().filter(char::is_ascii_digit).count();
        out.push_str(if run.len() >= 13 && digits >= 5 { "*" } else { run });
        rest = behind;
    }
    out.push_str(rest);
    out
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
