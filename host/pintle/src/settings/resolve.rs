//! Turns what the operator wrote for a plugin into what the plugin is given: secrets filled in,
//! checked against the plugin's schema.

use std::ffi::OsString;
use std::io::Read;
use std::path::Path;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use zeroize::{Zeroize, Zeroizing};

use super::backend::{ProxySettings, SecretReference};
use super::error::{Origin, Problem, SettingsError};
use super::explain::no_backend;
use super::path::KeyPath;
use super::{Settings, SettingsSchema};
use crate::secret::Secret;

/// Largest secret in a file, in bytes: room for a key with its chain.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// Shorter secrets cannot be taken out of texts reliably.
const SECRET_BYTES_MIN: usize = 4;

/// What a plugin is given at its start, and what has to be kept from everyone else.
#[derive(Debug)]
pub struct PreparedSettings {
    /// The plugin's settings as a JSON object, with secrets filled in.
    pub json: Secret,
    /// Every secret of the backend: what a `Scrubber` takes out.
    pub secrets: Vec<Secret>,
    /// Where outgoing HTTP goes through: `http://host:port` with the credentials, percent-encoded.
    pub proxy_url: Option<Secret>,
    /// What the operator should know although it works.
    pub warnings: Vec<Problem>,
}

impl Settings {
    /// Resolves the secrets of a backend, and checks its plugin settings against `schema`.
    ///
    /// It reads the environment and files, so what changed there counts from the next call on.
    ///
    /// # Errors
    /// No such backend; a schema that cannot be used; secrets that cannot be found; settings that
    /// the schema does not allow. All problems of one kind at once, none with a secret in it.
    ///
    /// # Limits
    /// A secret may have 64 KiB. For schemas see [`SettingsSchema::parse`].
    pub fn prepare(&self, backend: &str, schema: &str) -> Result<PreparedSettings, SettingsError> {
        self.prepare_with(backend, schema, &|name| std::env::var_os(name))
    }

    fn prepare_with(
        &self,
        name: &str,
        schema: &str,
        variable: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<PreparedSettings, SettingsError> {
        let place = KeyPath::of(&["backends", name]);
        let Some(backend) = self.backends.get(name) else {
            return Err(self
                .problem(&place, no_backend(name, self.backends.keys().map(String::as_str)))
                .into());
        };
        let schema = SettingsSchema::parse(schema)
            .map_err(|error| self.problem(&place.key("plugin"), error.to_string()))?;
        let mut resolver = Resolver { settings: self, variable, secrets: vec![], problems: vec![] };
        let below = place.key("settings");
        let mut json = Wiped(Value::Object(backend.settings.clone()));
        resolver.fill_in(&mut json.0, &below);
        let proxy = backend.proxy.as_ref();
        let proxy_url = proxy.and_then(|proxy| resolver.proxy_url(proxy, &place.key("proxy")));
        let Resolver { mut secrets, mut problems, .. } = resolver;
        if problems.is_empty() {
            let found = schema.problems(&json.0);
            problems.extend(
                found
                    .iter()
                    .map(|problem| self.plugin_problem(&below.join(&problem.path), &problem.text)),
            );
        }
        if !problems.is_empty() {
            return Err(SettingsError { problems });
        }
        let mut warnings = self.short_secrets(&secrets);
        for path in schema.secret_texts(&json.0) {
            let place = below.join(&path);
            let text = path.find(&json.0).and_then(Value::as_str).filter(|text| !text.is_empty());
            if let Some(text) = text
                && !secrets.iter().any(|(known, _)| *known == place)
            {
                let advice =
                    "a secret in plain sight; write { env = \"NAME\" } or { file = \"path\" }";
                warnings.push(self.problem(&place, advice));
                secrets.push((place, Secret::new(text)));
            }
        }
        let json = Secret::new(json.0.to_string());
        let secrets = secrets.into_iter().map(|(_, secret)| secret).collect();
        Ok(PreparedSettings { json, secrets, proxy_url, warnings })
    }

    /// A problem with a backend, at a key of it or with the whole.
    pub(crate) fn problem_of(&self, name: &str, key: &[&str], text: impl Into<String>) -> Problem {
        self.problem(&KeyPath::of(&[&["backends", name], key].concat()), text)
    }

    fn problem(&self, path: &KeyPath, text: impl Into<String>) -> Problem {
        let origin = self.origins.nearest(path);
        Problem { origin, key: path.to_string(), text: text.into() }
    }

    fn plugin_problem(&self, path: &KeyPath, text: &str) -> Problem {
        let mut problem = self.problem(path, text);
        let unquoted = text.starts_with("expected a text;") && !text.ends_with("a table");
        if unquoted && matches!(problem.origin, Some(Origin::Variable(_))) {
            problem.text.push_str("; put quotes into the value of the variable");
        }
        problem
    }

    fn short_secrets(&self, secrets: &[(KeyPath, Secret)]) -> Vec<Problem> {
        let short = secrets.iter().filter(|(_, secret)| secret.expose().len() < SECRET_BYTES_MIN);
        let text = "this secret has less than 4 bytes: in logs it is hidden only as a whole word";
        short.map(|(path, _)| self.problem(path, text)).collect()
    }
}

struct Resolver<'a> {
    settings: &'a Settings,
    variable: &'a dyn Fn(&str) -> Option<OsString>,
    secrets: Vec<(KeyPath, Secret)>,
    problems: Vec<Problem>,
}

impl Resolver<'_> {
    /// Replaces each reference in `value` by what it refers to.
    fn fill_in(&mut self, value: &mut Value, path: &KeyPath) {
        if let Some(reference) = SecretReference::from_value(value) {
            if let Some(secret) = self.resolve(&reference, path) {
                *value = Value::String(secret.expose().to_owned());
            }
            return;
        }
        match value {
            Value::Object(table) => {
                table.iter_mut().for_each(|(key, value)| self.fill_in(value, &path.key(key)));
            }
            Value::Array(list) => {
                let places = list.iter_mut().enumerate();
                places.for_each(|(index, value)| self.fill_in(value, &path.index(index)));
            }
            _ => {}
        }
    }

    /// The URL of a proxy, with its credentials.
    fn proxy_url(&mut self, proxy: &ProxySettings, path: &KeyPath) -> Option<Secret> {
        let url = proxy.url.trim_end_matches('/');
        let (Some(user), Some(password)) = (&proxy.user, &proxy.password) else {
            return Some(Secret::new(url));
        };
        let password = self.resolve(password, &path.key("password"))?;
        let server = url.strip_prefix("http://").unwrap_or(url);
        let user = utf8_percent_encode(user, NON_ALPHANUMERIC);
        let password = utf8_percent_encode(password.expose(), NON_ALPHANUMERIC);
        Some(Secret::new(format!("http://{user}:{password}@{server}")))
    }

    fn resolve(&mut self, reference: &SecretReference, path: &KeyPath) -> Option<Secret> {
        let found = match reference {
            SecretReference::Env(name) => self.read_variable(name),
            SecretReference::File(file) => read_file(file),
        };
        match found {
            Ok(secret) => {
                self.secrets.push((path.clone(), secret.clone()));
                Some(secret)
            }
            Err(text) => {
                self.problems.push(self.settings.problem(path, text));
                None
            }
        }
    }

    fn read_variable(&self, name: &str) -> Result<Secret, String> {
        let shown = format!("the environment variable {name}");
        let value = (self.variable)(name).ok_or_else(|| format!("{shown} is not set"))?;
        let text = value.into_string().map_err(|_| format!("{shown} is no valid UTF-8"))?;
        if text.is_empty() { Err(format!("{shown} is empty")) } else { Ok(Secret::new(text)) }
    }
}

fn read_file(path: &Path) -> Result<Secret, String> {
    let shown = format!("the file {}", path.display());
    let cannot = |reason| format!("{shown} cannot be read: {reason}");
    let file = std::fs::File::open(path).map_err(cannot)?;
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > SECRET_BYTES_MAX {
        return Err(format!("{shown} has more than {} KiB", SECRET_BYTES_MAX >> 10));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| format!("{shown} is no valid UTF-8"))?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() { Err(format!("{shown} is empty")) } else { Ok(Secret::new(text)) }
}

/// A value whose texts are wiped from memory when it is dropped.
struct Wiped(Value);

impl Drop for Wiped {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(list) => list.iter_mut().for_each(wipe),
        Value::Object(table) => table.values_mut().for_each(wipe),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
