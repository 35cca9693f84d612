//! All nodes below a node.

use super::transact::is_race;
use crate::lock::Lease;
use crate::path::child;
use crate::session::{Client, Failure};
use crate::wire::{Children, Delete, ErrorCode, GetData, MultiOutcome, Op, Stat};
use crate::zookeeper::{ZooKeeper, count};
use futures::future::join_all;
use pintle_plugin_sdk::{Context, Error};
use std::cell::Cell;

/// Requests that are under way at once: enough to keep the server busy, few enough for its answers
/// to fit.
pub(crate) const PIPELINE: usize = 128;
/// Nodes that are deleted at one moment.
const DELETIONS: usize = 128;
/// How often deleting starts over because others wrote in between.
const ATTEMPTS: u32 = 32;

/// A node that was read.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) path: String,
    pub(crate) data: Option<Vec<u8>>,
    pub(crate) stat: Stat,
}

/// What becomes of a node that may not be read.
#[derive(Clone, Copy)]
pub(crate) enum Denied<'a> {
    /// The whole cannot be read then.
    Fails,
    /// It is left out, with all below it, and counted.
    LeftOut(&'a Cell<u64>),
}

impl Denied<'_> {
    fn leaves_out(self, failure: &Failure) -> bool {
        match self {
            Self::LeftOut(counter) if failure.is(ErrorCode::NO_AUTH) => {
                count(counter);
                true
            }
            Self::LeftOut(_) | Self::Fails => false,
        }
    }
}

impl ZooKeeper {
    /// Reads a node, if there is one, and all below it but what is not the user's; parents come
    /// before their children. With `watch`, the next change to any of it is told, once. `denied` is
    /// of what lies below the node.
    pub(crate) async fn read_tree(
        &self,
        client: &Client,
        top: &str,
        watch: bool,
        denied: Denied<'_>,
    ) -> Result<Vec<Node>, Failure> {
        let mut nodes: Vec<Node> = Vec::new();
        let mut level = vec![top.to_owned()];
        let mut denied_here = Denied::Fails;
        while !level.is_empty() {
            let begun = nodes.len();
            for paths in level.chunks(PIPELINE) {
                nodes.extend(read_nodes(client, paths, watch, denied_here).await?);
            }
            let fresh = nodes.get(begun..).unwrap_or_default();
            let parents: Vec<_> = fresh
                .iter()
                .filter(|node| watch || node.stat.num_children > 0)
                .map(|node| node.path.as_str())
                .collect();
            let mut next = Vec::new();
            for parents in parents.chunks(PIPELINE) {
                next.extend(read_children(client, parents, watch, denied_here).await?);
            }
            next.retain(|path| self.paths.reserved(path).is_none());
            level = next;
            denied_here = denied;
        }
        Ok(nodes)
    }
}

/// Reads these nodes; those that are gone are left out.
pub(crate) async fn read_nodes(
    client: &Client,
    paths: &[String],
    watch: bool,
    denied: Denied<'_>,
) -> Result<Vec<Node>, Failure> {
    let reads = paths.iter().map(|path| client.call(&GetData { path, watch }));
    let mut nodes = Vec::with_capacity(paths.len());
    for (path, read) in paths.iter().zip(join_all(reads).await) {
        match super::found(read) {
            Ok(Some((data, stat))) => nodes.push(Node { path: path.clone(), data, stat }),
            Ok(None) => {}
            Err(failure) if denied.leaves_out(&failure) => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(nodes)
}

/// The children of these nodes; those of nodes that are gone are left out.
async fn read_children(
    client: &Client,
    parents: &[&str],
    watch: bool,
    denied: Denied<'_>,
) -> Result<Vec<String>, Failure> {
    let reads = parents.iter().map(|path| client.call(&Children { path, watch }));
    let mut children = Vec::new();
    for (parent, read) in parents.iter().zip(join_all(reads).await) {
        match read {
            Ok((names, _)) => children.extend(names.iter().map(|name| child(parent, name))),
            Err(failure) if failure.is(ErrorCode::NO_NODE) => {}
            Err(failure) if denied.leaves_out(&failure) => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(children)
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
        for _ in 0..ATTEMPTS {
            let client = self.main.client(cx).await?;
            let step = self.delete_once(&client, top, held, deleted).await;
            match step.map_err(|failure| failure.explain(doing))? {
                Deleting::Done => return Ok(()),
                Deleting::Again => {}
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
        let nodes = self.read_tree(client, top, false, Denied::Fails).await;
        let nodes = nodes.map_err(Failure::without_effect)?;
        proof.await.map_err(Failure::without_effect)?;
        let below: Vec<_> = nodes.iter().filter(|node| node.path != top).rev().collect();
        for part in below.chunks(DELETIONS) {
            let mut ops: Vec<_> = held.into_iter().map(Lease::check).collect();
            ops.extend(
                part.iter().map(|node| Op::Delete(Delete { path: &node.path, version: -1 })),
            );
            match client.multi(ops).await? {
                MultiOutcome::Done(_) => {
                    let keys = part.iter().filter(|node| node.data.is_some()).count();
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
        Ok(Deleting::Done)
    }
}

/// What was deleted so far.
#[derive(Default)]
struct Deleted {
    keys: u64,
    /// Of keys, directories or both.
    parts: u64,
}

/// How one attempt to delete a tree went.
enum Deleting {
    Done,
    /// Others wrote in between.
    Again,
    /// The lease is not held any more.
    Fenced,
}
