//! Listings: order, boundaries, pages.

use pintle::direct::config::ListRequest;

use super::config::fill;
use crate::{
    check::{Check, Outcome, Stop, check, ensure},
    owner::{anything, call},
    trial::Trial,
};

pub(super) const CHECKS: &[Check] = &[
    check!("config.list", list, "a listing names every key below the prefix in the order of bytes"),
    check!("config.list/boundary", boundary, "a prefix ends at a separator: a/b never shows a/bc"),
    check!("config.list/keys-only", keys_only, "a listing of keys alone leaves values empty"),
    check!(
        "config.page-stable",
        page_stable,
        "pages followed while others write show every key that existed throughout, once"
    ),
    check!(
        "config.key-unmappable",
        skipped,
        "where every key can be written, a listing counts nothing as skipped"
    ),
    check!("config.delete-prefix", delete_prefix, "deleting a prefix touches nothing outside it"),
];

async fn list(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let tails = ["b", "a", "a/b", "a-b", "a0", "B", "c/d/e", "ü", "z"];
    let mut keys: Vec<String> = tails.iter().map(|tail| trial.key(tail)).collect();
    fill(&owner, keys.clone()).await?;
    let listed = owner.keys(&trial.prefix()).await?;
    keys.sort_unstable();
    ensure!(listed == keys, "the keys {keys:?} were put, and a listing names {listed:?}");
    Ok(())
}

async fn boundary(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let inside = [trial.key("a/b/c"), trial.key("a/b/d/e")];
    let outside = ["a/b", "a/bc", "a/bc/d", "a/b-c", "a/b.c/d", "a/c", "x/a/b/c"];
    fill(&owner, inside.clone()).await?;
    fill(&owner, outside.iter().map(|tail| trial.key(tail))).await?;
    let listed = owner.keys(&trial.key("a/b")).await?;
    ensure!(listed == inside, "below a/b lie {inside:?}, and a listing names {listed:?}");
    Ok(())
}

async fn keys_only(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    fill(&owner, [trial.key("a"), trial.key("b")]).await?;
    let request = ListRequest {
        prefix: trial.prefix(),
        page: None,
        limit: 10,
        keys_only: true,
        options: owner.fresh(),
    };
    let page = owner.raw.config_list(call(), request).await?;
    ensure!(page.entries.len() == 2, "two keys were put, and {} listed", page.entries.len());
    let full = page.entries.iter().find(|entry| !entry.value.is_empty());
    ensure!(full.is_none(), "values were to be left empty, and {full:?} is listed");
    Ok(())
}

async fn page_stable(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let other = trial.other(&owner).await?;
    let steady: Vec<String> =
        (0..60).map(|number| trial.key(&format!("steady/{number:03}"))).collect();
    fill(&owner, steady.clone()).await?;
    let prefix = trial.key("steady");
    let (mut seen, mut page, mut round) = (Vec::new(), None, 0);
    loop {
        let request = ListRequest {
            prefix: prefix.clone(),
            page,
            limit: 7,
            keys_only: true,
            options: owner.fresh(),
        };
        let found = owner.raw.config_list(call(), request).await?;
        let len = found.entries.len();
        ensure!(len <= 7, "a page of at most 7 entries has {len}");
        seen.extend(found.entries.into_iter().map(|entry| entry.key));
        page = found.next;
        if page.is_none() {
            break;
        }
        ensure!(round < 100, "a listing of some 60 keys by 7 did not end within 100 pages");
        // Before, at and behind the place where the next page begins, keys come and go.
        for tail in ["steady/000a", "steady/030a", "steady/059a"] {
            let key = trial.key(tail);
            if round % 2 == 0 {
                other.put(&key, "x").await?;
            } else {
                other.raw.config_delete(call(), anything(&key)).await?;
            }
        }
        round += 1;
    }
    ensure!(seen.is_sorted(), "the pages are not in the order of bytes: {seen:?}");
    for key in &steady {
        let times = seen.iter().filter(|seen| *seen == key).count();
        ensure!(times == 1, "{key} existed throughout, and the pages show it {times} times");
    }
    Ok(())
}

async fn skipped(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    fill(&owner, [trial.key("a"), trial.key("%2E%2E/b")]).await?;
    let request = ListRequest {
        prefix: trial.prefix(),
        page: None,
        limit: 10,
        keys_only: true,
        options: owner.fresh(),
    };
    let page = owner.raw.config_list(call(), request).await?;
    let listed = page.entries.len();
    ensure!(
        listed == 2 && page.skipped == 0,
        "two keys were put through the plugin; listed are {listed}, and {} are counted as skipped",
        page.skipped
    );
    Ok(())
}

async fn delete_prefix(trial: &mut Trial) -> Outcome {
    let owner = trial.owner("a").await?;
    let outside = ["d", "de", "de/f", "d-e/f", "c/d/e", "e"].map(|tail| trial.key(tail));
    let inside: Vec<String> =
        (0..25).map(|number| trial.key(&format!("d/{}/{number}", number % 3))).collect();
    fill(&owner, outside.iter().chain(&inside).cloned()).await?;
    let deleted = owner.raw.config_delete_prefix(call(), trial.key("d"), None).await?;
    let left = owner.keys(&trial.prefix()).await?;
    let mut expected = outside.to_vec();
    expected.sort_unstable();
    ensure!(
        left == expected,
        "below d lay {} keys; outside of it {expected:?}, and left are {left:?}",
        inside.len()
    );
    let count = u64::try_from(inside.len()).map_err(|_| Stop::Unclear("too many".into()))?;
    ensure!(deleted == count, "{count} keys lay below the prefix, and {deleted} are answered");
    let again = owner.raw.config_delete_prefix(call(), trial.key("d"), None).await?;
    ensure!(again == 0, "nothing is below the prefix any more, and {again} are answered");
    Ok(())
}
