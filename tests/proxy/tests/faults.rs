//! Each fault, seen from both ends of a real connection.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests, which may panic")]

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use pintle_test_proxy::{Action, Cut, Direction, Fault, Framing, Proxy, Rule};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(10);

/// A server that hands each accepted stream to the test.
struct Server {
    addr: SocketAddr,
    streams: mpsc::Receiver<TcpStream>,
}

impl Server {
    async fn start() -> Server {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (sender, streams) = mpsc::channel(64);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if sender.send(stream).await.is_err() {
                    return;
                }
            }
        });
        Server { addr, streams }
    }

    async fn next(&mut self) -> TcpStream {
        timeout(DEADLINE, self.streams.recv()).await.expect("a connection").unwrap()
    }
}

async fn connected(framing: Framing) -> (Proxy, TcpStream, TcpStream, Server) {
    let mut server = Server::start().await;
    let proxy =
        Proxy::builder(server.addr).framing(framing).record(64 << 20).start().await.unwrap();
    let client = TcpStream::connect(proxy.addr()).await.unwrap();
    let upstream = server.next().await;
    (proxy, client, upstream, server)
}

async fn send(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
}

async fn receive(stream: &mut TcpStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    timeout(DEADLINE, stream.read_exact(&mut bytes)).await.expect("bytes in time").unwrap();
    bytes
}

/// What the next read says: bytes, `Ok(0)` at the end, or an error.
async fn read_once(stream: &mut TcpStream) -> std::io::Result<usize> {
    timeout(DEADLINE, stream.read(&mut [0; 64])).await.expect("an answer in time")
}

async fn is_reset(stream: &mut TcpStream) -> bool {
    matches!(read_once(stream).await, Err(e) if e.kind() == ErrorKind::ConnectionReset)
}

/// Whether nothing at all is there to be read now.
fn is_silent(stream: &TcpStream) -> bool {
    matches!(stream.try_read(&mut [0; 1]), Err(e) if e.kind() == ErrorKind::WouldBlock)
}

fn record(xid: u32, body: &[u8]) -> Vec<u8> {
    let len = (4 + body.len()) as u32;
    [&len.to_be_bytes(), &xid.to_be_bytes(), body].concat()
}

fn frame(kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    let len = (body.len() as u32).to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), body].concat()
}

#[tokio::test]
async fn passes_bytes_and_half_closes_both_ways() {
    let (proxy, mut client, mut upstream, _server) = connected(Framing::Chunks).await;
    send(&mut client, b"question").await;
    assert_eq!(receive(&mut upstream, 8).await, b"question");
    client.shutdown().await.unwrap();
    assert_eq!(read_once(&mut upstream).await.unwrap(), 0);
    send(&mut upstream, b"late answer").await;
    assert_eq!(receive(&mut client, 11).await, b"late answer");
    drop(upstream);
    assert_eq!(read_once(&mut client).await.unwrap(), 0);
    let connection = proxy.accepted().remove(0);
    connection.wait_for_end().await.unwrap();
    assert_eq!(connection.recorded(Direction::ToServer), b"question");
    assert_eq!(connection.recorded(Direction::ToClient), b"late answer");
    let counts = proxy.counts();
    assert_eq!((counts.accepted, counts.live, counts.cut), (1, 0, 0));
    assert_eq!((counts.bytes_to_server, counts.bytes_to_client), (8, 11));
}

#[tokio::test]
async fn large_transfers_arrive_unchanged() {
    let (_proxy, mut client, mut upstream, _server) = connected(Framing::Chunks).await;
    let sent: Vec<u8> = (0..8_000_000u32).map(|n| (n % 251) as u8).collect();
    let expected = sent.clone();
    let sending = tokio::spawn(async move {
        client.write_all(&sent).await.unwrap();
        client
    });
    assert!(receive(&mut upstream, expected.len()).await == expected);
    sending.await.unwrap();
}

#[tokio::test]
async fn reset_is_seen_by_both_ends() {
    let (proxy, mut client, mut upstream, _server) = connected(Framing::Chunks).await;
    assert_eq!(proxy.cut_all(Cut::Reset).await.unwrap(), 1);
    assert!(proxy.connections().is_empty());
    assert!(is_reset(&mut client).await);
    assert!(is_reset(&mut upstream).await);
    assert_eq!(proxy.counts().cut, 1);
}

#[tokio::test]
async fn close_is_an_orderly_end_even_with_unread_bytes() {
    let (proxy, mut client, mut upstream, _server) = connected(Framing::Chunks).await;
    proxy.set(Fault::Blackhole);
    send(&mut client, b"never delivered").await;
    proxy.connections()[0].cut(Cut::Close).await.unwrap();
    assert_eq!(read_once(&mut client).await.unwrap(), 0);
    assert_eq!(read_once(&mut upstream).await.unwrap(), 0);
}

#[tokio::test]
async fn cut_before_the_reply_to_a_chosen_request() {
    let (proxy, mut client, mut upstream, _server) = connected(Framing::LengthPrefixed).await;
    let rule = Rule::reply_to(|m| m.contains(b"create /b"));
    let armed = proxy.arm(rule, Action::CutBefore(Cut::Reset));
    let (first, second) = (record(1, b"create /a"), record(2, b"create /b"));
    send(&mut client, &[first.clone(), second.clone()].concat()).await;
    assert_eq!(receive(&mut upstream, 34 - 8 + 8).await.len(), first.len() + second.len());
    // An event without correlation, the reply to the other request, then the chosen one.
    let event = record(u32::MAX, b"event");
    let other = record(1, b"ok");
    let replies = [event.clone(), other.clone(), record(2, b"ok")].concat();
    send(&mut upstream, &replies).await;
    armed.fired().await.unwrap();
    assert!(proxy.connections().is_empty());
    assert_eq!(receive(&mut client, event.len() + other.len()).await, [event, other].concat());
    assert!(is_reset(&mut client).await);
}

#[tokio::test]
async fn cut_after_the_chosen_reply_delivers_it_whole() {
    let (proxy, mut client, mut upstream, _server) = connected(Framing::LengthPrefixed).await;
    let armed = proxy.arm(Rule::reply(|_| true).nth(2), Action::CutAfter(Cut::Close));
    let replies: Vec<_> = (1..=3).map(|xid| record(xid, b"reply")).collect();
    send(&mut upstream, &replies.concat()).await;
    armed.fired().await.unwrap();
    let expected = replies[..2].concat();
    assert_eq!(receive(&mut client, expected.len()).await, expected);
    assert_eq!(read_once(&mut client).await.unwrap(), 0);
    assert_eq!(armed.count(), 1);
}

#[tokio::test]
async fn dropped_reply_leaves_the_connection_open() {
    let (proxy, mut client, mut upstream, _server) = connected(Framing::LengthPrefixed).await;
    let armed = proxy.arm(Rule::reply_to(|m| m.contains(b"put")), Action::Drop);
    send(&mut client, &record(7, b"put")).await;
    receive(&mut upstream, 11).await;
    send(&mut upstream, &record(7, b"ok")).await;
    armed.fired().await.unwrap();
    assert!(is_silent(&client));
    send(&mut upstream, &record(8, b"ok")).await;
    assert_eq!(receive(&mut client, 10).await, record(8, b"ok"));
}

#[tokio::test]
async fn http2_reply_is_chosen_by_stream() {
    let (proxy, mut client, mut upstream, _server) = connected(Framing::Http2).await;
    let rule = Rule::reply_to(|m| m.is_data() && m.contains(b"key-5")).and(|m| m.ends_stream());
    let armed = proxy.arm(rule, Action::CutAfter(Cut::Close));
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let requests = [preface, frame(0, 1, 3, b"key-3"), frame(0, 1, 5, b"key-5")].concat();
    send(&mut client, &requests).await;
    assert_eq!(receive(&mut upstream, requests.len()).await, requests);
    let replies = [
        frame(1, 4, 3, b"h3"),
        frame(1, 4, 5, b"h5"),
        frame(1, 5, 3, b"t3"),
        frame(1, 5, 5, b"t5"),
    ];
    send(&mut upstream, &[&replies.concat()[..], &frame(6, 0, 0, b"ping")].concat()).await;
    armed.fired().await.unwrap();
    assert_eq!(receive(&mut client, replies.concat().len()).await, replies.concat());
    assert_eq!(read_once(&mut client).await.unwrap(), 0);
}

#[tokio::test]
async fn four_letter_word_passes_a_record_framing() {
    let (_proxy, mut client, mut upstream, _server) = connected(Framing::LengthPrefixed).await;
    send(&mut client, b"ruok").await;
    assert_eq!(receive(&mut upstream, 4).await, b"ruok");
    send(&mut upstream, b"imok").await;
    assert_eq!(receive(&mut client, 4).await, b"imok");
}

#[tokio::test]
async fn partition_holds_bytes_and_newcomers_until_it_heals() {
    let (proxy, mut client, mut upstream, mut server) = connected(Framing::Chunks).await;
    proxy.set(Fault::Blackhole);
    send(&mut client, b"held").await;
    send(&mut upstream, b"kept").await;
    let mut newcomer = TcpStream::connect(proxy.addr()).await.unwrap();
    send(&mut newcomer, b"hello").await;
    proxy.wait_for_connections(2).await.unwrap();
    assert!(is_silent(&client) && is_silent(&upstream));
    assert!(server.streams.try_recv().is_err());
    proxy.heal().await.unwrap();
    assert_eq!(receive(&mut upstream, 4).await, b"held");
    assert_eq!(receive(&mut client, 4).await, b"kept");
    let mut second = server.next().await;
    assert_eq!(receive(&mut second, 5).await, b"hello");
}

#[tokio::test]
async fn blackhole_keeps_a_clients_close_from_the_server() {
    let (proxy, client, mut upstream, _server) = connected(Framing::Chunks).await;
    proxy.set(Fault::BlackholeTowards(Direction::ToServer));
    drop(client);
    send(&mut upstream, b"are you there?").await;
    proxy.wait_until("delivery", |counts| counts.bytes_to_client == 14).await.unwrap();
    assert!(is_silent(&upstream));
    proxy.heal().await.unwrap();
    assert!(!matches!(read_once(&mut upstream).await, Ok(n) if n > 0));
}

#[tokio::test]
async fn nothing_is_delivered_once_a_blackhole_is_set() {
    for _ in 0..5 {
        let (proxy, mut client, mut upstream, _server) = connected(Framing::Chunks).await;
        let flood =
            tokio::spawn(async move { while client.write_all(&[7; 100_000]).await.is_ok() {} });
        let connection = proxy.connections().remove(0);
        let delivered = || connection.recorded(Direction::ToServer).len();
        // Until the server's buffers are full and a write is under way.
        let mut before = 0;
        while before == 0 || before != delivered() {
            before = delivered();
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        }
        proxy.set(Fault::Blackhole);
        let delivered = delivered();
        receive(&mut upstream, delivered).await;
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(is_silent(&upstream));
        proxy.set(Fault::None);
        receive(&mut upstream, 1).await;
        drop(proxy);
        flood.await.unwrap();
    }
}

#[tokio::test]
async fn delay_counts_per_direction() {
    let (proxy, mut client, mut upstream, _server) = connected(Framing::Chunks).await;
    let delay = Duration::from_millis(80);
    proxy.set(Fault::Delay { to_server: Duration::ZERO, to_client: delay });
    let start = Instant::now();
    send(&mut client, b"q").await;
    receive(&mut upstream, 1).await;
    send(&mut upstream, b"a").await;
    receive(&mut client, 1).await;
    assert!(start.elapsed() >= delay);
    proxy.set(Fault::Delay { to_server: Duration::from_secs(3600), to_client: delay });
    send(&mut client, b"slow").await;
    send(&mut upstream, b"a").await;
    receive(&mut client, 1).await;
    assert!(is_silent(&upstream));
    proxy.set(Fault::None);
    assert_eq!(receive(&mut upstream, 4).await, b"slow");
}

#[tokio::test]
async fn half_open_hides_the_end_of_the_server_until_it_heals() {
    let (proxy, mut client, upstream, _server) = connected(Framing::Chunks).await;
    proxy.set(Fault::HalfOpen);
    drop(upstream);
    proxy.connections()[0].wait_until_stranded().await.unwrap();
    send(&mut client, b"anyone?").await;
    assert!(is_silent(&client));
    assert_eq!(proxy.counts().live, 1);
    proxy.heal().await.unwrap();
    assert!(is_reset(&mut client).await);
}

#[tokio::test]
async fn stranded_client_keeps_a_dead_connection() {
    let (proxy, mut client, mut upstream, _server) = connected(Framing::Chunks).await;
    let connection = proxy.connections().remove(0);
    connection.strand().await.unwrap();
    assert!(is_reset(&mut upstream).await);
    for _ in 0..10 {
        send(&mut client, b"anyone?").await;
    }
    assert!(is_silent(&client) && connection.is_live());
    connection.cut(Cut::Close).await.unwrap();
    assert_eq!(read_once(&mut client).await.unwrap(), 0);
}

#[tokio::test]
async fn held_reply_arrives_when_the_test_wants_it() {
    let (proxy, mut client, mut upstream, _server) = connected(Framing::LengthPrefixed).await;
    let hold = Action::Fault(Fault::BlackholeTowards(Direction::ToClient));
    let armed = proxy.arm(Rule::reply(|m| m.contains(b"second")), hold);
    let (first, second) = (record(1, b"first"), record(2, b"second"));
    send(&mut upstream, &[first.clone(), second.clone()].concat()).await;
    armed.fired().await.unwrap();
    assert_eq!(receive(&mut client, first.len()).await, first);
    assert!(is_silent(&client));
    proxy.connections()[0].heal();
    assert_eq!(receive(&mut client, second.len()).await, second);
    assert_eq!(armed.count(), 1);
}

#[tokio::test]
async fn refused_port_is_kept_and_opens_again() {
    let (proxy, mut client, mut upstream, mut server) = connected(Framing::Chunks).await;
    for _ in 0..20 {
        proxy.refuse().await.unwrap();
        let error = TcpStream::connect(proxy.addr()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        proxy.heal().await.unwrap();
        TcpStream::connect(proxy.addr()).await.unwrap();
        server.next().await;
    }
    send(&mut client, b"still here").await;
    assert_eq!(receive(&mut upstream, 10).await, b"still here");
}

#[tokio::test]
async fn unreachable_server_resets_the_client_until_the_upstream_is_moved() {
    let mut server = Server::start().await;
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let proxy = Proxy::start(closed.local_addr().unwrap()).await.unwrap();
    drop(closed);
    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    assert!(is_reset(&mut client).await);
    assert_eq!(proxy.counts().unreachable, 1);
    proxy.set_upstream(server.addr);
    let _client = TcpStream::connect(proxy.addr()).await.unwrap();
    server.next().await;
}

#[tokio::test]
async fn rule_counts_over_connections_or_only_on_one() {
    let (proxy, mut client, _upstream, mut server) = connected(Framing::LengthPrefixed).await;
    let mut other = TcpStream::connect(proxy.addr()).await.unwrap();
    let mut other_upstream = server.next().await;
    let connections = proxy.wait_for_connections(2).await.unwrap();
    let only = Rule::request(|_| true).always().on(&connections[1]);
    let dropped = proxy.arm(only, Action::Drop);
    send(&mut client, &record(1, b"passes")).await;
    send(&mut other, &[record(2, b"x"), record(3, b"y")].concat()).await;
    dropped.fired_times(2).await.unwrap();
    proxy.wait_until("delivery", |counts| counts.messages_to_server == 1).await.unwrap();
    dropped.disarm();
    send(&mut other, &record(4, b"z")).await;
    assert_eq!(receive(&mut other_upstream, 9).await, record(4, b"z"));
}

#[tokio::test]
async fn waiting_in_vain_names_what_did_not_happen() {
    let server = Server::start().await;
    let deadline = Duration::from_millis(1);
    let proxy = Proxy::builder(server.addr).deadline(deadline).start().await.unwrap();
    let error = proxy.wait_for_connections(1).await.err().unwrap();
    assert!(error.to_string().contains("for 1 connections; so far"), "{error}");
}

#[test]
fn no_task_outlives_the_proxy() {
    for orderly in [true, false] {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let proxy = Proxy::start(listener.local_addr().unwrap()).await.unwrap();
            let mut clients = Vec::new();
            for _ in 0..20 {
                clients.push(TcpStream::connect(proxy.addr()).await.unwrap());
            }
            let connections = proxy.wait_for_connections(20).await.unwrap();
            connections[0].strand().await.unwrap();
            proxy.set(Fault::Blackhole);
            if orderly {
                proxy.shutdown().await;
            } else {
                drop(proxy);
            }
            for connection in connections {
                connection.wait_for_end().await.unwrap();
            }
            let metrics = tokio::runtime::Handle::current().metrics();
            timeout(DEADLINE, async {
                while metrics.num_alive_tasks() > 0 {
                    tokio::task::yield_now().await;
                }
            })
            .await
            .expect("no task left");
        });
    }
}
