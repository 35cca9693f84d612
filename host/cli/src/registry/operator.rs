//! What an operator says of instances, and instances that nobody keeps alive.

use clap::Args;
use pintle_client::{
    Client,
    api::registry::{Override, OwnerQuery, Register, usual_ttl_ms},
    registry::{InstanceName, RegisterOutcome},
};
use serde_json::json;

use super::{SpecArguments, address, instances};
use crate::{
    exit::{Exit, Failure},
    global::Global,
    output,
};

#[derive(Debug, Args)]
pub(crate) struct Named {
    /// Name of the service
    service: String,
    /// Id of the instance, as `list` shows it
    id: String,
}

#[derive(Debug, Args)]
pub(crate) struct AddArguments {
    /// Name of the service
    service: String,
    /// Tells the instance apart within the service [default: its address]
    #[arg(long)]
    id: Option<String>,
    #[command(flatten)]
    spec: SpecArguments,
    /// Replace what `add` stored before
    #[arg(long)]
    replace: bool,
}

#[derive(Debug, Args)]
pub(crate) struct NotedArguments {
    #[command(flatten)]
    named: Named,
    /// Why, for other operators
    #[arg(long, default_value = "", hide_default_value = true)]
    note: String,
}

#[derive(Debug, Args)]
pub(crate) struct WeightArguments {
    #[command(flatten)]
    named: Named,
    /// Share of the load, 0 to 10000; 100 is usual
    weight: u32,
    /// Why, for other operators
    #[arg(long, default_value = "", hide_default_value = true)]
    note: String,
}

impl From<Named> for InstanceName {
    fn from(named: Named) -> Self {
        Self { service: named.service, id: named.id }
    }
}

pub(super) async fn add(
    global: &Global,
    client: &Client,
    arguments: AddArguments,
) -> anyhow::Result<Exit> {
    let AddArguments { service, id, spec, replace } = arguments;
    let name = InstanceName { service, id: id.unwrap_or_else(|| spec.address.to_string()) };
    let register = Register {
        instance: spec.spec(),
        owner: String::new(),
        ttl_ms: usual_ttl_ms(),
        persistent: true,
        replace,
    };
    match client.registry(global.backend()).put(&name, &register).await? {
        RegisterOutcome::Registered(_) => say(global, &name, "is stored"),
        RegisterOutcome::Taken(other) => {
            let remedy = if other.ephemeral {
                "a live owner keeps it: choose another --id"
            } else {
                "replace it with --replace, or choose another --id"
            };
            let (InstanceName { service, id }, at) = (&name, address(&other));
            let text = format!("{service}/{id} is there already, at {at}: {remedy}");
            Err(Failure::error(Exit::LOST, text))
        }
    }
}

pub(super) async fn remove(global: &Global, client: &Client, named: Named) -> anyhow::Result<Exit> {
    let name = named.into();
    let removed = client.registry(global.backend()).remove(&name, &OwnerQuery::default()).await?;
    if !removed.removed {
        return Err(absent(&name));
    }
    say(global, &name, "is removed")
}

pub(super) async fn enable(
    global: &Global,
    client: &Client,
    arguments: NotedArguments,
    enabled: bool,
) -> anyhow::Result<Exit> {
    let NotedArguments { named, note } = arguments;
    let done = if enabled { "is enabled" } else { "is disabled" };
    change(global, client, named.into(), note, done, |operator| operator.enabled = Some(enabled))
        .await
}

pub(super) async fn weight(
    global: &Global,
    client: &Client,
    arguments: WeightArguments,
) -> anyhow::Result<Exit> {
    let WeightArguments { named, weight, note } = arguments;
    let done = format!("has the weight {weight}");
    change(global, client, named.into(), note, &done, |operator| operator.weight = Some(weight))
        .await
}

pub(super) async fn clear(global: &Global, client: &Client, named: Named) -> anyhow::Result<Exit> {
    let name = named.into();
    client.registry(global.backend()).clear_override(&name).await?;
    say(global, &name, "is what it says of itself")
}

/// Changes a part of what an operator says, and keeps the rest.
async fn change(
    global: &Global,
    client: &Client,
    name: InstanceName,
    note: String,
    done: &str,
    change: impl FnOnce(&mut Override),
) -> anyhow::Result<Exit> {
    let present = instances(global, client, &name.service).await?;
    let present = present.instances.into_iter().find(|instance| instance.id == name.id);
    // One that will come may be spoken of too, but not by mistake.
    let Some(present) = present else { return Err(absent(&name)) };
    let mut operator = present.operator.unwrap_or_default();
    change(&mut operator);
    if !note.is_empty() {
        operator.note = note;
    }
    client.registry(global.backend()).set_override(&name, &operator).await?;
    say(global, &name, done)
}

fn say(global: &Global, name: &InstanceName, done: &str) -> anyhow::Result<Exit> {
    let InstanceName { service, id } = name;
    if !global.print_facts(&json!({ "service": service, "id": id, "done": true }))? {
        output::line(&format!("{service}/{id} {done}"))?;
    }
    Ok(Exit::OK)
}

fn absent(name: &InstanceName) -> anyhow::Error {
    let InstanceName { service, id } = name;
    let text = format!("{service} has no instance {id:?}: see `registry list {service}`");
    Failure::error(Exit::NOT_FOUND, text)
}
