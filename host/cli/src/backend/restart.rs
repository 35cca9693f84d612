//! `pintle backend restart`: begin again, also after the server gave up.

use pintle_client::Client;

use crate::{exit::Exit, global::Global, output};

pub(crate) async fn run(global: &Global, client: &Client, name: &str) -> anyhow::Result<Exit> {
    let backend = client.admin().restart(name).await?;
    if !global.print(&backend)? {
        output::line(&format!("{} is started again", backend.name))?;
    }
    Ok(Exit::OK)
}
