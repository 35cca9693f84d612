//! What the guest's sockets cost against bare tokio: a measurement, run by hand.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};

use super::guest::{Guest, PATIENCE, call, options};
use super::servers::echo_server;

const ROUNDS: u32 = 20_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a measurement"]
async fn echo_of_64_bytes_against_bare_tokio() {
    let (servers, sockets) = (runtime(), runtime());
    let server = servers.spawn(echo_server()).await.unwrap();
    let mut options = options(&[&server.to_string()]);
    let mut same = Guest::start(options.clone()).await;
    options.runtime = sockets.handle().clone();
    let mut apart = Guest::start(options).await;
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..9 {
        for (guest, times) in [&mut same, &mut apart].into_iter().zip(&mut times) {
            let started = Instant::now();
            call!(*guest, call_ping_pong(server.to_string(), 64, ROUNDS)).unwrap();
            times.push(started.elapsed() / ROUNDS);
        }
        times[2].push(ping_pong(&server.to_string()).await / ROUNDS);
    }
    let [same, apart, tokio] = times.map(median);
    println!("round: guest {same:?}, on a runtime of its own {apart:?}, bare tokio {tokio:?}");
    servers.shutdown_background();
    sockets.shutdown_background();
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
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
