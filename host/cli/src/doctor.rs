//! `pintle doctor`: looks for what is wrong, and says what to do about it.

use std::{fs, os::unix::fs::MetadataExt};

use pintle::{Pintle, settings::Settings};
use pintle_client::{Client, api::backend::HealthState};
use serde::Serialize;

use crate::{
    exit::{self, Exit},
    global::Global,
    output, runtime_file,
    session::Session,
};

/// How something stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warning,
    Wrong,
}

#[derive(Debug, Serialize)]
struct Finding {
    verdict: Verdict,
    what: String,
    text: String,
}

#[derive(Default, Serialize)]
struct Findings {
    findings: Vec<Finding>,
}

impl Findings {
    fn note(&mut self, verdict: Verdict, what: &str, text: impl Into<String>) {
        self.findings.push(Finding { verdict, what: what.into(), text: text.into() });
    }
}

pub(crate) async fn run(global: &Global) -> anyhow::Result<Exit> {
    let mut findings = Findings::default();
    // With --server this machine's own settings and folders are not what is asked about.
    if global.server.is_none() {
        match global.load_settings() {
            Ok(settings) => local(&mut findings, settings).await,
            Err(error) => findings.note(Verdict::Wrong, "settings", error.to_string()),
        }
    }
    let is_sound = findings.findings.iter().all(|finding| finding.verdict != Verdict::Wrong);
    if is_sound {
        match Session::open(global).await {
            Ok(session) => {
                through(&mut findings, &session).await;
                session.close().await;
            }
            Err(error) => findings.note(Verdict::Wrong, "server", exit::describe(&error)),
        }
    }
    let wrong = findings.findings.iter().any(|finding| finding.verdict == Verdict::Wrong);
    if !global.print(&findings)? {
        for Finding { verdict, what, text } in &findings.findings {
            let mark = match verdict {
                Verdict::Ok => "ok     ",
                Verdict::Warning => "warning",
                Verdict::Wrong => "WRONG  ",
            };
            let text = text.trim_end().replace('\n', "\n                   ");
            output::line(&format!("{mark}  {what:9} {text}"))?;
        }
    }
    Ok(if wrong { Exit::FAILED } else { Exit::OK })
}

/// What can be seen without a host.
async fn local(findings: &mut Findings, mut settings: Settings) {
    if let Err(error) = settings.ensure_backend() {
        return findings.note(Verdict::Wrong, "settings", error.to_string());
    }
    match Pintle::check(&settings).await {
        Ok(warnings) => {
            let names: Vec<&str> = settings.backends.keys().map(String::as_str).collect();
            findings.note(Verdict::Ok, "settings", format!("backends: {}", names.join(", ")));
            for warning in warnings {
                findings.note(Verdict::Warning, "settings", warning.to_string());
            }
        }
        Err(error) => findings.note(Verdict::Wrong, "settings", error.to_string()),
    }
    data_folder(findings, &settings);
    let plugins = settings.plugins_folder();
    let is_plugin = |entry: &fs::DirEntry| entry.path().extension().is_some_and(|e| e == "wasm");
    match fs::read_dir(&plugins) {
        Ok(entries) => {
            let count = entries.flatten().filter(is_plugin).count();
            let verdict = if count == 0 { Verdict::Warning } else { Verdict::Ok };
            findings.note(verdict, "plugins", format!("{count} files in {}", plugins.display()));
        }
        Err(error) => {
            let text = format!("{}: {error}: set `dir` in [plugins]", plugins.display());
            findings.note(Verdict::Wrong, "plugins", text);
        }
    }
    if let Some(tls) = &settings.server.tls {
        match pintle_server::Tls::load(tls) {
            Ok(_) => findings.note(Verdict::Ok, "tls", tls.cert.display().to_string()),
            Err(error) => findings.note(Verdict::Wrong, "tls", error.to_string()),
        }
    }
}

fn data_folder(findings: &mut Findings, settings: &Settings) {
    let root = match settings.data_root() {
        Ok(root) => root,
        Err(error) => return findings.note(Verdict::Wrong, "data", error.to_string()),
    };
    let shown = root.display();
    match fs::metadata(&root) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            findings.note(Verdict::Ok, "data", format!("{shown} will be made"));
        }
        Err(error) => findings.note(Verdict::Wrong, "data", format!("{shown}: {error}")),
        Ok(metadata) if !metadata.is_dir() => {
            findings.note(Verdict::Wrong, "data", format!("{shown} is no folder"));
        }
        Ok(metadata) if metadata.mode() & 0o022 != 0 => {
            let text = format!("{shown} can be written by others: chmod go-w {shown}");
            findings.note(Verdict::Warning, "data", text);
        }
        Ok(_) => findings.note(Verdict::Ok, "data", shown.to_string()),
    }
    match runtime_file::is_reserved(&root) {
        Ok(true) => match runtime_file::read(&root) {
            Some(record) => {
                let text = format!("process {} at {}", record.pid, record.url);
                findings.note(Verdict::Ok, "server", text);
            }
            None => findings.note(Verdict::Warning, "server", "it is starting"),
        },
        Ok(false) => findings.note(Verdict::Ok, "server", "none runs on this data folder"),
        Err(error) => findings.note(Verdict::Wrong, "server", error.to_string()),
    }
}

/// What only a host can tell.
async fn through(findings: &mut Findings, session: &Session) {
    let client = &session.client;
    if let Err(error) = versions(findings, client).await {
        findings.note(Verdict::Wrong, "server", describe(error));
        return;
    }
    let backends = match client.admin().backends().await {
        Ok(backends) => backends,
        Err(error) => return findings.note(Verdict::Wrong, "backends", describe(error.into())),
    };
    for backend in backends {
        let name = &backend.name;
        if backend.state != pintle_client::api::backend::State::Serving {
            let state = backend.state.as_str();
            let text = format!("{name}: {state}: {}", backend.reason);
            findings.note(Verdict::Wrong, "backend", text);
            continue;
        }
        match client.admin().check(name).await {
            Ok(check) => {
                let verdict = match check.health {
                    HealthState::Serving => Verdict::Ok,
                    HealthState::Degraded => Verdict::Warning,
                    HealthState::Unavailable => Verdict::Wrong,
                };
                let message = if check.message.is_empty() { "serving" } else { &check.message };
                findings.note(verdict, "backend", format!("{name}: {message}"));
            }
            Err(error) => {
                let text = format!("{name}: {}", describe(error.into()));
                findings.note(Verdict::Warning, "backend", text);
            }
        }
        if backend.restarts > 0 {
            let text = format!("{name}: its plugin was started again {} times", backend.restarts);
            findings.note(Verdict::Warning, "backend", text);
        }
    }
}

async fn versions(findings: &mut Findings, client: &Client) -> anyhow::Result<()> {
    let alive = client.admin().liveness().await?;
    let ours = env!("CARGO_PKG_VERSION");
    if alive.version != ours {
        let text = format!("the server is version {}, this is {ours}", alive.version);
        findings.note(Verdict::Warning, "version", text);
    }
    let access = client.admin().access().await?;
    let asks =
        if access.tokens_required { "tokens are asked for" } else { "nobody is asked for a token" };
    let text = format!("you are {:?} with the role {}; {asks}", access.caller, access.role);
    findings.note(Verdict::Ok, "access", text);
    if access.read_only {
        findings.note(Verdict::Warning, "access", "the server refuses changes (`read_only`)");
    }
    Ok(())
}

fn describe(error: anyhow::Error) -> String {
    exit::describe(&error)
}
