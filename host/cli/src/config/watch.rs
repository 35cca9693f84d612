//! Watching.

use clap::Args;
use futures::StreamExt;
use pintle_client::{
    Client,
    api::{
        config::{Entry, WatchQuery},
        event::ConfigEvent,
    },
    watch::Delivery,
};

use super::preview;
use crate::{exit::Exit, global::Global, output, signals::Signals};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A key; with --prefix a prefix, and everything if it is left out
    #[arg(required_unless_present = "prefix")]
    target: Option<String>,
    /// Watch everything below the target
    #[arg(long)]
    prefix: bool,
    /// Every change after this version instead of the present state first
    #[arg(long, value_name = "VERSION")]
    from_version: Option<String>,
}

pub(super) async fn run(
    global: &Global,
    client: &Client,
    arguments: Arguments,
) -> anyhow::Result<Exit> {
    let Arguments { target, prefix, from_version } = arguments;
    let target = target.unwrap_or_default();
    let (key, prefix) = if prefix { (None, Some(target)) } else { (Some(target), None) };
    let mut signals = Signals::to_end()?;
    let query = WatchQuery { key, prefix, from_version };
    let mut watch = client.config(global.backend()).watch(&query).await?;
    loop {
        let delivery = tokio::select! {
            delivery = watch.next() => delivery,
            _ = signals.next() => return Ok(Exit::OK),
        };
        match delivery {
            Some(Ok(Delivery::Event(event))) => {
                if !global.print_event(&event)? {
                    output::line(&describe(&event))?;
                }
            }
            Some(Ok(Delivery::Disconnected(reason))) => {
                output::note(format_args!("{reason}; connecting again"));
            }
            Some(Err(error)) => return Err(error.into()),
            None => return Ok(Exit::OK),
        }
    }
}

fn describe(event: &ConfigEvent) -> String {
    match event {
        ConfigEvent::SnapshotBegin => "snapshot-begin".into(),
        ConfigEvent::SnapshotEnd => "snapshot-end".into(),
        ConfigEvent::Put(put) => {
            let Entry { key, version, .. } = &put.entry;
            format!("put       {key}  {version}  {}", preview(&put.entry))
        }
        ConfigEvent::Removed(removed) => {
            let version = removed.version.as_deref().unwrap_or("-");
            format!("removed   {}  {version}", removed.key)
        }
        ConfigEvent::Resync(resync) => format!("resync    {}", resync.reason),
    }
}
