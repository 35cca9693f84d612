use super::*;
use crate::testing::run;
use bytes::Bytes;
use futures::future::join_all;
use futures::io::AsyncReadExt as _;
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;

/// A server on the other end that answers each request with its path.
fn server(connection: Connection) -> Task {
    let service = service_fn(async |request: Request<Incoming>| {
        let path = request.uri().path().to_owned();
        Ok::<_, hyper::Error>(Response::new(Full::new(Bytes::from(path))))
    });
    let serving = hyper::server::conn::http2::Builder::new(Tasks)
        .timer(Timer::default())
        .serve_connection(connection, service);
    spawn(async move {
        let _ = serving.await;
    })
}

async fn client(connection: Connection) -> Client<Full<Bytes>> {
    Client::open(connection, Options::default()).await.unwrap()
}

fn request(path: &str) -> Request<Full<Bytes>> {
    Request::get(path).body(Full::default()).unwrap()
}

#[test]
fn many_requests_share_a_connection() {
    run(async {
        let (near, far) = Connection::pair();
        server(far).detach();
        let client = client(near).await;
        let answers = (0..50).map(|number| {
            let client = client.clone();
            async move {
                let response = client.send(request(&format!("/{number}"))).await.unwrap();
                let body = response.into_body().collect().await.unwrap().to_bytes();
                assert_eq!(body, format!("/{number}"));
            }
        });
        join_all(answers).await;
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
        let pending = client.send(request("/"));
        let (outcome, reason) = futures::future::join(pending, client.closed()).await;
        assert!(outcome.is_err());
        assert!(reason.contains("keep-alive timed out"), "{reason}");
        assert!(begun.elapsed() <= Duration::from_secs(11), "{:?}", begun.elapsed());
        swallow.stop();
    });
}

#[test]
fn an_idle_connection_stays_open() {
    run(async {
        let (near, far) = Connection::pair();
        server(far).detach();
        let client = client(near).await;
        time::sleep(Duration::from_secs(300)).await;
        assert!(!client.is_closed());
        assert_eq!(client.send(request("/")).await.unwrap().status(), 200);
    });
}

#[test]
fn a_server_that_goes_is_told_by_name() {
    run(async {
        let (near, far) = Connection::pair();
        let server = server(far);
        let client = client(near).await;
        client.send(request("/")).await.unwrap();
        server.stop();
        let reason = client.closed().await;
        assert!(reason.contains("right"), "{reason}");
        assert!(client.send(request("/")).await.is_err());
    });
}
