//! A watch of etcd: the library's raw stream, checked and cut into whole revisions.

use std::{collections::VecDeque, sync::Arc};

use etcd_client::{Client, EventType, WatchOptions, WatchResponse};
use futures::{StreamExt as _, stream};

use super::{MAX_MESSAGE, convert, pool::Pool};
use crate::{
    Error,
    kv::{Event, Range, Revision, WatchItem, WatchStream},
};

struct Watcher {
    pool: Arc<Pool>,
    member: usize,
    stream: etcd_client::WatchStream,
    cluster_id: u64,
    /// The newest revision delivered, or the one before the first asked for.
    seen: Revision,
    ready: VecDeque<WatchItem>,
}

pub(super) async fn open(pool: &Arc<Pool>, range: &Range, from: Revision) -> Result<WatchStream, Error> {
    let from = Revision(from.0.max(1));
    let (key, end) = convert::bounds(range);
    // Neither fragments nor previous values: the first hide where a revision ends, the second outgrow any limit.
    let mut options = WatchOptions::new().with_start_revision(convert::signed(from.0)).with_progress_notify();
    if let Some(end) = end {
        options = options.with_range(end);
    }
    let create = |client: Client| {
        let (key, options) = (key.clone(), options.clone());
        async move {
            let mut client = client.watch_client().max_decoding_message_size(MAX_MESSAGE);
            let mut stream = client.watch(key, Some(options)).await?;
            let created = stream.message().await?;
            Ok((stream, created))
        }
    };
    let (member, (stream, created)) = pool.open(create).await?;
    let created = created.ok_or_else(|| lost("the stream ended before it began"))?;
    let revision = convert::revision(created.header())?;
    // etcd accepts a future revision and then stays silent; a store restored from a backup would freeze its caches.
    if from > revision.next() {
        return Err(Error::FutureRevision { asked: from, at: revision });
    }
    let cluster_id = created.header().map_or(0, etcd_client::ResponseHeader::cluster_id);
    let seen = Revision(from.0 - 1);
    let mut watcher =
        Watcher { pool: Arc::clone(pool), member, stream, cluster_id, seen, ready: VecDeque::new() };
    watcher.accept(&created)?;
    Ok(stream::unfold(Some(watcher), |watcher| async {
        let mut watcher = watcher?;
        match watcher.item().await {
            Ok(item) => Some((Ok(item), Some(watcher))),
            Err(e) => {
                if matches!(e, Error::Lost { .. }) {
                    watcher.pool.leave(watcher.member);
                }
                Some((Err(e), None))
            }
        }
    })
    .boxed())
}

impl Watcher {
    async fn item(&mut self) -> Result<WatchItem, Error> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Ok(item);
            }
            let message = self.stream.message().await.map_err(|e| lost(e.to_string()))?;
            let message = message.ok_or_else(|| lost("the server ended the stream"))?;
            self.accept(&message)?;
        }
    }

    /// Checks a message and queues what it delivers.
    fn accept(&mut self, message: &WatchResponse) -> Result<(), Error> {
        if message.canceled() {
            // The stream itself stays open, and the header's revision may be zero.
            return Err(match convert::unsigned(message.compact_revision()) {
                0 => lost(message.cancel_reason()),
                at => Error::Compacted { at: Revision(at) },
            });
        }
        let is = message.header().map_or(0, etcd_client::ResponseHeader::cluster_id);
        if is != self.cluster_id {
            return Err(Error::OtherCluster { was: self.cluster_id, is });
        }
        if message.created() {
            return Ok(());
        }
        if message.events().is_empty() {
            // Only here does the header say how far the watch is: a batch of old events carries today's revision.
            let at = convert::revision(message.header())?;
            if at < self.seen {
                return Err(lost("the store's revision went back"));
            }
            self.ready.push_back(WatchItem::Progress(at));
            return Ok(());
        }
        let mut revision = self.seen;
        let mut events: Vec<Event> = Vec::new();
        for raw in message.events() {
            let event = event(raw)?;
            if event.revision() != revision {
                self.deliver(revision, std::mem::take(&mut events));
                if event.revision() <= revision {
                    return Err(lost("a revision was delivered twice or out of order"));
                }
                revision = event.revision();
            } else if events.is_empty() {
                return Err(lost("a revision was delivered in two parts"));
            }
            events.push(event);
        }
        self.deliver(revision, events);
        Ok(())
    }

    fn deliver(&mut self, revision: Revision, mut events: Vec<Event>) {
        if !events.is_empty() {
            events.sort_by(|a, b| a.key().cmp(b.key()));
            self.seen = revision;
            self.ready.push_back(WatchItem::Events { revision, events });
        }
    }
}

fn event(event: &etcd_client::Event) -> Result<Event, Error> {
    let kv = event.kv().ok_or_else(|| Error::Protocol { why: "an event has no key".to_owned() })?;
    Ok(match event.event_type() {
        EventType::Put => Event::Put(convert::key_value(kv)?),
        EventType::Delete => Event::Delete {
            key: convert::key(kv.key())?,
            mod_revision: Revision(convert::unsigned(kv.mod_revision())),
        },
    })
}

fn lost(why: impl Into<String>) -> Error {
    Error::Lost { why: why.into() }
}
