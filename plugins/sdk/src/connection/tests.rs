use super::*;
use crate::testing::{run, run_in_real_time};
use futures::future::join;
use futures::io::{AsyncReadExt as _, AsyncWriteExt as _};
use std::future::poll_fn;
use std::io::{Read as _, Write as _};

#[test]
fn what_is_written_arrives_and_the_end_too() {
    run(async {
        let (mut left, mut right) = Connection::pair();
        let traffic = right.traffic();
        let writing = async {
            left.write_all(b"hello").await.unwrap();
            left.close().await.unwrap();
        };
        let reading = async {
            let mut text = String::new();
            right.read_to_string(&mut text).await.unwrap();
            text
        };
        let ((), text) = join(writing, reading).await;
        assert_eq!(text, "hello");
        assert_eq!((traffic.read(), left.traffic().written()), (5, 5));
    });
}

#[test]
fn all_writes_of_one_turn_arrive_together() {
    run(async {
        let (left, mut right) = Connection::pair();
        let left = std::cell::RefCell::new(left);
        let writing = async |data: &'static [u8]| {
            poll_fn(|cx| {
                let mut left = left.borrow_mut();
                Pin::new(&mut *left).poll_write(cx, data)
            })
            .await
            .unwrap();
            poll_fn(|cx| Pin::new(&mut *left.borrow_mut()).poll_flush(cx)).await.unwrap();
        };
        join(writing(b"ab"), writing(b"cd")).await;
        let mut buffer = [0; 16];
        assert_eq!(right.read(&mut buffer).await.unwrap(), 4, "one write, not two");
    });
}

/// How many flushes in a row are not put off.
fn prompt_flushes(connection: &std::cell::RefCell<Connection>) -> u32 {
    let mut context = Context::from_waker(std::task::Waker::noop());
    let mut writer = connection.borrow_mut();
    let mut flush = || {
        assert!(matches!(
            Pin::new(&mut *writer).poll_write(&mut context, b"x"),
            Poll::Ready(Ok(1))
        ));
        let is_prompt = Pin::new(&mut *writer).poll_flush(&mut context).is_ready();
        if !is_prompt {
            assert!(Pin::new(&mut *writer).poll_flush(&mut context).is_ready(), "one turn later");
        }
        is_prompt
    };
    let mut flushes = 0;
    while flushes < 100 && flush() {
        flushes += 1;
    }
    flushes
}

#[test]
fn who_writes_alone_does_not_wait_for_others_but_now_and_then() {
    let (left, _right) = Connection::pair();
    let left = std::cell::RefCell::new(left);
    for _ in 0..Cork::IN_VAIN_MAX {
        assert_eq!(prompt_flushes(&left), 0);
    }
    assert_eq!(prompt_flushes(&left), Cork::SKIPPED_MAX);
}

#[test]
fn company_that_was_found_is_waited_for_again() {
    let mut cork = Cork { in_vain: Cork::IN_VAIN_MAX, skipped: Cork::SKIPPED_MAX, put_off: None };
    assert!(cork.puts_off(5));
    assert!(!cork.puts_off(9));
    assert!(cork.puts_off(5));
}

#[test]
fn writing_to_a_peer_that_is_gone_fails_by_name() {
    run(async {
        let (mut left, right) = Connection::pair();
        drop(right);
        let error = async {
            loop {
                if let Err(error) = left.write_all(&[0; 4096]).await {
                    return error;
                }
            }
        };
        let error = error.await;
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert!(error.to_string().starts_with("right: "), "{error}");
    });
}

#[test]
fn natively_a_connection_reaches_a_real_server() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut buffer = [0; 4];
        stream.read_exact(&mut buffer).unwrap();
        stream.write_all(&buffer).unwrap();
    });
    run_in_real_time(async {
        let endpoint = Endpoint { host: "127.0.0.1".to_owned(), port, tls: false };
        let mut connection = Connection::open(&endpoint, Duration::from_secs(10)).await.unwrap();
        connection.write_all(b"ping").await.unwrap();
        connection.flush().await.unwrap();
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"ping");
    });
    server.join().unwrap();
}

#[test]
fn a_refused_connection_names_the_endpoint_and_the_reason() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    run_in_real_time(async {
        let endpoint = Endpoint { host: "127.0.0.1".to_owned(), port, tls: false };
        let error = Connection::open(&endpoint, Duration::from_secs(10)).await.unwrap_err();
        assert_eq!(error.reason(), "connection-refused");
        let error = crate::Error::from(error);
        assert_eq!(error.code(), "unavailable");
        let names = error.details().iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>();
        assert_eq!(names, ["endpoint", "step", "socket-error"]);
        assert!(error.message().contains(&format!("127.0.0.1:{port}")), "{error}");
    });
}
