//! Reading many values at once, within what one answer may take.

use super::found;
use crate::session::{Client, Failure};
use crate::wire::{Content, GetData};
use futures::future::{OptionFuture, join};
use futures::stream::{StreamExt as _, iter};
use std::pin::pin;

/// Most bytes of values in one answer, which lies in the sandbox more than once while it is made, and
/// has to fit into what a host takes. One value alone is bounded by what a server answers.
const VALUES_BYTES_MAX: usize = 8 << 20;
/// Reads that are under way at once: what they bring may be held beside the above.
const AHEAD: usize = 16;

/// A node to read.
pub(super) struct Wanted<'a> {
    pub(super) path: &'a str,
    /// Whether its value is shown. Of another only that it is there is kept.
    pub(super) is_shown: bool,
}

/// Reads nodes, in their order; nothing where there is none. With `barrier` they are shown with all
/// that was acknowledged to anyone before.
///
/// # Errors
///
/// `TooMuch` as soon as the values that are shown are more than one answer takes.
pub(super) async fn read_values<'a>(
    client: &Client,
    barrier: bool,
    wanted: impl IntoIterator<Item = Wanted<'a>>,
) -> Result<Vec<Option<Content>>, Failure> {
    // It goes out first, and the reads behind it without waiting.
    let proof = OptionFuture::from(barrier.then(|| client.barrier()));
    let (proof, nodes) = join(proof, read_shown(client, wanted)).await;
    proof.transpose()?;
    nodes
}

async fn read_shown<'a>(
    client: &Client,
    wanted: impl IntoIterator<Item = Wanted<'a>>,
) -> Result<Vec<Option<Content>>, Failure> {
    let reads = iter(wanted).map(|Wanted { path, is_shown }| {
        let read = client.call(&GetData { path, watch: false });
        async move { (is_shown, found(read.await)) }
    });
    let mut reads = pin!(reads.buffered(AHEAD));
    let mut nodes = Vec::new();
    let mut bytes = 0;
    while let Some((is_shown, node)) = reads.next().await {
        let mut node = node?;
        if let Some((Some(value), _)) = &mut node {
            if !is_shown {
                *value = Vec::new();
            }
            let others = bytes;
            bytes += value.len();
            if others > 0 && bytes > VALUES_BYTES_MAX {
                return Err(Failure::TooMuch { limit: VALUES_BYTES_MAX });
            }
        }
        nodes.push(node);
    }
    Ok(nodes)
}
