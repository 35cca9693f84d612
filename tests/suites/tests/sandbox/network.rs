//! Reaching for the network.

use anyhow::{Context, Result, ensure};
use pintle_fixture_hostile::Behaviour;
use pintle_test_suites::{
    hostile::{Options, Server, Stage, impatient},
    within,
};

/// The culprit tries something and is refused; the host counts it, and nothing else happens.
async fn is_denied(behaviour: Behaviour, options: Options) -> Result<()> {
    let stage = Stage::with(behaviour, options).await?;
    let report = within("the report", stage.provoke()).await??;
    ensure!(report.starts_with("refused"), "{report}");
    ensure!(stage.pintle.backend("culprit")?.network.denials > 0, "nobody counted it");
    stage.goes_on()?;
    stage.is_unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn an_address_without_a_grant_is_not_reached() -> Result<()> {
    is_denied(Behaviour::ForbiddenAddress, Options::default()).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_server_without_a_grant_is_not_asked() -> Result<()> {
    is_denied(Behaviour::ForbiddenHttp, Options::default()).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_redirect_leads_nowhere_else() -> Result<()> {
    let options = Options { server: Server::Redirect, ..Options::default() };
    is_denied(Behaviour::ForbiddenRedirect, options).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_wildcard_leads_not_inside() -> Result<()> {
    let backend = "allow = [\"*.localhost:*\"]".to_owned();
    let stage =
        Stage::with(Behaviour::NameRebinding, Options { backend, ..Options::default() }).await?;
    let report = within("the report", stage.provoke()).await??;
    // Where the name is unknown there is nothing to deny.
    ensure!(report.starts_with("refused"), "{report}");
    stage.goes_on()?;
    stage.is_unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn addresses_of_other_backends_stand_for_nothing() -> Result<()> {
    is_denied(Behaviour::ForeignSynthetic, Options::default()).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn binding_is_refused() -> Result<()> {
    is_denied(Behaviour::Bind, Options::default()).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn listening_is_refused() -> Result<()> {
    is_denied(Behaviour::Listen, Options::default()).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn udp_is_refused() -> Result<()> {
    is_denied(Behaviour::Udp, Options::default()).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn old_sockets_are_refused() -> Result<()> {
    let stage = Stage::with(Behaviour::OldSockets, Options::default()).await?;
    let report = within("the report", stage.provoke()).await??;
    ensure!(!report.contains("succeeded"), "{report}");
    ensure!(stage.pintle.backend("culprit")?.network.denials >= 3, "nobody counted it");
    stage.goes_on()?;
    stage.is_unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn connections_are_counted() -> Result<()> {
    let stage = Stage::with(Behaviour::ConnectionFlood, Options::default()).await?;
    let report = within("the report", stage.provoke()).await??;
    ensure!(report.starts_with("refused after 8"), "{report}");
    ensure!(stage.allowed.visitors() == 8, "{} came", stage.allowed.visitors());
    stage.goes_on()?;
    stage.is_unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn connections_are_begun_at_a_pace() -> Result<()> {
    let backend = "limits = { call = \"20s\", more = { connects_per_second = 10 } }".to_owned();
    let stage =
        Stage::with(Behaviour::ConnectionChurn, Options { backend, ..Options::default() }).await?;
    let report = within("the report", stage.provoke()).await??;
    let count = report.split(' ').next().and_then(|count| count.parse::<u64>().ok());
    let count = count.context("no count")?;
    // Ten at once, ten in the second that it takes, and one on the way.
    ensure!((10..=22).contains(&count), "{report}");
    stage.goes_on()?;
    stage.is_unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn names_are_counted() -> Result<()> {
    let backend = "allow = [\"*.flood.example:1\"]".to_owned();
    let stage =
        Stage::with(Behaviour::LookupFlood, Options { backend, ..Options::default() }).await?;
    let report = within("the report", stage.provoke()).await??;
    ensure!(report == "1024 names", "{report}");
    stage.goes_on()?;
    stage.is_unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_body_without_end_ends_with_its_call() -> Result<()> {
    let stage = Stage::with(Behaviour::EndlessBody, impatient()).await?;
    stage.is_ended_for("did not return within").await?;
    stage.is_unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_response_without_end_ends_with_its_call() -> Result<()> {
    let options = Options { server: Server::Source, ..impatient() };
    let stage = Stage::with(Behaviour::EndlessResponse, options).await?;
    stage.is_ended_for("did not return within").await?;
    stage.is_unharmed().await
}
