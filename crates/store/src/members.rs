//! Who is there: every process registers each of its roles under `presence/node/{role}/{node}`, and sees all others.
//!
//! A process that is registered knows the store's level and is of its epoch: both are compared when it registers, and it
//! registers again whenever its lease was lost. From who is there follows who works on which shard: [`Shares`].

mod register;
mod shares;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream, stream::BoxStream};
use isocenter_domain::{Time, id::NodeId};
use isocenter_runtime::{random, task::Tasks};
use isocenter_wire::node::Node;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use self::shares::Shares;
use self::shares::View;
use crate::{
    KeyValue, Range,
    reflector::{self, Changes, Reflector, ReflectorOptions},
    table::Tables,
};

/// Where the processes register.
pub(crate) const NODES: &str = "presence/node/";

/// How long a process that vanished is still taken for one that is there.
pub const TTL: Duration = Duration::from_secs(10);

/// The longest wait between a change of the membership and that of the shares, drawn from its upper half: a lease that is
/// lost and regained moves nothing, and a rolling restart moves less.
const SETTLE: Duration = Duration::from_secs(2);

/// What a process says of itself.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Its id, of its own among the running processes. One that outlives the process keeps its shards over a restart.
    pub id: NodeId,
    /// Where its services are reached: `host:port`, or a URL.
    pub address: String,
    /// The roles that it runs, each as part of a key.
    pub roles: Vec<&'static str>,
    /// Its build, as it calls itself.
    pub version: String,
}

/// One process in one role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The role.
    pub role: String,
    /// The process.
    pub id: NodeId,
    /// What it says of itself.
    pub node: Node,
}

/// All processes that are registered, as this one sees them. Cheap to clone.
#[derive(Clone)]
pub struct Members {
    inner: Arc<Inner>,
}

struct Inner {
    tables: Tables,
    me: NodeOptions,
    started_at: Time,
    mirror: reflector::Mirror<Option<Node>>,
    /// One for each role of this process.
    shares: BTreeMap<&'static str, watch::Sender<View>>,
    /// For roles that this process does not run: only how many run them.
    others: Mutex<BTreeMap<String, watch::Sender<View>>>,
    registered: watch::Sender<bool>,
    /// How many hold the first look back.
    holds: watch::Sender<usize>,
}

/// While it lives, the roles of this process look only at what changes.
#[derive(Debug)]
pub struct FirstLookHeld(watch::Sender<usize>);

impl Drop for FirstLookHeld {
    fn drop(&mut self) {
        self.0.send_modify(|held| *held -= 1);
    }
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Members").field("me", &self.inner.me).finish_non_exhaustive()
    }
}

impl Members {
    /// Registers this process, and follows the others and the store's meta keys, on `tasks`. When those are cancelled, the
    /// process is gone from the membership at once.
    ///
    /// Two of the tasks are essential: the process ends where the store's level rises above what its build knows, or where
    /// another epoch begins.
    #[must_use]
    pub fn start(tables: &Tables, me: NodeOptions, tasks: &Tasks) -> Self {
        let options = ReflectorOptions::new(nodes());
        let kv = Arc::clone(tables.kv());
        let (reflector, mirror) = Reflector::new(kv, options, |kv| Node::decode(&kv.value).ok());
        let nothing = || watch::Sender::new(View::NOTHING);
        let shares = me.roles.iter().map(|role| (*role, nothing())).collect();
        let inner = Inner {
            tables: tables.clone(),
            started_at: tables.clock().now(),
            me,
            mirror,
            shares,
            others: Mutex::default(),
            registered: watch::Sender::new(false),
            holds: watch::Sender::new(0),
        };
        let members = Self { inner: Arc::new(inner) };
        tasks.background("members", reflector.run(tasks.token()));
        tasks.background("shares", members.clone().share_out(tasks.token()));
        tasks.essential("epoch", tables.clone().follow_meta(tasks.token()));
        tasks.essential("presence", register::run(members.clone(), tasks.token()));
        members
    }

    /// Every registered process in every role, in the order of role and id, as far as it is known here.
    #[must_use]
    pub fn all(&self) -> Vec<Member> {
        let snapshot = self.inner.mirror.snapshot();
        snapshot.items.values().filter_map(|cached| member(&cached.kv, cached.value.as_ref()?)).collect()
    }

    /// The processes that run a role.
    #[must_use]
    pub fn nodes(&self, role: &str) -> Vec<Member> {
        self.all().into_iter().filter(|member| member.role == role).collect()
    }

    /// An item whenever somebody has come, gone, or said something else of itself, from now on, and one at the beginning.
    /// Ends with the process.
    #[must_use]
    pub fn changes(&self) -> BoxStream<'static, ()> {
        let next = |mut changes: Changes| async { changes.next().await.map(|_| ((), changes)) };
        stream::unfold(self.inner.mirror.subscribe(), next).boxed()
    }

    /// The shards that this process works on in `role`: none where it does not run it, while it is not registered.
    #[must_use]
    pub fn shares(&self, role: &str) -> Shares {
        if let Some(view) = self.inner.shares.get(role) {
            return Shares::of(view.subscribe(), self.inner.holds.subscribe());
        }
        let mut others = self.inner.others.lock();
        let view = others.entry(role.to_owned()).or_insert_with(|| watch::Sender::new(View::NOTHING));
        let shares = Shares::of(view.subscribe(), self.inner.holds.subscribe());
        drop(others);
        self.recompute();
        shares
    }

    /// Has the roles of this process look only at what changes, and not yet at all there is, until the answer is dropped. For what
    /// has to be done first by a process that starts; only what has not begun is held back.
    #[must_use]
    pub fn hold_first_look(&self) -> FirstLookHeld {
        self.inner.holds.send_modify(|held| *held += 1);
        FirstLookHeld(self.inner.holds.clone())
    }

    /// This process's id.
    #[must_use]
    pub fn id(&self) -> &NodeId {
        &self.inner.me.id
    }

    /// Waits until this process was registered for the first time. Then it may say that it is ready.
    pub async fn registered(&self) {
        // The sender lives as long as this handle, so that the wait cannot fail.
        drop(self.inner.registered.subscribe().wait_for(|registered| *registered).await);
    }

    /// Keeps the shares as the membership is.
    async fn share_out(self, ended: CancellationToken) {
        let mut changes = self.changes();
        loop {
            tokio::select! {
                () = ended.cancelled() => return,
                changed = changes.next() => if changed.is_none() { return },
            }
            // The first shares are wanted at once: there is nothing that could move.
            if self.inner.shares.values().any(|view| *view.borrow() != View::NOTHING) {
                tokio::select! {
                    () = ended.cancelled() => return,
                    () = tokio::time::sleep(random::jitter(SETTLE)) => {}
                }
            }
            self.recompute();
        }
    }

    fn recompute(&self) {
        let all = self.all();
        let me = self.inner.me.id.as_str();
        let view = |role: &str| {
            let of_role = all.iter().filter(|m| m.role == role);
            let nodes: Vec<&str> = of_role.map(|m| m.id.as_str()).collect();
            View { shards: shares::owned(me, &nodes), replicas: nodes.len() }
        };
        let set = |role: &str, sender: &watch::Sender<View>| {
            let view = view(role);
            let moved = sender.send_if_modified(|was| std::mem::replace(was, view) != view);
            if moved {
                let (shards, replicas) = (view.shards.len(), view.replicas);
                tracing::info!(role, shards, replicas, "works on other shards");
            }
        };
        self.inner.shares.iter().for_each(|(role, sender)| set(role, sender));
        self.inner.others.lock().iter().for_each(|(role, sender)| set(role, sender));
    }
}

fn nodes() -> Range {
    Range::prefix(NODES).expect("a literal is a valid prefix")
}

fn member(kv: &KeyValue, node: &Node) -> Option<Member> {
    let (role, id) = kv.key.as_str().strip_prefix(NODES)?.split_once('/')?;
    Some(Member { role: role.to_owned(), id: id.parse().ok()?, node: node.clone() })
}
