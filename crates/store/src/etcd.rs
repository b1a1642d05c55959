//! The store of a cluster: etcd, through its client library, with the reliability that the library leaves to its users.
//!
//! Works with etcd 3.4.23 and newer; production wants 3.5.26 or 3.6 and newer.

mod convert;
mod pool;
mod together;
mod watch;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use etcd_client::{Client, GetOptions, KvClient, StatusResponse, TxnOp};

use self::{pool::Pool, together::Together};
use crate::{
    Error,
    access::Access,
    embedded::whole_seconds,
    kv::{
        Key, KeyValue, Kv, LIST_PAGE, LeaseId, Listing, Page, Range, Revision, Status, Txn, TxnAnswer, Usage,
        WatchStream,
    },
};

/// The longest answer that is read, in bytes: a page of the longest records fits three times over, and so does the longest
/// batch that etcd sends a watch that catches up.
const MAX_MESSAGE: usize = 64 << 20;

/// etcd's own default for `--quota-backend-bytes`.
const DEFAULT_QUOTA: u64 = 2 << 30;

/// How to reach a cluster.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// The members, each `host:port`, or a URL with `http` or `https`.
    pub endpoints: Vec<String>,
    /// With what this client shows who it is.
    pub access: Access,
    /// etcd's `--experimental-watch-progress-notify-interval`, in 3.4 fixed at its default of ten minutes.
    pub progress_interval: Duration,
}

impl EtcdOptions {
    /// The options of a cluster with etcd's defaults.
    #[must_use]
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            access: Access::default(),
            progress_interval: Duration::from_secs(600),
        }
    }
}

/// A read that is asked together with others.
#[derive(Clone, Debug)]
struct Query {
    range: Range,
    limit: usize,
}

impl Query {
    /// The same as a list of the newest, where that is sure to be small: of what belongs to one study, case or the like. Their
    /// keys, and the prefixes of theirs, have kind, shard, tenant and owner.
    fn small(range: &Range, page: &Page) -> Option<Self> {
        let (from, _) = range.bounds();
        let open_ended = matches!(range, Range::Span(_));
        let owned = !open_ended && from.bytes().filter(|byte| *byte == b'/').count() >= 4;
        let newest = page.after.is_none() && page.at.is_none();
        (owned && newest && page.limit <= LIST_PAGE).then(|| Self { range: range.clone(), limit: page.limit })
    }
}

/// A connection to a cluster.
pub struct Etcd {
    pool: Arc<Pool>,
    together: Arc<Together<Query, Listing>>,
    options: EtcdOptions,
    /// The cluster that answered first; zero before that.
    cluster_id: AtomicU64,
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Etcd").field("endpoints", &self.options.endpoints).finish_non_exhaustive()
    }
}

impl Etcd {
    /// Prepares the connections; they are made when first used, so this succeeds while the cluster is away.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`] where an endpoint or a certificate cannot be understood.
    pub async fn connect(options: EtcdOptions) -> Result<Self, Error> {
        let pool = Arc::new(Pool::new(&options).await?);
        Ok(Self { pool, together: Arc::default(), options, cluster_id: AtomicU64::new(0) })
    }

    /// Says once when another cluster answers than the one before.
    fn check_cluster(&self, header: Option<&etcd_client::ResponseHeader>) -> Result<(), Error> {
        let is = header.map_or(0, etcd_client::ResponseHeader::cluster_id);
        let was = self.cluster_id.swap(is, Ordering::Relaxed);
        if was != 0 && was != is {
            return Err(Error::OtherCluster { was, is });
        }
        Ok(())
    }

    /// What each query asks for, in their order, all as of one moment.
    async fn read(&self, queries: Vec<Query>) -> Result<Vec<Listing>, Error> {
        let get = |query: &Query| {
            let (key, end) = convert::bounds(&query.range);
            (key, convert::get_options(end).with_limit(convert::signed(query.limit as u64)))
        };
        if let [query] = queries.as_slice() {
            let (key, options) = get(query);
            let answer = self.range(key, options).await?;
            let revision = convert::revision(answer.header())?;
            return Ok(vec![Listing {
                items: convert::key_values(answer.kvs())?,
                revision,
                more: answer.more(),
            }]);
        }
        let gets: Vec<_> =
            queries.iter().map(get).map(|(key, options)| TxnOp::get(key, Some(options))).collect();
        let request = etcd_client::Txn::new().and_then(gets);
        let send = |client: Client| {
            let request = request.clone();
            async move { kv_client(&client).txn(request).await }
        };
        let answer = self.pool.repeat(send).await?;
        self.check_cluster(answer.header())?;
        convert::listings(&answer)
    }

    /// The server's quota, or what we were told of it: servers older than 3.6 do not say.
    fn quota(&self, status: &StatusResponse) -> u64 {
        match convert::unsigned(status.db_size_quota()) {
            0 => self.options.access.quota_bytes.unwrap_or(DEFAULT_QUOTA),
            quota => quota,
        }
    }

    async fn range(&self, key: Vec<u8>, options: GetOptions) -> Result<etcd_client::GetResponse, Error> {
        let get = |client: Client| {
            let (key, options) = (key.clone(), options.clone());
            async move { kv_client(&client).get(key, Some(options)).await }
        };
        let answer = self.pool.repeat(get).await?;
        self.check_cluster(answer.header())?;
        Ok(answer)
    }
}

fn kv_client(client: &Client) -> KvClient {
    client.kv_client().max_decoding_message_size(MAX_MESSAGE)
}

#[async_trait]
impl Kv for Etcd {
    async fn get(&self, key: &Key) -> Result<Option<KeyValue>, Error> {
        let query = Query { range: Range::key(key), limit: 1 };
        let found = self.together.read(query, |queries| self.read(queries)).await?;
        Ok(found.items.into_iter().next())
    }

    async fn list(&self, range: &Range, page: Page) -> Result<Listing, Error> {
        if let Some(query) = Query::small(range, &page) {
            return self.together.read(query, |queries| self.read(queries)).await;
        }
        let (mut key, end) = convert::bounds(range);
        let mut options = convert::get_options(end.clone());
        if let Some(after) = &page.after {
            // A key's successor in byte order is the key with a zero byte appended.
            let next = [after.as_str().as_bytes(), &[0]].concat();
            let beyond = end.as_ref().is_some_and(|end| **end != [0] && *end <= next) || end.is_none();
            if beyond {
                // Nothing is left; only the revision and its validity are asked for.
                options = GetOptions::new();
            }
            key = key.max(next);
        }
        options = options.with_limit(convert::signed(page.limit as u64));
        if let Some(at) = page.at {
            options = options.with_revision(convert::signed(at.0));
        }
        let answer = self.range(key, options).await.map_err(|e| match (e, page.at) {
            (Error::FutureRevision { at, .. }, Some(asked)) => Error::FutureRevision { asked, at },
            (e, _) => e,
        })?;
        let revision = match page.at {
            Some(at) => at,
            None => convert::revision(answer.header())?,
        };
        Ok(Listing { items: convert::key_values(answer.kvs())?, revision, more: answer.more() })
    }

    async fn txn(&self, txn: Txn) -> Result<TxnAnswer, Error> {
        txn.check()?;
        let request = convert::txn(&txn);
        let send = |client: Client| {
            let request = request.clone();
            async move { kv_client(&client).txn(request).await }
        };
        convert::txn_answer(&self.pool.change(send).await?)
    }

    async fn watch(&self, range: &Range, from: Revision) -> Result<WatchStream, Error> {
        watch::open(&self.pool, range, from).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        let seconds = convert::signed(whole_seconds(ttl).as_secs());
        // A lease granted twice costs nothing: the one nobody knows expires.
        let grant = |client: Client| async move { client.lease_client().grant(seconds, None).await };
        Ok(LeaseId(self.pool.repeat(grant).await?.id()))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error> {
        // A stream per call: one that stays open dies with its member. The library keeps the first answer to itself.
        let keep = |client: Client| async move {
            let (mut keeper, mut answers) = client.lease_client().keep_alive(lease.0).await?;
            keeper.keep_alive().await?;
            answers.message().await
        };
        match self.pool.repeat(keep).await? {
            Some(answer) if answer.ttl() > 0 => Ok(Duration::from_secs(convert::unsigned(answer.ttl()))),
            Some(_) => Err(Error::LeaseExpired),
            None => Err(Error::unavailable("the keep-alive stream ended without an answer")),
        }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        let revoke = |client: Client| async move { client.lease_client().revoke(lease.0).await };
        self.pool.change(revoke).await.map(|_| ())
    }

    async fn compact(&self, at: Revision) -> Result<(), Error> {
        let compact =
            |client: Client| async move { kv_client(&client).compact(convert::signed(at.0), None).await };
        self.pool.change(compact).await.map(|_| ())
    }

    async fn status(&self) -> Result<Status, Error> {
        // A member's own status may lag behind; a linearizable read tells the revision.
        let now = self.range(vec![0], GetOptions::new().with_limit(1)).await?;
        let status = |client: Client| async move { client.maintenance_client().status().await };
        let status = self.pool.repeat(status).await?;
        Ok(Status {
            revision: convert::revision(now.header())?,
            db_bytes: convert::unsigned(status.db_size()),
            quota_bytes: self.quota(&status),
            cluster_id: now.header().map_or(0, etcd_client::ResponseHeader::cluster_id),
        })
    }

    async fn usage(&self) -> Result<Usage, Error> {
        // Each member has a file of its own; the first that is full stops all.
        let members =
            self.pool.each(|client| async move { client.maintenance_client().status().await }).await;
        let most = |of: fn(&StatusResponse) -> i64| members.iter().map(of).max().map_or(0, convert::unsigned);
        if members.is_empty() {
            return Err(Error::unavailable("no member answers"));
        }
        Ok(Usage {
            used: most(StatusResponse::db_size),
            live: most(StatusResponse::raft_used_db_size),
            quota: members.iter().map(|status| self.quota(status)).min().unwrap_or(0),
            // A member's status lists the alarms, and asking for them costs the cluster nothing.
            no_space: members.iter().flat_map(StatusResponse::errors).any(|e| e.contains("NOSPACE")),
        })
    }

    fn progress_interval(&self) -> Duration {
        self.options.progress_interval
    }
}
