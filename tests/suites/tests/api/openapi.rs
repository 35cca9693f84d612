//! The description of the API.

use anyhow::{Context, Result};
use http::Method;
use pintle_client::api::Problem;
use pintle_server::examples;
use pintle_test_suites::within;
use serde_json::Value;

use crate::served::{Served, request};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../host/api/openapi.json");

#[tokio::test(flavor = "multi_thread")]
async fn the_api_is_what_the_golden_file_says() -> Result<()> {
    let served = Served::new().await?;
    let reply = served.get("/v1/openapi.json").await?;
    let text = String::from_utf8(reply.body.to_vec())?;
    let golden = std::fs::read_to_string(GOLDEN).unwrap_or_default();
    if golden != text {
        let new = format!("{GOLDEN}.new");
        std::fs::write(&new, &text)?;
        panic!("the API changed: read the difference, then `mv {new} {GOLDEN}`");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_example_is_answered_as_it_says() -> Result<()> {
    let served = Served::whole().await?;
    let router = served.api.router_of_owner();
    for example in examples() {
        let method: Method = example.method.parse()?;
        let mut asked = request(method, &example.target, example.body)?;
        asked.headers_mut().insert("accept", "application/json".parse()?);
        let sent = tower::ServiceExt::oneshot(router.clone(), asked);
        let reply = within(example.id, sent).await?.unwrap_or_else(|never| match never {});
        let status = reply.status().as_u16();
        if status != example.status {
            let body = axum::body::to_bytes(reply.into_body(), 1 << 20).await?;
            panic!("{} {}: {status} {body:?}", example.method, example.target);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_operation_is_described_with_what_a_client_needs() -> Result<()> {
    let served = Served::new().await?;
    let document: Value = served.get("/v1/openapi.json").await?.json()?;
    let paths = document["paths"].as_object().context("paths")?;
    let mut count = 0;
    for (path, item) in paths {
        for (method, operation) in item.as_object().context("operations")? {
            count += 1;
            let place = format!("{method} {path}");
            assert!(operation["summary"].as_str().is_some_and(|text| text.len() > 3), "{place}");
            assert!(operation["responses"]["default"].is_object(), "{place}");
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                let described = parameter["description"].as_str().is_some_and(|t| !t.is_empty());
                assert!(described, "{place}: {parameter}");
            }
        }
    }
    assert_eq!(count, examples().len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_counted_under_bounded_names() -> Result<()> {
    let served = Served::guarded("").await?;
    served.get("/v1/backends").await?;
    served.get("/v1/backends/nope").await?;
    served.get("/v1/backends/nobody-knows-this/config/keys/some/key").await?;
    let refused: Problem = served.get("/v1/nothing").await?.problem()?;
    assert_eq!(refused.code(), "no-route");
    let reply = served.get("/metrics").await?;
    let text = String::from_utf8(reply.body.to_vec())?;
    let line = |name: &str| text.lines().find(|line| line.starts_with(name)).map(str::to_owned);
    for (name, value) in [
        (r#"pintle_http_requests_total{operation="backend.list",code="2xx"}"#, "1"),
        (r#"pintle_http_requests_total{operation="backend.show",code="4xx"}"#, "1"),
        (r#"pintle_backend_state{backend="main",plugin="memory",state="serving"}"#, "1"),
    ] {
        assert_eq!(line(name).context(name)?, format!("{name} {value}"));
    }
    assert!(!text.contains("some/key") && !text.contains("nobody-knows"), "{text}");
    assert!(text.ends_with("# EOF\n"), "{text}");
    Ok(())
}
