//! Reaching for the network.

use anyhow::{Context, Result, ensure};
use pintle_fixture_hostile::Behaviour;
use pintle_test_suites::{
    hostile::{Options, Stage},
    within,
};

use crate::contains;

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn an_address_without_a_grant_is_not_reached() -> Result<()> {
    contains(Behaviour::ForbiddenAddress).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_server_without_a_grant_is_not_asked() -> Result<()> {
    contains(Behaviour::ForbiddenHttp).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_redirect_leads_nowhere_else() -> Result<()> {
    contains(Behaviour::ForbiddenRedirect).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_wildcard_leads_not_inside() -> Result<()> {
    let backend = "allow = [\"*.localhost:*\"]".to_owned();
    let stage =
        Stage::with(Behaviour::NameRebinding, Options { backend, ..Options::default() }).await?;
    let report = within("the report", stage.provoke()).await??;
    ensure!(report.starts_with("refused"), "{report}");
    // Where the system's resolver does not know such names there is nothing to deny; the library's
    // own tests have a resolver that does.
    let is_known = tokio::net::lookup_host(("trap.localhost", 1)).await.is_ok();
    ensure!(!is_known || stage.pintle.backend("culprit")?.network.denials > 0);
    stage.goes_on()?;
    stage.is_unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn addresses_of_other_backends_stand_for_nothing() -> Result<()> {
    contains(Behaviour::ForeignSynthetic).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn binding_is_refused() -> Result<()> {
    contains(Behaviour::Bind).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn listening_is_refused() -> Result<()> {
    contains(Behaviour::Listen).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn udp_is_refused() -> Result<()> {
    contains(Behaviour::Udp).await
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
pub(crate) async fn a_connection_that_hangs_is_given_up() -> Result<()> {
    contains(Behaviour::HangingConnection).await
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
    // Ten at once, ten in the second that it takes, and one on the way.
    let count = connections_begun(10).await?;
    ensure!((10..=22).contains(&count), "{count}");
    let count = connections_begun(10_000).await?;
    ensure!(count > 22, "{count} without a limit that matters");
    Ok(())
}

/// How many connections a plugin begins and lets go in a second.
async fn connections_begun(per_second: u32) -> Result<u64> {
    let backend =
        format!("limits = {{ call = \"20s\", more = {{ connects_per_second = {per_second} }} }}");
    let stage =
        Stage::with(Behaviour::ConnectionChurn, Options { backend, ..Options::default() }).await?;
    let report = within("the report", stage.provoke()).await??;
    let count = report.split(' ').next().and_then(|count| count.parse::<u64>().ok());
    stage.goes_on()?;
    stage.is_unharmed().await?;
    count.context("no count")
}

/// How many of a hundred requests at once come to a server that answers none.
async fn requests_that_come(limits: &str, more: &str) -> Result<u64> {
    // What waits for its turn gives up before the call ends, and the first ones with it.
    let more = format!("connect_timeout = \"1s\"{more}");
    let backend = format!("limits = {{ call = \"3s\", {limits}, more = {{ {more} }} }}");
    let stage =
        Stage::with(Behaviour::RequestFlood, Options { backend, ..Options::default() }).await?;
    stage.is_ended_for("did not return within").await?;
    let count = stage.allowed.visitors();
    stage.is_unharmed().await?;
    Ok(count)
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn requests_are_counted() -> Result<()> {
    // Each has a connection of its own, while the server answers none.
    let few = requests_that_come("connections = 64", ", requests_max = 4").await?;
    ensure!(few == 4, "{few} with requests_max = 4");
    let few = requests_that_come("connections = 8", "").await?;
    ensure!(few == 8, "{few} with connections = 8");
    let more = requests_that_come("connections = 200", "").await?;
    ensure!(more == 100, "{more} without a limit that matters");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_request_without_end_ends_with_its_call() -> Result<()> {
    contains(Behaviour::EndlessRequest).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_response_without_end_fills_its_own_memory() -> Result<()> {
    contains(Behaviour::EndlessHttpResponse).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn names_are_counted() -> Result<()> {
    contains(Behaviour::LookupFlood).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_body_without_end_ends_with_its_call() -> Result<()> {
    contains(Behaviour::EndlessBody).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_response_without_end_ends_with_its_call() -> Result<()> {
    contains(Behaviour::EndlessResponse).await
}
