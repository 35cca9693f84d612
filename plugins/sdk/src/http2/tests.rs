use super::*;
use crate::Endpoint;
use crate::link::{self, Link};
use crate::runtime::Task;
use crate::testing::run;
use crate::time::{self, Instant};
use futures::channel::mpsc;
use futures::future::join_all;
use futures::io::AsyncReadExt as _;
use futures::stream::StreamExt as _;
use h2::Reason;
use h2::server::SendResponse;
use http_body_util::{BodyExt as _, Full, StreamBody};

type Asked = (Request<h2::RecvStream>, SendResponse<Bytes>);

/// A server on the other end that does with each request what `answer` says.
fn server<F>(connection: Connection, answer: impl Fn(Asked) -> F + 'static) -> Task
where
    F: Future<Output = ()> + 'static,
{
    spawn(async move {
        let far = Watched::new(connection, Activity::default());
        let mut serving = h2::server::handshake(far).await.unwrap();
        while let Some(Ok(asked)) = serving.accept().await {
            spawn(answer(asked)).detach();
        }
    })
}

/// Answers each request with its path.
async fn answer_path((request, mut respond): Asked) {
    let path = request.uri().path().to_owned();
    let mut body = respond.send_response(Response::new(()), false).unwrap();
    body.send_data(path.into(), true).unwrap();
}

/// Answers with what it is sent, as it comes.
async fn answer_echo((request, mut respond): Asked) {
    let mut incoming = request.into_body();
    let mut outgoing = respond.send_response(Response::new(()), false).unwrap();
    while let Some(Ok(data)) = incoming.data().await {
        incoming.flow_control().release_capacity(data.len()).unwrap();
        outgoing.send_data(data, false).unwrap();
    }
    // Nobody may be there any more.
    let _ = outgoing.send_data(Bytes::new(), true);
}

async fn client(connection: Connection) -> Client {
    Client::open(connection, Options::default()).await.unwrap()
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(path).body(Full::default()).unwrap()
}

#[test]
fn many_requests_share_a_connection() {
    run(async {
        let (near, far) = Connection::pair();
        server(far, answer_path).detach();
        let client = client(near).await;
        let answers = (0..50).map(|number| {
            let client = client.clone();
            async move {
                let response = client.send(get(&format!("/{number}"))).await.unwrap();
                let body = response.into_body().collect().await.unwrap().to_bytes();
                assert_eq!(body, format!("/{number}"));
            }
        });
        join_all(answers).await;
    });
}

#[test]
fn bodies_larger_than_every_window_come_through_in_both_directions() {
    run(async {
        let (near, far) = Connection::pair();
        server(far, answer_echo).detach();
        let client = client(near).await;
        let whole: Bytes = (0..5_000_000_u32).map(|number| number.to_le_bytes()[0]).collect();
        let request = Request::post("/").body(Full::new(whole.clone())).unwrap();
        let response = client.send(request).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(body == whole);
    });
}

#[test]
fn a_request_goes_on_while_its_answer_is_read() {
    run(async {
        let (near, far) = Connection::pair();
        server(far, answer_echo).detach();
        let client = client(near).await;
        let (mut say, said) = mpsc::channel(1);
        let said = said.map(|data: Bytes| Ok::<_, Failed>(http_body::Frame::data(data)));
        let request = Request::post("/").body(StreamBody::new(said)).unwrap();
        let mut answer = client.send(request).await.unwrap().into_body();
        for word in ["one", "two"] {
            say.try_send(word.into()).unwrap();
            let heard = answer.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(heard, word);
        }
        drop(say);
        assert!(
            answer.frame().await.is_none_or(|end| end.unwrap().into_data().unwrap().is_empty())
        );
    });
}

#[test]
fn an_answer_that_nobody_wants_any_more_is_reset_though_the_request_goes_on() {
    run(async {
        let (near, far) = Connection::pair();
        let (told, mut resets) = mpsc::unbounded();
        let waits_for_the_end = move |(_request, mut respond): Asked| {
            let told = told.clone();
            async move {
                let mut body = respond.send_response(Response::new(()), false).unwrap();
                let reason = poll_fn(|cx| body.poll_reset(cx)).await.unwrap();
                told.unbounded_send(reason).unwrap();
            }
        };
        server(far, waits_for_the_end).detach();
        let client = client(near).await;
        let endless = StreamBody::new(futures::stream::pending::<Result<_, Failed>>());
        let answer = client.send(Request::post("/").body(endless).unwrap()).await.unwrap();
        drop(answer);
        assert_eq!(resets.next().await, Some(Reason::CANCEL));
    });
}

#[test]
fn a_request_that_was_refused_unread_or_never_sent_did_nothing() {
    run(async {
        let (near, far) = Connection::pair();
        let refuses = async |(_request, mut respond): Asked| {
            respond.send_reset(Reason::REFUSED_STREAM);
        };
        let server = server(far, refuses);
        let client = client(near).await;
        assert!(client.send(get("/")).await.unwrap_err().is_untouched());
        server.stop();
        client.closed().await;
        assert!(client.send(get("/")).await.unwrap_err().is_untouched());
    });
}

#[test]
fn a_peer_that_answers_no_ping_is_noticed() {
    run(async {
        let (near, mut far) = Connection::pair();
        let client = client(near).await;
        let swallow = spawn(async move {
            let mut buffer = [0; 1024];
            while far.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
        });
        let begun = Instant::now();
        let pending = client.send(get("/"));
        let (outcome, reason) = futures::future::join(pending, client.closed()).await;
        assert!(!outcome.unwrap_err().is_untouched());
        assert!(reason.contains("nothing came for 5000 ms after a PING"), "{reason}");
        assert_eq!(begun.elapsed(), Duration::from_secs(10));
        swallow.stop();
    });
}

#[test]
fn a_server_that_may_take_its_time_may_take_it_over_a_ping_too() {
    run(async {
        let (near, far) = Connection::pair();
        let options = Options::patient(Duration::from_secs(20));
        let client = Client::open(near, options).await.unwrap();
        let stalls = async {
            time::sleep(Duration::from_secs(15)).await;
            server(far, answer_path).detach();
        };
        let (answer, ()) = futures::future::join(client.send(get("/")), stalls).await;
        assert_eq!(answer.unwrap().status(), 200);
    });
}

#[test]
fn what_was_asked_on_a_connection_that_is_left_is_answered() {
    run(async {
        let (ends, mut opened) = mpsc::unbounded();
        let open = async move |_: Endpoint| {
            let (near, far) = Connection::pair();
            ends.unbounded_send(far).unwrap();
            let client = client(near).await;
            let closing = client.clone();
            let closed: LocalBoxFuture<'static, String> =
                Box::pin(async move { closing.closed().await });
            Ok((client, closed))
        };
        let endpoint = Endpoint { host: "oap".to_owned(), port: 1, tls: false };
        let link = Link::start(vec![endpoint], link::Options::default(), open).unwrap();
        let cx = crate::Context::background("test", Duration::from_secs(60));
        let first = link.client(&cx).await.unwrap();
        let leaves = async {
            link.leave("it is slow");
            let second = link.client(&cx).await.unwrap();
            assert!(!first.is(&second));
            server(opened.next().await.unwrap(), answer_path).detach();
        };
        let (answer, ()) = futures::future::join(first.send(get("/")), leaves).await;
        assert_eq!(answer.unwrap().status(), 200);
    });
}

#[test]
fn an_idle_connection_stays_open() {
    run(async {
        let (near, far) = Connection::pair();
        server(far, answer_path).detach();
        let client = client(near).await;
        time::sleep(Duration::from_secs(300)).await;
        assert!(!client.is_closed());
        assert_eq!(client.send(get("/")).await.unwrap().status(), 200);
    });
}

#[test]
fn where_idle_pings_are_not_wanted_only_a_request_under_way_brings_them() {
    run(async {
        let (near, mut far) = Connection::pair();
        let options = Options { ping_while_idle: false, ..Options::default() };
        let client = Client::open(near, options).await.unwrap();
        spawn(async move {
            let mut buffer = [0; 1024];
            while far.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
        })
        .detach();
        time::sleep(Duration::from_secs(300)).await;
        assert!(!client.is_closed());
        assert!(client.send(get("/")).await.is_err());
    });
}

#[test]
fn the_connection_closes_with_its_last_client() {
    run(async {
        let (near, far) = Connection::pair();
        let client = client(near).await;
        let far = Watched::new(far, Activity::default());
        let serving = spawn_serving(far);
        client.send(get("/")).await.unwrap();
        drop(client);
        serving.await.unwrap();
    });
}

/// Serves until the client closes the connection.
fn spawn_serving(far: Watched) -> oneshot::Receiver<()> {
    let (ended, end) = oneshot::channel();
    spawn(async move {
        let mut serving = h2::server::handshake(far).await.unwrap();
        while let Some(Ok(asked)) = serving.accept().await {
            spawn(answer_path(asked)).detach();
        }
        let _ = ended.send(());
    })
    .detach();
    end
}

#[test]
fn a_server_that_goes_is_told_by_name() {
    run(async {
        let (near, far) = Connection::pair();
        let server = server(far, answer_path);
        let client = client(near).await;
        client.send(get("/")).await.unwrap();
        server.stop();
        let reason = client.closed().await;
        assert!(reason.contains("right"), "{reason}");
        assert!(client.send(get("/")).await.is_err());
    });
}
