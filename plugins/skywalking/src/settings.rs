//! What the operator can set.

use pintle_plugin_sdk::grpc::tonic::metadata::{AsciiMetadataValue, MetadataMap};
use pintle_plugin_sdk::http::{HeaderMap, HeaderValue, header};
use pintle_plugin_sdk::{Error, Secret};
use schemars::JsonSchema;
use serde::Deserialize;
use std::time::Duration;

/// Settings of a SkyWalking backend; every one has a default.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// How the server is spoken to: `grpc`, mostly on port 11800, or `http`, mostly on 12800.
    pub protocol: Protocol,
    /// The token that the server demands (its `SW_AUTHENTICATION`). It checks it over gRPC only.
    pub token: Option<Secret<String>>,
    /// How long, in milliseconds, spans wait for the rest of their trace, so that segments are whole
    /// and refer to their callers.
    #[schemars(range(max = 10_000))]
    pub wait_ms: u32,
    /// Of how many spans the places are remembered, for spans that come later.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub places_max: u32,
    /// How long, in milliseconds, the server may take to answer.
    #[schemars(range(min = 100, max = 60_000))]
    pub timeout_ms: u32,
    /// How often, in seconds, the server is told that a process still lives.
    #[schemars(range(min = 1, max = 3_600))]
    pub keep_alive_s: u32,
    /// The layer that services belong to.
    pub layer: String,
}

/// How the server is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// gRPC.
    #[default]
    Grpc,
    /// HTTP with JSON.
    Http,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            protocol: Protocol::Grpc,
            token: None,
            wait_ms: 1_500,
            places_max: 20_000,
            timeout_ms: 3_000,
            keep_alive_s: 60,
            layer: "GENERAL".into(),
        }
    }
}

impl Settings {
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms.into())
    }

    pub(crate) fn wait(&self) -> Duration {
        Duration::from_millis(self.wait_ms.into())
    }

    /// How long spans wait in a call that is given up after `remaining`: time is left to send them then,
    /// and for the server to answer.
    pub(crate) fn patience(&self, remaining: Duration) -> Duration {
        // Servers mostly answer long before their time is over.
        let most = remaining.saturating_sub(self.timeout()).max(remaining / 2);
        self.wait().min(most)
    }

    pub(crate) fn keep_alive(&self) -> Duration {
        Duration::from_secs(self.keep_alive_s.into())
    }

    /// The headers of every request over gRPC.
    ///
    /// # Errors
    ///
    /// `invalid`, with the setting's name.
    pub(crate) fn metadata(&self) -> Result<MetadataMap, Error> {
        let mut metadata = MetadataMap::new();
        if let Some(token) = &self.token {
            let value = AsciiMetadataValue::try_from(token.expose().as_str());
            let mut value = value.map_err(|_| no_token())?;
            value.set_sensitive(true);
            metadata.insert("authentication", value);
        }
        Ok(metadata)
    }

    /// The headers of every request over HTTP.
    ///
    /// # Errors
    ///
    /// As [`metadata`](Self::metadata).
    pub(crate) fn headers(&self) -> Result<HeaderMap, Error> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        if let Some(token) = &self.token {
            let mut value = HeaderValue::from_str(token.expose()).map_err(|_| no_token())?;
            value.set_sensitive(true);
            headers.insert("authentication", value);
        }
        Ok(headers)
    }
}

fn no_token() -> Error {
    Error::invalid("`token` cannot stand in a header").detail("setting", "token")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_wait_while_the_call_leaves_the_server_time_to_answer() {
        let settings = Settings { wait_ms: 10_000, timeout_ms: 3_000, ..Settings::default() };
        for (remaining, patience) in [(30, 10), (15, 10), (12, 9), (4, 2), (0, 0)] {
            let patience = Duration::from_secs(patience);
            assert_eq!(
                settings.patience(Duration::from_secs(remaining)),
                patience,
                "{remaining} s"
            );
        }
    }

    #[test]
    fn a_token_that_can_never_work_is_refused_and_never_shown() {
        let token = Some(Secret::new("hunter2\n".to_owned()));
        let settings = Settings { token, ..Settings::default() };
        for error in [settings.metadata().unwrap_err(), settings.headers().unwrap_err()] {
            assert_eq!(error.details()[0].1, "token");
            assert!(!format!("{error} {settings:?}").contains("hunter2"));
        }
    }
}
