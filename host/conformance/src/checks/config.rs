//! Reading: what was written is there, for whom, and how fresh.

use futures::future::try_join_all;
use pintle::direct::{
    config::{
        DeleteOutcome, DeleteRequest, Expectation, HistoryRequest, PutOutcome, PutRequest,
        ReadOptions,
    },
    types::Consistency,
};

use crate::{
    check::{Check, Need, Outcome, Stop, check, ensure},
    owner::{anything, call, read, typed, write},
    trial::Trial,
};

pub(super) const CHECKS: &[Check] = &[
    check!("config.get", get, "a get answers what was put, and none where nothing is"),
    check!("config.get/many", get_many, "get-many answers one result per key, in order"),
    check!(
        "config.get-linearizable",
        linearizable,
        "a linearizable get sees each put that was acknowledged to another before it",
        needs Need::Feature("config.linearizable")
    ),
    check!("config.linearizable", linearizable_declared, "linearizable reads are answered",
        needs Need::Feature("config.linearizable")),
    check!("config.key-mapping", spellings, "every key that can be written comes back as itself"),
    check!("config.delete", delete, "a deleted key is absent, and deleting it again says so"),
    check!("config.content-type", content_type, "a content type comes back with its value",
        needs Need::Feature("config.content-type")),
    check!("config.history", history, "the kept revisions of a key come newest first with values",
        needs Need::Feature("config.history")),
    check!("config.read-at", read_at, "a read as of a version shows what was there then",
        needs Need::Feature("config.read-at")),
    check!("config.selectors", selectors, "a value for a selector is seen with it alone",
        needs Need::Feature("config.selectors")),
];

async fn get(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let (key, absent) = (trial.key("get"), trial.key("absent"));
    let version = owner.put(&key, "first").await?;
    let found = owner.get_present(&key).await?;
    ensure!(found.key == key, "a get of {key} answers the entry of {}", found.key);
    ensure!(found.value == b"first", "{key} holds `first`, and a get answers {:?}", found.value);
    ensure!(
        found.version == version,
        "the put of {key} answered version {version}, and a get answers {}",
        found.version
    );
    owner.put(&key, "second").await?;
    let found = owner.get_present(&key).await?;
    ensure!(found.value == b"second", "{key} holds `second`, and a get answers {:?}", found.value);
    let nothing = owner.get(&absent).await?;
    ensure!(nothing.is_none(), "nothing is at {absent}, and a get answers {nothing:?}");
    // What only has keys below it holds no value.
    let parent = owner.get(&trial.prefix()).await?;
    ensure!(parent.is_none(), "no value is at {}, and a get answers {parent:?}", trial.prefix());
    Ok(())
}

async fn get_many(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let keys = ["c", "absent", "a", "b"].map(|tail| trial.key(tail));
    for tail in ["a", "b", "c"] {
        owner.put(&trial.key(tail), tail).await?;
    }
    let found = owner.raw.config_get_many(call(), keys.to_vec(), owner.fresh()).await?;
    let values: Vec<Option<&[u8]>> =
        found.iter().map(|entry| entry.as_ref().map(|entry| entry.value.as_slice())).collect();
    let expected = [Some(b"c".as_slice()), None, Some(b"a".as_slice()), Some(b"b".as_slice())];
    ensure!(values == expected, "asked for c, absent, a, b; answered {values:?}");
    Ok(())
}

async fn linearizable(trial: &mut Trial) -> Outcome {
    let writer = trial.owner("a").await?;
    let reader = trial.other(&writer).await?;
    let key = trial.key("fresh");
    for round in 0..40 {
        let value = round.to_string();
        writer.put(&key, value.as_str()).await?;
        let options = read(Consistency::Linearizable);
        let found = reader.raw.config_get(call(), key.clone(), options).await?;
        let seen = found.map(|entry| String::from_utf8_lossy(&entry.value).into_owned());
        ensure!(
            seen.as_deref() == Some(value.as_str()),
            "{key} was acknowledged as {value}, and a linearizable get after it answers {seen:?}"
        );
        let keys = vec![trial.key("absent"), key.clone()];
        let many = reader.raw.config_get_many(call(), keys, read(Consistency::Linearizable));
        let listed = reader.list(&trial.prefix(), 10).await?;
        let ways =
            [("get-many", many.await?.pop().flatten()), ("listing", listed.into_iter().next())];
        for (way, found) in ways {
            let seen = found.map(|entry| String::from_utf8_lossy(&entry.value).into_owned());
            ensure!(
                seen.as_deref() == Some(value.as_str()),
                "{key} was acknowledged as {value}, and a linearizable {way} after it shows {seen:?}"
            );
        }
    }
    Ok(())
}

async fn linearizable_declared(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let key = trial.key("linearizable");
    owner.put(&key, "x").await?;
    let options = read(Consistency::Linearizable);
    let found = owner.raw.config_get(call(), key.clone(), options.clone()).await?;
    ensure!(found.is_some(), "{key} was stored, and a linearizable get answers none");
    let many = owner.raw.config_get_many(call(), vec![key], options).await?;
    ensure!(many.iter().all(Option::is_some), "a linearizable get-many answers {many:?}");
    Ok(())
}

async fn spellings(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let longest = {
        let prefix = trial.key("long");
        // 1,024 bytes in all, in segments that every server takes.
        let rest = 1_024 - prefix.len();
        let segments: String = (0..rest).map(|at| if at % 100 == 0 { '/' } else { 'x' }).collect();
        format!("{prefix}{}", segments.trim_end_matches('/'))
    };
    let tails = [
        "plain",
        "with space",
        "dots...in.it",
        "ünïcödé-鍵-🔑",
        "%2E",
        "%2E%2E",
        "%25",
        "%00",
        "%0A%7F",
        "a:b;c=d&e?f#g",
        "quote'\"back\\slash",
        "UPPER",
        "upper",
        "-",
        "~tilde",
        "*",
        "{brace}",
        "0",
        "trailing.",
    ];
    let mut keys: Vec<String> = tails.iter().map(|tail| trial.key(tail)).collect();
    keys.push(longest);
    for (number, key) in keys.iter().enumerate() {
        owner.put(key, number.to_string()).await?;
    }
    for (number, key) in keys.iter().enumerate() {
        let found = owner.get_present(key).await?;
        ensure!(found.key == *key, "a get of {key:?} answers the entry of {:?}", found.key);
        ensure!(
            found.value == number.to_string().as_bytes(),
            "{key:?} holds what was put under another key: {:?}",
            String::from_utf8_lossy(&found.value)
        );
    }
    let mut listed = owner.keys(&trial.prefix()).await?;
    listed.sort_unstable();
    keys.sort_unstable();
    ensure!(listed == keys, "the keys {keys:?} were put, and a listing names {listed:?}");
    Ok(())
}

async fn delete(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let key = trial.key("delete");
    owner.put(&key, "x").await?;
    let request = DeleteRequest { previous: true, ..anything(&key) };
    let DeleteOutcome::Deleted(previous) = owner.raw.config_delete(call(), request).await? else {
        return Err(Stop::Broken(format!("{key} was there, and a delete does not say `deleted`")));
    };
    ensure!(
        previous.as_ref().is_some_and(|entry| entry.value == b"x"),
        "a delete was asked for the entry that was there, and answers {previous:?}"
    );
    let found = owner.get(&key).await?;
    ensure!(found.is_none(), "{key} was deleted, and a get answers {found:?}");
    let keys = owner.keys(&trial.prefix()).await?;
    ensure!(!keys.contains(&key), "{key} was deleted, and is still listed");
    let again = owner.raw.config_delete(call(), anything(&key)).await?;
    ensure!(
        matches!(again, DeleteOutcome::Absent),
        "{key} was deleted before, and deleting it again answers {again:?} instead of `absent`"
    );
    Ok(())
}

async fn content_type(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let key = trial.key("typed");
    owner.put_as(typed(&key, "{}", "application/json")).await?;
    let found = owner.get_present(&key).await?.content_type;
    ensure!(
        found.as_deref() == Some("application/json"),
        "stored as application/json, and a get answers {found:?}"
    );
    owner.put_as(typed(&key, "a: 1", "application/yaml")).await?;
    let listed = owner.list(&trial.prefix(), 10).await?;
    let found = listed.first().and_then(|entry| entry.content_type.as_deref());
    ensure!(
        found == Some("application/yaml"),
        "stored as application/yaml, and a listing answers {found:?}"
    );
    Ok(())
}

async fn history(trial: &mut Trial) -> Outcome {
    use pintle::direct::config::Change;
    let owner = trial.owner("a").await?;
    let key = trial.key("history");
    for value in ["1", "2"] {
        owner.put(&key, value).await?;
    }
    owner.delete(&key).await?;
    owner.put(&key, "4").await?;
    owner.put(&trial.key("other"), "x").await?;
    let mut shown = Vec::new();
    let mut page = None;
    loop {
        // Pages of two, so that following them is looked at as well.
        let request = HistoryRequest { key: key.clone(), limit: 2, page };
        let found = owner.raw.config_history(call(), request).await?;
        let len = found.revisions.len();
        ensure!(len <= 2, "a page of at most 2 revisions has {len}");
        shown.extend(found.revisions.into_iter().map(|revision| match revision.change {
            Change::Put(entry) => format!("put {}", String::from_utf8_lossy(&entry.value)),
            Change::Removed(_) => "removed".to_owned(),
        }));
        page = found.next;
        if page.is_none() || shown.len() > 10 {
            break;
        }
    }
    ensure!(
        shown == ["put 4", "removed", "put 2", "put 1"],
        "written were 1, 2, a removal and 4; newest first the history shows {shown:?}"
    );
    Ok(())
}

async fn read_at(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let key = trial.key("at");
    let mut versions = Vec::new();
    for value in ["1", "2", "3"] {
        versions.push((value, owner.put(&key, value).await?));
    }
    owner.delete(&key).await?;
    for (value, version) in versions {
        let options = ReadOptions { at: Some(version.clone()), ..owner.fresh() };
        let found = owner.raw.config_get(call(), key.clone(), options).await?;
        let seen = found.map(|entry| String::from_utf8_lossy(&entry.value).into_owned());
        ensure!(
            seen.as_deref() == Some(value),
            "at version {version} {key} held {value}, and a read as of it answers {seen:?}"
        );
    }
    Ok(())
}

async fn selectors(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let key = trial.key("gray");
    owner.put(&key, "for all").await?;
    let chosen = vec![("label".to_owned(), "pintle-conformance".to_owned())];
    let request = PutRequest { selectors: chosen.clone(), ..write(&key, "for some") };
    let outcome = owner.raw.config_put(call(), request).await?;
    ensure!(
        matches!(outcome, PutOutcome::Stored(_)),
        "a put for a selector has to succeed, and is {outcome:?}"
    );
    let options = ReadOptions { selectors: chosen.clone(), ..owner.fresh() };
    let found = owner.raw.config_get(call(), key.clone(), options).await?;
    let for_all = owner.get_present(&key).await?.value;
    // No prefix covers what is for a selector: nobody else would remove it.
    let deletion = DeleteRequest { selectors: chosen, ..anything(&key) };
    owner.raw.config_delete(call(), deletion).await?;
    let seen = found.map(|entry| String::from_utf8_lossy(&entry.value).into_owned());
    ensure!(seen.as_deref() == Some("for some"), "with the selector a get answers {seen:?}");
    ensure!(
        for_all == b"for all",
        "without the selector a get answers {:?}",
        String::from_utf8_lossy(&for_all)
    );
    Ok(())
}

/// Several keys written by one, so that another can count them.
pub(super) async fn fill(
    owner: &crate::owner::Owner,
    keys: impl IntoIterator<Item = String>,
) -> Outcome {
    try_join_all(keys.into_iter().map(|key| async move { owner.put(&key, "x").await })).await?;
    Ok(())
}

/// An expectation that nothing is there.
pub(super) const ABSENT: Expectation = Expectation::Absent;
