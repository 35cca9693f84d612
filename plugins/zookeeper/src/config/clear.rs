//! Deleting all nodes below a node, in parts of a bounded size.

use super::transact::is_race;
use super::tree::PIPELINE;
use crate::lock::Lease;
use crate::path::{child, parent};
use crate::session::{Client, Failure};
use crate::wire::{Children, Delete, ErrorCode, GetData, MultiOutcome, Op};
use crate::zookeeper::ZooKeeper;
use pintle_plugin_sdk::{Context, Error};
use std::collections::HashSet;

/// Nodes that are deleted at one moment.
const DELETIONS: usize = 128;
/// How often deleting starts over because others wrote in between.
const ATTEMPTS: u32 = 32;
/// Levels that are gone down. Of keys there are half as many at most.
const DEPTH_MAX: usize = 1_000;
/// What the deletion of one node takes in a request beside its path.
const DELETION_BYTES: usize = 32;
/// Nodes that are looked at before what was found is deleted; what is left comes next.
const NODES_MAX: usize = 8_192;

/// What was deleted so far.
#[derive(Default)]
struct Deleted {
    keys: u64,
    /// Of keys, directories or both.
    parts: u64,
}

/// How one attempt to delete went.
enum Deleting {
    /// All that there was.
    Done,
    /// As much as is looked at together; there is more.
    Some,
    /// Others wrote in between.
    Again,
    /// The lease is not held any more.
    Fenced,
}

/// A node that has to go.
struct Doomed {
    path: String,
    is_key: bool,
}

/// What was found below a node: parents before their children.
#[derive(Default)]
struct Found {
    nodes: Vec<Doomed>,
    /// Nodes below which there is more than was looked at, and all above them.
    unfinished: HashSet<String>,
}

impl Found {
    /// Notes that more lies below this node than was looked at.
    fn more_below(&mut self, top: &str, path: &str) {
        let mut path = path;
        while self.unfinished.insert(path.to_owned()) && path != top {
            path = parent(path);
        }
    }
}

impl ZooKeeper {
    /// Deletes all nodes below a prefix, directories too, in parts; answers how many keys.
    pub(super) async fn delete_tree(
        &self,
        cx: &Context,
        prefix: &str,
        held: Option<&Lease>,
    ) -> Result<u64, Error> {
        let top = self.paths.directory(prefix)?;
        let doing = format!("deleting what is below `{prefix}`");
        let mut deleted = Deleted::default();
        let outcome = self.delete_parts(cx, &doing, &top, held, &mut deleted).await;
        match outcome {
            Ok(()) => Ok(deleted.keys),
            Err(error) if deleted.parts > 0 => Err(error.effect_unknown()),
            Err(error) => Err(error),
        }
    }

    async fn delete_parts(
        &self,
        cx: &Context,
        doing: &str,
        top: &str,
        held: Option<&Lease>,
        deleted: &mut Deleted,
    ) -> Result<(), Error> {
        let mut attempts = 0;
        while attempts < ATTEMPTS {
            if let Some(end) = cx.ended() {
                return Err(cx.error(end));
            }
            let client = self.main.client(cx).await?;
            let step = self.delete_once(&client, top, held, deleted).await;
            match step.map_err(|failure| failure.explain(doing))? {
                Deleting::Done => return Ok(()),
                Deleting::Some => attempts = 0,
                Deleting::Again => attempts += 1,
                Deleting::Fenced => {
                    return Err(Error::conflict(format!(
                        "{doing}: the lease is not held any more"
                    )));
                }
            }
        }
        Err(Error::exhausted(format!("{doing}: others wrote {ATTEMPTS} times in between")))
    }

    async fn delete_once(
        &self,
        client: &Client,
        top: &str,
        held: Option<&Lease>,
        deleted: &mut Deleted,
    ) -> Result<Deleting, Failure> {
        // What was written before this began has to be seen.
        let proof = client.barrier();
        let found = self.find_below(client, top).await.map_err(Failure::without_effect)?;
        proof.await.map_err(Failure::without_effect)?;
        let finished = |node: &&Doomed| !found.unfinished.contains(&node.path);
        let below: Vec<_> = found.nodes.iter().filter(finished).rev().collect();
        if below.is_empty() && !found.unfinished.is_empty() {
            return Err(too_deep());
        }
        for part in in_parts(&below, client.request_bytes_max() / 2) {
            let mut ops: Vec<_> = held.into_iter().map(Lease::check).collect();
            ops.extend(
                part.iter().map(|node| Op::Delete(Delete { path: &node.path, version: -1 })),
            );
            match client.multi(ops).await? {
                MultiOutcome::Done(_) => {
                    let keys = part.iter().filter(|node| node.is_key).count();
                    deleted.parts += 1;
                    deleted.keys += u64::try_from(keys).unwrap_or(u64::MAX);
                }
                MultiOutcome::Failed { index: 0, code: ErrorCode::NO_NODE } if held.is_some() => {
                    return Ok(Deleting::Fenced);
                }
                MultiOutcome::Failed { code, .. } if is_race(code) => return Ok(Deleting::Again),
                MultiOutcome::Failed { code, .. } => return Err(Failure::Refused(code)),
            }
        }
        Ok(if found.unfinished.is_empty() { Deleting::Done } else { Deleting::Some })
    }

    /// Looks for what is below a node, the deepest first, so that something can be deleted as soon as
    /// enough was found. Values are looked at one by one and not kept.
    async fn find_below(&self, client: &Client, top: &str) -> Result<Found, Failure> {
        let mut found = Found::default();
        let mut left = vec![top.to_owned()];
        while !left.is_empty() && found.nodes.len() < NODES_MAX {
            let paths = left.split_off(left.len().saturating_sub(PIPELINE));
            let reads: Vec<_> =
                paths.iter().map(|path| client.call(&GetData { path, watch: false })).collect();
            let mut parents = Vec::new();
            for (path, read) in paths.into_iter().zip(reads) {
                let Some((data, stat)) = super::found(read.await)? else { continue };
                if stat.num_children > 0 {
                    parents.push(path.clone());
                }
                if path != top {
                    found.nodes.push(Doomed { path, is_key: data.is_some() });
                }
            }
            let reads: Vec<_> =
                parents.iter().map(|path| client.call(&Children { path, watch: false })).collect();
            for (position, (parent, read)) in parents.iter().zip(reads).enumerate() {
                // Of many wide directories one is followed down at least, so that it comes to an end.
                let room = match left.len() < NODES_MAX {
                    true => NODES_MAX,
                    false if position == 0 => PIPELINE,
                    false => 0,
                };
                if room == 0 {
                    found.more_below(top, parent);
                    continue;
                }
                let names = match read.await {
                    Ok((names, _)) => names,
                    Err(failure) if failure.is(ErrorCode::NO_NODE) => continue,
                    Err(failure) => return Err(failure),
                };
                if names.len() > room {
                    found.more_below(top, parent);
                }
                let children = names.iter().take(room).map(|name| child(parent, name));
                left.extend(children.filter(|path| self.paths.reserved(path).is_none()));
            }
            let levels = |path: &String| path.matches('/').count() - top.matches('/').count();
            if left.last().is_some_and(|path| levels(path) > DEPTH_MAX) {
                return Err(too_deep());
            }
        }
        for path in left {
            found.more_below(top, parent(&path));
        }
        Ok(found)
    }
}

fn too_deep() -> Failure {
    Failure::OverLimit { name: "depth", what: "nodes lie too many levels deep", limit: DEPTH_MAX }
}

/// Nodes in parts that fit into a request.
fn in_parts<'a>(nodes: &'a [&'a Doomed], bytes_max: usize) -> Vec<&'a [&'a Doomed]> {
    let mut parts = Vec::new();
    let mut rest = nodes;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fitting = rest.iter().take(DELETIONS).take_while(|node| {
            bytes += DELETION_BYTES + node.path.len();
            bytes <= bytes_max
        });
        // One that does not fit alone is refused with the reason.
        let count = fitting.count().max(1);
        let (part, others) = rest.split_at_checked(count).unwrap_or((rest, &[]));
        parts.push(part);
        rest = others;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_fit_into_a_request_and_hold_all_nodes_in_their_order() {
        let doomed = |length: usize| Doomed { path: "x".repeat(length), is_key: true };
        let nodes: Vec<_> = [10, 10, 500, 10, 10, 10].map(doomed).into();
        let nodes: Vec<_> = nodes.iter().collect();
        let lengths: Vec<_> = in_parts(&nodes, 100).iter().map(|part| part.len()).collect();
        assert_eq!(lengths, [2, 1, 2, 1]);
        let many: Vec<_> = (0..300).map(|_| doomed(1)).collect();
        let many: Vec<_> = many.iter().collect();
        let lengths: Vec<_> = in_parts(&many, 1 << 20).iter().map(|part| part.len()).collect();
        assert_eq!(lengths, [128, 128, 44]);
    }

    #[test]
    fn what_has_more_below_it_stays_for_the_next_part() {
        let unfinished = |top: &str, paths: &[&str]| {
            let mut found = Found::default();
            paths.iter().for_each(|path| found.more_below(top, path));
            let mut unfinished: Vec<_> = found.unfinished.into_iter().collect();
            unfinished.sort_unstable();
            unfinished
        };
        assert_eq!(unfinished("/r", &["/r/a/b", "/r/a/c"]), ["/r", "/r/a", "/r/a/b", "/r/a/c"]);
        assert_eq!(unfinished("/", &["/a/b"]), ["/", "/a", "/a/b"]);
        assert_eq!(unfinished("/", &["/"]), ["/"]);
    }
}
