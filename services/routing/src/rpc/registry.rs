//! The registry: put, shown, listed and deleted.

use std::sync::Arc;

use isocenter_domain::{
    Kinded as _,
    access::{Action, Principal},
    id::{Id, IdKind, TenantId},
    key::{self, RegistryItem, RegistryKey},
    record::{RecordKind, registry::Entry},
};
use isocenter_runtime::status::{Answer, status};
use isocenter_store::{
    Range, kv,
    table::{Cause, Stored, TableError, Tables, kind_range, parse_outbox_key},
};
use isocenter_wire::{
    record::decode_event,
    v1::{self, registry_server::Registry},
};
use tokio::sync::Mutex;
use tonic::{Request, Response, Status};

use super::{TRIES, allowed, entry, id, lost, request_id};
use crate::{Error, plan};

/// Entries on a page where the caller does not say.
const PAGE: usize = 100;
/// Entries on a page at most: an entry has at most 4 KiB, so that an answer stays at the 4 MiB that gRPC takes.
const LARGEST_PAGE: usize = 1_000;
/// The event of an entry's removal.
const DELETED: &str = "deleted";

/// The calls of `isocenter.v1.Registry`.
#[derive(Clone)]
pub(crate) struct RegistryRpc {
    tables: Tables,
    /// Puts of one process go one after another: each compares the whole registry, so that they would only make each
    /// other try again. Those of other processes are told apart by that compare.
    puts: Arc<Mutex<()>>,
}

impl RegistryRpc {
    pub fn new(tables: Tables) -> Self {
        Self { tables, puts: Arc::default() }
    }

    /// Puts once: the same request again finds itself in the record.
    async fn put_once(&self, key: &RegistryKey, entry: &Entry, cause: &Cause) -> Result<Entry, Error> {
        let _one_at_a_time = self.puts.lock().await;
        let mut tries = 0;
        loop {
            tries += 1;
            match self.try_put(key, entry, cause).await {
                Err(Error::Table(e)) if tries < TRIES && lost(e.kind()) => {}
                other => return other,
            }
        }
    }

    async fn try_put(&self, key: &RegistryKey, entry: &Entry, cause: &Cause) -> Result<Entry, Error> {
        let everything = kind_range(RecordKind::Registry);
        let (registered, revision) = self.tables.list::<Entry>(&everything).await?;
        let current = registered.iter().find(|stored| stored.key == *key);
        if let Some(stored) = current.filter(|stored| stored.head.op_id == cause.op_id) {
            return Ok(stored.record.clone());
        }
        let others = registered.iter().map(|stored| (&stored.key, &stored.record));
        if let Some((title, other)) = plan::taken(key, entry, others) {
            let site = match &other.item {
                RegistryItem::Site(site) if other.tenant == key.tenant => Some(site.clone()),
                _ => None,
            };
            return Err(Error::Taken { title, site });
        }
        let mut change = self.tables.change(cause.clone());
        match current {
            Some(stored) => change.update(stored, entry, "replaced"),
            // The change counter of an entry that is registered again must go on from where it ended, which nothing
            // remembers: the store's revision is above every counter.
            None => change.create_after(key, entry, "created", "", revision.0),
        }
        if matches!(entry, Entry::Site(_)) {
            // No other site may have come by the same AE title since the registry was listed.
            change.none_newer(everything, revision);
        }
        change.commit().await?;
        Ok(entry.clone())
    }

    async fn found(&self, key: &RegistryKey) -> Result<Stored<Entry>, Error> {
        self.tables.load::<Entry>(key).await?.ok_or(Error::NoEntry(plan::kind_name(&key.item)))
    }

    async fn delete_once(&self, key: &RegistryKey, cause: &Cause) -> Result<(), Error> {
        let mut tries = 0;
        loop {
            tries += 1;
            let stored = match self.found(key).await {
                Err(Error::NoEntry(_)) if self.deleted_by(key, &cause.op_id).await? => return Ok(()),
                other => other?,
            };
            let mut change = self.tables.change(cause.clone());
            change.delete(&stored, DELETED);
            match change.commit().await {
                Ok(_) => return Ok(()),
                Err(e) if tries < TRIES && lost(e.kind()) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Whether the entry's removal by this request waits in the outbox: for as long as it does, a repeat is known. Later
    /// the entry is just absent, which is what the caller wanted.
    async fn deleted_by(&self, key: &RegistryKey, op_id: &str) -> Result<bool, Error> {
        // Kinds without a shard have their events in shard 00.
        let events = Range::prefix(format!("outbox/00/{}/", key::text(key))).map_err(TableError::from)?;
        let listing = kv::list_all(self.tables.kv().as_ref(), &events).await.map_err(TableError::from)?;
        Ok(listing.items.iter().any(|item| {
            let event = parse_outbox_key(&item.key)
                .and_then(|(record, seq)| decode_event(&record, seq, &item.value).ok());
            event.is_some_and(|event| event.op_id == op_id && event.event == DELETED)
        }))
    }

    async fn page(
        &self,
        tenant: &TenantId,
        request: &v1::ListRequest,
        size: usize,
    ) -> Result<v1::ListResponse, Status> {
        let kind = entry::kind_segment(kind(request.kind, "kind")?);
        let range = Range::prefix(format!("{}/{tenant}/{kind}/", RecordKind::Registry));
        let range = range.map_err(|e| status(&e))?;
        let (mut entries, _) = self.tables.list::<Entry>(&range).await.map_err(|e| status(&e))?;
        entries.retain(|stored| {
            request.page_token.is_empty() || entry::item_id(&stored.key.item) > request.page_token.as_str()
        });
        let more = entries.len() > size;
        entries.truncate(size);
        let last = entries.last().filter(|_| more);
        Ok(v1::ListResponse {
            next_page_token: last.map(|last| entry::item_id(&last.key.item).to_owned()).unwrap_or_default(),
            entries: entries.iter().map(|stored| entry::shown(&stored.key.item, &stored.record)).collect(),
        })
    }
}

#[tonic::async_trait]
impl Registry for RegistryRpc {
    async fn put(&self, request: Request<v1::PutRequest>) -> Result<Response<v1::RegistryEntry>, Status> {
        let caller = allowed(&request, &Action::Configure)?;
        let request = request.into_inner();
        request_id(&request.request_id)?;
        let (item, entry) = entry::checked(request.entry)?;
        let key = RegistryKey { tenant: caller.tenant.clone(), item };
        let cause = Cause::request(&request.request_id, &caller.subject);
        match self.put_once(&key, &entry, &cause).await {
            Ok(entry) => {
                told("registry entry put", &caller, &key);
                Ok(Response::new(entry::shown(&key.item, &entry)))
            }
            Err(e @ Error::Taken { .. }) => {
                let why = e.to_string();
                Err(Answer::of(&e).reason("AE_TITLE_TAKEN").field("entry.site.ae_titles", why).status())
            }
            Err(e) => Err(status(&e)),
        }
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::RegistryEntry>, Status> {
        let caller = allowed(&request, &Action::Observe)?;
        let request = request.into_inner();
        let item = item(request.kind, &request.id)?;
        let key = RegistryKey { tenant: caller.tenant, item };
        let stored = self.found(&key).await.map_err(|e| status(&e))?;
        Ok(Response::new(entry::shown(&key.item, &stored.record)))
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Result<Response<v1::ListResponse>, Status> {
        let caller = allowed(&request, &Action::Observe)?;
        let request = request.into_inner();
        let size = match usize::try_from(request.page_size) {
            Ok(0) => PAGE,
            Ok(size) if size <= LARGEST_PAGE => size,
            _ => return Err(Answer::invalid("page_size", "is not 1 to 1000, or 0 for 100").status()),
        };
        self.page(&caller.tenant, &request, size).await.map(Response::new)
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::DeleteResponse>, Status> {
        let caller = allowed(&request, &Action::Configure)?;
        let request = request.into_inner();
        request_id(&request.request_id)?;
        let item = item(request.kind, &request.id)?;
        let key = RegistryKey { tenant: caller.tenant.clone(), item };
        let cause = Cause::request(&request.request_id, &caller.subject);
        self.delete_once(&key, &cause).await.map_err(|e| status(&e))?;
        told("registry entry deleted", &caller, &key);
        Ok(Response::new(v1::DeleteResponse {}))
    }
}

fn told(what: &'static str, caller: &Principal, key: &RegistryKey) {
    let (kind, id) = (plan::kind_name(&key.item), entry::item_id(&key.item));
    tracing::info!(tenant = %key.tenant, actor = %caller.subject, kind, id, "{what}");
}

fn kind(kind: i32, field: &str) -> Result<v1::RegistryKind, Status> {
    match v1::RegistryKind::try_from(kind) {
        Ok(kind) if kind != v1::RegistryKind::Unspecified => Ok(kind),
        _ => Err(Answer::invalid(field, "is not a kind of registry entry").status()),
    }
}

/// The entry that a request names by kind and id.
fn item(of: i32, text: &str) -> Result<RegistryItem, Status> {
    fn named<K: IdKind>(text: &str) -> Result<Id<K>, Status> {
        id(text, "id")
    }
    Ok(match kind(of, "kind")? {
        v1::RegistryKind::Site => RegistryItem::Site(named(text)?),
        v1::RegistryKind::Reader => RegistryItem::Reader(named(text)?),
        v1::RegistryKind::Pool => RegistryItem::Pool(named(text)?),
        v1::RegistryKind::AiService => RegistryItem::Ai(named(text)?),
        v1::RegistryKind::Destination => RegistryItem::Destination(named(text)?),
        v1::RegistryKind::Unspecified => return Err(Answer::invalid("kind", "is absent").status()),
    })
}
