//! Who works on which shard: rendezvous hashing over the nodes that are there.

use std::fmt;

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream, stream::BoxStream};
use isocenter_reconcile::Share;
use tokio::sync::watch;

/// A set of the 256 shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shards([u64; 4]);

impl Shards {
    pub const NONE: Self = Self([0; 4]);
    const ALL: Self = Self([u64::MAX; 4]);

    pub fn contains(self, shard: u8) -> bool {
        self.0[usize::from(shard / 64)] & (1 << (shard % 64)) != 0
    }

    fn insert(&mut self, shard: u8) {
        self.0[usize::from(shard / 64)] |= 1 << (shard % 64);
    }

    pub fn len(self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }
}

/// The shards of `me` among `nodes`: each shard goes to the node that weighs most for it, so that a node which comes or goes
/// moves only its own shards.
pub(super) fn owned(me: &str, nodes: &[&str]) -> Shards {
    let mut mine = Shards::NONE;
    for shard in 0..=u8::MAX {
        let owner = nodes.iter().max_by_key(|node| (weight(node, shard), **node));
        if owner.is_some_and(|owner| *owner == me) {
            mine.insert(shard);
        }
    }
    mine
}

/// FNV-1a over the node and the shard, and then the finalizer of SplitMix64, without which nearby shards would weigh alike.
/// All builds of a cluster have to weigh alike, or two work on one shard and none on another: never change it.
fn weight(node: &str, shard: u8) -> u64 {
    let bytes = node.bytes().chain([0, shard]);
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// What is known of one role at one moment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct View {
    pub shards: Shards,
    pub replicas: usize,
}

impl View {
    pub const NOTHING: Self = Self { shards: Shards::NONE, replicas: 0 };
}

/// The shards that this process works on in one role. Cheap to clone; every clone follows the membership.
///
/// It saves work and makes nothing safe: for a second or two after a node has come or gone, a shard may have two workers, or
/// none; one that went to a starting process whose first look is held back (see [`super::Members::hold_first_look`]) has none for what
/// only falls due there until that look. A process that does not see the store keeps the shards it had.
#[derive(Clone)]
pub struct Shares {
    view: watch::Receiver<View>,
    /// How many hold the first look back.
    holds: watch::Receiver<usize>,
}

impl fmt::Debug for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let view = *self.view.borrow();
        f.debug_struct("Shares")
            .field("shards", &view.shards.len())
            .field("replicas", &view.replicas)
            .finish()
    }
}

impl Shares {
    /// Every shard, for ever, of one process: where nobody else works on the store.
    #[must_use]
    pub fn all() -> Self {
        let view = watch::Sender::new(View { shards: Shards::ALL, replicas: 1 });
        Self::of(view.subscribe(), watch::Sender::new(0).subscribe())
    }

    pub(super) fn of(view: watch::Receiver<View>, holds: watch::Receiver<usize>) -> Self {
        Self { view, holds }
    }

    /// Whether this process works on `shard`. What has no shard counts as of shard 0.
    #[must_use]
    pub fn owns(&self, shard: u8) -> bool {
        self.view.borrow().shards.contains(shard)
    }

    /// How many processes share the role's work, this one included; at least 1. A limit of the whole network is divided by
    /// it.
    #[must_use]
    pub fn replicas(&self) -> usize {
        self.view.borrow().replicas.max(1)
    }

    /// An item whenever the shards or the number of replicas have changed, from now on. Never ends.
    #[must_use]
    pub fn changes(&self) -> BoxStream<'static, ()> {
        let mut view = self.view.clone();
        view.mark_unchanged();
        let changes = stream::unfold(view, |mut view| async {
            view.changed().await.ok()?;
            Some(((), view))
        });
        changes.chain(stream::pending()).boxed()
    }

    /// Returns once nobody holds the first look back, see [`super::Members::hold_first_look`].
    pub fn first_look(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut holds = self.holds.clone();
        // Where the sender is gone, nobody holds anything back.
        async move { drop(holds.wait_for(|held| *held == 0).await) }
    }
}

impl Share for Shares {
    fn owns(&self, shard: u8) -> bool {
        Self::owns(self, shard)
    }

    fn changes(&self) -> BoxStream<'static, ()> {
        Self::changes(self)
    }

    fn first_look(&self) -> BoxFuture<'static, ()> {
        Self::first_look(self).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(nodes: &[&str], shard: u8) -> Vec<usize> {
        (0..nodes.len()).filter(|i| owned(nodes[*i], nodes).contains(shard)).collect()
    }

    #[test]
    fn every_shard_has_one_owner_and_the_loads_are_alike() {
        for n in [1, 2, 3, 5, 10] {
            let ids: Vec<String> =
                (0..n).map(|i| format!("01990000-0000-7000-8000-00000000000{i}")).collect();
            let nodes: Vec<&str> = ids.iter().map(String::as_str).collect();
            assert!((0..=u8::MAX).all(|shard| owner(&nodes, shard).len() == 1), "{n} nodes");
            let loads: Vec<u32> = nodes.iter().map(|node| owned(node, &nodes).len()).collect();
            let fair = 256 / u32::try_from(n).unwrap();
            assert!(loads.iter().all(|load| (fair / 2..=fair * 2).contains(load)), "{loads:?}");
        }
    }

    #[test]
    fn a_node_that_goes_moves_its_own_shards_only() {
        let (three, two) = (["a", "b", "c"], ["a", "c"]);
        for shard in 0..=u8::MAX {
            let (before, after) = (owner(&three, shard)[0], owner(&two, shard)[0]);
            assert!(before == 1 || three[before] == two[after], "shard {shard} moved without need");
        }
        assert_eq!(owned("d", &three), Shards::NONE, "who is not there works on nothing");
    }

    #[test]
    fn the_weights_are_the_same_in_every_build() {
        assert_eq!((weight("a", 0), weight("a", 255)), (0xe841_4f3b_057f_42e7, 0x660a_0fac_e2ff_a991));
    }

    #[tokio::test]
    async fn the_first_look_waits_for_all_who_hold_it_back_and_not_for_who_is_gone() {
        let (view, holds) = (watch::Sender::new(View::NOTHING), watch::Sender::new(2));
        let shares = Shares::of(view.subscribe(), holds.subscribe());
        let mut looks = Box::pin(shares.first_look());
        holds.send_modify(|held| *held -= 1);
        assert!(looks.as_mut().now_or_never().is_none());
        holds.send_modify(|held| *held -= 1);
        assert!(looks.now_or_never().is_some());
        holds.send_modify(|held| *held += 1);
        let looks = shares.first_look();
        drop(holds);
        assert!(looks.now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_lone_process_has_everything_and_nothing_changes() {
        let shares = Shares::all();
        assert!((0..=u8::MAX).all(|shard| shares.owns(shard)));
        assert_eq!(shares.replicas(), 1);
        assert!(futures::FutureExt::now_or_never(shares.changes().next()).is_none());
    }
}
