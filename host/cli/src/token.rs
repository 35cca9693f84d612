//! `pintle token`: who may do what.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use pintle_client::{
    Client,
    api::access::{CreateToken, Role, Token},
};

use crate::{
    exit::Exit,
    global::Global,
    output::{self, Table},
    session,
};

/// What to do with access tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make a token, and print its secret once
    ///
    /// From the first token on, the server asks every caller for one, except for who may read its
    /// data folder.
    Create(CreateArguments),
    /// List the tokens, without their secrets
    List,
    /// Make a token no good any more, at once
    Revoke {
        /// Id or name of the token
        token: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CreateArguments {
    /// Whose it is, like ci or ann@example.org
    name: String,
    /// What its holder may do
    #[arg(long, value_enum, default_value_t = RoleArgument::Viewer)]
    role: RoleArgument,
    /// A backend that it is good for; may be given several times [default: all]
    #[arg(long = "for", value_name = "BACKEND")]
    backends: Vec<String>,
    /// Time until it ends, like 720h [default: it does not]
    #[arg(long, value_name = "TIME", value_parser = pintle::settings::parse_duration)]
    expires_in: Option<Duration>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RoleArgument {
    /// Reads and watches
    Viewer,
    /// Writes configuration, registers, locks as well
    Operator,
    /// Manages tokens, the log and the backends as well
    Admin,
}

pub(crate) async fn run(global: &Global, verb: Verb) -> anyhow::Result<Exit> {
    session::with(global, async |client| match verb {
        Verb::Create(arguments) => create(global, client, arguments).await,
        Verb::List => list(global, client).await,
        Verb::Revoke { token } => revoke(global, client, &token).await,
    })
    .await
}

async fn create(
    global: &Global,
    client: &Client,
    arguments: CreateArguments,
) -> anyhow::Result<Exit> {
    let CreateArguments { name, role, backends, expires_in } = arguments;
    let role = match role {
        RoleArgument::Viewer => Role::Viewer,
        RoleArgument::Operator => Role::Operator,
        RoleArgument::Admin => Role::Admin,
    };
    let expires_in_ms = expires_in.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    let was_open = !client.admin().access().await?.tokens_required;
    let request = CreateToken { name, role, backends, expires_in_ms };
    let created = client.admin().create_token(&request).await?;
    if global.print_facts(&created)? {
        return Ok(Exit::OK);
    }
    // Alone on standard output, for `pintle token create … > file`.
    output::line(&created.secret)?;
    output::note(
        "This secret is shown once. Use it as PINTLE_ACCESS_TOKEN, or from a --token-file.",
    );
    if was_open {
        output::note("From now on the server asks every caller for a token.");
    }
    Ok(Exit::OK)
}

async fn list(global: &Global, client: &Client) -> anyhow::Result<Exit> {
    let tokens = client.admin().tokens().await?;
    if global.print(&tokens)? {
        return Ok(Exit::OK);
    }
    let mut table = Table::new(["ID", "NAME", "ROLE", "FOR", "CREATED", "BY", "EXPIRES"]);
    for Token { id, name, role, backends, created_ms, created_by, expires_ms } in tokens.tokens {
        table.row([
            id,
            name,
            role.to_string(),
            if backends.is_empty() { "all".into() } else { backends.join(" ") },
            output::moment(Some(created_ms)),
            output::or_dash(created_by),
            expires_ms.map_or_else(|| "never".into(), |end| output::moment(Some(end))),
        ]);
    }
    table.print("no tokens")?;
    Ok(Exit::OK)
}

async fn revoke(global: &Global, client: &Client, token: &str) -> anyhow::Result<Exit> {
    let revoked = client.admin().revoke_token(token).await?;
    if !global.print_facts(&revoked)? {
        let Token { id, name, .. } = revoked.token;
        output::line(&format!("the token {id} of {name} is revoked"))?;
    }
    Ok(Exit::OK)
}
