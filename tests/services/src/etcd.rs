//! etcd: one process, or a cluster of three.

mod cluster;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::{Artifact, Error, Leaf, Port, Process, Result, TestCa, cache, http, until};

pub use cluster::EtcdCluster;

const READY_LIMIT: Duration = Duration::from_secs(60);

/// Which etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EtcdVersion {
    /// The last line that Debian bookworm has.
    V3_4,
    /// The newest line that Debian has.
    #[default]
    V3_5,
    /// Built from its Go modules.
    V3_6,
}

/// How an etcd is started.
#[derive(Debug, Clone, Default)]
pub struct EtcdOptions {
    /// Which etcd.
    pub version: EtcdVersion,
    /// TLS towards clients; plain without.
    pub tls: Option<EtcdTls>,
    /// Write to disk before answering. Off, since most tests do not lose power.
    pub fsync: bool,
    /// More command-line arguments.
    pub arguments: Vec<String>,
}

/// TLS towards clients.
#[derive(Debug, Clone)]
pub struct EtcdTls {
    /// The server's certificate.
    pub server: Leaf,
    /// The authority's certificate, PEM file.
    pub authority: PathBuf,
    /// Refuses clients without a certificate of the authority.
    pub client_authentication: bool,
}

/// One etcd process, alone or in a cluster; stopped when dropped.
#[derive(Debug)]
pub struct Etcd {
    name: String,
    options: EtcdOptions,
    bin: PathBuf,
    /// Everything after the program's name.
    arguments: Vec<String>,
    ports: Ports,
    /// Where other members reach it; its own port unless something stands in front of that.
    peer_advertised: SocketAddr,
    process: Option<Process>,
    folder: TempDir,
}

#[derive(Debug)]
struct Ports {
    client: Port,
    peer: Port,
    /// Plain HTTP even where clients need TLS, for ready checks.
    metrics: Port,
}

impl EtcdTls {
    /// The usual TLS: a server's certificate of this authority.
    ///
    /// # Errors
    /// When the certificate cannot be made.
    pub fn new(authority: &TestCa, client_authentication: bool) -> Result<Self> {
        let server = authority.server()?;
        Ok(Self { server, authority: authority.path().to_owned(), client_authentication })
    }
}

impl Etcd {
    /// Starts a single etcd and waits until it serves. Fetches it first where it is missing.
    ///
    /// # Errors
    /// When it cannot be fetched, or is not ready within a minute; the error shows its log.
    ///
    /// # Cancellation
    /// Dropping the future kills the process.
    pub async fn start(options: EtcdOptions) -> Result<Self> {
        let bin = fetch(options.version).await?;
        let mut etcd = Self::prepare("etcd", options, bin)?;
        let cluster = etcd.initial_cluster();
        etcd.spawn(&cluster)?;
        etcd.ready().await?;
        Ok(etcd)
    }

    /// Where clients connect, as `127.0.0.1:2379`.
    pub fn endpoint(&self) -> String {
        self.address().to_string()
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.ports.client.address()
    }

    /// Where clients connect, with `http://` or `https://`.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme(), self.address())
    }

    /// The running process.
    ///
    /// # Errors
    /// [`Error::State`] after [`kill`](Self::kill) or [`stop`](Self::stop).
    pub fn process(&mut self) -> Result<&mut Process> {
        let problem = || Error::State { name: self.name.clone(), problem: "not running".into() };
        self.process.as_mut().ok_or_else(problem)
    }

    /// Kills it (SIGKILL); its data stay.
    ///
    /// # Errors
    /// [`Error::State`] when it does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.process()?.kill()?;
        self.process = None;
        Ok(())
    }

    /// Ends it (SIGTERM); its data stay.
    ///
    /// # Errors
    /// [`Error::State`] when it does not run.
    pub async fn stop(&mut self) -> Result<()> {
        self.process()?.stop().await?;
        self.process = None;
        Ok(())
    }

    /// Stops it from running (SIGSTOP): connections stay open and silent.
    ///
    /// # Errors
    /// [`Error::State`] when it does not run.
    pub fn pause(&mut self) -> Result<()> {
        self.process()?.pause()
    }

    /// Lets it run again (SIGCONT).
    ///
    /// # Errors
    /// [`Error::State`] when it does not run.
    pub fn resume(&mut self) -> Result<()> {
        self.process()?.resume()
    }

    /// Starts it again on the same ports and data, killing it first if it runs, and waits until
    /// it serves.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn restart(&mut self) -> Result<()> {
        if self.process.is_some() {
            self.kill()?;
        }
        self.run()?;
        self.ready().await
    }

    /// Ends it, puts a snapshot (`etcdctl snapshot save`) in place of its data, and starts it again
    /// on the same ports, as an operator does after a loss. For a single server of 3.5.
    ///
    /// # Errors
    /// [`Error::Command`] when `etcdutl` refuses the snapshot; else as [`start`](Self::start).
    pub async fn restore(&mut self, snapshot: &Path) -> Result<()> {
        if self.process.is_some() {
            self.kill()?;
        }
        let data = self.data();
        std::fs::remove_dir_all(&data).map_err(Error::file("remove", &data))?;
        let mut command = Command::new(self.bin.join("etcdutl"));
        command.args(["snapshot", "restore"]).arg(snapshot).arg("--data-dir").arg(&data);
        command.args(["--name", &self.name, "--initial-cluster", &self.initial_cluster()]);
        let peer = format!("http://{}", self.peer_advertised);
        command.args(["--initial-advertise-peer-urls", &peer]);
        run(command).await?;
        self.run()?;
        self.ready().await
    }

    /// Its name, and of a cluster's member the one that the cluster knows it by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits until it serves, which in a cluster needs a majority.
    ///
    /// # Errors
    /// [`Error::Server`] with its log past a minute, or when it has ended.
    pub async fn ready(&mut self) -> Result<()> {
        let address = self.ports.metrics.address();
        let process = self.process()?;
        let state = until(READY_LIMIT, || {
            let ended = process.ended();
            async move {
                if let Some(status) = ended {
                    return Some(Err(status));
                }
                let answer = http::request(address, "/health").await.ok()?;
                answer.contains(r#""health":"true""#).then_some(Ok(()))
            }
        });
        match state.await {
            Some(Ok(())) => Ok(()),
            Some(Err(status)) => Err(process.error(format!("ended at once ({status})"))),
            None => Err(process.error(format!("was not ready in {} s", READY_LIMIT.as_secs()))),
        }
    }

    /// Runs `etcdctl` against it and gives what it prints, without the last line break.
    ///
    /// # Errors
    /// [`Error::Command`] with what it says.
    pub async fn ctl(&self, arguments: &[&str]) -> Result<String> {
        self.ctl_as(None, arguments).await
    }

    /// Runs `etcdctl` with a client's certificate.
    ///
    /// # Errors
    /// [`Error::Command`] with what it says.
    pub async fn ctl_as(&self, client: Option<&Leaf>, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(self.ctl_path());
        command.args(["--endpoints", &self.url()]);
        if let Some(tls) = &self.options.tls {
            command.arg("--cacert").arg(&tls.authority);
        }
        if let Some(client) = client {
            command.arg("--cert").arg(&client.certificate).arg("--key").arg(&client.key);
        }
        command.args(arguments);
        run(command).await
    }

    /// The `etcdctl` that fits it.
    pub fn ctl_path(&self) -> PathBuf {
        self.bin.join("etcdctl")
    }

    /// Whether it is its cluster's leader; `false` also when it does not answer.
    pub async fn is_leader(&self) -> bool {
        let answer = http::request(self.ports.metrics.address(), "/metrics").await;
        answer.is_ok_and(|text| text.lines().any(|line| line == "etcd_server_is_leader 1"))
    }

    /// The sum of its counter or gauge `name` over all series that carry these labels; 0 where
    /// there is none yet.
    ///
    /// # Errors
    /// [`Error::Request`] when it does not answer.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        let text = http::request(self.ports.metrics.address(), "/metrics").await?;
        Ok(sum_of_series(&text, name, labels))
    }

    fn prepare(name: &str, options: EtcdOptions, bin: PathBuf) -> Result<Self> {
        let folder = TempDir::with_prefix("pintle-etcd-")
            .map_err(Error::file("create a folder in", std::env::temp_dir()))?;
        let ports = Ports { client: Port::free()?, peer: Port::free()?, metrics: Port::free()? };
        let (name, peer_advertised) = (name.to_owned(), ports.peer.address());
        let (arguments, process) = (Vec::new(), None);
        Ok(Self { name, options, bin, arguments, ports, peer_advertised, process, folder })
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// This member's part of `--initial-cluster`.
    fn initial_cluster(&self) -> String {
        format!("{}=http://{}", self.name, self.peer_advertised)
    }

    fn spawn(&mut self, cluster: &str) -> Result<()> {
        let peer = format!("http://{}", self.ports.peer.address());
        let peer_advertised = format!("http://{}", self.peer_advertised);
        let metrics = format!("http://{}", self.ports.metrics.address());
        let client = self.url();
        let data = self.data().display().to_string();
        let mut arguments = vec![];
        for (flag, value) in [
            ("--name", self.name.as_str()),
            ("--data-dir", &data),
            ("--listen-client-urls", &client),
            ("--advertise-client-urls", &client),
            ("--listen-peer-urls", &peer),
            ("--initial-advertise-peer-urls", &peer_advertised),
            ("--listen-metrics-urls", &metrics),
            ("--initial-cluster", cluster),
            ("--initial-cluster-state", "new"),
            ("--heartbeat-interval", "50"),
            ("--election-timeout", "500"),
            ("--logger", "zap"),
            ("--log-outputs", "stderr"),
        ] {
            arguments.extend([flag.to_owned(), value.to_owned()]);
        }
        if !self.options.fsync {
            arguments.push("--unsafe-no-fsync".to_owned());
        }
        if let Some(tls) = &self.options.tls {
            let mut files =
                vec![("--cert-file", &tls.server.certificate), ("--key-file", &tls.server.key)];
            // An authority alone is enough for etcd to ask clients for certificates.
            if tls.client_authentication {
                files.push(("--trusted-ca-file", &tls.authority));
                arguments.push("--client-cert-auth".to_owned());
            }
            for (flag, file) in files {
                arguments.extend([flag.to_owned(), file.display().to_string()]);
            }
        }
        arguments.extend(self.options.arguments.iter().cloned());
        self.arguments = arguments;
        self.run()
    }

    fn run(&mut self) -> Result<()> {
        let mut command = Command::new(self.bin.join("etcd"));
        command.args(&self.arguments).current_dir(self.folder.path());
        let log = self.folder.path().join("log");
        self.process = Some(Process::start(&self.name, &command, &log)?);
        Ok(())
    }

    fn scheme(&self) -> &'static str {
        if self.options.tls.is_some() { "https" } else { "http" }
    }
}

impl EtcdVersion {
    fn artifact(self) -> Artifact {
        match self {
            Self::V3_4 => Artifact::Etcd34,
            Self::V3_5 => Artifact::Etcd35,
            Self::V3_6 => Artifact::Etcd36,
        }
    }
}

/// Adds up the lines `name{label="value",…} 1.5` of Prometheus's text format.
fn sum_of_series(text: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let of_line = |line: &str| -> Option<f64> {
        let (series, value) = line.rsplit_once(' ')?;
        let (found, rest) = series.split_once('{').unwrap_or((series, ""));
        let carries =
            |(label, wanted): &(&str, &str)| rest.contains(&format!(r#"{label}="{wanted}""#));
        (found == name && labels.iter().all(carries)).then(|| value.parse().ok())?
    };
    text.lines().filter_map(of_line).sum()
}

/// The folder with the programs.
async fn fetch(version: EtcdVersion) -> Result<PathBuf> {
    Ok(version.artifact().fetch_in_background().await?.join("bin"))
}

/// Runs a helper program without holding up the runtime.
pub(crate) async fn run(mut command: Command) -> Result<String> {
    let output = tokio::task::spawn_blocking(move || {
        cache::run(&mut command, "it is part of the fetched server")
    });
    // It ends with an error only when it panics, or the runtime is shut down under it.
    let output = output.await.map_err(|error| Error::State {
        name: "helper program".into(),
        problem: error.to_string(),
    })??;
    Ok(output.trim_end_matches('\n').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_the_sum_of_the_series_that_carry_the_labels() {
        let text = "# TYPE calls counter\ncalls{code=\"OK\",method=\"Put\"} 3\n\
                    calls{code=\"Internal\",method=\"Put\"} 1\ncalls{code=\"OK\",method=\"Range\"} 5\n\
                    calls_total{method=\"Put\"} 100\nis_leader 1\n";
        assert_eq!(sum_of_series(text, "calls", &[("method", "Put")]), 4.0);
        assert_eq!(sum_of_series(text, "calls", &[("method", "Put"), ("code", "OK")]), 3.0);
        assert_eq!(sum_of_series(text, "is_leader", &[]), 1.0);
        assert_eq!(sum_of_series(text, "calls", &[("method", "Txn")]), 0.0);
    }
}
