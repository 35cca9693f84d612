//! Three members: a leader that is killed, a member that stops, a quorum that is lost.

use std::time::Duration;

use anyhow::{Context, Result};
use etcd_client::Client;
use pintle::{
    HealthState,
    config::Put,
    lock::{LeaseStatus, LockRequest},
    registry::RegistrationStatus,
};
use pintle_test_proxy::{Action, Fault, Proxy, Rule};
use pintle_test_services::{EtcdCluster, EtcdOptions};
use pintle_test_suites::{
    DEADLINE, eventually,
    follow::{Follower, Record, check_all, text},
    load::Load,
    peers::EtcdPeers,
    within,
};

use crate::{
    config::put,
    lock::status_is as lease_is,
    registry::{LONG, status_is, web},
    stage::{Node, NodeSettings, Stage, proxy_to},
    watch::prefix,
};

/// A cluster, and a stage whose hosts use all its members.
struct Cluster {
    cluster: EtcdCluster,
    stage: Stage,
}

impl Cluster {
    async fn start() -> Result<Self> {
        let cluster = EtcdCluster::start(EtcdOptions::default()).await?;
        // The stage's own server is not used: it gives root and folder.
        Ok(Self { cluster, stage: Stage::new().await? })
    }

    fn settings(&self, name: &str) -> NodeSettings {
        self.stage.settings(name).endpoints(self.cluster.endpoints())
    }

    async fn node(&self, name: &str) -> Result<Node> {
        self.stage.start(self.settings(name)).await
    }

    /// A native client of the member at this endpoint.
    async fn native(&self, endpoint: &str) -> Result<Client> {
        Ok(within("a native client", Client::connect([endpoint], None)).await??)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_costs_no_write_no_event_no_lease_and_no_instance() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let nodes = [cluster.node("a").await?, cluster.node("b").await?];
    let node = &nodes[0];
    let follower = Follower::open(&node.config, "watcher", prefix("w")).await?;
    let lease = node.hold(LockRequest::new("l").ttl(Duration::from_secs(30))).await?;
    let registration = node.register(web("1"), Duration::from_secs(30)).await?;
    let load = Load::start(&nodes.each_ref().map(|node| node.config.clone()), 4);
    let mut record = Record::default();
    for round in 0..2 {
        load.more(50).await?;
        let leader = cluster.cluster.leader().await?.endpoint();
        cluster.cluster.leader().await?.kill()?;
        let value = format!("round {round}");
        // Another value for each attempt, so that one that is in doubt is told from the next.
        let mut attempt = 0;
        let written = eventually("a write", async || {
            attempt += 1;
            let value = format!("{value}, attempt {attempt}");
            Ok(put(&node.config, "w/k", &value).await.ok().map(|_| value))
        })
        .await?;
        record.state.insert("w/k".into(), written);
        load.more(50).await?;
        let all = cluster.cluster.members();
        let old = all.iter_mut().find(|member| member.endpoint() == leader).context("it")?;
        old.restart().await?;
    }
    follower.until_state(&record.state).await?;
    assert!(follower.now().resyncs.is_empty(), "{:?}", follower.now().resyncs);
    let report = load.end().await?;
    assert!(report.checked > 200 && report.is_clean(), "{report}");
    lease_is(&lease, |status| *status == LeaseStatus::Held).await?;
    status_is(&registration, |status| *status == RegistrationStatus::Registered).await?;
    assert_eq!(nodes[1].instances("web").await?.len(), 1);
    assert!(lease.release().await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_stops_without_a_word_is_left_for_another() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let mut proxies: Vec<Proxy> = Vec::new();
    for member in cluster.cluster.members() {
        proxies.push(proxy_to(member.address()).await?);
    }
    let endpoints = proxies.iter().map(|proxy| proxy.addr().to_string());
    let node = cluster.stage.start(cluster.settings("a").endpoints(endpoints)).await?;
    put(&node.config, "w/k", "1").await?;
    let follower = Follower::open(&node.config, "watcher", prefix("w")).await?;
    let lease = node.hold(LockRequest::new("l").ttl(LONG)).await?;
    let used = |proxies: &[Proxy]| -> Vec<usize> {
        (0..3).filter(|&member| !proxies[member].connections().is_empty()).collect()
    };
    // The member that carries the watch stops: each kind of request has a connection of its own.
    let delivered = proxies.iter().map(|proxy| {
        let marked = Rule::reply(|message| message.contains(b"marked"));
        proxy.arm(marked, Action::Fault(Fault::None))
    });
    let delivered: Vec<_> = delivered.collect();
    put(&node.config, "w/k", "marked").await?;
    follower.until("the mark", |now| now.state["w/k"] == "marked").await?;
    let first = delivered.iter().position(|armed| armed.count() > 0).context("a delivery")?;
    cluster.cluster.members()[first].pause()?;

    // What others write through the rest arrives, and reads are answered.
    let rest = cluster.cluster.endpoints();
    let rest = rest.iter().enumerate().find(|(member, _)| *member != first).context("another")?;
    let mut native = cluster.native(rest.1).await?;
    let key = cluster.stage.key("w/k");
    eventually("a native write", async || Ok(native.put(key.as_str(), "2", None).await.ok()))
        .await?;
    follower.until("the change", |now| now.state["w/k"] == "2").await?;
    eventually("a write", async || Ok(put(&node.config, "w/k", "3").await.ok())).await?;
    follower.until("its event", |now| now.state["w/k"].starts_with('3')).await?;
    assert!(follower.now().resyncs.is_empty());
    assert!(used(&proxies).iter().any(|member| *member != first), "still on the stopped member");
    lease_is(&lease, |status| *status == LeaseStatus::Held).await?;
    cluster.cluster.members()[first].resume()?;
    // Members that elect a leader answer late.
    let another = async || Ok(node.hold(LockRequest::new("m").ttl(LONG)).await.ok());
    eventually("another lock", another).await?;
    assert!(lease.release().await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_without_a_leader_is_not_believed() -> Result<()> {
    const ENDED: [(&str, &str); 2] = [("grpc_method", "Watch"), ("grpc_code", "Unavailable")];
    let mut cluster = Cluster::start().await?;
    let mine = cluster.cluster.endpoints().swap_remove(0);
    let node = cluster.stage.start(cluster.settings("a").endpoints([mine.clone()])).await?;
    put(&node.config, "w/k", "1").await?;
    let mirror = node.config.mirror(prefix("w")).await?;
    let follower = Follower::open(&node.config, "watcher", prefix("w")).await?;
    for member in cluster.cluster.members().iter_mut().skip(1) {
        member.pause()?;
    }
    // The member answers pings, and would keep an ordinary watch open and silent: it ends this one.
    eventually("the end of the watch", async || {
        let ended = cluster.cluster.members()[0].metric("grpc_server_handled_total", &ENDED);
        Ok((ended.await? >= 1.0).then_some(()))
    })
    .await?;
    eventually("the doubt", async || {
        let cached = mirror.cached("w/k", DEADLINE).context("the last that was known")?;
        let health = node.pintle.check_backend("main").await?.health?;
        Ok((!cached.live || health.state != HealthState::Serving).then_some(()))
    })
    .await?;
    let error = within("an answer", node.config.get("w/k")).await?.unwrap_err();
    assert!(matches!(error.code(), "unavailable" | "timeout"), "{error}");
    let write = node.config.put(Put::new("w/other", "lost?"));
    let error = within("an answer", write).await?.unwrap_err();
    assert_ne!(error.code(), "internal", "{error}");

    for member in cluster.cluster.members().iter_mut().skip(1) {
        member.resume()?;
    }
    let mut attempt = 0;
    let written = eventually("a write", async || {
        attempt += 1;
        let value = format!("2, attempt {attempt}");
        Ok(put(&node.config, "w/k", &value).await.ok().map(|_| value))
    })
    .await?;
    follower.until("the change", |now| now.state.get("w/k") == Some(&written)).await?;
    eventually("a live mirror", async || {
        Ok(mirror.cached("w/k", DEADLINE).filter(|cached| cached.live).map(drop))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_cut_off_from_its_peers_is_left_for_those_who_have_a_leader() -> Result<()> {
    let (cluster, mut peers) = EtcdPeers::start(EtcdOptions::default()).await?;
    let mut cluster = Cluster { cluster, stage: Stage::new().await? };
    let node = cluster.node("a").await?;
    put(&node.config, "w/k", "1").await?;
    let follower = Follower::open(&node.config, "watcher", prefix("w")).await?;
    let lease = node.hold(LockRequest::new("l").ttl(Duration::from_secs(30))).await?;
    // The first of the endpoints is the one that is used.
    peers.cut_off(&mut cluster.cluster, 0).await?;
    let rest = cluster.cluster.endpoints().swap_remove(1);
    let mut native = cluster.native(&rest).await?;
    let key = cluster.stage.key("w/k");
    eventually("a native write", async || Ok(native.put(key.as_str(), "2", None).await.ok()))
        .await?;
    follower.until("the change", |now| now.state["w/k"] == "2").await?;
    eventually("a write", async || Ok(put(&node.config, "w/k", "3").await.ok())).await?;
    let entry = within("a read", node.config.get("w/k")).await??.context("w/k")?;
    assert!(text(&entry.value).starts_with('3'));
    follower.until("its event", |now| now.state["w/k"].starts_with('3')).await?;
    assert!(follower.now().resyncs.is_empty(), "{:?}", follower.now().resyncs);
    lease_is(&lease, |status| *status == LeaseStatus::Held).await?;
    // Locks have a connection of their own: it may lead to the member that is cut off until a call
    // over it is in vain. The release goes on in the background then.
    drop(lease);
    let again = async || Ok(node.hold(LockRequest::new("l")).await.ok());
    eventually("the lock to be free", again).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_are_dead_from_the_start_are_passed_over() -> Result<()> {
    let stage = Stage::new().await?;
    // Ports that nobody listens on, and one that does not answer.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let dead = pintle_test_services::Port::free()?;
    let endpoints =
        [dead.address().to_string(), silent.local_addr()?.to_string(), stage.etcd.endpoint()];
    let node = stage.start(stage.settings("a").endpoints(endpoints)).await?;
    eventually("a write", async || Ok(put(&node.config, "k", "1").await.ok())).await?;
    let follower = Follower::open(&node.config, "watcher", prefix("")).await?;
    let mut record = Record::default();
    record.put("k", "1");
    put(&node.config, "k", "2").await?;
    record.put("k", "2");
    follower.until_state(&record.state).await?;
    check_all(&[follower], &record.written, 0);
    Ok(())
}
