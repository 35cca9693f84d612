//! Reaching for files and for what the process has.

use anyhow::{Result, ensure};
use pintle_fixture_hostile::Behaviour;
use pintle_test_suites::{
    hostile::{Options, Stage},
    within,
};

async fn gets_nothing(stage: Stage) -> Result<()> {
    let report = within("the report", stage.provoke()).await??;
    ensure!(report == "nothing", "{report}");
    ensure!(!stage.sandbox.path().join("escaped.txt").exists(), "it wrote outside its directory");
    ensure!(stage.sandbox.path().join("secret.txt").exists(), "it took a file away");
    stage.goes_on()?;
    stage.is_unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn files_of_the_host_are_not_there() -> Result<()> {
    gets_nothing(Stage::with(Behaviour::ReadFiles, Options::default()).await?).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn parents_lead_nowhere() -> Result<()> {
    gets_nothing(Stage::with(Behaviour::ParentEscape, Options::default()).await?).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn links_lead_nowhere() -> Result<()> {
    let stage = Stage::with(Behaviour::SymlinkEscape, Options::default()).await?;
    let (folder, data) = (stage.sandbox.path(), stage.sandbox.path().join("data-of-culprit"));
    let links = [("link-to-file", folder.join("secret.txt")), ("link-to-parent", folder.into())];
    for (name, target) in links.into_iter().chain([("link-to-root", "/".into())]) {
        std::os::unix::fs::symlink(target, data.join(name))?;
    }
    gets_nothing(stage).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn the_environment_is_empty() -> Result<()> {
    gets_nothing(Stage::with(Behaviour::Environment, Options::default()).await?).await
}
