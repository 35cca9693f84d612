//! All nodes below a node.

use crate::limits::{NODE_BYTES, Share};
use crate::path::child;
use crate::session::{Client, Failure};
use crate::wire::{Children, ErrorCode, GetData, Stat};
use crate::zookeeper::{ZooKeeper, count};
use std::cell::Cell;

/// Requests that are under way at once: enough to keep the server busy, few enough for its answers
/// to fit.
pub(crate) const PIPELINE: usize = 128;

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

/// How much reading may take, as far as it has come.
pub(crate) struct Room<'a> {
    share: &'a Share,
    left: usize,
}

impl<'a> Room<'a> {
    /// All that a watch may keep.
    pub(crate) fn of(share: &'a Share) -> Self {
        Self { share, left: share.bytes_max() }
    }

    fn take(&mut self, bytes: usize) -> Result<(), Failure> {
        self.left = self.left.checked_sub(bytes).ok_or_else(|| self.share.exceeded())?;
        Ok(())
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
        room: &mut Room<'_>,
    ) -> Result<Vec<Node>, Failure> {
        let mut nodes: Vec<Node> = Vec::new();
        let mut level = vec![top.to_owned()];
        let mut denied_here = Denied::Fails;
        while !level.is_empty() {
            let begun = nodes.len();
            for paths in level.chunks(PIPELINE) {
                nodes.extend(read_nodes(client, paths, watch, denied_here, room).await?);
            }
            let fresh = nodes.get(begun..).unwrap_or_default();
            let parents: Vec<_> = fresh
                .iter()
                .filter(|node| watch || node.stat.num_children > 0)
                .map(|node| node.path.as_str())
                .collect();
            let mut next = Vec::new();
            for parents in parents.chunks(PIPELINE) {
                next.extend(read_children(client, parents, watch, denied_here, room).await?);
            }
            // Below what is no key lies none: a path that is too long does not get shorter.
            next.retain(|path| self.paths.key(path).is_some());
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
    room: &mut Room<'_>,
) -> Result<Vec<Node>, Failure> {
    let reads: Vec<_> = paths.iter().map(|path| client.call(&GetData { path, watch })).collect();
    let mut nodes = Vec::with_capacity(paths.len());
    // One after the other: what comes behind the one that is too much is not kept.
    for (path, read) in paths.iter().zip(reads) {
        match super::found(read.await) {
            Ok(Some((data, stat))) => {
                room.take(NODE_BYTES + 2 * path.len() + data.as_ref().map_or(0, Vec::len))?;
                nodes.push(Node { path: path.clone(), data, stat });
            }
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
    room: &mut Room<'_>,
) -> Result<Vec<String>, Failure> {
    let reads: Vec<_> = parents.iter().map(|path| client.call(&Children { path, watch })).collect();
    let mut children: Vec<String> = Vec::new();
    for (parent, read) in parents.iter().zip(reads) {
        match read.await {
            Ok((names, _)) => {
                // Each of them is still to be read.
                let smallest = names.iter().map(|name| NODE_BYTES + parent.len() + name.len());
                if smallest.sum::<usize>() > room.left {
                    return Err(room.share.exceeded());
                }
                children.extend(names.iter().map(|name| child(parent, name)));
            }
            Err(failure) if failure.is(ErrorCode::NO_NODE) => {}
            Err(failure) if denied.leaves_out(&failure) => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(children)
}
