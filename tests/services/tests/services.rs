//! The real servers start, answer, survive what tests do to them, and keep their data.
//!
//! They are fetched first and take seconds each: `cargo xtask test services` runs these.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step is a failed test")]

use pintle_test_services::{
    Etcd, EtcdCluster, EtcdOptions, EtcdTls, EtcdVersion, TestCa, ZooKeeper, ZooKeeperEnsemble,
    ZooKeeperOptions, ZooKeeperTls,
};

const WHY: &str = "needs servers";

#[tokio::test]
#[ignore = "needs servers: cargo xtask test services"]
async fn etcd_keeps_its_data_over_a_kill() {
    for version in [EtcdVersion::V3_4, EtcdVersion::V3_5, EtcdVersion::V3_6] {
        let options = EtcdOptions { version, ..EtcdOptions::default() };
        let mut etcd = Etcd::start(options).await.expect(WHY);
        assert_eq!(etcd.ctl(&["put", "a", "one"]).await.unwrap(), "OK");
        etcd.kill().unwrap();
        assert!(etcd.pause().unwrap_err().to_string().contains("not running"));
        etcd.restart().await.unwrap();
        assert_eq!(etcd.ctl(&["get", "a"]).await.unwrap(), "a\none");
        etcd.stop().await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test services"]
async fn etcd_that_cannot_start_says_why() {
    let arguments = vec!["--no-such-flag".to_owned()];
    let options = EtcdOptions { arguments, ..EtcdOptions::default() };
    let message = Etcd::start(options).await.unwrap_err().to_string();
    assert!(message.contains("ended at once"), "{message}");
    assert!(message.contains("no-such-flag"), "{message}");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test services"]
async fn etcd_with_client_authentication_serves_only_certificates_of_its_authority() {
    let (ca, stranger) = (TestCa::new().unwrap(), TestCa::new().unwrap());
    let tls = Some(EtcdTls::new(&ca, true).unwrap());
    let etcd = Etcd::start(EtcdOptions { tls, ..EtcdOptions::default() }).await.expect(WHY);
    let alice = ca.client("alice").unwrap();
    let mallory = stranger.client("alice").unwrap();
    assert_eq!(etcd.ctl_as(Some(&alice), &["put", "a", "one"]).await.unwrap(), "OK");
    let refused = ["--dial-timeout=1s", "--command-timeout=1s", "put", "a", "two"];
    etcd.ctl_as(None, &refused).await.unwrap_err();
    etcd.ctl_as(Some(&mallory), &refused).await.unwrap_err();
    assert_eq!(etcd.ctl_as(Some(&alice), &["get", "a"]).await.unwrap(), "a\none");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test services"]
async fn etcd_with_tls_alone_asks_clients_for_no_certificate() {
    let ca = TestCa::new().unwrap();
    let tls = Some(EtcdTls::new(&ca, false).unwrap());
    let etcd = Etcd::start(EtcdOptions { tls, ..EtcdOptions::default() }).await.expect(WHY);
    assert_eq!(etcd.ctl(&["put", "a", "one"]).await.unwrap(), "OK");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test services"]
async fn an_etcd_cluster_elects_another_leader_and_takes_the_old_one_back() {
    let mut cluster = EtcdCluster::start(EtcdOptions::default()).await.expect(WHY);
    assert_eq!(cluster.endpoints().len(), 3);
    let first = cluster.leader().await.unwrap().endpoint();
    cluster.leader().await.unwrap().kill().unwrap();
    let second = cluster.leader().await.unwrap();
    assert_ne!(second.endpoint(), first);
    assert_eq!(second.ctl(&["put", "a", "one"]).await.unwrap(), "OK");

    let old = cluster.members().iter_mut().find(|member| member.endpoint() == first).unwrap();
    old.restart().await.unwrap();
    assert_eq!(old.ctl(&["get", "a"]).await.unwrap(), "a\none");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test services"]
async fn a_paused_etcd_leader_is_replaced_and_follows_once_resumed() {
    let mut cluster = EtcdCluster::start(EtcdOptions::default()).await.expect(WHY);
    let first = cluster.leader().await.unwrap();
    let endpoint = first.endpoint();
    first.pause().unwrap();
    let second = cluster.leader().await.unwrap();
    assert_ne!(second.endpoint(), endpoint);
    assert_eq!(second.ctl(&["put", "a", "one"]).await.unwrap(), "OK");

    let old = cluster.members().iter_mut().find(|member| member.endpoint() == endpoint).unwrap();
    old.resume().unwrap();
    old.ready().await.unwrap();
    assert_eq!(old.ctl(&["get", "a"]).await.unwrap(), "a\none");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test services"]
async fn zookeeper_keeps_its_data_over_a_kill() {
    let mut server = ZooKeeper::start(ZooKeeperOptions::default()).await.expect(WHY);
    server.ctl(&["create", "/a", "one"]).await.unwrap();
    assert!(server.four_letter_word("srvr").await.unwrap().contains("Mode: standalone"));
    server.kill().unwrap();
    server.restart().await.unwrap();
    assert!(server.ctl(&["get", "/a"]).await.unwrap().ends_with("one"));
    server.stop().await.unwrap();
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test services"]
async fn zookeeper_serves_tls_beside_its_plain_port() {
    let ca = TestCa::new().unwrap();
    let tls = Some(ZooKeeperTls::new(&ca, true).unwrap());
    let options = ZooKeeperOptions { tls, ..ZooKeeperOptions::default() };
    let server = ZooKeeper::start(options).await.expect(WHY);
    server.ctl(&["create", "/a", "one"]).await.unwrap();
    let alice = ca.client("alice").unwrap();
    assert!(server.ctl_as(&alice, &["get", "/a"]).await.unwrap().ends_with("one"));
    let mallory = TestCa::new().unwrap().client("alice").unwrap();
    server.ctl_as(&mallory, &["get", "/a"]).await.unwrap_err();
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test services"]
async fn a_zookeeper_ensemble_elects_another_leader_and_takes_the_old_one_back() {
    let mut ensemble = ZooKeeperEnsemble::start(ZooKeeperOptions::default()).await.expect(WHY);
    assert_eq!(ensemble.endpoints().len(), 3);
    let first = ensemble.leader().await.unwrap();
    let endpoint = first.endpoint();
    first.kill().unwrap();
    let second = ensemble.leader().await.unwrap();
    assert_ne!(second.endpoint(), endpoint);
    second.ctl(&["create", "/a", "one"]).await.unwrap();

    let old = ensemble.members().iter_mut().find(|member| member.endpoint() == endpoint).unwrap();
    old.restart().await.unwrap();
    assert!(old.ctl(&["get", "/a"]).await.unwrap().ends_with("one"));
}
