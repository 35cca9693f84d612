//! What no single key can tell: pairs, names that must exist, values that exclude each other.

use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value};

use super::explain::no_backend;
use super::load::IMPLICIT_BACKEND;
use super::path::KeyPath;
use super::values::{ByteSize, duration_text};
use super::{BackendSettings, Endpoint, Origin, ProxySettings, Reload, Settings, TlsSettings};
use crate::plugin::grants::Grants;
use crate::plugin::limits::{Limits, Scope};

/// Less holds no plugin; more does not exist on 32 bits.
const MEMORY: [ByteSize; 2] = [ByteSize::from_mib(1), ByteSize::from_mib(4096)];
/// Less ends calls that only cross the network; more hides a server that hangs.
const CALL: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(600)];
/// Each connection has buffers and a task.
const CONNECTIONS: [u32; 2] = [1, 1024];
/// A new file that waits longer is forgotten by those who put it there.
const DRAIN_MAX: Duration = Duration::from_secs(600);
/// Less leaves no time to release anything; more is more than service managers wait.
const SHUTDOWN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(600)];
/// Each has a task and buffers.
const AT_ONCE: [u32; 2] = [1, 1_000_000];
/// Length of names, in bytes: they become parts of URLs and of file names.
const NAME_BYTES_MAX: usize = 63;

/// One thing that is wrong in settings whose types are right.
pub(crate) struct Finding {
    pub(crate) path: KeyPath,
    pub(crate) text: String,
    /// It would not be wrong if this were otherwise.
    pub(crate) relies_on: Option<KeyPath>,
}

/// Everything that is wrong in settings whose types are right.
pub(crate) fn findings(settings: &Settings) -> Vec<Finding> {
    let mut check = Check { settings, findings: vec![] };
    check.host();
    check.server();
    check.defaults();
    check.tracing();
    for (name, backend) in &settings.backends {
        check.backend(name, backend);
    }
    check.shared_folders();
    check.findings
}

struct Check<'a> {
    settings: &'a Settings,
    findings: Vec<Finding>,
}

impl Check<'_> {
    fn report(&mut self, path: KeyPath, text: impl Into<String>) {
        self.findings.push(Finding { path, text: text.into(), relies_on: None });
    }

    /// The second half of a pair, `table.missing`, is not there.
    fn report_half(&mut self, table: &KeyPath, set: &str, missing: &str, text: &str) {
        let relies_on = Some(table.key(missing));
        self.findings.push(Finding { path: table.key(set), text: text.into(), relies_on });
    }

    fn host(&mut self) {
        if let Some(node) = &self.settings.node {
            let printable = !node.contains(char::is_control) && node.trim() == node;
            if node.is_empty() || node.len() > 255 || !printable {
                let text = "expected 1 to 255 characters without spaces around them";
                self.report(KeyPath::of(&["node"]), text);
            }
        }
        if self.settings.plugins.drain > DRAIN_MAX {
            let text = format!("expected at most \"{}\"", duration_text(DRAIN_MAX));
            self.report(KeyPath::of(&["plugins", "drain"]), text);
        }
        let [least, most] = SHUTDOWN;
        if !(least..=most).contains(&self.settings.shutdown.deadline) {
            let (least, most) = (duration_text(least), duration_text(most));
            let text = format!("expected \"{least}\" to \"{most}\"");
            self.report(KeyPath::of(&["shutdown", "deadline"]), text);
        }
        let of_files = KeyPath::of(&["plugins", "limits"]);
        self.further_limits(&of_files, Scope::File, &self.settings.plugins.limits);
        let pinned = self.settings.plugins.reload == Reload::Pinned;
        for (name, backend) in self.settings.backends.iter().filter(|_| pinned) {
            if backend.sha256.is_none() {
                let text = "missing; plugins.reload = \"pinned\" needs it for each backend";
                self.report(backend_path(name).key("sha256"), text);
            }
        }
    }

    fn server(&mut self) {
        let server = &self.settings.server;
        let path = KeyPath::of(&["server"]);
        for (index, name) in server.hosts.iter().enumerate() {
            if format!("{name}:1").parse::<Endpoint>().is_err() {
                let place = self.list_place(&path.key("hosts"), index);
                let text = format!("{name:?} is no host name; write it without scheme and port");
                self.report(place, text);
            }
        }
        let [least, most] = AT_ONCE;
        let limits = [("calls", server.limits.calls), ("streams", server.limits.streams)];
        for (key, limit) in limits {
            if limit < least || limit > most {
                let text = format!("expected {least} to {most}");
                self.report(path.key("limits").key(key), text);
            }
        }
    }

    fn defaults(&mut self) {
        let defaults = &self.settings.defaults;
        let path = KeyPath::of(&["defaults"]);
        let single = [
            ("config", &defaults.config),
            ("registry", &defaults.registry),
            ("lock", &defaults.lock),
        ];
        for (capability, name) in single {
            if let Some(name) = name {
                self.known_backend(path.key(capability), name);
            }
        }
        let tracing = path.key("tracing");
        for (index, name) in defaults.tracing.iter().enumerate() {
            let place = self.list_place(&tracing, index);
            if defaults.tracing.iter().take(index).any(|earlier| earlier == name) {
                self.report(place, format!("{name:?} stands in the list twice"));
            } else {
                self.known_backend(place, name);
            }
        }
    }

    fn tracing(&mut self) {
        let path = KeyPath::of(&["tracing"]);
        for (key, text) in self.settings.tracing.problems() {
            self.report(path.key(key), text);
        }
        let receive = path.key("receive");
        let addresses: Vec<_> = self.settings.tracing.receive.addresses().collect();
        for (index, (key, address)) in addresses.iter().enumerate() {
            if !address.ip().to_canonical().is_loopback() {
                let text = format!(
                    "{address} can be reached from other machines, and nothing protects it: listen \
                     on 127.0.0.1 or [::1]"
                );
                self.report(receive.key(key), text);
            }
            let mut earlier = addresses.iter().take(index);
            if address.port() != 0 && earlier.any(|(_, other)| other == address) {
                self.report(receive.key(key), format!("{address} is listened on already"));
            }
        }
    }

    /// An element of a list, or the key itself where the operator wrote no list.
    fn list_place(&self, list: &KeyPath, index: usize) -> KeyPath {
        let element = list.index(index);
        match self.settings.origins.exact(&element) {
            Origin::Default => list.clone(),
            Origin::File { .. } | Origin::Variable(_) => element,
        }
    }

    fn known_backend(&mut self, path: KeyPath, name: &str) {
        let backends = &self.settings.backends;
        if backends.contains_key(name) {
            return;
        }
        let text = no_backend(name, backends.keys().map(String::as_str));
        self.findings.push(Finding { path, text, relies_on: Some(backend_path(name)) });
    }

    fn backend(&mut self, name: &str, backend: &BackendSettings) {
        let path = backend_path(name);
        if let Some(text) = backend_name_problem(name) {
            self.report(path.clone(), text);
        }
        if let Some(text) = plugin_name_problem(&backend.plugin) {
            self.report(path.key("plugin"), text);
        }
        let is_digest =
            |text: &str| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
        if backend.sha256.as_deref().is_some_and(|text| !is_digest(text)) {
            self.report(path.key("sha256"), "expected the 64 hexadecimal digits of a SHA-256");
        }
        self.endpoints(&path.key("endpoints"), &backend.endpoints);
        self.allow(&path.key("allow"), &backend.allow);
        if let Some(tls) = &backend.tls {
            self.tls(&path.key("tls"), tls);
            if backend.http.h2c {
                let text =
                    "h2c is HTTP/2 without TLS; with TLS both sides agree on it by themselves";
                self.report(path.key("http").key("h2c"), text);
            }
        }
        if let Some(proxy) = &backend.proxy {
            self.proxy(&path.key("proxy"), proxy);
        }
        self.limits(&path.key("limits"), backend);
    }

    fn endpoints(&mut self, path: &KeyPath, list: &[Endpoint]) {
        for (index, endpoint) in list.iter().enumerate() {
            if list.iter().take(index).any(|earlier| earlier == endpoint) {
                self.report(path.index(index), format!("\"{endpoint}\" stands in the list twice"));
            }
        }
    }

    fn allow(&mut self, path: &KeyPath, list: &[String]) {
        for (index, entry) in list.iter().enumerate() {
            if list.iter().take(index).any(|earlier| earlier.eq_ignore_ascii_case(entry)) {
                self.report(path.index(index), format!("{entry:?} stands in the list twice"));
            } else if let Err(error) = Grants::parse("", &[], std::slice::from_ref(entry), None) {
                self.report(path.index(index), format!("{entry:?} {}", error.fault));
            }
        }
    }

    fn tls(&mut self, path: &KeyPath, tls: &TlsSettings) {
        match (&tls.cert, &tls.key) {
            (Some(_), None) => {
                let text = "has no key; add the file of its private key as \"key\"";
                self.report_half(path, "cert", "key", text);
            }
            (None, Some(_)) => {
                let text = "has no certificate; add its file as \"cert\"";
                self.report_half(path, "key", "cert", text);
            }
            _ => {}
        }
        if tls
            .server_name
            .as_deref()
            .is_some_and(|name| format!("{name}:1").parse::<Endpoint>().is_err())
        {
            self.report(path.key("server_name"), "expected a host name without a port");
        }
        for (index, protocol) in tls.alpn.iter().flatten().enumerate() {
            if protocol.is_empty() || protocol.len() > 255 {
                self.report(path.key("alpn").index(index), "expected 1 to 255 bytes, like \"h2\"");
            }
        }
    }

    fn proxy(&mut self, path: &KeyPath, proxy: &ProxySettings) {
        let url = match self.settings.origins.exact(&path.key("url")) {
            Origin::Default => path.clone(),
            Origin::File { .. } | Origin::Variable(_) => path.key("url"),
        };
        match proxy.url.strip_prefix("http://") {
            Some(rest) if rest.contains('@') => {
                let text = "holds credentials; write { url, user, password = { env = \"NAME\" } }";
                self.report(url, text);
            }
            Some(rest) if rest.trim_end_matches('/').parse::<Endpoint>().is_ok() => {}
            _ => self.report(url, "expected a URL like \"http://proxy:3128\", with a port"),
        }
        match (&proxy.user, &proxy.password) {
            (Some(_), None) => {
                self.report_half(path, "user", "password", "has no password; add \"password\"");
            }
            (None, Some(_)) => {
                self.report_half(path, "password", "user", "has no user; add \"user\"");
            }
            _ => {}
        }
    }

    fn limits(&mut self, path: &KeyPath, backend: &BackendSettings) {
        let limits = &backend.limits;
        let [least, most] = MEMORY;
        if limits.memory < least || limits.memory > most {
            self.report(path.key("memory"), format!("expected \"{least}\" to \"{most}\""));
        }
        let [least, most] = CALL;
        if limits.call < least || limits.call > most {
            let (least, most) = (duration_text(least), duration_text(most));
            self.report(path.key("call"), format!("expected \"{least}\" to \"{most}\""));
        }
        let [least, most] = CONNECTIONS;
        if limits.connections < least || limits.connections > most {
            self.report(path.key("connections"), format!("expected {least} to {most}"));
        }
        self.further_limits(&path.key("more"), Scope::Backend, &limits.more);
    }

    fn further_limits(&mut self, path: &KeyPath, scope: Scope, chosen: &Map<String, Value>) {
        for (name, value) in chosen {
            if let Some(text) = Limits::problem(scope, name, value) {
                self.report(path.key(name), text);
            }
        }
    }

    /// Two backends in one folder would overwrite each other.
    fn shared_folders(&mut self) {
        let mut owners: Vec<(&Path, &str)> = vec![];
        for (name, backend) in &self.settings.backends {
            // An empty one is told of where it is read.
            let folder =
                backend.data_dir.as_deref().filter(|folder| !folder.as_os_str().is_empty());
            let Some(folder) = folder else { continue };
            let nested = |other: &Path| folder.starts_with(other) || other.starts_with(folder);
            if let Some((_, owner)) = owners.iter().find(|(other, _)| nested(other)) {
                let text = format!("shares files with backends.{owner}.data_dir");
                self.report(backend_path(name).key("data_dir"), text);
            }
            owners.push((folder, name));
        }
    }
}

fn backend_path(name: &str) -> KeyPath {
    KeyPath::of(&["backends", name])
}

fn backend_name_problem(name: &str) -> Option<String> {
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    if name == "default" {
        return Some(
            "\"default\" stands for the backend in [defaults]; choose another name".into(),
        );
    }
    let fits = bytes.len() <= NAME_BYTES_MAX && bytes.iter().copied().all(allowed);
    if !fits || !edge(bytes.first()) || !edge(bytes.last()) || name.contains("__") {
        return Some(format!(
            "a backend is named with small letters, digits and single \"-\" or \"_\" between them, \
             at most {NAME_BYTES_MAX}"
        ));
    }
    None
}

fn plugin_name_problem(plugin: &str) -> Option<String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if plugin.is_empty() {
        return Some(format!("is empty; name a plugin, like {IMPLICIT_BACKEND:?}"));
    }
    if let Some(stem) = plugin.strip_suffix(".wasm") {
        return Some(format!("expected the name without \".wasm\": {stem:?}"));
    }
    if plugin.starts_with('.') || !plugin.bytes().all(allowed) {
        return Some(format!(
            "{plugin:?} is no plugin's name; expected letters, digits, \"-\", \"_\" and \".\""
        ));
    }
    None
}
