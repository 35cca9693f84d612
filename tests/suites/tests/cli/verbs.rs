//! What every command has in common, and the smaller ones.

use anyhow::{Context, Result};
use pintle_client::api::{
    config::Entry,
    leader::Election,
    registry::{InstanceState, InstancesPage},
};
use serde_json::Value;

use crate::shell::Shell;

async fn instance(shell: &Shell) -> Result<InstanceState> {
    let page: InstancesPage =
        shell.run(&["registry", "list", "web", "-o", "json"]).await?.json()?;
    page.instances.into_iter().next().context("no instance")
}

#[tokio::test]
async fn an_operator_takes_an_instance_out_of_the_load_and_back() -> Result<()> {
    let shell = Shell::new()?;
    let add =
        ["registry", "add", "web", "--address", "127.0.0.1:8080", "--id", "one", "--zone", "z"];
    shell.run(&add).await?.text()?;
    let twice = shell.run(&add).await?;
    assert_eq!(twice.code, Some(4), "{twice:?}");
    assert!(twice.stderr.contains("--replace"), "{twice:?}");
    assert_eq!((instance(&shell).await?.enabled, instance(&shell).await?.weight), (true, 100));

    shell.run(&["registry", "weight", "web", "one", "7"]).await?.text()?;
    shell.run(&["registry", "disable", "web", "one", "--note", "rebuild"]).await?.text()?;
    let state = instance(&shell).await?;
    assert_eq!((state.enabled, state.weight), (false, 7));
    assert_eq!(state.operator.map(|operator| operator.note).as_deref(), Some("rebuild"));
    shell.run(&["registry", "enable", "web", "one"]).await?.text()?;
    shell.run(&["registry", "clear", "web", "one"]).await?.text()?;
    let state = instance(&shell).await?;
    assert_eq!((state.enabled, state.weight, state.operator), (true, 100, None));

    let unknown = shell.run(&["registry", "disable", "web", "two"]).await?;
    assert_eq!(unknown.code, Some(3), "{unknown:?}");
    shell.run(&["registry", "remove", "web", "one"]).await?.text()?;
    assert_eq!(shell.run(&["registry", "remove", "web", "one"]).await?.code, Some(3));
    Ok(())
}

#[tokio::test]
async fn a_leader_runs_its_command_and_is_shown() -> Result<()> {
    let shell = Shell::new()?;
    let (_server, _) = shell.serve().await?;
    let nobody = shell.run(&["leader", "show", "s"]).await?.text()?;
    assert!(nobody.contains("nobody leads s"), "{nobody}");
    let run = [
        "leader",
        "run",
        "s",
        "--candidate",
        "me",
        "--",
        "sh",
        "-c",
        "echo $PINTLE_TOKEN; sleep 60",
    ];
    let mut leader = shell.start(&run)?;
    leader.line().await?;
    let election: Election = shell.run(&["leader", "show", "s", "-o", "json"]).await?.json()?;
    assert_eq!(election.leader.map(|leader| leader.owner).as_deref(), Some("me"));
    Ok(())
}

#[tokio::test]
async fn a_lock_is_taken_from_a_holder_who_hears_of_it() -> Result<()> {
    let shell = Shell::new()?;
    let (_server, _) = shell.serve().await?;
    let free = shell.run(&["lock", "release", "l"]).await?;
    assert_eq!(free.code, Some(3), "{free:?}");
    let run = ["lock", "run", "l", "--grace", "1s", "--", "sh", "-c", "echo held; sleep 60"];
    let mut holder = shell.start(&run)?;
    assert_eq!(holder.line().await?, "held");
    let taken = shell.run(&["lock", "release", "l"]).await?.text()?;
    assert!(taken.contains("taken away"), "{taken}");
    assert_eq!(holder.ended().await?.code(), Some(7));
    Ok(())
}

#[tokio::test]
async fn each_form_of_output_says_the_same() -> Result<()> {
    let shell = Shell::new()?;
    shell.run(&["config", "put", "a", "yes"]).await?.text()?;
    let entry: Entry = shell.run(&["config", "get", "a", "-o", "json"]).await?.json()?;
    let yaml = shell.run(&["config", "get", "a", "-o", "yaml"]).await?.text()?;
    assert!(yaml.contains("key: a") && !yaml.contains("value: yes"), "{yaml}");
    let table = shell.run(&["config", "get", "a", "-o", "table"]).await?.text()?;
    assert!(table.contains("FIELD") && table.contains(&entry.version), "{table}");
    for form in ["text", "table"] {
        let list = shell.run(&["config", "list", "-o", form]).await?.text()?;
        assert!(list.starts_with("KEY"), "{list}");
    }
    let wrong = shell.run(&["config", "list", "-o", "xml"]).await?;
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    assert!(wrong.stderr.contains("yaml"), "{wrong:?}");
    Ok(())
}

#[tokio::test]
async fn what_was_mistyped_is_guessed() -> Result<()> {
    let shell = Shell::new()?;
    let verb = shell.run(&["config", "puut", "a"]).await?;
    assert_eq!(verb.code, Some(2), "{verb:?}");
    assert!(verb.stderr.contains("'put'"), "{verb:?}");
    let backend = shell.run(&["-b", "locla", "config", "get", "a"]).await?;
    assert_eq!(backend.code, Some(3), "{backend:?}");
    assert!(backend.stderr.contains("did you mean \"local\"?"), "{backend:?}");
    let key = shell.run(&["config", "put", "a//b", "1"]).await?;
    assert_eq!(key.code, Some(2), "{key:?}");
    assert!(key.stderr.contains("a//b"), "{key:?}");
    Ok(())
}

#[tokio::test]
async fn a_doctor_finds_nothing_where_all_is_well_and_names_what_is_not() -> Result<()> {
    let shell = Shell::new()?;
    let well = shell.run(&["doctor"]).await?.text()?;
    assert!(well.contains("backend   local") && !well.contains("WRONG"), "{well}");
    let (_server, url) = shell.serve().await?;
    assert!(shell.run(&["doctor"]).await?.text()?.contains(&url));
    let settings = shell.path("bad.toml");
    std::fs::write(&settings, "[backends.a]\nplugin = \"none\"\nrequired = true\n")?;
    let settings = settings.display().to_string();
    let ill = shell.run(&["doctor", "--settings", &settings, "-o", "json"]).await?;
    assert_eq!(ill.code, Some(1), "{ill:?}");
    let findings: Value = serde_json::from_slice(&ill.stdout)?;
    let wrong = findings["findings"].as_array().into_iter().flatten();
    assert!(wrong.clone().any(|finding| finding["verdict"] == "wrong"), "{findings}");
    Ok(())
}

#[tokio::test]
async fn shells_are_told_how_to_complete() -> Result<()> {
    let shell = Shell::new()?;
    for name in ["bash", "zsh", "fish"] {
        let script = shell.run(&["completion", name]).await?.text()?;
        assert!(script.contains("pintle") && script.contains("rollback"), "{name}");
    }
    Ok(())
}
