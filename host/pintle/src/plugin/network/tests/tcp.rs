//! `wasi:sockets`: what is reached, what is refused, and how connections end.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use super::guest::{Guest, Names, PATIENCE, call, options};
use super::servers::{ClosedPort, echo_server, serve};
use crate::plugin::sockets::{Resolver, Resolving};

const MIB: usize = 1024 * 1024;

#[tokio::test]
async fn an_endpoint_is_reached_by_address_and_by_name() {
    let port = echo_server().await.port();
    let mut options = options(&[&format!("127.0.0.1:{port}"), &format!("etcd1:{port}")]);
    options.resolver = Names::with(&[("etcd1", &["127.0.0.1"])]);
    let mut guest = Guest::start(options).await;
    for host in ["127.0.0.1", "etcd1", "ETCD1"] {
        let address = format!("{host}:{port}");
        let received = call!(guest, call_exchange(address, b"hello".to_vec(), false)).unwrap();
        assert_eq!((received.bytes.as_slice(), received.end), (b"hello".as_slice(), Ok(())));
    }
    let counters = guest.counters();
    assert_eq!((counters.connections_total, counters.denials, counters.failures), (3, 0, 0));
    assert_eq!((counters.bytes_sent, counters.bytes_received), (15, 15));
    assert_eq!(counters.connections_open, 0);
}

#[tokio::test]
async fn what_is_not_granted_is_denied_with_the_line_to_add() {
    let granted = echo_server().await;
    let other = echo_server().await;
    let mut guest = Guest::start(options(&[&granted.to_string()])).await;
    let denied = call!(guest, call_connect(other.to_string()));
    assert_eq!(denied, Err("ErrorCode::AccessDenied".to_owned()));
    let text = format!(
        "backend main: connection to {other} denied; \
         add allow = [\"{other}\"] to [backends.main]"
    );
    assert_eq!(guest.counters().last_denial, Some(text));

    let denied = call!(guest, call_look_up("etcd9".to_owned()));
    assert_eq!(denied, Err("ErrorCode::AccessDenied".to_owned()));
    let counters = guest.counters();
    assert_eq!((counters.denials, counters.connections_total), (2, 0));
}

#[tokio::test]
async fn a_name_is_granted_on_its_port_only() {
    let port = echo_server().await.port();
    let mut options = options(&["etcd1:1"]);
    options.resolver = Names::with(&[("etcd1", &["127.0.0.1"])]);
    let mut guest = Guest::start(options).await;
    let denied = call!(guest, call_connect(format!("etcd1:{port}")));
    assert_eq!(denied, Err("ErrorCode::AccessDenied".to_owned()));
}

#[tokio::test]
async fn a_wildcard_name_that_resolves_inside_is_denied() {
    let port = echo_server().await.port();
    let mut options = options(&[]);
    options.allow = vec![format!("*.example.com:{port}")];
    options.resolver = Names::with(&[("a.example.com", &["127.0.0.1"])]);
    let mut guest = Guest::start(options).await;
    let denied = call!(guest, call_connect(format!("a.example.com:{port}")));
    assert_eq!(denied, Err("ErrorCode::AccessDenied".to_owned()));
    let text = guest.counters().last_denial.unwrap();
    assert!(text.contains("it resolves to 127.0.0.1"), "{text}");
    assert!(text.contains(&format!("add allow = [\"a.example.com:{port}\"]")), "{text}");
}

#[tokio::test]
async fn a_granted_address_opens_a_wildcard_name_that_resolves_to_it() {
    let port = echo_server().await.port();
    let mut options = options(&[]);
    options.allow = vec![format!("*.example.com:{port}"), format!("127.0.0.0/8:{port}")];
    options.resolver = Names::with(&[("a.example.com", &["127.0.0.1"])]);
    let mut guest = Guest::start(options).await;
    assert_eq!(call!(guest, call_connect(format!("a.example.com:{port}"))), Ok(()));
}

#[tokio::test]
async fn a_synthetic_address_is_of_no_use_to_another_incarnation() {
    let port = echo_server().await.port();
    let new_options = || {
        let mut options = options(&[&format!("etcd1:{port}")]);
        options.resolver = Names::with(&[("etcd1", &["127.0.0.1"])]);
        options
    };
    let mut one = Guest::start(new_options()).await;
    let mut two = Guest::start(new_options()).await;
    let addresses = call!(one, call_look_up("etcd1".to_owned())).unwrap();
    let address = format!("[{}]:{port}", addresses[0]);
    assert!(call!(two, call_look_up("etcd1".to_owned())).is_ok());
    assert_eq!(call!(one, call_connect(address.clone())), Ok(()));
    let denied = call!(two, call_connect(address));
    assert_eq!(denied, Err("ErrorCode::AccessDenied".to_owned()));
}

#[tokio::test]
async fn bind_listen_and_udp_are_denied() {
    let mut guest = Guest::start(options(&[])).await;
    for what in ["bind", "listen", "udp"] {
        let denied = call!(guest, call_forbidden(what.to_owned()));
        assert_eq!(denied, Err("ErrorCode::AccessDenied".to_owned()), "{what}");
    }
    assert_eq!(guest.counters().denials, 3);
}

#[tokio::test]
async fn sockets_of_wasi_02_are_denied_and_the_log_says_what_to_use() {
    let server = echo_server().await;
    let mut guest = Guest::start(options(&[&server.to_string(), "etcd1:1"])).await;
    for address in [server.to_string(), "etcd1:1".to_owned()] {
        assert!(call!(guest, call_connect_by_std(address)).is_err());
        let text = guest.counters().last_denial.unwrap();
        assert!(text.contains("of WASI 0.2 denied; use wasi:sockets 0.3"), "{text}");
    }
    assert_eq!(guest.counters().connections_total, 0);
}

#[tokio::test]
async fn two_mebibytes_pass_both_ways_through_a_slow_echo() {
    let server = echo_server().await;
    let mut guest = Guest::start(options(&[&server.to_string()])).await;
    let bytes: Vec<u8> = (0..2 * MIB).map(|index| (index % 251) as u8).collect();
    let received = call!(guest, call_exchange(server.to_string(), bytes.clone(), false)).unwrap();
    assert_eq!(received.end, Ok(()));
    assert!(received.bytes == bytes, "what came back differs");
    let counters = guest.counters();
    assert_eq!(counters.bytes_sent, 2 * MIB as u64);
    assert_eq!(counters.bytes_received, 2 * MIB as u64);
}

#[tokio::test]
async fn a_guest_that_sends_to_a_server_that_does_not_read_is_held_back() {
    const FLOOD: u64 = 64 * MIB as u64;
    let read_now = Arc::new(Notify::new());
    let told = Arc::clone(&read_now);
    let server = serve(move |mut stream| {
        let told = Arc::clone(&told);
        async move {
            told.notified().await;
            let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        }
    })
    .await;
    let mut guest = Guest::start(options(&[&server.to_string()])).await;
    let (sent, held_at) = guest
        .run(async |accessor, probe| {
            let flood = probe.call_flood(accessor, server.to_string(), FLOOD);
            let watch = async {
                // The flood stands still when the kernel's buffers are full.
                let mut before = 0;
                loop {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    let now = probe.call_flooded(accessor).await.unwrap();
                    if now > 0 && now == before {
                        read_now.notify_one();
                        return now;
                    }
                    before = now;
                }
            };
            futures::future::join(flood, watch).await
        })
        .await;
    assert_eq!(sent.unwrap(), Ok(FLOOD));
    assert!(held_at < FLOOD / 2, "{held_at} bytes were taken from the guest");
}

#[tokio::test]
async fn the_end_of_sending_reaches_the_server_while_receiving_goes_on() {
    let server = serve(|mut stream| async move {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        stream.write_all(format!("{} bytes", bytes.len()).as_bytes()).await.unwrap();
    })
    .await;
    let mut guest = Guest::start(options(&[&server.to_string()])).await;
    let received = call!(guest, call_exchange(server.to_string(), vec![1; 1000], false)).unwrap();
    assert_eq!((received.bytes.as_slice(), received.end), (b"1000 bytes".as_slice(), Ok(())));
}

#[tokio::test]
async fn a_reset_shows_in_the_future_and_not_as_an_end() {
    let server = serve(|mut stream| async move {
        let mut byte = [0; 1];
        stream.read_exact(&mut byte).await.unwrap();
        stream.set_zero_linger().unwrap();
    })
    .await;
    let mut guest = Guest::start(options(&[&server.to_string()])).await;
    let received = call!(guest, call_exchange(server.to_string(), vec![1], true)).unwrap();
    assert_eq!(received.end, Err("ErrorCode::ConnectionReset".to_owned()));
}

#[tokio::test]
async fn the_limit_of_connections_names_the_setting_and_counts_what_is_open() {
    let server = echo_server().await;
    let mut options = options(&[&server.to_string()]);
    options.limits.connections_max = 2;
    let mut guest = Guest::start(options).await;
    for _ in 0..2 {
        assert_eq!(call!(guest, call_hold(server.to_string())), Ok(()));
    }
    assert_eq!(guest.counters().connections_open, 2);
    let refused = call!(guest, call_hold(server.to_string())).unwrap_err();
    assert!(refused.contains("limit of 2 connections"), "{refused}");
    assert!(refused.contains("limits.connections"), "{refused}");
    call!(guest, call_release());
    assert_eq!(guest.counters().connections_open, 0);
    assert_eq!(call!(guest, call_hold(server.to_string())), Ok(()));
}

#[tokio::test]
async fn a_store_that_ends_closes_its_connections() {
    let server = echo_server().await;
    let mut guest = Guest::start(options(&[&server.to_string()])).await;
    assert_eq!(call!(guest, call_hold(server.to_string())), Ok(()));
    let counters = Arc::clone(&guest.store.data().network.dialer.counters);
    assert_eq!(counters.snapshot().connections_open, 1);
    drop(guest);
    assert_eq!(counters.snapshot().connections_open, 0);
}

#[tokio::test]
async fn a_closed_port_is_refused_and_counted_as_a_failure() {
    let closed = ClosedPort::new();
    let address = closed.address();
    let mut guest = Guest::start(options(&[&address.to_string()])).await;
    let refused = call!(guest, call_connect(address.to_string()));
    assert_eq!(refused, Err("ErrorCode::ConnectionRefused".to_owned()));
    let counters = guest.counters();
    assert_eq!((counters.failures, counters.denials), (1, 0));
    assert!(counters.last_failure.unwrap().contains(&address.to_string()));
}

#[tokio::test]
async fn the_next_address_of_a_name_is_tried_when_one_refuses() {
    let port = echo_server().await.port();
    let mut options = options(&[&format!("etcd1:{port}")]);
    options.resolver = Names::with(&[("etcd1", &["127.0.0.2", "127.0.0.1"])]);
    let mut guest = Guest::start(options).await;
    assert_eq!(call!(guest, call_connect(format!("etcd1:{port}"))), Ok(()));
}

#[tokio::test]
async fn a_name_that_does_not_resolve_says_so() {
    let mut options = options(&["etcd1:2379"]);
    options.resolver = Names::with(&[]);
    let mut guest = Guest::start(options).await;
    let error = call!(guest, call_connect("etcd1:2379".to_owned())).unwrap_err();
    assert!(error.contains("etcd1 cannot be resolved: no such name"), "{error}");
}

#[tokio::test]
async fn a_connection_that_does_not_come_about_times_out() {
    #[derive(Debug)]
    struct Silent;

    impl Resolver for Silent {
        fn resolve(&self, _: &str) -> Resolving {
            Box::pin(std::future::pending())
        }
    }

    let mut options = options(&["etcd1:2379"]);
    options.resolver = Arc::new(Silent);
    options.limits.connect_timeout = Duration::from_millis(50);
    let mut guest = Guest::start(options).await;
    let late = call!(guest, call_connect("etcd1:2379".to_owned()));
    assert_eq!(late, Err("ErrorCode::Timeout".to_owned()));
}

#[tokio::test]
async fn a_look_up_that_was_given_up_keeps_its_connection_until_it_has_ended() {
    /// Answers when it is told to.
    #[derive(Debug)]
    struct Slow(Arc<Notify>);

    impl Resolver for Slow {
        fn resolve(&self, _: &str) -> Resolving {
            let told = Arc::clone(&self.0);
            Box::pin(async move {
                told.notified().await;
                Ok(vec!["127.0.0.1".parse().unwrap()])
            })
        }
    }

    let port = echo_server().await.port();
    let tell = Arc::new(Notify::new());
    let mut options = options(&[&format!("etcd1:{port}")]);
    options.resolver = Arc::new(Slow(Arc::clone(&tell)));
    options.limits.connections_max = 1;
    options.limits.connect_timeout = Duration::from_millis(50);
    let mut guest = Guest::start(options).await;
    let late = call!(guest, call_connect(format!("etcd1:{port}")));
    assert_eq!(late, Err("ErrorCode::Timeout".to_owned()));
    let refused = call!(guest, call_connect(format!("etcd1:{port}"))).unwrap_err();
    assert!(!refused.contains("Timeout"), "{refused}");
    // Once for the one that was given up, once for the next.
    tell.notify_one();
    let connected = async {
        loop {
            tell.notify_one();
            match call!(guest, call_connect(format!("etcd1:{port}"))) {
                Ok(_) => break,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, connected).await.unwrap();
}
