//! Makes relative paths start from where they were written.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::backend::{BackendSettings, SecretReference};
use super::path::{KeyPath, Origins};
use super::{ServerTls, Settings, TlsSettings};

impl Settings {
    /// Gives back what is wrong: an empty path names nothing, and would come to mean the folder in
    /// which it was written.
    pub(super) fn make_paths_absolute(&mut self) -> Vec<(KeyPath, String)> {
        let Self { data_dir, server, plugins, backends, origins, .. } = self;
        let mut base = Base { origins, problems: Vec::new() };
        base.anchor_folder(data_dir, &KeyPath::of(&["data_dir"]));
        if let Some(ServerTls { cert, key }) = &mut server.tls {
            let place = KeyPath::of(&["server", "tls"]);
            *cert = base.absolute(cert, &place.key("cert"), FILE);
            *key = base.absolute(key, &place.key("key"), FILE);
        }
        base.anchor_folder(&mut plugins.dir, &KeyPath::of(&["plugins", "dir"]));
        base.anchor_folder(&mut plugins.cache_dir, &KeyPath::of(&["plugins", "cache_dir"]));
        for (name, backend) in backends {
            base.anchor_backend(backend, &KeyPath::of(&["backends", name]));
        }
        base.problems
    }
}

/// What a path is to name.
const FOLDER: &str = "folder";
const FILE: &str = "file";

struct Base<'a> {
    origins: &'a Origins,
    problems: Vec<(KeyPath, String)>,
}

impl Base<'_> {
    fn anchor_folder(&mut self, path: &mut Option<PathBuf>, key: &KeyPath) {
        if let Some(path) = path {
            *path = self.absolute(path, key, FOLDER);
        }
    }

    fn anchor_file(&mut self, path: &mut Option<PathBuf>, key: &KeyPath) {
        if let Some(path) = path {
            *path = self.absolute(path, key, FILE);
        }
    }

    fn absolute(&mut self, path: &Path, key: &KeyPath, what: &str) -> PathBuf {
        if path.as_os_str().is_empty() {
            self.problems.push((key.clone(), format!("is empty; name a {what}")));
            return PathBuf::new();
        }
        let joined = self.origins.folder(key).join(path);
        std::path::absolute(&joined).unwrap_or(joined)
    }

    fn anchor_backend(&mut self, backend: &mut BackendSettings, key: &KeyPath) {
        self.anchor_folder(&mut backend.data_dir, &key.key("data_dir"));
        if let Some(TlsSettings { ca, cert, key: private, .. }) = &mut backend.tls {
            let key = key.key("tls");
            self.anchor_file(ca, &key.key("ca"));
            self.anchor_file(cert, &key.key("cert"));
            self.anchor_file(private, &key.key("key"));
        }
        let password = backend.proxy.as_mut().and_then(|proxy| proxy.password.as_mut());
        if let Some(SecretReference::File(path)) = password {
            *path = self.absolute(path, &key.key("proxy").key("password").key("file"), FILE);
        }
        for (name, value) in &mut backend.settings {
            self.anchor_references(value, &key.key("settings").key(name));
        }
    }

    fn anchor_references(&mut self, value: &mut Value, key: &KeyPath) {
        if let Some(SecretReference::File(path)) = SecretReference::from_value(value) {
            let path = self.absolute(&path, &key.key("file"), FILE);
            if let (Some(place), Some(text)) = (value.get_mut("file"), path.to_str()) {
                *place = Value::String(text.to_owned());
            }
            return;
        }
        match value {
            Value::Object(table) => {
                table.iter_mut().for_each(|(name, value)| {
                    self.anchor_references(value, &key.key(name));
                });
            }
            Value::Array(list) => {
                list.iter_mut().enumerate().for_each(|(index, value)| {
                    self.anchor_references(value, &key.index(index));
                });
            }
            _ => {}
        }
    }
}
