//! What is wrong with a file, and with what a plugin says of itself before it is trusted with
//! anything.

use anyhow::Result;
use pintle::BackendState;
use pintle_fixture_hostile::Behaviour;
use pintle_test_suites::{
    Sandbox,
    hostile::{Options, Stage},
};

use crate::contains;

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_loop_in_describe_is_ended() -> Result<()> {
    contains(Behaviour::DescribeLoop).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_sleep_in_describe_is_ended() -> Result<()> {
    contains(Behaviour::DescribeSleep).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_trap_in_describe_is_told() -> Result<()> {
    contains(Behaviour::DescribeTrap).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_memory_bomb_in_describe_is_ended() -> Result<()> {
    contains(Behaviour::DescribeMemoryBomb).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_flood_of_features_is_refused() -> Result<()> {
    contains(Behaviour::FeatureFlood).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_schema_that_refers_elsewhere_is_refused() -> Result<()> {
    contains(Behaviour::SchemaRemote).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_schema_that_refers_to_itself_is_refused() -> Result<()> {
    contains(Behaviour::SchemaRecursion).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_pattern_that_would_go_back_for_ever_takes_no_time() -> Result<()> {
    contains(Behaviour::SchemaPattern).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_pattern_that_has_to_go_back_is_refused() -> Result<()> {
    contains(Behaviour::SchemaBackreference).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_huge_schema_is_refused() -> Result<()> {
    contains(Behaviour::SchemaHuge).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_text_that_is_no_utf8_is_refused() -> Result<()> {
    contains(Behaviour::InvalidUtf8).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_table_bomb_is_refused() -> Result<()> {
    contains(Behaviour::TableBomb).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_huge_memory_is_refused() -> Result<()> {
    contains(Behaviour::InitialMemoryBomb).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn many_memories_are_refused() -> Result<()> {
    contains(Behaviour::ManyMemories).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn many_tables_are_refused() -> Result<()> {
    contains(Behaviour::ManyTables).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn many_instances_are_refused() -> Result<()> {
    contains(Behaviour::ManyInstances).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_loop_while_it_is_instantiated_is_ended() -> Result<()> {
    contains(Behaviour::LoopInInstantiation).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn an_unknown_version_is_refused_with_what_is_served() -> Result<()> {
    contains(Behaviour::UnknownVersion).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_component_that_is_no_plugin_is_refused() -> Result<()> {
    contains(Behaviour::MissingExport).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_plugin_that_offers_nothing_is_refused() -> Result<()> {
    contains(Behaviour::NoCapability).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_function_of_another_type_is_refused() -> Result<()> {
    contains(Behaviour::WrongType).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn an_unknown_import_is_refused() -> Result<()> {
    contains(Behaviour::UnknownImport).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn text_is_refused() -> Result<()> {
    contains(Behaviour::NotWasm).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_core_module_is_refused() -> Result<()> {
    contains(Behaviour::CoreModule).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn half_a_file_is_refused() -> Result<()> {
    contains(Behaviour::Truncated).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn nesting_is_bounded() -> Result<()> {
    contains(Behaviour::Nesting).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn deep_nesting_is_refused() -> Result<()> {
    contains(Behaviour::DeepNesting).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_lot_of_code_is_refused_uncompiled() -> Result<()> {
    contains(Behaviour::HugeCode).await
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_huge_function_is_refused_uncompiled() -> Result<()> {
    contains(Behaviour::HugeFunction).await
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
