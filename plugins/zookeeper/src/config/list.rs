//! Listing in the order of the keys, page by page.

use super::{entry, found, is_linearizable};
use crate::path::child;
use crate::session::{Client, Failure, Reply};
use crate::wire::{Children, ErrorCode, GetData, Stat};
use crate::zookeeper::ZooKeeper;
use pintle_plugin_sdk::config::{Entry, ListRequest, Page};
use pintle_plugin_sdk::{Context, Error};
use std::collections::{HashMap, VecDeque};

/// Nodes that are read ahead of what is looked at.
const AHEAD: usize = 64;
/// Most nodes that one page looks at; the next page goes on behind them.
const NODES_MAX: usize = 10_000;
/// Most places that are kept of what is left: one more than a page looks at.
const PLACES_MAX: usize = NODES_MAX + 1;
/// Most bytes of keys and values in one page.
const PAGE_BYTES_MAX: usize = 1 << 20;

/// What is left to look at, in the order of the bytes of the keys: a node itself, and what lies
/// below it. `a-b` stands between `a` and `a/b`, so the two are apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// The key, with a `/` behind it for what lies below.
    order: String,
    path: String,
}

impl Place {
    fn is_below(&self) -> bool {
        self.order.ends_with('/')
    }

    /// Whether it can hold a key behind `after`.
    fn is_behind(&self, after: &str) -> bool {
        self.order.as_str() > after || (self.is_below() && after.starts_with(&self.order))
    }
}

/// Drops what no page can come to: all but the first [`PLACES_MAX`], in any order.
fn keep_first(places: &mut Vec<Place>) {
    if places.len() > PLACES_MAX {
        places.select_nth_unstable(PLACES_MAX);
        places.truncate(PLACES_MAX);
    }
}

type Read = Reply<(Option<Vec<u8>>, Stat)>;

/// One page that is being put together.
struct Walk<'a> {
    plugin: &'a ZooKeeper,
    client: Client,
    after: String,
    places: VecDeque<Place>,
    /// Reads that were sent ahead, by path.
    ahead: HashMap<String, Read>,
    /// Nodes that have been read and have no children.
    leaves: HashMap<String, bool>,
    skipped: u32,
}

impl ZooKeeper {
    pub(super) async fn list_page(
        &self,
        cx: &Context,
        request: ListRequest,
    ) -> Result<Page, Error> {
        let directory = self.paths.directory(&request.prefix)?;
        let doing = format!("listing `{}`", request.prefix);
        self.read(cx, &doing, async |client| {
            if is_linearizable(&request.options) {
                client.barrier().await?;
            }
            let mut walk = Walk {
                plugin: self,
                client,
                after: request.page.clone().unwrap_or_default(),
                places: VecDeque::new(),
                ahead: HashMap::new(),
                leaves: HashMap::new(),
                skipped: 0,
            };
            walk.enter(&directory, true).await?;
            walk.page(&request).await
        })
        .await
    }
}

impl Walk<'_> {
    async fn page(mut self, request: &ListRequest) -> Result<Page, Failure> {
        let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
        let mut entries: Vec<Entry> = Vec::new();
        let (mut bytes, mut looked_at) = (0, 0);
        let mut last = None;
        while let Some(place) = self.places.pop_front() {
            if entries.len() >= limit || bytes >= PAGE_BYTES_MAX || looked_at >= NODES_MAX {
                // Where the next page goes on: behind what was looked at last.
                return Ok(self.finish(entries, last));
            }
            looked_at += 1;
            if place.is_below() {
                if !self.leaves.remove(&place.path).unwrap_or(false) {
                    self.enter(&place.path, false).await?;
                }
                continue;
            }
            let wanted = limit.saturating_sub(entries.len()).min(AHEAD);
            let node = self.look(&place, wanted).await?;
            last = Some(place.order.clone());
            let Some((data, stat)) = node else { continue };
            if let Some(mut entry) = entry(place.order, data, &stat) {
                bytes += entry.key.len() + entry.value.len();
                if request.keys_only {
                    entry.value.clear();
                }
                entries.push(entry);
            }
        }
        Ok(self.finish(entries, None))
    }

    fn finish(self, entries: Vec<Entry>, next: Option<String>) -> Page {
        Page { entries, next, version: None, skipped: self.skipped }
    }

    /// Reads a node, and sends the reads of the next ones.
    async fn look(
        &mut self,
        place: &Place,
        wanted: usize,
    ) -> Result<Option<(Option<Vec<u8>>, Stat)>, Failure> {
        let read = match self.ahead.remove(&place.path) {
            Some(read) => read,
            None => {
                let read = self.client.call(&GetData { path: &place.path, watch: false });
                let next = self.places.iter().filter(|place| !place.is_below()).take(wanted);
                for place in next {
                    let ahead = self.ahead.entry(place.path.clone());
                    let get = GetData { path: &place.path, watch: false };
                    ahead.or_insert_with(|| self.client.call(&get));
                }
                read
            }
        };
        let node = match found(read.await) {
            Err(failure) if failure.is(ErrorCode::NO_AUTH) => {
                self.skipped = self.skipped.saturating_add(1);
                None
            }
            node => node?,
        };
        let leaf = node.as_ref().is_none_or(|(_, stat)| stat.num_children == 0);
        self.leaves.insert(place.path.clone(), leaf);
        Ok(node)
    }

    /// Puts the children of a node before what is left, as far as they are behind the last page.
    async fn enter(&mut self, directory: &str, is_top: bool) -> Result<(), Failure> {
        let names = match self.client.call(&Children { path: directory, watch: false }).await {
            Ok((names, _)) => names,
            Err(failure) if failure.is(ErrorCode::NO_NODE) => return Ok(()),
            // It was counted as a node already.
            Err(failure) if failure.is(ErrorCode::NO_AUTH) && !is_top => return Ok(()),
            Err(failure) => return Err(failure),
        };
        let mut places: Vec<Place> = Vec::new();
        for name in names {
            if places.len() >= 2 * PLACES_MAX {
                keep_first(&mut places);
            }
            let path = child(directory, &name);
            match self.plugin.paths.key(&path) {
                Some(key) => {
                    let below = Place { order: format!("{key}/"), path: path.clone() };
                    let node = Place { order: key, path };
                    let behind = [below, node].into_iter();
                    places.extend(behind.filter(|place| place.is_behind(&self.after)));
                }
                None if self.plugin.paths.reserved(&path).is_some() => {}
                None => self.skipped = self.skipped.saturating_add(1),
            }
        }
        places.sort_unstable();
        for place in places.into_iter().rev() {
            self.places.push_front(place);
        }
        // A page comes no further than this.
        self.places.truncate(PLACES_MAX);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(order: &str) -> Place {
        Place { order: order.to_owned(), path: String::new() }
    }

    #[test]
    fn nodes_and_what_lies_below_them_stand_in_the_order_of_the_keys() {
        let mut places = ["a/", "a-b/", "a", "b", "a-b", "b/"].map(place);
        places.sort();
        assert_eq!(places.map(|place| place.order), ["a", "a-b", "a-b/", "a/", "b", "b/"]);
    }

    #[test]
    fn of_many_places_the_first_are_kept_whatever_their_order_was() {
        let mut places: Vec<_> =
            (0..3 * PLACES_MAX).rev().map(|number| place(&format!("{number:09}"))).collect();
        keep_first(&mut places);
        places.sort_unstable();
        assert_eq!(places.len(), PLACES_MAX);
        assert_eq!(places[PLACES_MAX - 1].order, format!("{:09}", PLACES_MAX - 1));
    }

    #[test]
    fn a_page_goes_on_behind_the_last_key_and_inside_of_its_directory() {
        let after = "a/b/c";
        for (order, behind) in [
            ("a", false),
            ("a/", true),
            ("a/b", false),
            ("a/b/", true),
            ("a/b/c", false),
            ("a/b/c/", true),
            ("a/b-c", false),
            ("a/b/d", true),
            ("b", true),
            ("", false),
        ] {
            assert_eq!(place(order).is_behind(after), behind, "{order:?}");
        }
    }
}
