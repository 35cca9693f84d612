//! A service that lives on Pintle: its configuration changes while it runs, it is listed in the
//! registry, and of all its instances one does the work that must be done once.
//!
//! Start it with `cargo xtask example rust-service`; the backend is the embedded `local` one, in
//! a folder below `target`. Ctrl-C ends it.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result};
use futures::StreamExt;
use pintle::{
    Config, Leader, Pintle,
    config::{Expect, Put, Target, WatchEvent},
    leader::CampaignOutcome,
    registry::{Instance, RegisterOutcome},
    settings::Settings,
};
use tokio::{net::TcpListener, signal};

const SERVICE: &str = "rust-service";
const GREETING: &str = "rust-service/greeting";
const TTL: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> Result<()> {
    let pintle = start().await?;
    let config = pintle.config("default")?;
    // Only the first instance ever writes the default.
    config.put(Put::new(GREETING, "hello").expect(Expect::Absent)).await?;

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let port = listener.local_addr()?.port();
    let instance = Instance::new(SERVICE, format!("{port}"), "127.0.0.1", port);
    let registered = pintle.registry("default")?.register(instance, TTL).await?;
    let RegisterOutcome::Registered(registration) = registered else {
        anyhow::bail!("another instance has the port {port} in the registry");
    };
    println!("registered as {SERVICE}/{port}");

    let leader = pintle.leader("default")?;
    let me = port.to_string();
    tokio::select! {
        followed = follow_greeting(&config) => followed?,
        led = lead(&leader, &me) => led?,
        interrupted = signal::ctrl_c() => interrupted?,
    }
    registration.deregister().await?;
    pintle.shutdown().await;
    println!("bye");
    Ok(())
}

/// Settings from the file that is named, or else the ones beside this example.
async fn start() -> Result<Pintle> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/pintle.toml");
    let file = std::env::args().nth(1).unwrap_or_else(|| beside.to_owned());
    let settings = Settings::from_file(&file)?;
    Pintle::builder().settings(settings).start().await.with_context(|| format!("with {file}"))
}

/// Prints the greeting now and whenever somebody changes it.
async fn follow_greeting(config: &Config) -> Result<()> {
    let mut events = config.watch(Target::Key(GREETING.into())).await?;
    while let Some(event) = events.next().await {
        match event? {
            WatchEvent::Put { entry, .. } => {
                println!("greeting: {}", String::from_utf8_lossy(&entry.value));
            }
            WatchEvent::Removed { .. } => println!("greeting: none"),
            WatchEvent::Resync(reason) => println!("configuration was out of sight: {reason}"),
            WatchEvent::SnapshotBegin | WatchEvent::SnapshotEnd => {}
        }
    }
    Ok(())
}

/// Does the work that must be done once, whenever this instance leads.
async fn lead(leader: &Leader, me: &str) -> Result<()> {
    loop {
        let wait = Duration::from_secs(30);
        match leader.campaign(SERVICE, me, TTL, wait).await? {
            CampaignOutcome::Following(Some(claim)) => println!("{} leads", claim.owner),
            CampaignOutcome::Following(None) => {}
            CampaignOutcome::Elected(leadership) => {
                let token = leadership.token().map_or(0, |token| token.value);
                println!("leading, token {token}");
                let reason = leadership.lost().await;
                println!("not leading any more: {reason}");
            }
        }
    }
}
