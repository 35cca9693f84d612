//! `pintle registry`: services and their instances.

mod operator;

use std::{collections::BTreeMap, ffi::OsString, time::Duration};

use clap::{Args, Subcommand};
use futures::StreamExt;
use pintle::settings::Endpoint;
use pintle_client::{
    Client,
    api::{
        event::InstanceEvent,
        registry::{
            InstanceHealth, InstanceSpec, InstanceState, InstancesPage, ListQuery, ServicesPage,
        },
    },
    registration::{Registered, Standing},
    registry::{InstanceName, RegisterOutcome},
    watch::Delivery,
};

use crate::{
    child::Job,
    exit::{self, Exit, Failure},
    global::Global,
    output::{self, Table},
    session,
    signals::Signals,
};

/// What to do with the registry.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List the services
    Services,
    /// List the instances of a service
    List {
        /// Name of the service
        service: String,
    },
    /// Print the instances, then each change, one line each
    Watch {
        /// Name of the service; all of them if it is left out
        service: Option<String>,
    },
    /// Keep an instance registered while a command runs
    Run(RunArguments),
    /// Store an instance that stays until it is removed
    Add(operator::AddArguments),
    /// Remove an instance that `add` stored
    Remove(operator::Named),
    /// Put an instance into the load again
    Enable(operator::NotedArguments),
    /// Take an instance out of the load; it stays registered
    Disable(operator::NotedArguments),
    /// Set the share of the load of an instance
    Weight(operator::WeightArguments),
    /// Take back what enable, disable and weight said of an instance
    Clear(operator::Named),
}

/// What an instance says of itself.
#[derive(Debug, Args)]
pub(crate) struct SpecArguments {
    /// Where the instance is reached, like 127.0.0.1:8080
    #[arg(long, value_name = "HOST:PORT")]
    address: Endpoint,
    /// Version of its program
    #[arg(long, default_value = "", hide_default_value = true)]
    version: String,
    /// Where it runs
    #[arg(long)]
    zone: Option<String>,
    /// Share of the load, 0 to 10000
    #[arg(long, default_value_t = 100)]
    weight: u32,
    /// A label; may be given several times
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
}

impl SpecArguments {
    fn spec(&self) -> InstanceSpec {
        InstanceSpec {
            version: self.version.clone(),
            zone: self.zone.clone(),
            weight: self.weight,
            labels: BTreeMap::from_iter(self.labels.iter().cloned()),
            ..InstanceSpec::new(self.address.host.clone(), self.address.port)
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// Name of the service
    service: String,
    /// Tells the instance apart within the service [default: its address]
    #[arg(long)]
    id: Option<String>,
    #[command(flatten)]
    spec: SpecArguments,
    /// How long it stays registered after this process dies, 2s to 1h
    #[arg(long, value_name = "TIME", default_value = "15s")]
    #[arg(value_parser = pintle::settings::parse_duration)]
    ttl: Duration,
    /// The command. It finds PINTLE_SERVICE and PINTLE_INSTANCE in its environment
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

pub(crate) async fn run(global: &Global, verb: Verb) -> anyhow::Result<Exit> {
    session::with(global, async |client| match verb {
        Verb::Services => services(global, client).await,
        Verb::List { service } => list(global, client, &service).await,
        Verb::Watch { service } => watch(global, client, service).await,
        Verb::Run(arguments) => run_command(global, client, arguments).await,
        Verb::Add(arguments) => operator::add(global, client, arguments).await,
        Verb::Remove(named) => operator::remove(global, client, named).await,
        Verb::Enable(arguments) => operator::enable(global, client, arguments, true).await,
        Verb::Disable(arguments) => operator::enable(global, client, arguments, false).await,
        Verb::Weight(arguments) => operator::weight(global, client, arguments).await,
        Verb::Clear(named) => operator::clear(global, client, named).await,
    })
    .await
}

async fn services(global: &Global, client: &Client) -> anyhow::Result<Exit> {
    let registry = client.registry(global.backend());
    let mut query = ListQuery::default();
    let mut whole = ServicesPage::default();
    loop {
        let page = registry.services(&query).await?;
        whole.services.extend(page.services);
        query.page = page.next;
        if query.page.is_none() {
            break;
        }
    }
    if global.print(&whole)? {
        return Ok(Exit::OK);
    }
    let mut table = Table::new(["SERVICE", "INSTANCES"]);
    for service in whole.services {
        table.row([service.name, service.instances.to_string()]);
    }
    table.print("no services")?;
    Ok(Exit::OK)
}

/// All instances of a service.
async fn instances(
    global: &Global,
    client: &Client,
    service: &str,
) -> anyhow::Result<InstancesPage> {
    let registry = client.registry(global.backend());
    let mut query = ListQuery::default();
    let mut whole = InstancesPage::default();
    loop {
        let page = registry.instances(service, &query).await?;
        whole.instances.extend(page.instances);
        query.page = page.next;
        if query.page.is_none() {
            return Ok(whole);
        }
    }
}

async fn list(global: &Global, client: &Client, service: &str) -> anyhow::Result<Exit> {
    let whole = instances(global, client, service).await?;
    if global.print(&whole)? {
        return Ok(Exit::OK);
    }
    let mut table = Table::new(["ID", "ADDRESS", "STATE", "WEIGHT", "VERSION", "ZONE", "SINCE"]);
    for instance in whole.instances {
        table.row([
            instance.id.clone(),
            address(&instance),
            state(&instance).into(),
            instance.weight.to_string(),
            output::or_dash(instance.program_version),
            output::or_dash(instance.zone.unwrap_or_default()),
            output::moment(instance.registered_ms),
        ]);
    }
    table.print(&format!("no instances of {service}"))?;
    Ok(Exit::OK)
}

async fn watch(global: &Global, client: &Client, service: Option<String>) -> anyhow::Result<Exit> {
    let mut signals = Signals::to_end()?;
    let mut watch = client.registry(global.backend()).watch(service).await?;
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

async fn run_command(
    global: &Global,
    client: &Client,
    arguments: RunArguments,
) -> anyhow::Result<Exit> {
    let RunArguments { service, id, spec, ttl, command } = arguments;
    let name = InstanceName { service, id: id.unwrap_or_else(|| spec.address.to_string()) };
    let spec = spec.spec();
    let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    let mut signals = Signals::to_forward()?;
    let registry = client.registry(global.backend());
    let outcome = tokio::select! {
        outcome = registry.register(name.clone(), spec, ttl_ms) => outcome?,
        signal = signals.next() => return Err(exit::ended_by(signal)),
    };
    let mut registered = match outcome {
        RegisterOutcome::Registered(registered) => registered,
        RegisterOutcome::Taken(other) => {
            let text = format!(
                "{}/{} is registered by somebody else, at {}: choose another --id",
                name.service,
                name.id,
                self::address(&other)
            );
            return Err(Failure::error(Exit::LOST, text));
        }
    };
    tracing::info!(service = name.service, id = name.id, "registered");
    let variables = vec![
        ("PINTLE_SERVICE", Some(name.service.clone())),
        ("PINTLE_INSTANCE", Some(name.id.clone())),
    ];
    let outcome = match Job::start(&command, variables, signals, None) {
        Ok(mut job) => attend(&mut job, &mut registered).await,
        Err(error) => Err(error),
    };
    if let Err(error) = registered.deregister().await {
        output::note(format_args!("not deregistered, it will expire: {error}"));
    }
    outcome
}

/// Waits for the end of the command and tells of the registration meanwhile.
async fn attend(job: &mut Job, registered: &mut Registered) -> anyhow::Result<Exit> {
    loop {
        tokio::select! {
            exit = job.ended() => return Ok(exit?),
            standing = registered.changed() => match standing {
                Standing::Registered => output::note("pintle: registered again"),
                Standing::Doubtful(reason) => {
                    output::note(format_args!("pintle: perhaps not registered at the moment: {reason}"));
                }
                Standing::Taken(other) => {
                    let address = address(&other);
                    output::note(format_args!("pintle: somebody else has the name now: {address}"));
                }
            },
        }
    }
}

fn describe(event: &InstanceEvent) -> String {
    match event {
        InstanceEvent::SnapshotBegin => "snapshot-begin".into(),
        InstanceEvent::SnapshotEnd => "snapshot-end".into(),
        InstanceEvent::Put(put) => {
            let InstanceState { service, id, weight, .. } = &put.instance;
            let (address, state) = (address(&put.instance), state(&put.instance));
            format!("put       {service}  {id}  {address}  {state}  weight {weight}")
        }
        InstanceEvent::Removed(removed) => {
            format!("removed   {}  {}", removed.service, removed.id)
        }
        InstanceEvent::Resync(resync) => format!("resync    {}", resync.reason),
    }
}

fn address(instance: &InstanceState) -> String {
    Endpoint { host: instance.host.clone(), port: instance.port }.to_string()
}

fn state(instance: &InstanceState) -> &'static str {
    match (instance.enabled, instance.health) {
        (false, _) => "disabled",
        (true, InstanceHealth::Unhealthy) => "unhealthy",
        (true, InstanceHealth::Healthy) => "healthy",
        (true, InstanceHealth::Unknown) => "enabled",
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}
