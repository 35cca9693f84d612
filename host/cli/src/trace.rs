//! `pintle trace`: what became of spans, and headers of traces.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use pintle_client::{
    Client,
    api::tracing::{Carried, Headers, Inject, Sink, Status},
};

use crate::{
    exit::{Exit, Failure},
    global::Global,
    output::{self, Table},
    session,
};

/// What to do with traces.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show how many spans came in, and what became of them
    Status,
    /// Read what headers say of a trace, in whatever convention
    Extract {
        /// Headers, each `name: value`
        #[arg(required = true)]
        headers: Vec<String>,
    },
    /// Write the headers by which a trace goes on elsewhere
    Inject(InjectArguments),
}

/// What the headers shall say.
#[derive(Debug, Args)]
pub(crate) struct InjectArguments {
    /// Convention: w3c, b3, b3-single, jaeger or skywalking
    #[arg(long, default_value = "w3c")]
    format: String,
    /// 32 hexadecimal digits
    #[arg(long)]
    trace_id: String,
    /// 16 hexadecimal digits
    #[arg(long)]
    span_id: String,
    /// Say that the trace is recorded, or that it is not
    #[arg(long)]
    sampled: Option<bool>,
    /// Something that goes along, `name=value`; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    baggage: Vec<String>,
}

pub(crate) async fn run(global: &Global, verb: Verb) -> anyhow::Result<Exit> {
    session::with(global, async |client| match verb {
        Verb::Status => status(global, client).await,
        Verb::Extract { headers } => extract(global, client, &headers).await,
        Verb::Inject(arguments) => inject(global, client, arguments).await,
    })
    .await
}

async fn status(global: &Global, client: &Client) -> anyhow::Result<Exit> {
    let status = client.admin().tracing_status().await?;
    if global.print(&status)? {
        return Ok(Exit::OK);
    }
    let Status { received, turned_away, rejected, sampled_out, passed, sinks } = status;
    output::facts(&[
        ("received", received.to_string()),
        ("rejected", counts(&rejected)),
        ("sampled out", counts(&sampled_out)),
        ("passed on", passed.to_string()),
        ("turned away", turned_away.to_string()),
    ])?;
    output::line("")?;
    let mut table = Table::new([
        "BACKEND",
        "DELIVERED",
        "REJECTED",
        "DROPPED",
        "PENDING",
        "RETRIES",
        "LAST ERROR",
    ]);
    for Sink { backend, delivered, rejected, dropped, pending, retries, last_error, .. } in sinks {
        table.row([
            backend,
            delivered.to_string(),
            counts(&rejected),
            counts(&dropped),
            pending.to_string(),
            retries.to_string(),
            output::or_dash(last_error.unwrap_or_default()),
        ]);
    }
    table.print("no backend takes spans: name one under `tracing` in [defaults]")?;
    Ok(Exit::OK)
}

/// `7 (queue-full 5, shutdown 2)`.
fn counts(of: &BTreeMap<String, u64>) -> String {
    let sum: u64 = of.values().sum();
    let reasons: Vec<_> = of.iter().map(|(reason, spans)| format!("{reason} {spans}")).collect();
    if reasons.is_empty() { sum.to_string() } else { format!("{sum} ({})", reasons.join(", ")) }
}

async fn extract(global: &Global, client: &Client, headers: &[String]) -> anyhow::Result<Exit> {
    let mut named = BTreeMap::new();
    for header in headers {
        let (name, value) = header.split_once(':').ok_or_else(|| {
            Failure::error(Exit::USAGE, format!("{header:?} is no header; write \"name: value\""))
        })?;
        named.insert(name.trim().to_owned(), value.trim().to_owned());
    }
    let carried = client.admin().trace_extract(&Headers { headers: named }).await?;
    let is_found = carried.trace_id.is_some();
    // Baggage goes along without a trace too.
    let is_empty = Carried { debug: false, ..carried.clone() } == Carried::default();
    if !global.print(&carried)? && !is_empty {
        print(&carried)?;
    }
    if !is_found {
        output::note("these headers tell of no trace");
    }
    Ok(if is_found { Exit::OK } else { Exit::FAILED })
}

fn print(carried: &Carried) -> anyhow::Result<()> {
    let sampled = match carried.sampled {
        Some(true) => "yes",
        Some(false) => "no",
        None => "not said",
    };
    let mut facts = vec![
        ("trace", output::or_dash(carried.trace_id.clone().unwrap_or_default())),
        ("span", output::or_dash(carried.span_id.clone().unwrap_or_default())),
        ("parent", output::or_dash(carried.parent_id.clone().unwrap_or_default())),
        ("sampled", if carried.debug { "debug".to_owned() } else { sampled.to_owned() }),
    ];
    if !carried.state.is_empty() {
        facts.push(("state", carried.state.clone()));
    }
    for (name, value) in &carried.baggage {
        facts.push(("baggage", format!("{name}={value}")));
    }
    output::facts(&facts)
}

async fn inject(
    global: &Global,
    client: &Client,
    arguments: InjectArguments,
) -> anyhow::Result<Exit> {
    let mut baggage = BTreeMap::new();
    for member in &arguments.baggage {
        let (name, value) = member.split_once('=').ok_or_else(|| {
            Failure::error(Exit::USAGE, format!("{member:?} is no baggage; write name=value"))
        })?;
        baggage.insert(name.to_owned(), value.to_owned());
    }
    let carried = Carried {
        trace_id: Some(arguments.trace_id),
        span_id: Some(arguments.span_id),
        sampled: arguments.sampled,
        baggage,
        ..Carried::default()
    };
    let inject = Inject { format: arguments.format, carried };
    let headers = client.admin().trace_inject(&inject).await?;
    if !global.print(&headers)? {
        for (name, value) in headers.headers {
            output::line(&format!("{name}: {value}"))?;
        }
    }
    Ok(Exit::OK)
}
