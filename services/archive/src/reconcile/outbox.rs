//! Where something waits to be journaled.

use std::sync::Arc;

use futures::{StreamExt as _, stream::BoxStream};
use isocenter_reconcile::{Failed, KeySource};
use isocenter_store::{Event as Change, Kv, Page, Range, WatchItem};

use super::drain::shard_of;
use crate::group::Group;

/// The groups that have something in the outbox.
pub(crate) struct Outbox(pub Arc<dyn Kv>);

#[async_trait::async_trait]
impl KeySource for Outbox {
    type Key = Group;

    async fn list(&self) -> Result<Vec<Group>, Failed> {
        let mut waiting = Vec::new();
        for group in Group::all() {
            let range = group.outbox()?;
            let page = self.0.list(&range, Page { limit: 1, ..Page::default() }).await?;
            if !page.items.is_empty() {
                waiting.push(group);
            }
        }
        Ok(waiting)
    }

    async fn changes(&self) -> Result<BoxStream<'static, Group>, Failed> {
        let range = Range::prefix("outbox/")?;
        let now = self.0.list(&range, Page { limit: 1, ..Page::default() }).await?.revision;
        let watch = self.0.watch(&range, now.next()).await?;
        // The first error ends the stream: the feed lists again.
        let groups = watch.take_while(|item| std::future::ready(item.is_ok())).flat_map(|item| {
            let events = match item {
                Ok(WatchItem::Events { events, .. }) => events,
                Ok(WatchItem::Progress(_)) | Err(_) => Vec::new(),
            };
            let put = |event: Change| match event {
                Change::Put(kv) => shard_of(&kv.key).map(Group::of_shard),
                Change::Delete { .. } => None,
            };
            futures::stream::iter(events.into_iter().filter_map(put).collect::<Vec<_>>())
        });
        Ok(groups.boxed())
    }

    fn shard(&self, group: &Group) -> u8 {
        group.shard()
    }
}
