//! Every function that a plugin exports: computing for ever in it, trapping in it, never answering.

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use pintle_fixture_hostile::{Behaviour, Export};
use pintle_test_suites::hostile::exports::{attack, is_possible};

/// Exports in which a plugin attacks at the same time.
const AT_ONCE: usize = 2;

async fn attack_everywhere(behaviour: Behaviour) -> Result<()> {
    let exports = Export::ALL.iter().copied().filter(|export| is_possible(behaviour, *export));
    futures::stream::iter(exports.map(|export| async move {
        attack(behaviour, export).await.with_context(|| format!("in {}", export.name()))
    }))
    .buffer_unordered(AT_ONCE)
    .try_collect::<Vec<_>>()
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_loop_in_any_export_is_ended() -> Result<()> {
    attack_everywhere(Behaviour::LoopIn).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_trap_in_any_export_ends_one_incarnation() -> Result<()> {
    attack_everywhere(Behaviour::TrapIn).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn an_export_that_never_answers_is_ended() -> Result<()> {
    attack_everywhere(Behaviour::NeverIn).await
}
