//! Tokens, roles, the audit trail and TLS, from a terminal.

use anyhow::{Context, Result};
use pintle_client::api::{
    access::{CreatedToken, Role, Tokens},
    audit::AuditPage,
};
use pintle_test_services::TestCa;
use pintle_test_suites::within;

use crate::shell::{Output, Shell};

/// Runs a command of somebody who comes with a token, or without any, from elsewhere.
async fn run_as(shell: &Shell, secret: &str, url: &str, arguments: &[&str]) -> Result<Output> {
    let mut command = shell.command(arguments);
    command.env("PINTLE_SERVER", url).env("PINTLE_ACCESS_TOKEN", secret);
    let output = within("the end of pintle", command.output()).await??;
    Ok(Output {
        code: output.status.code(),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

#[tokio::test]
async fn a_token_opens_what_its_role_may_and_the_owner_needs_none() -> Result<()> {
    let shell = Shell::new()?;
    // Without a server, before the first start.
    let made = shell.run(&["token", "create", "boot", "--role", "admin"]).await?;
    let admin = made.text()?.trim().to_owned();
    assert!(made.stderr.contains("shown once") && made.stderr.contains("From now on"), "{made:?}");
    let (_server, url) = shell.serve().await?;
    shell.run(&["config", "put", "a", "1"]).await?.text()?;

    let made = run_as(&shell, &admin, &url, &["token", "create", "ann", "-o", "json"]).await?;
    let created: CreatedToken = made.json()?;
    assert_eq!((created.token.role, created.token.created_by.as_str()), (Role::Viewer, "boot"));
    let ann = &created.secret;
    assert_eq!(run_as(&shell, ann, &url, &["config", "get", "a"]).await?.text()?, "1");
    let refused = run_as(&shell, ann, &url, &["config", "put", "a", "2"]).await?;
    assert_eq!(refused.code, Some(6), "{refused:?}");
    assert!(refused.stderr.contains("operator") && refused.stderr.contains("ann"), "{refused:?}");
    let nobody = run_as(&shell, "", &url, &["config", "get", "a"]).await?;
    assert_eq!(nobody.code, Some(6), "{nobody:?}");
    assert!(nobody.stderr.contains("--token-file"), "{nobody:?}");

    let file = shell.path("token");
    std::fs::write(&file, format!("{ann}\n"))?;
    let file = file.display().to_string();
    let read =
        run_as(&shell, "wrong", &url, &["config", "get", "a", "--token-file", &file]).await?;
    assert_eq!(read.text()?, "1");

    let listed: Tokens = shell.run(&["token", "list", "-o", "json"]).await?.json()?;
    assert_eq!(listed.tokens.len(), 2);
    shell.run(&["token", "revoke", "ann"]).await?.text()?;
    let late = run_as(&shell, ann, &url, &["config", "get", "a"]).await?;
    assert_eq!(late.code, Some(6), "{late:?}");
    let unknown = shell.run(&["token", "revoke", "nobody"]).await?;
    assert_eq!(unknown.code, Some(3), "{unknown:?}");
    Ok(())
}

#[tokio::test]
async fn the_trail_is_one_over_commands_with_a_server_and_without() -> Result<()> {
    let shell = Shell::new()?;
    shell.run(&["config", "put", "a/b", "1"]).await?.text()?;
    let (_server, _) = shell.serve().await?;
    shell.run(&["config", "put", "a/b", "2"]).await?.text()?;
    shell.run(&["config", "put", "x", "3"]).await?.text()?;
    let page: AuditPage = shell.run(&["audit", "--key", "a", "-o", "json"]).await?.json()?;
    let [second, first] = page.records.as_slice() else { panic!("{page:?}") };
    assert_eq!(second.changes[0].before, first.changes[0].after);
    assert_eq!((first.caller.as_str(), &first.address), ("owner", &None));
    assert!(second.address.is_some());
    let table = shell.run(&["audit", "--last", "1h", "--limit", "1"]).await?.text()?;
    assert!(table.contains("config.put") && table.lines().count() == 2, "{table}");
    Ok(())
}

#[tokio::test]
async fn what_was_applied_and_rolled_back_is_in_the_trail_with_its_versions() -> Result<()> {
    let shell = Shell::new()?;
    shell.run(&["config", "put", "app/a", "1"]).await?.text()?;
    let folder = shell.path("app");
    std::fs::create_dir(&folder)?;
    for name in ["a", "b"] {
        std::fs::write(folder.join(name), "2")?;
    }
    let folder = folder.display().to_string();
    shell.run(&["config", "apply", &folder, "--prefix", "app"]).await?.text()?;
    let page: AuditPage = shell.run(&["audit", "-o", "json"]).await?.json()?;
    let [applied, first] = page.records.as_slice() else { panic!("{page:?}") };
    let [a, b] = applied.changes.as_slice() else { panic!("{applied:?}") };
    assert_eq!((a.key.as_str(), &a.before), ("app/a", &first.changes[0].after));
    assert_eq!((b.key.as_str(), &b.before), ("app/b", &None));
    assert!(a.after.is_some() && a.after == b.after, "{applied:?}");

    let version = first.changes[0].after.clone().unwrap_or_default();
    shell.run(&["config", "rollback", "app/a", "--to", &version]).await?.text()?;
    let page: AuditPage = shell.run(&["audit", "--limit", "1", "-o", "json"]).await?.json()?;
    let back = &page.records[0].changes[0];
    assert_eq!((back.key.as_str(), &back.before), ("app/a", &a.after));
    assert!(back.after.is_some() && back.after != a.after, "{back:?}");
    Ok(())
}

#[tokio::test]
async fn what_a_server_logs_is_set_while_it_runs() -> Result<()> {
    let shell = Shell::new()?;
    let nothing = shell.run(&["server", "log-level"]).await?;
    assert_eq!(nothing.code, Some(5), "{nothing:?}");
    assert!(nothing.stderr.contains("pintle serve"), "{nothing:?}");
    let (_server, _) = shell.serve().await?;
    let set = shell.run(&["server", "log-level", "warn,pintle=debug"]).await?.text()?;
    assert!(set.contains("pintle=debug"), "{set}");
    assert_eq!(shell.run(&["server", "log-level"]).await?.text()?, set);
    let wrong = shell.run(&["server", "log-level", "loud"]).await?;
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    assert!(wrong.stderr.contains("debug"), "{wrong:?}");
    Ok(())
}

#[tokio::test]
async fn a_server_with_tls_is_reached_from_here_and_from_elsewhere() -> Result<()> {
    let shell = Shell::new()?;
    let ca = TestCa::new()?;
    let leaf = ca.server()?;
    let admin = shell.run(&["token", "create", "boot", "--role", "admin"]).await?.text()?;
    let mut command = shell.command(&["serve", "--listen", "127.0.0.1:0", "-o", "json"]);
    command
        .env("PINTLE_SERVER__TLS__CERT", &leaf.certificate)
        .env("PINTLE_SERVER__TLS__KEY", &leaf.key);
    let mut server = shell.running(command)?;
    let greeting: serde_json::Value = serde_json::from_str(&server.line().await?)?;
    let url = greeting["url"].as_str().context("a url")?.to_owned();
    assert!(url.starts_with("https://"), "{url}");
    // No certificate is needed on this machine.
    shell.run(&["config", "put", "a", "1"]).await?.text()?;
    let ca = ca.path().display().to_string();
    let trusted = ["config", "get", "a", "--ca", &ca];
    assert_eq!(run_as(&shell, admin.trim(), &url, &trusted).await?.text()?, "1");
    let untrusted = run_as(&shell, admin.trim(), &url, &["config", "get", "a"]).await?;
    assert_eq!(untrusted.code, Some(5), "{untrusted:?}");
    assert!(untrusted.stderr.contains("certificate"), "{untrusted:?}");
    Ok(())
}

#[tokio::test]
async fn an_address_for_others_needs_tls_and_a_token_and_says_so() -> Result<()> {
    let shell = Shell::new()?;
    let leaf = TestCa::new()?.server()?;
    let serve = async |with_tls: bool| -> Result<Output> {
        let mut command = shell.command(&["serve", "--listen", "0.0.0.0:0"]);
        if with_tls {
            let files = shell.path("tls");
            std::fs::create_dir_all(&files)?;
            let [cert, key] = ["cert", "key"].map(|name| files.join(name));
            std::fs::write(&cert, &leaf.certificate_pem)?;
            std::fs::write(&key, &leaf.key_pem)?;
            command.env("PINTLE_SERVER__TLS__CERT", cert).env("PINTLE_SERVER__TLS__KEY", key);
        }
        let output = within("its refusal", command.output()).await??;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(Output { code: output.status.code(), stdout: output.stdout, stderr })
    };
    let open = serve(true).await?;
    assert_eq!(open.code, Some(2), "{open:?}");
    assert!(open.stderr.contains("pintle token create"), "{open:?}");
    shell.run(&["token", "create", "boot", "--role", "admin"]).await?.text()?;
    let plain = serve(false).await?;
    assert_eq!(plain.code, Some(2), "{plain:?}");
    assert!(plain.stderr.contains("[server.tls]"), "{plain:?}");
    Ok(())
}
