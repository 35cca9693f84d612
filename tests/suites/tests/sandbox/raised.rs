//! Attacks with the limit raised that contains them. They succeed, which shows that the limit it was,
//! and that each is one which an operator can move.

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use pintle_fixture_hostile::Behaviour;
use pintle_test_suites::hostile::Attack;

/// Attacks at the same time.
const AT_ONCE: usize = 2;
/// Attacks that a setting contains, at least.
const RAISED_MIN: usize = 31;

#[tokio::test(flavor = "multi_thread")]
async fn an_attack_succeeds_when_its_limit_is_raised() -> Result<()> {
    let attacks = Behaviour::ALL.iter().map(|behaviour| async move {
        let name = behaviour.name();
        let Some(attack) = Attack::of(*behaviour)? else { return Ok(false) };
        attack.succeeds_when_raised().await.with_context(|| format!("{name} with its limit raised"))
    });
    let done: Vec<Result<bool>> =
        futures::stream::iter(attacks).buffer_unordered(AT_ONCE).collect().await;
    let mut raised = 0;
    let mut trouble = Vec::new();
    for one in done {
        match one {
            Ok(one) => raised += usize::from(one),
            Err(error) => trouble.push(format!("{error:#}")),
        }
    }
    ensure!(trouble.is_empty(), "{}", trouble.join("\n"));
    ensure!(raised >= RAISED_MIN, "only {raised} attacks were made");
    Ok(())
}
