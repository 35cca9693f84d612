//! Sessions against a server that the test writes, on a virtual clock.

mod reads;
mod watches;

use super::*;
use crate::wire::{Event, EventKind, GetData, SetData};
use pintle_plugin_sdk::spawn;
use pintle_plugin_sdk::testing::run;
use pintle_plugin_sdk::time::sleep;
use std::collections::VecDeque;

/// A request as the server sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    xid: i32,
    opcode: i32,
    body: Vec<u8>,
}

/// One server's end of a connection.
struct Peer {
    port: u16,
    connection: Connection,
    input: Vec<u8>,
}

impl Peer {
    async fn frame(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(frame) = split_frame(&self.input, 1 << 20).unwrap() {
                let frame = frame.to_vec();
                self.input.drain(..frame.len() + 4);
                return Some(frame);
            }
            let mut chunk = vec![0; 4096];
            let count = self.connection.read(&mut chunk).await.unwrap();
            if count == 0 {
                return None;
            }
            self.input.extend_from_slice(&chunk[..count]);
        }
    }

    async fn connect_request(&mut self) -> ConnectRequest {
        let frame = self.frame().await.unwrap();
        let mut input = Decoder::new(&frame);
        input.int().unwrap();
        let request = ConnectRequest {
            last_zxid: input.long().unwrap(),
            timeout_ms: input.int().unwrap(),
            session_id: input.long().unwrap(),
            password: input.buffer().unwrap().unwrap().to_vec(),
        };
        assert!(!input.bool().unwrap(), "never content with a server that only reads");
        request
    }

    /// The next request that is no ping; pings are answered on the way.
    async fn request(&mut self) -> Option<Seen> {
        loop {
            let frame = self.frame().await?;
            let mut input = Decoder::new(&frame);
            let (xid, opcode) = (input.int().unwrap(), input.int().unwrap());
            if opcode == 11 {
                self.answer(xid, 1, 0, |_| {}).await;
                continue;
            }
            return Some(Seen { xid, opcode, body: frame[8..].to_vec() });
        }
    }

    async fn write(&mut self, write: impl FnOnce(&mut Encoder<'_>)) {
        let mut out = Vec::new();
        let at = begin_frame(&mut out);
        write(&mut Encoder::new(&mut out));
        end_frame(&mut out, at);
        // The client may have left.
        let _ = self.connection.write_all(&out).await;
        let _ = self.connection.flush().await;
    }

    async fn grant(&mut self, timeout_ms: i32, id: i64) {
        self.write(|out| {
            out.int(0);
            out.int(timeout_ms);
            out.long(id);
            out.buffer(Some(&[7; 16]));
            out.bool(false);
        })
        .await;
    }

    async fn answer(
        &mut self,
        xid: i32,
        zxid: i64,
        error: i32,
        body: impl FnOnce(&mut Encoder<'_>),
    ) {
        self.write(|out| {
            out.int(xid);
            out.long(zxid);
            out.int(error);
            body(out);
        })
        .await;
    }

    async fn event(&mut self, kind: i32, path: &str) {
        self.answer(XID_EVENT_FOR_TESTS, -1, 0, |out| {
            out.int(kind);
            out.int(3);
            out.string(path);
        })
        .await;
    }
}

const XID_EVENT_FOR_TESTS: i32 = -1;

fn stat(out: &mut Encoder<'_>) {
    for _ in 0..4 {
        out.long(0);
    }
    for _ in 0..3 {
        out.int(0);
    }
    out.long(0);
    out.int(0);
    out.int(0);
    out.long(0);
}

/// Connections that were made, waiting for the test to serve them.
#[derive(Default)]
struct Servers {
    accepted: RefCell<VecDeque<Peer>>,
    changed: Signal,
}

impl Servers {
    async fn accept(&self) -> Peer {
        self.changed.wait(|| self.accepted.borrow_mut().pop_front()).await
    }
}

fn common(servers: &Rc<Servers>, count: u16) -> Common {
    let servers = Rc::clone(servers);
    let endpoint = |port| Endpoint { host: "zk".to_owned(), port, tls: false };
    Common {
        endpoints: (1..=count).map(endpoint).collect(),
        dial: Rc::new(move |endpoint| {
            let (ours, theirs) = Connection::pair();
            let peer = Peer { port: endpoint.port, connection: theirs, input: Vec::new() };
            servers.accepted.borrow_mut().push_back(peer);
            servers.changed.notify();
            Box::pin(async { Ok(ours) })
        }),
        digest: None,
        request_bytes_max: 1_000,
        answer_bytes_max: 1_000,
        newest_zxid: Rc::default(),
        traffic: Traffic::default(),
        tally: Rc::default(),
        expirations: Rc::default(),
        watched: Budget::new(1_000),
        reads_nodes_alone: Rc::default(),
    }
}

fn start(servers: &Rc<Servers>, count: u16) -> Session {
    Session::start(common(servers, count), "test", Duration::from_secs(9), None, || {}).unwrap()
}

fn call() -> Context {
    Context::background("test", Duration::from_secs(60))
}

async fn established(servers: &Servers, session: &Session) -> (Peer, Client) {
    let mut peer = servers.accept().await;
    peer.connect_request().await;
    peer.grant(9_000, 0x11).await;
    (peer, session.client(&call()).await.unwrap())
}

#[test]
fn the_server_decides_how_long_a_session_lives() {
    run(async {
        let servers = Rc::default();
        let session = start(&servers, 1);
        let mut peer = servers.accept().await;
        let request = peer.connect_request().await;
        assert_eq!((request.timeout_ms, request.session_id), (9_000, 0));
        peer.grant(4_000, 0x11).await;
        let client = session.client(&call()).await.unwrap();
        let identity = Identity { id: 0x11, generation: 0, timeout: Duration::from_secs(4) };
        assert_eq!(client.identity(), identity);
        let key = session.key().unwrap();
        assert_eq!((key.id, key.timeout), (0x11, Duration::from_secs(9)), "as it was asked for");
    });
}

#[test]
fn answers_go_to_whom_they_belong_and_all_calls_of_a_turn_go_out_together() {
    run(async {
        let servers = Rc::default();
        let session = start(&servers, 1);
        let (mut peer, client) = established(&servers, &session).await;
        let one = client.call(&GetData { path: "/one", watch: false });
        let other = client.call(&GetData { path: "/other", watch: false });
        let first = peer.request().await.unwrap();
        let second = peer.request().await.unwrap();
        assert_eq!((first.xid, second.xid), (1, 2));
        peer.answer(1, 5, 0, |out| {
            out.buffer(Some(b"1"));
            stat(out);
        })
        .await;
        peer.answer(2, 6, -101, |_| {}).await;
        assert_eq!(one.await.unwrap().0.unwrap(), b"1");
        assert_eq!(other.await.unwrap_err(), Failure::Refused(ErrorCode::NO_NODE));
        assert_eq!(client.zxid(), 6);
    });
}

#[test]
fn an_answer_out_of_order_ends_the_connection_and_every_call_on_it() {
    run(async {
        let servers = Rc::default();
        let session = start(&servers, 1);
        let (mut peer, client) = established(&servers, &session).await;
        let reply = client.call(&GetData { path: "/one", watch: false });
        peer.request().await.unwrap();
        peer.answer(9, 5, 0, |_| {}).await;
        let Failure::Lost { reason, sent: true } = reply.await.unwrap_err() else { panic!() };
        assert!(reason.contains("out of order"), "{reason}");
        let late = client.call(&GetData { path: "/one", watch: false }).await.unwrap_err();
        assert!(matches!(late, Failure::Lost { sent: false, .. }), "{late:?}");
    });
}

#[test]
fn a_request_that_the_server_would_hang_up_on_is_not_sent() {
    run(async {
        let servers = Rc::default();
        let session = start(&servers, 1);
        let (mut peer, client) = established(&servers, &session).await;
        let data = vec![0; 2_000];
        let large = client.call(&SetData { path: "/a", data: Some(&data), version: -1 });
        assert!(matches!(large.await.unwrap_err(), Failure::TooLarge { limit: 1_000, .. }));
        drop(client.call(&GetData { path: "/b", watch: false }));
        assert_eq!(peer.request().await.unwrap().opcode, 4, "and the next goes out whole");
    });
}

#[test]
fn an_answer_that_is_too_large_fails_its_call_and_no_other() {
    run(async {
        let servers = Rc::default();
        let common = common(&servers, 1);
        let tally = Rc::clone(&common.tally);
        let session = Session::start(common, "test", Duration::from_secs(9), None, || {}).unwrap();
        let (mut peer, client) = established(&servers, &session).await;
        let large = client.call(&GetData { path: "/large", watch: false });
        let next = client.call(&GetData { path: "/next", watch: false });
        peer.answer(1, 5, 0, |out| {
            out.buffer(Some(&[1; 200_000]));
            stat(out);
        })
        .await;
        peer.answer(2, 6, -101, |_| {}).await;
        let failure = large.await.unwrap_err();
        assert!(matches!(failure, Failure::AnswerTooLarge { limit: 1_000, .. }), "{failure:?}");
        assert_eq!(next.await.unwrap_err(), Failure::Refused(ErrorCode::NO_NODE));
        assert_eq!(client.zxid(), 6);
        assert_eq!(tally.operations(), 2);
        let errors: Vec<_> = tally.errors().into_iter().collect();
        assert_eq!(errors, [("too-large".to_owned(), 1)], "a node that is missing is an answer");
    });
}

#[test]
fn a_broken_connection_is_taken_up_on_another_server_within_the_session() {
    run(async {
        let servers = Rc::default();
        let session = start(&servers, 3);
        let (mut peer, client) = established(&servers, &session).await;
        let reply = client.call(&GetData { path: "/one", watch: false });
        peer.request().await.unwrap();
        peer.answer(1, 77, -101, |_| {}).await;
        reply.await.unwrap_err();
        let first = peer.port;
        drop(peer);
        assert_eq!(session.lost().await, "the server closed the connection");
        let mut peer = servers.accept().await;
        assert_ne!(peer.port, first);
        let request = peer.connect_request().await;
        assert_eq!((request.session_id, request.last_zxid), (0x11, 77));
        assert_eq!(request.password, [7; 16]);
        peer.grant(9_000, 0x11).await;
        let client = session.client(&call()).await.unwrap();
        assert_eq!(client.identity().generation, 0);
        assert_eq!(session.reconnects(), 1);
    });
}

#[test]
fn a_silent_server_is_left_while_there_is_time_for_another() {
    run(async {
        let servers = Rc::default();
        let session = start(&servers, 2);
        let (peer, _client) = established(&servers, &session).await;
        let begun = Instant::now();
        let reason = session.lost().await;
        assert!(reason.contains("no answer to a ping"), "{reason}");
        // A third of 9 s until the ping, and a sixth for its answer.
        assert_eq!(begun.elapsed(), Duration::from_millis(4_500));
        drop(peer);
    });
}

#[test]
fn an_idle_session_gives_signs_of_life() {
    run(async {
        let servers = Rc::default();
        let session = start(&servers, 1);
        let (mut peer, _client) = established(&servers, &session).await;
        let serving = spawn(async move { while peer.request().await.is_some() {} });
        let lost = timeout(Duration::from_secs(3_600), session.lost()).await;
        assert!(lost.is_err(), "{lost:?}");
        serving.stop();
    });
}

#[test]
fn an_expired_session_is_followed_by_the_next_generation() {
    run(async {
        let servers: Rc<Servers> = Rc::default();
        let kept = Rc::new(Cell::new(0));
        let counting = Rc::clone(&kept);
        let keep = move || counting.set(counting.get() + 1);
        let common = common(&servers, 1);
        let expirations = Rc::clone(&common.expirations);
        let session = Session::start(common, "test", Duration::from_secs(9), None, keep).unwrap();
        let (peer, _client) = established(&servers, &session).await;
        assert_eq!(kept.get(), 1, "it is kept for a successor");
        drop(peer);
        let mut peer = servers.accept().await;
        assert_eq!(peer.connect_request().await.session_id, 0x11);
        peer.grant(0, 0).await;
        let mut peer = servers.accept().await;
        assert!(session.is_over(0));
        assert_eq!(peer.connect_request().await.session_id, 0);
        peer.grant(9_000, 0x22).await;
        let client = session.client(&call()).await.unwrap();
        assert_eq!((client.identity().id, client.identity().generation), (0x22, 1));
        assert_eq!((kept.get(), expirations.get()), (3, 1));
    });
}

#[test]
fn a_server_that_only_reads_is_refused() {
    run(async {
        let servers: Rc<Servers> = Rc::default();
        let session = start(&servers, 2);
        let mut peer = servers.accept().await;
        peer.connect_request().await;
        peer.write(|out| {
            out.int(0);
            out.int(9_000);
            out.long(0x11);
            out.buffer(Some(&[7; 16]));
            out.bool(true);
        })
        .await;
        let first = peer.port;
        let mut peer = servers.accept().await;
        assert_ne!(peer.port, first);
        assert_eq!(peer.connect_request().await.session_id, 0);
        peer.grant(9_000, 0x22).await;
        assert_eq!(session.client(&call()).await.unwrap().identity().id, 0x22);
    });
}

#[test]
fn refused_credentials_are_told_to_the_caller() {
    run(async {
        let servers: Rc<Servers> = Rc::default();
        let digest = Some(Secret::new("u:sesame".to_owned()));
        let common = Common { digest, ..common(&servers, 1) };
        let timeout = Duration::from_secs(9);
        let session = Session::start(common, "test", timeout, None, || {}).unwrap();
        let cx = call();
        let (client, ()) = futures::future::join(session.client(&cx), async {
            let mut peer = servers.accept().await;
            peer.connect_request().await;
            peer.grant(9_000, 0x11).await;
            let auth = peer.request().await.unwrap();
            assert_eq!(auth.opcode, 100);
            peer.answer(auth.xid, 1, -115, |_| {}).await;
        })
        .await;
        let Err(error) = client else { panic!("accepted") };
        assert_eq!(error.code(), "unauthenticated", "{error}");
        assert!(!error.message().contains("sesame"), "{error}");
    });
}

#[test]
fn a_server_that_hangs_up_at_once_says_why_it_may_have() {
    run(async {
        let servers: Rc<Servers> = Rc::default();
        let session = start(&servers, 1);
        let cx = call();
        let (client, ()) = futures::future::join(session.client(&cx), async {
            let mut peer = servers.accept().await;
            peer.connect_request().await;
        })
        .await;
        let Err(error) = client else { panic!("accepted") };
        assert!(error.message().contains("is behind what was seen"), "{error}");
    });
}

#[test]
fn barriers_of_one_turn_are_one() {
    run(async {
        let servers: Rc<Servers> = Rc::default();
        let session = start(&servers, 1);
        let (mut peer, client) = established(&servers, &session).await;
        let (one, other) = (client.barrier(), client.barrier());
        drop(client.call(&GetData { path: "/a", watch: false }));
        let opcodes = [peer.request().await.unwrap().opcode, peer.request().await.unwrap().opcode];
        assert_eq!(opcodes, [14, 4], "one barrier, and the read behind it");
        // What comes after it was sent needs another.
        let later = client.barrier();
        assert_eq!(peer.request().await.unwrap().opcode, 14);
        drop((one, other, later));
    });
}

#[test]
fn a_node_of_the_session_counts_as_there_only_with_the_word_of_the_quorum() {
    run(async {
        let servers: Rc<Servers> = Rc::default();
        let session = start(&servers, 1);
        let (mut peer, client) = established(&servers, &session).await;
        let looking = look_at_own(&client, "/a");
        let serving = async {
            let (proof, look) = (peer.request().await.unwrap(), peer.request().await.unwrap());
            assert_eq!((proof.opcode, look.opcode), (14, 3));
            // A follower that is cut off passes the first on, and would answer the second.
            std::future::pending::<()>().await;
        };
        let Either::Left((looked, _)) = select(pin!(looking), pin!(serving)).await else {
            panic!()
        };
        let Err(Failure::Lost { reason, sent: false }) = looked else { panic!("{looked:?}") };
        assert_eq!(&*reason, "no word of the quorum within 1500 ms");
    });
}

#[test]
fn closing_a_session_tells_the_server() {
    run(async {
        let servers: Rc<Servers> = Rc::default();
        let session = start(&servers, 1);
        let (mut peer, _client) = established(&servers, &session).await;
        let closing = session.close(Duration::from_secs(5));
        let serving = async {
            let close = peer.request().await.unwrap();
            assert_eq!(close.opcode, -11);
            peer.answer(close.xid, 9, 0, |_| {}).await;
            drop(peer);
        };
        let (closed, ()) = futures::future::join(closing, serving).await;
        closed.unwrap();
        assert!(session.key().is_none() && session.is_over(0));
        sleep(Duration::from_secs(60)).await;
        assert!(servers.accepted.borrow().is_empty(), "no other is begun");
    });
}

#[test]
fn a_close_that_was_not_answered_is_sent_again_until_the_server_knows_the_session_no_more() {
    run(async {
        let servers: Rc<Servers> = Rc::default();
        let session = start(&servers, 1);
        let (mut peer, _client) = established(&servers, &session).await;
        let closing = session.close(Duration::from_secs(60));
        let serving = async {
            assert_eq!(peer.request().await.unwrap().opcode, -11);
            drop(peer);
            let mut peer = servers.accept().await;
            assert_eq!(peer.connect_request().await.session_id, 0x11);
            peer.grant(9_000, 0x11).await;
            assert_eq!(peer.request().await.unwrap().opcode, -11);
            assert!(session.key().is_some(), "it may live");
            drop(peer);
            let mut peer = servers.accept().await;
            assert_eq!(peer.connect_request().await.session_id, 0x11);
            peer.grant(0, 0).await;
        };
        let (closed, ()) = futures::future::join(closing, serving).await;
        closed.unwrap();
        assert!(session.key().is_none() && session.is_over(0));
        sleep(Duration::from_secs(60)).await;
        assert!(servers.accepted.borrow().is_empty(), "no other is begun");
    });
}
