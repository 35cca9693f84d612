//! Configuration on servers in memory, on a virtual clock.

use crate::ensemble::Ensemble;
use pintle_plugin_sdk::testing::run;

#[test]
fn deleting_everything_leaves_no_key_behind_however_many_there_are() {
    run(async {
        let ensemble = Ensemble::start();
        // As much as is looked at together, and a rest of which all lies right below the root.
        (0..200).for_each(|n| ensemble.create(&format!("/k{n:03}"), b"", 0));
        (128..8_192).for_each(|n| ensemble.create(&format!("/k199/{n}"), b"", 0));
        let host = ensemble.plugin(&[], &[]).await;
        assert_eq!(host.config().delete_prefix(String::new(), None).await.unwrap(), 8_264);
        assert!(ensemble.below("/k").is_empty());
    });
}
