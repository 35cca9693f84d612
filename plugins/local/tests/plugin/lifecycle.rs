//! Starting, stopping, and what the plugin says of itself.

use crate::{Node, exclusive, held, put, read, registration};
use pintle_plugin_local::store::Directory;
use pintle_plugin_local::{Local, set_native_storage};
use pintle_plugin_sdk::registry::Consistency;
use pintle_plugin_sdk::testing::{Host, StartOptions, State, run};

#[test]
fn it_describes_itself_without_any_grant() {
    set_native_storage(|| panic!("it looked for its data"));
    let description = Host::<Local>::describe();
    assert!(description.single_writer && description.data_directory);
    for feature in ["config.txn", "watch.every-change", "lock.permits", "tracing.query"] {
        assert!(description.features.iter().any(|offered| offered == feature), "{feature}");
    }
    let schema: serde_json::Value = serde_json::from_str(&description.settings_schema).unwrap();
    assert_eq!(schema["additionalProperties"], false);
    assert!(schema["properties"]["value_bytes_max"]["description"].is_string());
}

#[test]
fn stopping_leaves_nothing_of_the_incarnation() {
    let node = Node::new();
    node.fresh(async |host| {
        host.config().put(put("a", "1")).await.unwrap();
        held(host.lock().acquire(1, exclusive("l", 0)).await.unwrap());
        host.registry().register(2, registration("a")).await.unwrap();
        host.stop().await.unwrap();
    });
    node.fresh(async |host| {
        assert!(host.config().get("a".into(), read()).await.unwrap().is_some());
        assert!(host.lock().list_locks(String::new(), None, 10).await.unwrap().names.is_empty());
        let page = host
            .registry()
            .instances("shop".into(), None, 10, Consistency::Linearizable)
            .await
            .unwrap();
        assert!(page.instances.is_empty());
    });
}

#[test]
fn health_names_the_revision_and_counts() {
    Node::new().fresh(async |host| {
        host.config().put(put("a", "1")).await.unwrap();
        let report = host.health().await.unwrap();
        assert_eq!(report.state, State::Serving);
        assert!(report.details.contains(&("revision".into(), "1".into())));
        assert!(report.counters.contains(&("errors.store".into(), 0)));
    });
}

#[test]
fn a_file_of_somebody_else_is_refused_with_its_name_and_a_remedy() {
    let node = Node::new();
    let file = node.path().join("pintle.redb");
    std::fs::write(&file, "my diary").unwrap();
    let path = node.path().to_owned();
    set_native_storage(move || Box::new(Directory::new(&path)));
    run(async {
        let Err(error) = Host::<Local>::start(StartOptions::default()).await else {
            panic!("it started")
        };
        assert_eq!(error.code(), "unavailable");
        assert!(error.message().contains(file.to_str().unwrap()), "{error}");
        assert!(error.message().contains("move the file away"), "{error}");
    });
    assert_eq!(std::fs::read(&file).unwrap(), b"my diary");
}

#[test]
fn a_limit_is_named_in_the_error() {
    let options = StartOptions {
        settings: serde_json::json!({ "value_bytes_max": 3 }),
        ..StartOptions::default()
    };
    Node::new().start(options, async |host| {
        let error = host.config().put(put("a", "1234")).await.unwrap_err();
        assert_eq!(error.code(), "too-large");
        assert!(error.details().contains(&("limit".into(), "value_bytes_max".into())));
    });
}

#[test]
fn a_checkpoint_of_another_store_is_ignored() {
    let (one, other) = (Node::new(), Node::new());
    other.fresh(async |host| {
        held(host.lock().acquire(1, exclusive("l", 0)).await.unwrap());
    });
    one.fresh(async |_| ());
    // The checkpoint names incarnation 1 of store `one`.
    other.resumed(async |host| {
        let state = host.lock().inspect("l".into()).await.unwrap();
        assert_eq!(state.holders.len(), 1);
    });
}
