//! Whatever a client sends, the server answers, and not with a failure of its own.

use anyhow::Result;
use http::{HeaderName, HeaderValue, Method, Request};
use http_body_util::{BodyExt, Full};
use pintle_server::{ExampleRequest, examples};
use pintle_test_suites::within;

use crate::served::Served;

/// Requests for each operation.
const REQUESTS: u64 = 1_000;

/// Numbers that look random and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % u64::try_from(limit.max(1)).unwrap_or(1)).unwrap_or(0)
    }

    #[allow(clippy::indexing_slicing, reason = "no list is empty")]
    fn one_of<T: Clone>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())].clone()
    }
}

const NAMES: [&str; 14] = [
    "%00",
    "%FF",
    "%2F",
    "%2E%2E",
    "..",
    "a%2F%2Fb",
    "%F0%9F%92%A9",
    "default",
    "main",
    "x",
    "%25",
    "-",
    "a+b",
    "%0A",
];
const PARAMETERS: [&str; 16] = [
    "limit=0",
    "limit=-1",
    "limit=99999999999999999999",
    "limit=",
    "page=%00",
    "page=zzz",
    "wait_ms=1",
    "wait_ms=-1",
    "prefix=%FF",
    "prefix=//",
    "consistency=strong",
    "at=%00",
    "held=none",
    "x=y",
    "=",
    "key=a&prefix=b",
];
const BODIES: [&[u8]; 18] = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"0",
    b"\"\"",
    b"{}",
    b"\xff\xfe",
    b"{\"ops\":[]}",
    b"{\"ops\":[{}]}",
    b"{\"ttl_ms\":-1}",
    b"{\"ttl_ms\":18446744073709551615}",
    b"{\"mode\":{\"permit\":0}}",
    b"{\"instance\":{\"host\":\"\",\"port\":0}}",
    b"{\"instance\":{\"host\":\"\\u0000\",\"port\":65536}}",
    b"{\"keys\":[\"\"]}",
    b"{\"name\":\"\",\"role\":\"root\"}",
    b"{\"a\":{\"a\":{\"a\":{\"a\":[[[[[[]]]]]]}}}}",
];
const HEADERS: [(&str, &[u8]); 14] = [
    ("if-match", b"*"),
    ("if-match", b"\"\""),
    ("if-match", b"x"),
    ("if-match", b"\xff"),
    ("if-none-match", b"\"1\", \"2\""),
    ("if-none-match", b"*"),
    ("last-event-id", b"0.0"),
    ("last-event-id", b"zz.-1"),
    ("content-type", b"\xff"),
    ("content-type", b"application/json"),
    ("accept", b"application/json;q=x"),
    ("authorization", b"Basic x"),
    ("authorization", b"Bearer"),
    ("origin", b"null"),
];
const METHODS: [Method; 6] =
    [Method::GET, Method::PUT, Method::POST, Method::DELETE, Method::PATCH, Method::HEAD];

fn malformed(
    example: &ExampleRequest,
    numbers: &mut Numbers,
) -> Option<Request<Full<bytes::Bytes>>> {
    let (path, query) = example.target.split_once('?').unwrap_or((&example.target, ""));
    let mut segments: Vec<&str> = path.split('/').collect();
    for _ in 0..numbers.below(3) {
        let place = numbers.below(segments.len());
        if let Some(segment) = segments.get_mut(place).filter(|_| place > 0) {
            *segment = numbers.one_of(&NAMES);
        }
    }
    let mut parts: Vec<&str> = query.split('&').filter(|part| !part.is_empty()).collect();
    for _ in 0..numbers.below(3) {
        parts.push(numbers.one_of(&PARAMETERS));
    }
    let mut target = segments.join("/");
    if !parts.is_empty() {
        target = format!("{target}?{}", parts.join("&"));
    }
    let method = if numbers.below(8) == 0 {
        numbers.one_of(&METHODS)
    } else {
        example.method.parse().ok()?
    };
    let body: &[u8] =
        if numbers.below(3) == 0 { example.body.as_bytes() } else { numbers.one_of(&BODIES) };
    let mut request = Request::builder().method(method).uri(target).header("host", "localhost");
    for _ in 0..numbers.below(3) {
        let (name, value) = numbers.one_of(&HEADERS);
        let value = HeaderValue::from_bytes(value).ok()?;
        request = request.header(HeaderName::from_static(name), value);
    }
    // What is no request at all never gets to the router.
    request.body(Full::new(bytes::Bytes::copy_from_slice(body))).ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_are_the_clients_fault_on_every_route() -> Result<()> {
    let served = Served::whole().await?;
    let router = served.api.router_of_owner();
    let mut asked = 0;
    for (index, example) in examples().iter().enumerate() {
        let mut numbers = Numbers(u64::try_from(index)?);
        for _ in 0..REQUESTS {
            let Some(request) = malformed(example, &mut numbers) else { continue };
            let shown = format!("{} {}", request.method(), request.uri());
            let sent = tower::ServiceExt::oneshot(router.clone(), request);
            let reply = within(&shown, sent).await?.unwrap_or_else(|never| match never {});
            let status = reply.status();
            asked += 1;
            if !status.is_server_error() {
                continue;
            }
            let body = reply.into_body().collect().await?.to_bytes();
            panic!("{shown}: {status} {}", String::from_utf8_lossy(&body));
        }
    }
    assert!(asked > examples().len() * 700, "only {asked} were requests at all");
    Ok(())
}
