//! Backends, plugins, settings, and the server itself.

mod reload;

use pintle_api::{
    access::{Access, CreateToken, CreatedToken, Revoked, Tokens},
    address,
    audit::{AuditPage, AuditQuery},
    backend::{Backend, Backends, Check, Liveness},
    plugin::{Plugin, Plugins},
    server::LogLevel,
    settings::Settings,
    tracing::{Carried, Headers, Inject, Status},
};

use crate::{
    error::ClientError,
    transport::{Call, Client},
};

/// What an operator asks a server.
#[derive(Debug, Clone)]
pub struct Admin {
    client: Client,
}

impl Admin {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Whether a server answers, and which.
    ///
    /// # Errors
    /// Any of [`ClientError`].
    pub async fn liveness(&self) -> Result<Liveness, ClientError> {
        self.client.json(Call::get("/healthz".into())).await
    }

    /// All backends and their state.
    ///
    /// # Errors
    /// Any of [`ClientError`].
    pub async fn backends(&self) -> Result<Vec<Backend>, ClientError> {
        let backends: Backends = self.client.json(Call::get("/v1/backends".into())).await?;
        Ok(backends.backends)
    }

    /// What became of the spans that were reported.
    ///
    /// # Errors
    /// Any of [`ClientError`].
    pub async fn tracing_status(&self) -> Result<Status, ClientError> {
        self.client.json(Call::get("/v1/tracing/status".into())).await
    }

    /// What headers say of a trace.
    ///
    /// # Errors
    /// Any of [`ClientError`].
    pub async fn trace_extract(&self, headers: &Headers) -> Result<Carried, ClientError> {
        self.client.json(Call::post("/v1/tracing/extract".into()).json(headers)?).await
    }

    /// Headers by which a trace goes on elsewhere.
    ///
    /// # Errors
    /// Any of [`ClientError`].
    pub async fn trace_inject(&self, inject: &Inject) -> Result<Headers, ClientError> {
        self.client.json(Call::post("/v1/tracing/inject".into()).json(inject)?).await
    }

    /// One backend and its state.
    ///
    /// # Errors
    /// Any of [`ClientError`].
    pub async fn backend(&self, name: &str) -> Result<Backend, ClientError> {
        self.client.json(Call::get(address::backend(name))).await
    }

    /// Asks a backend's plugin how its server is.
    ///
    /// # Errors
    /// Any of [`ClientError`]. A server that is not well is no error.
    pub async fn check(&self, name: &str) -> Result<Check, ClientError> {
        self.client.json(Call::post(format!("{}/check", address::backend(name)))).await
    }

    /// All files in the plugins' directory.
    ///
    /// # Errors
    /// Any of [`ClientError`].
    pub async fn plugins(&self) -> Result<Plugins, ClientError> {
        self.client.json(Call::get("/v1/plugins".into())).await
    }

    /// What a plugin says of itself.
    ///
    /// # Errors
    /// Any of [`ClientError`].
    pub async fn plugin(&self, name: &str) -> Result<Plugin, ClientError> {
        self.client.json(Call::get(address::plugin(name))).await
    }

    /// What the server runs with, without secrets.
    ///
    /// # Errors
    /// Any of [`ClientError`].
    pub async fn settings(&self) -> Result<Settings, ClientError> {
        self.client.json(Call::get("/v1/settings".into())).await
    }

    /// What the server takes this client for.
    ///
    /// # Errors
    /// Any of [`ClientError`].
    pub async fn access(&self) -> Result<Access, ClientError> {
        self.client.json(Call::get("/v1/access".into())).await
    }

    /// Makes an access token.
    ///
    /// # Errors
    /// Any of [`ClientError`]. With [`pintle_api::Effect::Unknown`] it may have been made.
    pub async fn create_token(&self, request: &CreateToken) -> Result<CreatedToken, ClientError> {
        self.client.json(Call::post("/v1/tokens".into()).json(request)?).await
    }

    /// All access tokens, without their secrets.
    ///
    /// # Errors
    /// Any of [`ClientError`].
    pub async fn tokens(&self) -> Result<Tokens, ClientError> {
        self.client.json(Call::get("/v1/tokens".into())).await
    }

    /// Revokes an access token, by its id or its name.
    ///
    /// # Errors
    /// Any of [`ClientError`].
    pub async fn revoke_token(&self, token: &str) -> Result<Revoked, ClientError> {
        self.client.json(Call::delete(address::token(token))).await
    }

    /// One page of who changed what, newest first.
    ///
    /// # Errors
    /// Any of [`ClientError`].
    pub async fn audit(&self, query: &AuditQuery) -> Result<AuditPage, ClientError> {
        self.client.json(Call::get("/v1/audit".into()).query(query)?).await
    }

    /// What the server logs.
    ///
    /// # Errors
    /// Any of [`ClientError`].
    pub async fn log_level(&self) -> Result<LogLevel, ClientError> {
        self.client.json(Call::get("/v1/server/log-level".into())).await
    }

    /// Sets what the server logs, until it ends.
    ///
    /// # Errors
    /// Any of [`ClientError`].
    pub async fn set_log_level(&self, level: &LogLevel) -> Result<LogLevel, ClientError> {
        self.client.json(Call::put("/v1/server/log-level".into()).json(level)?).await
    }
}
