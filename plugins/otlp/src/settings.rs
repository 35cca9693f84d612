//! What the operator can set.

use pintle_plugin_sdk::grpc::tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};
use pintle_plugin_sdk::http::{HeaderMap, HeaderValue, header};
use pintle_plugin_sdk::{Error, Secret};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Settings of an OTLP backend; every one has a default.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// How the receiver is spoken to: `grpc`, mostly on port 4317, or `http/protobuf`, mostly on 4318.
    pub protocol: Protocol,
    /// Whether what is sent is compressed.
    pub compression: Compression,
    /// Headers of every request, such as an API key; in small letters.
    pub headers: BTreeMap<String, Secret<String>>,
    /// Where the receiver takes traces, for `http/protobuf`.
    pub path: String,
    /// How long, in milliseconds, the receiver may take to answer.
    #[schemars(range(min = 100, max = 60_000))]
    pub timeout_ms: u32,
}

/// How a receiver is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Protocol {
    /// gRPC.
    #[default]
    #[serde(rename = "grpc")]
    Grpc,
    /// HTTP with bodies in protobuf.
    #[serde(rename = "http/protobuf")]
    Http,
}

/// Whether what is sent is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// With gzip.
    #[default]
    Gzip,
    /// Not at all.
    None,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            protocol: Protocol::Grpc,
            compression: Compression::Gzip,
            headers: BTreeMap::new(),
            path: pintle_otlp::HTTP_PATH.into(),
            timeout_ms: 4_000,
        }
    }
}

impl Settings {
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms.into())
    }

    pub(crate) fn is_compressed(&self) -> bool {
        self.compression == Compression::Gzip
    }

    /// # Errors
    ///
    /// `invalid`, with the setting's name.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if !self.path.starts_with('/') || self.path.contains([' ', '#', '\n']) {
            let message = "`path` has to begin with `/`, and to be the path of a URL";
            return Err(Error::invalid(message).detail("setting", "path"));
        }
        self.metadata()?;
        self.http_headers()?;
        Ok(())
    }

    /// The headers of every request over gRPC.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check).
    pub(crate) fn metadata(&self) -> Result<MetadataMap, Error> {
        let mut metadata = MetadataMap::new();
        for (name, value) in &self.headers {
            let key = AsciiMetadataKey::from_bytes(name.as_bytes());
            let value = AsciiMetadataValue::try_from(value.expose().as_str());
            let (Ok(key), Ok(mut value)) = (key, value) else { return Err(no_header(name)) };
            value.set_sensitive(true);
            metadata.insert(key, value);
        }
        Ok(metadata)
    }

    /// The headers of every request over HTTP.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check).
    pub(crate) fn http_headers(&self) -> Result<HeaderMap, Error> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let key = header::HeaderName::from_bytes(name.as_bytes());
            let value = HeaderValue::from_str(value.expose());
            let (Ok(key), Ok(mut value)) = (key, value) else { return Err(no_header(name)) };
            value.set_sensitive(true);
            headers.insert(key, value);
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        if self.is_compressed() {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        Ok(headers)
    }
}

fn no_header(name: &str) -> Error {
    let shown: String = name.escape_debug().take(64).collect();
    let message = format!("`headers`: `{shown}` or its value cannot stand in a header");
    Error::invalid(message).detail("setting", "headers")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &str, value: &str) -> Settings {
        let headers = BTreeMap::from([(name.to_owned(), Secret::new(value.to_owned()))]);
        Settings { headers, ..Settings::default() }
    }

    #[test]
    fn what_can_never_work_is_refused_by_name_and_never_shown() {
        assert!(Settings::default().check().is_ok());
        assert!(with("x-api-key", "hunter2").check().is_ok());
        for (settings, setting) in [
            (with("x api", "v"), "headers"),
            (with("x-api-key", "hunter2\n"), "headers"),
            (Settings { path: "v1".into(), ..Settings::default() }, "path"),
        ] {
            let error = settings.check().unwrap_err();
            assert_eq!(error.details()[0].1, setting);
            assert!(!format!("{error} {settings:?}").contains("hunter2"));
        }
    }

    #[test]
    fn the_protocol_is_named_as_in_the_standard_environment_variables() {
        let settings: Settings = serde_json::from_str(r#"{"protocol":"http/protobuf"}"#).unwrap();
        assert_eq!(settings.protocol, Protocol::Http);
        let settings: Settings = serde_json::from_str(r#"{"compression":"none"}"#).unwrap();
        assert!(!settings.is_compressed());
    }
}
