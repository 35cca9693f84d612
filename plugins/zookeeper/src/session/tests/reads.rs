//! Reads that come while others are under way.

use super::*;
use crate::wire::{ErrorCode, MultiRead, Request as _};
use futures::future::{join, join_all};

const GET_DATA: i32 = 4;
const MULTI_READ: i32 = 22;

async fn read(client: &Client, path: &str) -> Result<Vec<u8>, Failure> {
    Ok(client.get(path).await?.0.unwrap_or_default())
}

async fn expect_alone(peer: &mut Peer, path: &str) -> i32 {
    let Seen { xid, opcode, body } = peer.request().await.unwrap();
    let asked = Decoder::new(&body).string().map(str::to_owned);
    assert_eq!((opcode, asked), (GET_DATA, Ok(path.to_owned())));
    xid
}

async fn answer_alone(peer: &mut Peer, xid: i32, data: &[u8]) {
    peer.answer(xid, 1, 0, |out| {
        out.buffer(Some(data));
        stat(out);
    })
    .await;
}

/// What stands before each part of an answer to several reads.
fn head(out: &mut Encoder<'_>, kind: i32, last: bool, code: i32) {
    out.int(kind);
    out.bool(last);
    out.int(code);
}

#[test]
fn what_is_read_while_others_are_goes_out_in_one_request() {
    run(async {
        let servers = Rc::default();
        let session = start(&servers, 1);
        let (mut peer, client) = established(&servers, &session).await;
        let reads = join_all(["/a", "/b", "/c", "/gone"].map(|path| read(&client, path)));
        let serving = async {
            let (a, b) = (expect_alone(&mut peer, "/a").await, expect_alone(&mut peer, "/b").await);
            answer_alone(&mut peer, a, b"A").await;
            let many = peer.request().await.unwrap();
            let mut asked = Vec::new();
            MultiRead { paths: vec!["/c", "/gone"] }.encode(&mut Encoder::new(&mut asked));
            assert_eq!((many.opcode, many.body), (MULTI_READ, asked));
            answer_alone(&mut peer, b, b"B").await;
            peer.answer(many.xid, 1, 0, |out| {
                head(out, GET_DATA, false, 0);
                out.buffer(Some(b"C"));
                stat(out);
                head(out, -1, false, -101);
                out.int(-101);
                head(out, -1, true, -1);
            })
            .await;
        };
        let (read, ()) = join(reads, serving).await;
        let [a, b, c] = [b"A", b"B", b"C"].map(|data| Ok(data.to_vec()));
        assert_eq!(read, [a, b, c, Err(Failure::Refused(ErrorCode::NO_NODE))]);
    });
}

/// It refuses at once, before what it still works on, and hangs up, as servers before 3.6 do.
#[test]
fn a_server_that_cannot_read_many_is_asked_so_once() {
    run(async {
        let servers: Rc<Servers> = Rc::default();
        let session = start(&servers, 1);
        let (mut peer, client) = established(&servers, &session).await;
        let reads = join_all(["/a", "/b", "/c"].map(|path| read(&client, path)));
        let serving = async {
            let (a, _) = (expect_alone(&mut peer, "/a").await, expect_alone(&mut peer, "/b").await);
            answer_alone(&mut peer, a, b"A").await;
            let many = peer.request().await.unwrap();
            assert_eq!(many.opcode, MULTI_READ);
            peer.answer(many.xid, 1, ErrorCode::UNIMPLEMENTED.0, |_| {}).await;
            drop(peer);
        };
        let (once, ()) = join(reads, serving).await;
        assert_eq!(once[0], Ok(b"A".to_vec()));
        assert!(
            once[1..].iter().all(|read| read.as_ref().is_err_and(Failure::is_lost)),
            "{once:?}"
        );
        // It is known from now on, also on the next connection, and nothing waits any more.
        let (mut peer, client) = established(&servers, &session).await;
        let reads = join_all(["/1", "/2", "/3"].map(|path| read(&client, path)));
        let serving = async {
            let mut asked = Vec::new();
            for path in ["/1", "/2", "/3"] {
                asked.push(expect_alone(&mut peer, path).await);
            }
            for xid in asked {
                answer_alone(&mut peer, xid, b"x").await;
            }
        };
        let (again, ()) = join(reads, serving).await;
        assert_eq!(again, [Ok(b"x".to_vec()), Ok(b"x".to_vec()), Ok(b"x".to_vec())]);
    });
}
