//! What the guest's sockets cost against bare tokio: a measurement, run by hand.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::guest::{Guest, PATIENCE, call, options};
use super::servers::echo_server;

const ROUNDS: u32 = 20_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn echo_of_64_bytes_against_bare_tokio() {
    let server = echo_server().await;
    let mut guest = Guest::start(options(&[&server.to_string()])).await;
    for _ in 0..3 {
        let started = Instant::now();
        call!(guest, call_ping_pong(server.to_string(), 64, ROUNDS)).unwrap();
        let of_guest = started.elapsed();
        let of_tokio = ping_pong(&server.to_string()).await;
        println!("guest {:?}, tokio {:?} per round", of_guest / ROUNDS, of_tokio / ROUNDS);
    }
}

async fn ping_pong(server: &str) -> Duration {
    let mut stream = TcpStream::connect(server).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut bytes = [7; 64];
    let started = Instant::now();
    for _ in 0..ROUNDS {
        stream.write_all(&bytes).await.unwrap();
        stream.read_exact(&mut bytes).await.unwrap();
    }
    started.elapsed()
}
