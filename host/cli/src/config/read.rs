//! Reading.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal},
};

use pintle_client::{
    Client,
    api::config::{Entry, GetQuery, HistoryPage, HistoryQuery, ListQuery},
};

use super::{ReadArguments, all_pages, bytes_of, no_value, preview};
use crate::{
    exit::Exit,
    global::Global,
    output::{self, Table},
};

pub(super) async fn get(
    global: &Global,
    client: &Client,
    key: &str,
    read: ReadArguments,
) -> anyhow::Result<Exit> {
    let query = GetQuery { consistency: read.consistency(), at: read.at, format: None };
    let Some(entry) = client.config(global.backend()).get_with(key, query).await? else {
        return Err(no_value(key));
    };
    if global.print_facts(&entry)? {
        return Ok(Exit::OK);
    }
    let mut bytes = bytes_of(&entry)?;
    // A prompt should not follow on the same line; a program gets the bytes and nothing else.
    if io::stdout().is_terminal() && bytes.last() != Some(&b'\n') {
        bytes.push(b'\n');
    }
    output::bytes(&bytes)?;
    Ok(Exit::OK)
}

pub(super) async fn list(
    global: &Global,
    client: &Client,
    query: ListQuery,
    limit: Option<usize>,
) -> anyhow::Result<Exit> {
    let whole = all_pages(global, client, query, limit.unwrap_or(usize::MAX)).await?;
    if global.print(&whole)? {
        return Ok(Exit::OK);
    }
    let mut table = Table::new(["KEY", "VERSION", "MODIFIED", "VALUE"]);
    for entry in &whole.entries {
        table.row([
            entry.key.clone(),
            entry.version.clone(),
            output::moment(entry.modified_ms),
            preview(entry),
        ]);
    }
    table.print("no keys")?;
    tell_skipped(whole.skipped);
    Ok(Exit::OK)
}

pub(super) fn tell_skipped(skipped: u32) {
    if skipped > 0 {
        output::note(format_args!(
            "{skipped} things there cannot be named by a key and are left out"
        ));
    }
}

pub(super) async fn history(
    global: &Global,
    client: &Client,
    key: &str,
    limit: usize,
) -> anyhow::Result<Exit> {
    let whole = revisions(global, client, key, limit).await?;
    if global.print(&whole)? {
        return Ok(Exit::OK);
    }
    let mut table = Table::new(["VERSION", "MODIFIED", "VALUE"]);
    for revision in &whole.revisions {
        let value = revision.entry.as_ref().map_or_else(|| "(deleted)".into(), preview);
        table.row([revision.version.clone(), output::moment(revision.modified_ms), value]);
    }
    table.print(&format!("nothing is known of {key:?}"))?;
    if !whole.complete {
        output::note("older revisions existed, and are not kept any more");
    }
    Ok(Exit::OK)
}

/// The newest revisions of a key.
pub(super) async fn revisions(
    global: &Global,
    client: &Client,
    key: &str,
    limit: usize,
) -> anyhow::Result<HistoryPage> {
    let config = client.config(global.backend());
    let mut whole = HistoryPage { revisions: Vec::new(), next: None, complete: true };
    let mut query = HistoryQuery { key: key.into(), ..HistoryQuery::default() };
    loop {
        let missing = limit.saturating_sub(whole.revisions.len());
        query.limit = Some(u32::try_from(missing).unwrap_or(u32::MAX).clamp(1, 1_000));
        let page = config.history(&query).await?;
        whole.revisions.extend(page.revisions);
        whole.complete = page.complete;
        query.page = page.next;
        if query.page.is_none() || whole.revisions.len() >= limit {
            whole.revisions.truncate(limit);
            return Ok(whole);
        }
    }
}

pub(super) async fn tree(global: &Global, client: &Client, prefix: String) -> anyhow::Result<Exit> {
    let query = ListQuery { prefix: prefix.clone(), ..ListQuery::default() };
    let whole = all_pages(global, client, query, usize::MAX).await?;
    if global.print(&whole)? {
        return Ok(Exit::OK);
    }
    if whole.entries.is_empty() {
        output::note("no keys");
        return Ok(Exit::OK);
    }
    let mut root = Branch::default();
    for entry in &whole.entries {
        root.insert(below(&entry.key, &prefix), entry);
    }
    let mut lines = vec![if prefix.is_empty() { "/".into() } else { prefix }];
    root.draw("", &mut lines);
    output::line(&lines.join("\n"))?;
    tell_skipped(whole.skipped);
    Ok(Exit::OK)
}

/// A key without the prefix that all have.
fn below<'a>(key: &'a str, prefix: &str) -> &'a str {
    let rest = key.strip_prefix(prefix.trim_end_matches('/')).unwrap_or(key);
    rest.trim_start_matches('/')
}

#[derive(Default)]
struct Branch<'a> {
    entry: Option<&'a Entry>,
    below: BTreeMap<&'a str, Branch<'a>>,
}

impl<'a> Branch<'a> {
    fn insert(&mut self, path: &'a str, entry: &'a Entry) {
        let leaf =
            path.split('/').fold(self, |branch, segment| branch.below.entry(segment).or_default());
        leaf.entry = Some(entry);
    }

    fn draw(&self, indent: &str, lines: &mut Vec<String>) {
        let count = self.below.len();
        for (index, (name, branch)) in self.below.iter().enumerate() {
            let is_last = index + 1 == count;
            let (knot, rest) =
                if is_last { ("└── ", "    ") } else { ("├── ", "│   ") };
            let value = branch.entry.map(|entry| format!("  {}", preview(entry)));
            lines.push(format!("{indent}{knot}{name}{}", value.unwrap_or_default()));
            branch.draw(&format!("{indent}{rest}"), lines);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pintle_client::api::bytes::Value;

    #[test]
    fn a_tree_shows_each_segment_once() {
        let entries = ["a", "a/b", "a/c/d", "e"].map(|key| Entry {
            key: key.into(),
            value: Value::of(key.as_bytes()),
            ..Entry::default()
        });
        let mut root = Branch::default();
        for entry in &entries {
            root.insert(&entry.key, entry);
        }
        let mut lines = Vec::new();
        root.draw("", &mut lines);
        assert_eq!(
            lines,
            ["├── a  a", "│   ├── b  a/b", "│   └── c", "│       └── d  a/c/d", "└── e  e"]
        );
    }

    #[test]
    fn a_prefix_is_left_out_of_what_lies_below_it() {
        assert_eq!(below("app/a", "app"), "a");
        assert_eq!(below("app/a", "app/"), "a");
        assert_eq!(below("app", ""), "app");
    }
}
