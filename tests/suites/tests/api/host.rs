//! The server itself, backends, plugins, settings, and what every route has in common.

use anyhow::Result;
use http::{HeaderValue, Method, StatusCode, header};
use pintle_client::api::{
    backend::{HealthState, State},
    config::Entry,
    settings::Settings,
};

use crate::served::{Served, request};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_says_that_it_lives_and_that_it_is_ready() -> Result<()> {
    let served = Served::new().await?;
    let alive = served.client().admin().liveness().await?;
    assert_eq!((alive.name.as_str(), alive.pid), ("pintle", std::process::id()));
    assert_eq!(served.get("/readyz").await?.status, StatusCode::OK);
    served.pintle.shutdown().await;
    let reply = served.get("/readyz").await?;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(String::from_utf8_lossy(&reply.body).contains("main"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn backends_say_what_they_offer_and_how_they_are() -> Result<()> {
    let served = Served::new().await?;
    let admin = served.client().admin();
    let backends = admin.backends().await?;
    let [main] = backends.as_slice() else { panic!("{backends:?}") };
    assert_eq!((main.name.as_str(), main.plugin.as_str()), ("main", "memory"));
    assert_eq!(main.state, State::Serving);
    assert_eq!(main.default_for, ["config", "registry", "lock"]);
    assert!(main.features.iter().any(|feature| feature == "config.cas"));
    assert_eq!(admin.backend("main").await?, *main);
    let check = admin.check("main").await?;
    assert_eq!(check.health, HealthState::Serving);
    assert_eq!(check.counters["keys"], 0);
    let error = admin.check("mian").await.unwrap_err();
    assert_eq!(error.code(), "unknown-backend");
    assert!(error.to_string().contains("main"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_are_described_and_broken_files_are_named() -> Result<()> {
    let served = Served::new().await?;
    let folder = served.pintle.settings().plugins.dir.clone().expect("a folder");
    std::fs::write(folder.join("broken.wasm"), "no component")?;
    let admin = served.client().admin();
    let files = admin.plugins().await?.plugins;
    let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["broken", "memory"]);
    assert!(files[0].problem.as_ref().is_some_and(|text| text.contains("broken.wasm")));
    let memory = admin.plugin("memory").await?;
    assert_eq!(memory.capabilities, ["config", "registry", "lock"]);
    assert!(memory.settings_schema.is_object());
    assert_eq!(admin.plugin("broken").await.unwrap_err().code(), "broken-plugin");
    let missing = admin.plugin("etdc").await.unwrap_err();
    assert_eq!(missing.code(), "unknown-plugin");
    assert!(missing.to_string().contains("memory"), "{missing}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_shown_with_their_origins() -> Result<()> {
    let served = Served::new().await?;
    let settings: Settings = served.get("/v1/settings").await?.json()?;
    let plugin = settings.settings.iter().find(|s| s.key == "backends.main.plugin").unwrap();
    assert_eq!(plugin.value, "\"memory\"");
    assert!(plugin.origin.contains("pintle.toml:2"), "{plugin:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_served_is_answered_with_a_problem() -> Result<()> {
    let served = Served::new().await?;
    let keys = "/v1/backends/main/config/keys";
    for (method, target, body, status, code) in [
        (Method::GET, "/v2/backends", "", 404, "no-route"),
        (Method::POST, "/v1/backends", "", 405, "method-not-allowed"),
        (Method::GET, "/v1/backends/nope", "", 404, "unknown-backend"),
        (Method::GET, "/v1/backends/nope/config/keys/a", "", 404, "unknown-backend"),
        (Method::GET, &format!("{keys}/a//b"), "", 400, "invalid"),
        (Method::GET, &format!("{keys}/%FF"), "", 400, "invalid"),
        (Method::GET, &format!("{keys}/a?consistancy=any"), "", 400, "invalid"),
        (Method::GET, &format!("{keys}?limit=0"), "", 400, "invalid"),
        (Method::GET, &format!("{keys}?limit=x"), "", 400, "invalid"),
        (Method::DELETE, keys, "", 400, "invalid"),
        (Method::GET, "/v1/backends/main/config/watch", "", 400, "invalid"),
        (Method::GET, "/v1/backends/main/config/history?key=a", "", 422, "unsupported"),
        (Method::POST, "/v1/backends/main/config/txn", "{\"ops\":", 400, "invalid"),
        (Method::POST, "/v1/backends/main/config/txn", "{}", 400, "invalid"),
        (Method::PUT, "/v1/backends/main/locks/l/leases/i", "{\"ttl\":1}", 400, "invalid"),
        (Method::PUT, "/v1/backends/main/locks/l/leases/i", "{\"ttl_ms\":1}", 400, "invalid"),
        (Method::PUT, "/v1/backends/main/locks/l/leases/a%20b", "", 400, "invalid"),
    ] {
        let reply = served.send(request(method, target, body)?).await?;
        let problem = reply.problem()?;
        assert_eq!((reply.status.as_u16(), problem.code()), (status, code), "{target}: {problem}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_refused() -> Result<()> {
    let served = Served::new().await?;
    let mut put = request(Method::PUT, "/v1/backends/main/config/keys/big", "")?;
    *put.body_mut() = vec![b'x'; (8 << 20) + 1].into();
    let reply = served.send(put).await?;
    assert_eq!((reply.status.as_u16(), reply.problem()?.code()), (413, "too-large"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_hosts_and_origins_are_refused() -> Result<()> {
    let served = Served::new().await?;
    let mut rebound = request(Method::GET, "/v1/backends", "")?;
    rebound.headers_mut().insert(header::HOST, HeaderValue::from_static("evil.example"));
    assert_eq!(served.send(rebound).await?.problem()?.code(), "foreign-host");

    let mut forged = request(Method::PUT, "/v1/backends/main/config/keys/a", "owned")?;
    forged.headers_mut().insert(header::ORIGIN, HeaderValue::from_static("http://evil.example"));
    assert_eq!(served.send(forged).await?.problem()?.code(), "foreign-origin");
    assert_eq!(served.client().config("main").get("a").await?, None::<Entry>);
    Ok(())
}
