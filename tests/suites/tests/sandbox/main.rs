//! Plugins that attack their host, and what the host does about it; files that are tampered with;
//! and files that take over while everything is in use.
//!
//! Each test here lets one plugin misbehave (`tests/fixtures/hostile`) beside another that does
//! nothing wrong, the victim. Whatever the culprit does: the host goes on, the victim answers all
//! the time, and nobody comes to the trap.

mod answers;
mod compiling;
mod exports;
mod file;
mod files;
mod handover;
mod network;
mod queue;
mod raised;
mod resources;
mod shutdown;
mod speech;
mod tamper;

use anyhow::{Context, Result};
use pintle_fixture_hostile::Behaviour;
use pintle_test_suites::hostile::Attack;

/// One attack as the table of attacks has it, beside a victim.
async fn contains(behaviour: Behaviour) -> Result<()> {
    let attack = Attack::of(behaviour)?.context("it is not in the table")?;
    attack.is_contained().await?;
    Ok(())
}

/// The test of each behaviour. One without a test does not compile.
const fn test_of(behaviour: Behaviour) -> fn() -> Result<()> {
    match behaviour {
        Behaviour::LoopIn => exports::a_loop_in_any_export_is_ended,
        Behaviour::TrapIn => exports::a_trap_in_any_export_ends_one_incarnation,
        Behaviour::NeverIn => exports::an_export_that_never_answers_is_ended,
        Behaviour::LoopInBackground => resources::a_loop_in_the_background_is_ended,
        Behaviour::YieldInBackground => {
            resources::yielding_without_end_takes_no_more_than_its_share
        }
        Behaviour::MemoryBomb => resources::a_memory_bomb_is_ended_and_names_its_limit,
        Behaviour::StackBomb => resources::a_stack_bomb_is_ended,
        Behaviour::HandleFlood => resources::a_flood_of_handles_is_ended,
        Behaviour::StreamFlood => resources::a_flood_of_streams_is_ended,
        Behaviour::TaskFlood => resources::a_flood_of_tasks_is_ended,
        Behaviour::LongRun => resources::a_run_that_takes_too_long_is_ended,
        Behaviour::OldSleep => resources::a_sleep_that_keeps_the_store_is_ended,
        Behaviour::RandomFlood => resources::random_bytes_are_cut_off,
        Behaviour::YieldForever => resources::a_call_that_only_yields_is_ended,
        Behaviour::DataFlood => resources::a_directory_that_is_too_full_ends_its_plugin,
        Behaviour::DataStream => resources::a_stream_into_a_file_ends_where_the_directory_is_full,
        Behaviour::FolderFlood => resources::folders_without_end_end_where_the_directory_is_full,
        Behaviour::FileFlood => resources::too_many_open_files_end_their_plugin,
        Behaviour::NewFileFlood => resources::too_many_files_of_wasi_03_end_their_plugin,
        Behaviour::BlockOnFile => {
            resources::a_plugin_is_not_started_beside_one_that_still_has_its_files
        }
        Behaviour::LogFlood => speech::a_flood_of_lines_is_dropped,
        Behaviour::EmptyLogFlood => speech::a_flood_of_empty_lines_is_dropped,
        Behaviour::LongLine => speech::a_long_line_is_cut_off,
        Behaviour::LogForgery => speech::no_line_can_be_forged,
        Behaviour::OutputFlood => speech::a_flood_of_output_goes_nowhere,
        Behaviour::SecretInLog => speech::a_secret_in_a_log_line_is_taken_out,
        Behaviour::SecretInError => speech::a_secret_in_an_error_is_taken_out,
        Behaviour::SecretInHealth => speech::a_secret_in_a_health_report_is_taken_out,
        Behaviour::SecretInPanic => speech::a_secret_in_last_words_is_taken_out,
        Behaviour::HugeError => speech::a_huge_error_is_cut_off,
        Behaviour::DetailFlood => speech::a_flood_of_details_is_cut_off,
        Behaviour::HealthFlood => speech::a_flood_of_facts_is_cut_off,
        Behaviour::OversizedRecord => answers::an_oversized_record_ends_its_plugin,
        Behaviour::OversizedPage => answers::an_oversized_page_ends_its_plugin,
        Behaviour::EventFlood => answers::more_events_than_were_asked_for_end_the_plugin,
        Behaviour::PollStorm => answers::a_storm_of_answers_is_slowed_down,
        Behaviour::UnknownIds => answers::events_of_unknown_things_are_ignored,
        Behaviour::SnapshotNeverBegun => answers::a_snapshot_that_never_begins_shows_nothing,
        Behaviour::SnapshotNeverEnded => answers::a_snapshot_without_end_ends_the_watch,
        Behaviour::HugeVersion => answers::a_huge_version_ends_its_plugin,
        Behaviour::VersionsGoBack => answers::versions_that_go_back_hurt_nobody,
        Behaviour::RenewalFromFuture => answers::a_renewal_from_the_future_buys_no_time,
        Behaviour::TrapWhileOthersWait => answers::calls_that_wait_are_told_of_a_trap,
        Behaviour::IgnoreCancel => answers::a_call_that_was_given_up_does_not_go_on,
        Behaviour::LargeCheckpoint => answers::a_large_checkpoint_ends_its_plugin,
        Behaviour::HugeCheckpoint => answers::a_huge_checkpoint_ends_its_plugin,
        Behaviour::ForbiddenAddress => network::an_address_without_a_grant_is_not_reached,
        Behaviour::ForbiddenHttp => network::a_server_without_a_grant_is_not_asked,
        Behaviour::ForbiddenRedirect => network::a_redirect_leads_nowhere_else,
        Behaviour::NameRebinding => network::a_wildcard_leads_not_inside,
        Behaviour::ForeignSynthetic => network::addresses_of_other_backends_stand_for_nothing,
        Behaviour::Bind => network::binding_is_refused,
        Behaviour::Listen => network::listening_is_refused,
        Behaviour::Udp => network::udp_is_refused,
        Behaviour::OldSockets => network::old_sockets_are_refused,
        Behaviour::HangingConnection => network::a_connection_that_hangs_is_given_up,
        Behaviour::ConnectionFlood => network::connections_are_counted,
        Behaviour::ConnectionChurn => network::connections_are_begun_at_a_pace,
        Behaviour::LookupFlood => network::names_are_counted,
        Behaviour::RequestFlood => network::requests_are_counted,
        Behaviour::EndlessRequest => network::a_request_without_end_ends_with_its_call,
        Behaviour::EndlessHttpResponse => network::a_response_without_end_fills_its_own_memory,
        Behaviour::EndlessBody => network::a_body_without_end_ends_with_its_call,
        Behaviour::EndlessResponse => network::a_response_without_end_ends_with_its_call,
        Behaviour::ReadFiles => files::files_of_the_host_are_not_there,
        Behaviour::ParentEscape => files::parents_lead_nowhere,
        Behaviour::SymlinkEscape => files::links_lead_nowhere,
        Behaviour::Environment => files::the_environment_is_empty,
        Behaviour::DescribeLoop => file::a_loop_in_describe_is_ended,
        Behaviour::DescribeSleep => file::a_sleep_in_describe_is_ended,
        Behaviour::DescribeTrap => file::a_trap_in_describe_is_told,
        Behaviour::DescribeMemoryBomb => file::a_memory_bomb_in_describe_is_ended,
        Behaviour::PoisonCheckpoint => handover::what_a_new_file_left_is_not_for_the_earlier_one,
        Behaviour::FeatureFlood => file::a_flood_of_features_is_refused,
        Behaviour::SchemaRemote => file::a_schema_that_refers_elsewhere_is_refused,
        Behaviour::SchemaRecursion => file::a_schema_that_refers_to_itself_is_refused,
        Behaviour::SchemaPattern => file::a_pattern_that_would_go_back_for_ever_takes_no_time,
        Behaviour::SchemaBackreference => file::a_pattern_that_has_to_go_back_is_refused,
        Behaviour::SchemaHuge => file::a_huge_schema_is_refused,
        Behaviour::InvalidUtf8 => file::a_text_that_is_no_utf8_is_refused,
        Behaviour::TableBomb => file::a_table_bomb_is_refused,
        Behaviour::InitialMemoryBomb => file::a_huge_memory_is_refused,
        Behaviour::ManyMemories => file::many_memories_are_refused,
        Behaviour::ManyTables => file::many_tables_are_refused,
        Behaviour::ManyInstances => file::many_instances_are_refused,
        Behaviour::LoopInInstantiation => file::a_loop_while_it_is_instantiated_is_ended,
        Behaviour::UnknownVersion => file::an_unknown_version_is_refused_with_what_is_served,
        Behaviour::MissingExport => file::a_component_that_is_no_plugin_is_refused,
        Behaviour::NoCapability => file::a_plugin_that_offers_nothing_is_refused,
        Behaviour::WrongType => file::a_function_of_another_type_is_refused,
        Behaviour::UnknownImport => file::an_unknown_import_is_refused,
        Behaviour::NotWasm => file::text_is_refused,
        Behaviour::CoreModule => file::a_core_module_is_refused,
        Behaviour::Truncated => file::half_a_file_is_refused,
        Behaviour::Nesting => file::nesting_is_bounded,
        Behaviour::DeepNesting => file::deep_nesting_is_refused,
        Behaviour::HugeFile => file::a_huge_file_is_refused_unread,
        Behaviour::HugeCode => file::a_lot_of_code_is_refused_uncompiled,
        Behaviour::HugeFunction => file::a_huge_function_is_refused_uncompiled,
    }
}

#[test]
fn there_are_at_least_forty_behaviours_and_each_has_a_test_of_its_own() {
    let tests: std::collections::BTreeSet<usize> =
        Behaviour::ALL.iter().map(|behaviour| test_of(*behaviour) as usize).collect();
    assert!(tests.len() >= 40, "{}", tests.len());
    assert_eq!(tests.len(), Behaviour::ALL.len(), "two behaviours share a test");
}
