//! Reaching for files and for what the process has.

use anyhow::Result;
use pintle_fixture_hostile::Behaviour;

use crate::contains;

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn files_of_the_host_are_not_there() -> Result<()> {
    contains(Behaviour::ReadFiles).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn parents_lead_nowhere() -> Result<()> {
    contains(Behaviour::ParentEscape).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn links_lead_nowhere() -> Result<()> {
    contains(Behaviour::SymlinkEscape).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn the_environment_is_empty() -> Result<()> {
    contains(Behaviour::Environment).await
}
