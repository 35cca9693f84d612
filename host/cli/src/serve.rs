//! `pintle serve`: the host with its HTTP API.

use std::{
    io::{self, IsTerminal},
    net::{Ipv4Addr, SocketAddr},
};

use anyhow::Context;
use clap::{Args, ValueEnum};
use pintle::{Pintle, settings::Settings};
use pintle_server::{Api, Listen, LogControl, Tls, receive::Receivers};
use tokio::net::TcpListener;
use tracing_subscriber::{EnvFilter, fmt, reload};

use crate::{
    compile,
    exit::{self, Exit, Failure},
    global::{Global, parse_filter},
    output,
    runtime_file::{Record, Reservation, State},
    signals::Signals,
};

/// How to serve.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Address and port, instead of `listen` of [server]; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Form of the log on standard error
    #[arg(long, value_enum, default_value_t = LogForm::Text)]
    log: LogForm,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogForm {
    /// For people
    Text,
    /// One JSON document for each line
    Json,
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> anyhow::Result<Exit> {
    let log = log(global, arguments.log)?;
    let mut settings = global.load_settings()?;
    if let Some(listen) = arguments.listen {
        settings.server.listen = listen;
    }
    let data_root = settings.data_root()?;
    let mut signals = Signals::to_end()?;
    let reservation = Reservation::of(&data_root)?;
    // Early, because it is likely to fail and leaves nothing behind.
    let doors = Doors::open(&settings).await?;
    let (url, local_url) = (doors.url.clone(), doors.local_url.clone());
    let receivers = Receivers::bind(&settings.tracing.receive)
        .await
        .map_err(|error| Failure::error(Exit::USAGE, error.to_string()))?;
    // Already now: a command that finds the data directory taken waits for this server.
    let record = Record::of_this_process(local_url, State::Starting);
    let mut file = reservation.announce(record)?;
    let pintle = tokio::select! {
        started = Pintle::builder().settings(settings).compiler(compile::program()).start() => started?,
        signal = signals.next() => return Err(exit::ended_by(signal)),
    };
    let api = Api::open(pintle.clone(), Some(log))?;
    file.write_owner_secret(&api.issue_owner_secret())?;
    file.turn(State::Serving)?;
    if let Err(error) = greet(global, &url) {
        // Whoever read the address need not read on: it is no reason not to serve.
        tracing::debug!(%error, "not greeted");
    }
    for (key, address) in receivers.addresses()? {
        tracing::info!(%address, "spans are taken: tracing.receive.{key}");
    }
    let (end_receiving, received_all) = tokio::sync::oneshot::channel::<()>();
    let receiving = tokio::spawn(receivers.serve(pintle.clone(), async {
        // Either way it is time to stop.
        let _ = received_all.await;
    }));

    let stop = async {
        let signal = signals.next().await;
        tracing::info!(%signal, "stopping; once more to stop at once");
    };
    let mut again = Signals::to_end()?;
    let graceful = async {
        let served = api.serve_at(doors.places, stop).await;
        // Not before: until here it answers those who still have to release what they hold.
        if let Err(error) = file.turn(State::Stopping) {
            tracing::warn!(%error, "commands do not see that this server stops");
        }
        drop(end_receiving);
        if let Err(error) = receiving.await.map_err(io::Error::other).flatten() {
            tracing::warn!(%error, "a receiver of spans ended early");
        }
        let report = pintle.shutdown().await;
        served.map(|()| report)
    };
    tokio::pin!(graceful);
    let mut received = 0;
    let outcome = loop {
        tokio::select! {
            served = &mut graceful => break served,
            signal = again.next() => {
                received += 1;
                if received > 1 {
                    return Err(exit::ended_by(signal));
                }
            }
        }
    };
    let report = outcome.context("the server ended")?;
    tracing::info!("stopped");
    if report.is_clean() {
        return Ok(Exit::OK);
    }
    let text = format!(
        "not everything was released: what the plugins of {} still held ends with its TTL",
        report.unclean.join(", ")
    );
    Err(Failure::error(Exit::FAILED, text))
}

/// Where the server listens.
struct Doors {
    places: Vec<Listen>,
    /// For clients.
    url: String,
    /// For commands on this machine.
    local_url: String,
}

impl Doors {
    async fn open(settings: &Settings) -> anyhow::Result<Self> {
        let server = &settings.server;
        let usage = |text: String| Failure::error(Exit::USAGE, text);
        let tls = server.tls.as_ref().map(Tls::load).transpose();
        let tls = tls.map_err(|error| usage(error.to_string()))?;
        let has_tokens = pintle_server::has_tokens(settings)?;
        pintle_server::check_address(server.listen, tls.is_some(), has_tokens)
            .map_err(|error| usage(error.to_string()))?;
        let listener = bind(server.listen).await?;
        let address = listener.local_addr()?;
        let Some(tls) = tls else {
            let url = format!("http://{address}");
            let places = vec![Listen::plain(listener)];
            return Ok(Self { places, url: url.clone(), local_url: url });
        };
        // Commands on this machine need no certificate.
        let local = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
        Ok(Self {
            url: format!("https://{address}"),
            local_url: format!("http://{}", local.local_addr()?),
            places: vec![Listen::tls(listener, tls), Listen::plain(local)],
        })
    }
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let text = if error.kind() == io::ErrorKind::AddrInUse {
            format!(
                "{address} is in use, perhaps by another `pintle serve`: stop it, or choose another \
                 address with --listen or `listen` of [server]"
            )
        } else {
            format!("cannot listen on {address}: {error}")
        };
        Failure::error(Exit::FAILED, text)
    })
}

/// Begins to log, and answers what sets how much.
fn log(global: &Global, form: LogForm) -> anyhow::Result<Box<dyn LogControl>> {
    let quiet = "warn,pintle=info,pintle_server=info";
    let builder = fmt()
        .with_env_filter(global.log_filter(quiet)?)
        .with_writer(std::io::stderr)
        // It would panic where standard error cannot be written.
        .log_internal_errors(false);
    Ok(match form {
        LogForm::Text => {
            let builder =
                builder.with_ansi(std::io::stderr().is_terminal()).with_filter_reloading();
            let control = LogFilter(builder.reload_handle());
            builder.init();
            Box::new(control)
        }
        LogForm::Json => {
            let builder = builder.json().flatten_event(true).with_filter_reloading();
            let control = LogFilter(builder.reload_handle());
            builder.init();
            Box::new(control)
        }
    })
}

struct LogFilter<S>(reload::Handle<EnvFilter, S>);

impl<S> LogControl for LogFilter<S> {
    fn filter(&self) -> String {
        self.0.with_current(ToString::to_string).unwrap_or_default()
    }

    fn set_filter(&self, filter: &str) -> Result<(), String> {
        self.0.reload(parse_filter(filter)?).map_err(|error| error.to_string())
    }
}

fn greet(global: &Global, url: &str) -> anyhow::Result<()> {
    if global.print_event(&serde_json::json!({ "url": url, "pid": std::process::id() }))? {
        return Ok(());
    }
    let pintle = std::env::args().next().unwrap_or_else(|| "pintle".into());
    output::line(&format!("Pintle serves at {url}"))?;
    output::line("")?;
    output::line("Try, in another shell:")?;
    output::line(&format!("  {pintle} config watch --prefix app"))?;
    output::line(&format!("  {pintle} config put app/greeting hello"))?;
    output::line(&format!("  {pintle} lock run jobs/nightly -- sh -c 'echo token $PINTLE_TOKEN'"))?;
    output::line(&format!("  curl {url}/v1/backends/default/config/keys/app/greeting"))?;
    output::line("")?;
    output::line("Ctrl-C stops it.")
}
