//! What runs: restarting backends, and letting other files of plugins take over.

use pintle_api::{
    address,
    backend::Backend,
    plugin::{AcceptQuery, Plugin},
};

use super::Admin;
use crate::{error::ClientError, transport::Call};

impl Admin {
    /// Ends a backend's plugin and starts it again, also where the server had given up on it.
    ///
    /// # Errors
    /// Any of [`ClientError`].
    pub async fn restart(&self, name: &str) -> Result<Backend, ClientError> {
        self.client.json(Call::post(format!("{}/restart", address::backend(name)))).await
    }

    /// Lets the file of a plugin take over that lies in the plugins' directory; with `sha256` only
    /// if that is its digest.
    ///
    /// # Errors
    /// Any of [`ClientError`].
    pub async fn accept(&self, plugin: &str, sha256: Option<&str>) -> Result<Plugin, ClientError> {
        let which = AcceptQuery { sha256: sha256.map(str::to_owned) };
        let call = Call::post(format!("{}/accept", address::plugin(plugin))).query(&which)?;
        self.client.json(call).await
    }
}
