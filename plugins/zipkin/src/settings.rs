//! What the operator can set.

use pintle_plugin_sdk::http::{HeaderMap, HeaderValue, header};
use pintle_plugin_sdk::{Error, Secret};
use schemars::JsonSchema;
use serde::Deserialize;
use std::time::Duration;

/// Settings of a Zipkin backend; every one has a default.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where the server takes spans.
    pub path: String,
    /// Compress what is sent.
    pub gzip: bool,
    /// How long, in milliseconds, the server may take to answer.
    #[schemars(range(min = 100, max = 60_000))]
    pub timeout_ms: u32,
    /// Value of the header `Authorization`, where a proxy before the server demands one.
    pub authorization: Option<Secret<String>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { path: "/api/v2/spans".into(), gzip: true, timeout_ms: 4_000, authorization: None }
    }
}

impl Settings {
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms.into())
    }

    /// The headers of every request.
    ///
    /// # Errors
    ///
    /// `invalid`, with the setting's name.
    pub(crate) fn headers(&self) -> Result<HeaderMap, Error> {
        let refuse =
            |setting: &str, message: &str| Err(Error::invalid(message).detail("setting", setting));
        if !self.path.starts_with('/') || self.path.contains([' ', '#', '\n']) {
            return refuse("path", "`path` has to begin with `/`, and to be the path of a URL");
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self.gzip {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        if let Some(authorization) = &self.authorization {
            let Ok(mut value) = HeaderValue::from_str(authorization.expose()) else {
                return refuse("authorization", "`authorization` cannot stand in a header");
            };
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        Ok(headers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_never_work_is_refused_by_name() {
        assert!(Settings::default().headers().is_ok());
        let path = Settings { path: "api".into(), ..Settings::default() };
        assert_eq!(path.headers().unwrap_err().details()[0].1, "path");
        let secret = Some(Secret::new("hunter2\n".to_owned()));
        let header = Settings { authorization: secret, ..Settings::default() };
        let error = header.headers().unwrap_err();
        assert_eq!(error.details()[0].1, "authorization");
        assert!(!format!("{error} {header:?}").contains("hunter2"));
    }
}
