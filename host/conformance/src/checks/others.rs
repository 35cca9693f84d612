//! What others write, past the plugin, with the server's own tools: the operator lends a command.

use pintle::direct::config::{Expectation, PutOutcome, Target};

use super::watch::{changes_of, live};
use crate::{
    check::{Check, Outcome, SOON, Stop, check, ensure},
    hook::Hook,
    owner::write,
    trial::{Trial, eventually},
};

pub(super) const CHECKS: &[Check] = &[
    check!(
        "config.key-mapping/others",
        others,
        "what others write and remove is read, listed, changed and watched"
    ),
    check!(
        "config.key-unmappable/others",
        unmappable,
        "what others wrote under a name that no key has is counted as skipped"
    ),
];

fn hook(trial: &Trial) -> Outcome<Hook> {
    let hook = trial.hooks.write.clone();
    hook.ok_or_else(|| Stop::Skipped("nobody lends a command that writes as others do".into()))
}

/// Has others write a value under a name of the server, or remove it.
async fn as_others(
    trial: &Trial,
    hook: &Hook,
    name: &str,
    value: Option<&str>,
) -> Result<(), String> {
    trial.note(match value {
        Some(value) => format!("others write `{value}` under {name}"),
        None => format!("others remove {name}"),
    });
    let mut facts = vec![("PINTLE_KEY", name.to_owned())];
    facts.extend(value.map(|value| ("PINTLE_VALUE", value.to_owned())));
    hook.run(facts).await
}

async fn others(trial: &mut Trial) -> Outcome {
    let hook = hook(trial)?;
    let failed = |reason| Stop::Unclear(format!("the command that writes as others: {reason}"));
    let owner = trial.owner("a").await?;
    let prefix = trial.key("others");
    // So that the place below which they write is there, whatever it is to the server.
    owner.put(&format!("{prefix}/own"), "own").await?;
    let id = owner.watch(Target::Prefix(prefix.clone())).await?;
    live(&owner, id).await?;
    // As the server has it, and as a key is spelled.
    let names =
        [("plain", "plain"), ("with space ünï-鍵", "with space ünï-鍵"), ("100%", "100%25")];
    for (name, tail) in names {
        let (name, key) = (format!("{prefix}/{name}"), format!("{prefix}/{tail}"));
        as_others(trial, &hook, &name, Some("theirs")).await.map_err(failed)?;
        let found = owner.get_present(&key).await?;
        ensure!(
            found.key == key && found.value == b"theirs",
            "others wrote `theirs` under {name}, and a get of {key} answers {found:?}"
        );
        let listed = owner.keys(&prefix).await?;
        ensure!(listed.contains(&key), "others wrote {name}, and a listing names {listed:?}");
        if owner.has("config.cas") {
            let expect = Expectation::Version(found.version);
            let outcome = owner.put_if(&key, "ours", expect).await?;
            ensure!(
                matches!(outcome, PutOutcome::Stored(_)),
                "{key} is as others left it, and a put that expects this answers {outcome:?}"
            );
        } else {
            owner.put_as(write(&key, "ours")).await?;
        }
        as_others(trial, &hook, &name, Some("theirs again")).await.map_err(failed)?;
        let found = owner.get_present(&key).await?.value;
        ensure!(
            found == b"theirs again",
            "others wrote `theirs again`, and a get answers {:?}",
            String::from_utf8_lossy(&found)
        );
        as_others(trial, &hook, &name, None).await.map_err(failed)?;
        let found = owner.get(&key).await?;
        ensure!(found.is_none(), "others removed {name}, and a get answers {found:?}");
        // Where changes may be coalesced, the removal is the least that comes.
        let last = format!("-{key}");
        eventually("a watch tells that others removed a key", SOON, || async {
            Ok(changes_of(&owner, id).contains(&last).then_some(()))
        })
        .await?;
        if owner.has("watch.every-change") {
            let told = changes_of(&owner, id);
            for value in ["theirs", "ours", "theirs again"] {
                let put = format!("{key}={value}");
                ensure!(told.contains(&put), "{put} was written, and a watch told {told:?}");
            }
        }
    }
    Ok(())
}

async fn unmappable(trial: &mut Trial) -> Outcome {
    let hook = hook(trial)?;
    let owner = trial.owner("a").await?;
    let prefix = trial.key("odd");
    owner.put(&format!("{prefix}/own"), "own").await?;
    // A key has no empty segment.
    let name = format!("{prefix}/empty//segment");
    if let Err(reason) = as_others(trial, &hook, &name, Some("theirs")).await {
        return Err(Stop::Skipped(format!("others cannot write such a name either: {reason}")));
    }
    let listed = owner.page(&prefix, 1_000).await;
    as_others(trial, &hook, &name, None)
        .await
        .map_err(|reason| Stop::Unclear(format!("{name} is left on the server: {reason}")))?;
    let page = listed?;
    let keys: Vec<&str> = page.entries.iter().map(|entry| entry.key.as_str()).collect();
    ensure!(
        keys == [format!("{prefix}/own")] && page.skipped == 1,
        "beside one key others wrote {name}, which no key names; a listing names {keys:?}, and \
         counts {} as skipped",
        page.skipped
    );
    let skipped = owner.page(&prefix, 1_000).await?.skipped;
    ensure!(skipped == 0, "others removed it, and {skipped} are counted as skipped");
    Ok(())
}
