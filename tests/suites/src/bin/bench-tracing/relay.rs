//! What a span costs that is passed on.

use std::{net::SocketAddr, process::Command};

use anyhow::{Context, Result};
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use pintle_test_bench::{Comparison, Row, Target as Wanted, cpu_seconds_of};
use pintle_test_services::{Collector, Port};
use pintle_test_suites::{
    Sandbox,
    process::{Running, pintle},
};

use crate::{
    export::{native_to, settings},
    receiver::Receiver,
    spans::{BATCH, batch},
};

/// Batches of a round. Times of other processes are told in steps of 10 ms: a round has to take much
/// longer.
const BATCHES: u64 = 400;
/// Of them are made; they are sent again and again.
const BATCHES_MADE: u64 = 40;
const ROUNDS: usize = 12;

/// P7-relay: OTLP in, OTLP out; spans for each second of CPU time.
pub(crate) async fn passed_on() -> Result<Row> {
    let receiver = Receiver::start()?;
    let served = Served::start(&receiver)?;
    let mut collector = Collector::start(receiver.address).await?;
    let ours = Relay::new(served.server.id(), served.address, &receiver)?;
    let peer = Relay::new(collector.server.process()?.id(), collector.otlp_grpc(), &receiver)?;
    let what = "spans of ten attributes, OTLP in and out; the OpenTelemetry Collector";
    let comparison = Comparison::new("P7-relay", what).rounds(ROUNDS);
    let row = comparison
        .run_values("spans/CPU s", Wanted::AtLeast(1.0), || ours.measure(), || peer.measure())
        .await?;
    Ok(row)
}

/// `pintle serve`, which brings what it receives to the receiver.
struct Served {
    server: Running,
    address: SocketAddr,
    _port: Port,
    _sandbox: Sandbox,
}

impl Served {
    fn start(receiver: &Receiver) -> Result<Self> {
        let sandbox = Sandbox::new(&["plugins/otlp"])?;
        let port = Port::free()?;
        let address = port.address();
        let receive = format!("receive = {{ otlp_grpc = \"{address}\" }}");
        let text = settings(receiver, BATCH * BATCHES, &receive);
        std::fs::write(sandbox.path().join("pintle.toml"), text)?;
        let mut command: Command = pintle(&sandbox, &["serve", "-o", "json"])?;
        let mut server = Running::start(&mut command)?;
        // It says where its API listens as soon as it serves.
        server.line().context("pintle serve")?;
        Ok(Self { server, address, _port: port, _sandbox: sandbox })
    }
}

/// A process that passes spans on.
struct Relay<'a> {
    process: u32,
    sender: opentelemetry_otlp::SpanExporter,
    batches: Vec<Vec<SpanData>>,
    receiver: &'a Receiver,
}

impl<'a> Relay<'a> {
    fn new(process: u32, address: SocketAddr, receiver: &'a Receiver) -> Result<Self> {
        let batches = (0..BATCHES_MADE).map(batch).collect();
        Ok(Self { process, sender: native_to(address)?, batches, receiver })
    }

    /// Sends a round of spans and waits until the receiver has them; answers spans per CPU second.
    async fn measure(&self) -> Result<f64> {
        let before = self.receiver.count().await?;
        let cpu = cpu_seconds_of(self.process)?;
        let batches = self.batches.iter().cycle().take(usize::try_from(BATCHES)?);
        for batch in batches {
            self.sender.export(batch.clone()).await?;
        }
        self.receiver.has(before + BATCH * BATCHES).await?;
        let cpu = cpu_seconds_of(self.process)? - cpu;
        Ok((BATCH * BATCHES) as f64 / cpu)
    }
}
