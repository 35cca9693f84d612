//! What is wrong with a file, and with what a plugin says of itself before it is trusted with
//! anything.

use anyhow::{Result, ensure};
use pintle::BackendState;
use pintle_fixture_hostile::{Behaviour, VERSION_TEXT};
use pintle_test_suites::{
    Sandbox,
    hostile::{
        Options, Stage,
        bytes::{
            COMPONENT, function, hostile, marked, memory, module, number, replaced, section,
            with_module,
        },
        log,
    },
};

/// Starts a host on this file, and expects that its backend is refused with a reason that names
/// this.
async fn is_refused(file: Vec<u8>, reason: &str) -> Result<()> {
    let sandbox = Sandbox::new(&["fixtures/memory"])?;
    std::fs::write(sandbox.plugins_dir().join("hostile.wasm"), file)?;
    let stage = Stage::on(sandbox, "", Options::default()).await?;
    stage.settles(BackendState::Refused, reason).await?;
    let path = stage.sandbox.plugins_dir().join("hostile.wasm").display().to_string();
    let audit = log::lines_with(&["\"target\":\"audit\"", "load-plugin", &path]);
    // What concerns settings is not a matter of the file.
    ensure!(!audit.is_empty() || reason.contains("schema"), "there is no audit line");
    stage.is_unharmed().await
}

async fn is_refused_marked(behaviour: Behaviour, reason: &str) -> Result<()> {
    is_refused(marked(hostile()?, behaviour)?, reason).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_loop_in_describe_is_ended() -> Result<()> {
    is_refused_marked(Behaviour::DescribeLoop, "without yielding").await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_trap_in_describe_is_told() -> Result<()> {
    is_refused_marked(Behaviour::DescribeTrap, "so ends").await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_memory_bomb_in_describe_is_ended() -> Result<()> {
    is_refused_marked(Behaviour::DescribeMemoryBomb, "limits.memory").await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_flood_of_features_is_refused() -> Result<()> {
    is_refused_marked(Behaviour::FeatureFlood, "features_max is 1024").await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_schema_that_refers_elsewhere_is_refused() -> Result<()> {
    is_refused_marked(Behaviour::SchemaRemote, "settings schema cannot be used").await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_schema_that_refers_to_itself_is_refused() -> Result<()> {
    is_refused_marked(Behaviour::SchemaRecursion, "settings schema cannot be used").await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_pattern_that_would_go_back_for_ever_takes_no_time() -> Result<()> {
    let sandbox = Sandbox::new(&["fixtures/memory"])?;
    let file = marked(hostile()?, Behaviour::SchemaPattern)?;
    std::fs::write(sandbox.plugins_dir().join("hostile.wasm"), file)?;
    // The engine never goes back, whatever the pattern, so it is no reason to refuse the plugin.
    let stage = Stage::on(sandbox, "", Options::default()).await?;
    stage.serves_again(0).await?;
    stage.is_unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_huge_schema_is_refused() -> Result<()> {
    is_refused_marked(Behaviour::SchemaHuge, "settings schema cannot be used").await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_text_that_is_no_utf8_is_refused() -> Result<()> {
    let broken = vec![0xff; VERSION_TEXT.len()];
    is_refused(replaced(hostile()?, VERSION_TEXT, &broken)?, "utf-8").await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_table_bomb_is_refused() -> Result<()> {
    let table = module(&[section(4, &[&[1, 0x70, 0][..], &number(10_000_000)].concat())]);
    is_refused(with_module(hostile()?, &table), "table").await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_huge_memory_is_refused() -> Result<()> {
    is_refused(with_module(hostile()?, &memory(60_000)), "limits.memory").await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn many_memories_are_refused() -> Result<()> {
    let file = (0..4).try_fold(hostile()?, |file, _| anyhow::Ok(with_module(file, &memory(1))))?;
    is_refused(file, "memor").await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_loop_while_it_is_instantiated_is_ended() -> Result<()> {
    // loop; br 0; end; end
    let endless = function(&[0, 0x03, 0x40, 0x0c, 0, 0x0b, 0x0b], true);
    is_refused(with_module(hostile()?, &endless), "without yielding").await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn an_unknown_version_is_refused_with_what_is_served() -> Result<()> {
    let file = replaced(hostile()?, "pintle:lock/lock@0.1.0", b"pintle:lock/lock@0.9.0")?;
    is_refused(file, "exports pintle:lock/lock in version 0.9.0; this host serves 0.1.x").await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_component_that_is_no_plugin_is_refused() -> Result<()> {
    let (old, new) = ("pintle:plugin/lifecycle@", b"pintle:plugin/lifecyclo@");
    is_refused(replaced(hostile()?, old, new)?, "does not export pintle:plugin/lifecycle").await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_plugin_that_offers_nothing_is_refused() -> Result<()> {
    let mut file = hostile()?;
    for name in ["config/config", "registry/registry", "lock/lock", "tracing/tracing"] {
        file = replaced(file, &format!("pintle:{name}@"), format!("kintle:{name}@").as_bytes())?;
    }
    is_refused(file, "offers no capability").await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_function_of_another_type_is_refused() -> Result<()> {
    is_refused(replaced(hostile()?, "single-writer", b"single-reader")?, "type mismatch").await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn an_unknown_import_is_refused() -> Result<()> {
    let file = replaced(hostile()?, "pintle:plugin/host@0.1.0", b"pintle:plugin/gost@0.1.0")?;
    is_refused(file, "pintle:plugin/gost").await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn text_is_refused() -> Result<()> {
    is_refused(b"#!/bin/sh\necho hello\n".to_vec(), "not a component").await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_core_module_is_refused() -> Result<()> {
    is_refused(memory(1), "not a component").await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn half_a_file_is_refused() -> Result<()> {
    let mut file = hostile()?;
    file.truncate(file.len() / 2);
    is_refused(file, "not a component").await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn deep_nesting_is_refused() -> Result<()> {
    let mut inside = COMPONENT.to_vec();
    for _ in 0..10_000 {
        inside = [COMPONENT, &section(4, &inside)].concat();
    }
    is_refused([hostile()?, section(4, &inside)].concat(), "nesting_max = 16").await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_huge_file_is_refused_unread() -> Result<()> {
    let sandbox = Sandbox::new(&["fixtures/memory"])?;
    let file = std::fs::File::create(sandbox.plugins_dir().join("hostile.wasm"))?;
    // It takes no room: nothing was written.
    file.set_len(1 << 40)?;
    let stage = Stage::on(sandbox, "", Options::default()).await?;
    stage.settles(BackendState::Refused, "1099511627776 bytes; the limit is 268435456").await?;
    stage.is_unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_huge_function_is_refused_uncompiled() -> Result<()> {
    // No locals, nops, end.
    let body = [vec![0], vec![0x01; 2 << 20], vec![0x0b]].concat();
    let file = with_module(hostile()?, &function(&body, false));
    is_refused(file, "function_bytes = \"1MiB\"").await
}
