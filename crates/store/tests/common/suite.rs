//! The conformance suite: what every store does, whatever is behind it.

use std::{collections::BTreeSet, time::Duration};

use isocenter_store::{
    Answer, Compare, Error, Event, Kv, LeaseId, Op, Page, Range, Revision, Txn, WatchItem,
    kv::{MAX_TXN_OPS, MAX_VALUE_BYTES, Target},
    list_all,
};

use super::{PATIENCE, always, key, next, next_events, put, revision};

pub async fn suite(kv: &dyn Kv) {
    numbers_of_a_key(kv).await;
    a_transaction_is_one_revision(kv).await;
    compares(kv).await;
    compares_over_ranges(kv).await;
    operations_see_earlier_ones(kv).await;
    refusals(kv).await;
    pages_are_pinned(kv).await;
    ranges(kv).await;
    a_watch_delivers_whole_revisions_once_in_order(kv).await;
    a_watch_sees_its_range_only(kv).await;
    an_idle_watch_makes_progress(kv).await;
    a_lease_takes_its_keys_in_one_revision(kv).await;
    a_lease_expires_unless_kept_alive(kv).await;
    a_put_moves_a_key_between_leases(kv).await;
    many_writers_never_lose_an_update(kv).await;
    compaction(kv).await;
}

fn under(prefix: &str) -> Range {
    Range::prefix(prefix).unwrap()
}

async fn numbers_of_a_key(kv: &dyn Kv) {
    let k = key("numbers/a");
    assert_eq!(kv.get(&k).await.unwrap(), None);
    let first = put(kv, "numbers/a", "1").await;
    let second = put(kv, "numbers/a", "2").await;
    assert_eq!(second, first.next());
    let found = kv.get(&k).await.unwrap().unwrap();
    assert_eq!((found.create_revision, found.mod_revision, found.version), (first, second, 2));
    assert_eq!((&found.key, &found.value[..], found.lease), (&k, &b"2"[..], None));
    assert_eq!(always(kv, vec![Op::delete(&k)]).await.revision, second.next());
    assert_eq!(kv.get(&k).await.unwrap(), None);
    let nothing = always(kv, vec![Op::delete(&k)]).await;
    assert_eq!(nothing.revision, second.next(), "a deletion of nothing is no revision");
    let again = put(kv, "numbers/a", "3").await;
    let found = kv.get(&k).await.unwrap().unwrap();
    assert_eq!((found.create_revision, found.version), (again, 1), "a new life starts its count anew");
}

async fn a_transaction_is_one_revision(kv: &dyn Kv) {
    put(kv, "one/gone", "x").await;
    let before = revision(kv).await;
    let ops = vec![Op::put(&key("one/a"), "1"), Op::delete(&key("one/gone")), Op::put(&key("one/b"), "2")];
    let answer = always(kv, ops).await;
    assert_eq!(answer.revision, before.next());
    let items = list_all(kv, &under("one/")).await.unwrap().items;
    assert_eq!(items.len(), 2);
    assert!(items.iter().all(|kv| kv.mod_revision == answer.revision));
    let read = always(kv, vec![Op::get(&key("one/a"))]).await;
    assert_eq!(read.revision, answer.revision, "reading is no revision");
}

async fn holds(kv: &dyn Kv, compare: Compare) -> bool {
    kv.txn(Txn::when(vec![compare], vec![])).await.unwrap().succeeded
}

async fn compares(kv: &dyn Kv) {
    let k = key("cmp/a");
    let created = put(kv, "cmp/a", "1").await;
    let lease = kv.grant(Duration::from_secs(60)).await.unwrap();
    let changed = always(kv, vec![Op::put_leased(&k, "2", lease)]).await.revision;
    let (r, v) = (Revision, Target::Version);
    for (k, target, equal, greater) in [
        (&k, Target::CreateRevision(created), true, false),
        (&k, Target::CreateRevision(r(1)), false, true),
        (&k, Target::ModRevision(changed), true, false),
        (&k, Target::ModRevision(changed.next()), false, false),
        (&k, v(2), true, false),
        (&k, v(1), false, true),
        (&k, Target::Lease(Some(lease)), true, false),
        (&k, Target::Lease(None), false, true),
        // A key that does not exist is all zeros.
        (&key("cmp/none"), Target::CreateRevision(r(0)), true, false),
        (&key("cmp/none"), Target::ModRevision(r(1)), false, false),
        (&key("cmp/none"), v(0), true, false),
        (&key("cmp/none"), Target::Lease(None), true, false),
    ] {
        let less = !equal && !greater;
        let expected = [
            (Answer::Equal, equal),
            (Answer::NotEqual, !equal),
            (Answer::Greater, greater),
            (Answer::Less, less),
        ];
        for (is, expected) in expected {
            let compare = Compare { range: Range::key(k), target, is };
            assert_eq!(holds(kv, compare.clone()).await, expected, "{compare:?}");
        }
    }
    let both = vec![Compare::absent(&key("cmp/none")), Compare::absent(&k)];
    let txn = Txn::when(both, vec![Op::put(&key("cmp/x"), "x")]).otherwise(vec![Op::get(&k)]);
    let answer = kv.txn(txn).await.unwrap();
    assert!(!answer.succeeded, "all must hold");
    assert_eq!(answer.reads[0][0].value, "2");
    kv.revoke(lease).await.unwrap();
}

async fn compares_over_ranges(kv: &dyn Kv) {
    let first = put(kv, "rng/a", "1").await;
    let second = put(kv, "rng/b", "1").await;
    let newer = |than| Compare::none_newer(under("rng/"), than);
    assert!(holds(kv, newer(second)).await);
    assert!(!holds(kv, newer(first)).await, "every key of the range must hold");
    assert!(!holds(kv, Compare::empty(under("rng/"))).await);
    // Over an empty range, once, with zeros.
    assert!(holds(kv, Compare::empty(under("rng/none/"))).await);
    assert!(holds(kv, Compare::none_newer(under("rng/none/"), Revision(0))).await);
    let version = |is| Compare { range: under("rng/none/"), target: Target::Version(1), is };
    assert!(holds(kv, version(Answer::Less)).await);
    assert!(!holds(kv, version(Answer::Equal)).await);
    assert!(!holds(kv, version(Answer::Greater)).await);
}

async fn operations_see_earlier_ones(kv: &dyn Kv) {
    put(kv, "seq/gone", "x").await;
    let get = || Op::Get { range: under("seq/") };
    let ops = vec![get(), Op::put(&key("seq/a"), "1"), get(), Op::delete(&key("seq/gone")), get()];
    let answer = always(kv, ops).await;
    let keys: Vec<Vec<_>> =
        answer.reads.iter().map(|read| read.iter().map(|kv| kv.key.to_string()).collect()).collect();
    assert_eq!(keys, [vec!["seq/gone"], vec!["seq/a", "seq/gone"], vec!["seq/a"]]);
    assert_eq!(answer.reads[1][0].mod_revision, answer.revision);
}

async fn refusals(kv: &dyn Kv) {
    let before = revision(kv).await;
    let puts = |n: usize| (0..n).map(|i| Op::put(&key(format!("many/{i}")), "x")).collect::<Vec<_>>();
    let too_many = kv.txn(Txn::always(puts(MAX_TXN_OPS + 1))).await;
    assert!(matches!(too_many, Err(Error::TooManyOps { ops: 129, limit: 128 })), "{too_many:?}");
    let compares = vec![Compare::absent(&key("many/0")); MAX_TXN_OPS + 1];
    assert!(matches!(kv.txn(Txn::when(compares, vec![])).await, Err(Error::TooManyOps { .. })));
    let large = kv.txn(Txn::always(vec![Op::put(&key("large"), vec![0; MAX_VALUE_BYTES + 1])])).await;
    assert!(matches!(large, Err(Error::TooLarge { bytes: 4097, limit: 4096 })), "{large:?}");
    let a = key("twice/a");
    for ops in [
        vec![Op::put(&a, "1"), Op::put(&a, "2")],
        vec![Op::put(&a, "1"), Op::delete(&a)],
        vec![Op::Delete { range: under("twice/") }, Op::put(&a, "1")],
    ] {
        let twice = kv.txn(Txn::always(ops)).await;
        assert!(matches!(twice, Err(Error::DuplicateKey)), "{twice:?}");
    }
    let unknown = kv.txn(Txn::always(vec![Op::put_leased(&a, "1", LeaseId(4_711_471_147))])).await;
    assert!(matches!(unknown, Err(Error::LeaseExpired)), "{unknown:?}");
    assert_eq!(revision(kv).await, before, "a refusal changes nothing");
    let twice = vec![Op::delete(&a), Op::Delete { range: under("twice/") }];
    always(kv, twice).await;
    // The largest transaction there can be.
    let full = vec![7; MAX_VALUE_BYTES];
    let puts = (0..MAX_TXN_OPS).map(|i| Op::put(&key(format!("full/{i}")), full.clone())).collect();
    always(kv, puts).await;
    always(kv, vec![Op::Delete { range: under("full/") }]).await;
}

async fn pages_are_pinned(kv: &dyn Kv) {
    let puts = (0..10).map(|i| Op::put(&key(format!("page/{i}")), "old")).collect();
    let at = always(kv, puts).await.revision;
    let page = |after: Option<&str>, at| Page { limit: 4, after: after.map(key), at };
    let first = kv.list(&under("page/"), page(None, None)).await.unwrap();
    assert_eq!((first.items.len(), first.revision, first.more), (4, at, true));
    always(kv, vec![Op::put(&key("page/5"), "new"), Op::delete(&key("page/6"))]).await;
    let second = kv.list(&under("page/"), page(Some("page/3"), Some(at))).await.unwrap();
    let values: Vec<_> = second.items.iter().map(|kv| (kv.key.as_str(), &kv.value[..])).collect();
    let old = &b"old"[..];
    assert_eq!(values, [("page/4", old), ("page/5", old), ("page/6", old), ("page/7", old)]);
    assert_eq!((second.revision, second.more), (at, true));
    let last = kv.list(&under("page/"), page(Some("page/7"), Some(at))).await.unwrap();
    assert_eq!((last.items.len(), last.more), (2, false));
    let beyond = kv.list(&under("page/"), page(Some("page/9"), Some(at))).await.unwrap();
    assert_eq!((beyond.items.len(), beyond.revision, beyond.more), (0, at, false));
    let far = kv.list(&under("page/"), page(Some("zzz"), Some(at))).await.unwrap();
    assert_eq!((far.items.len(), far.more), (0, false));
    let future = Page { at: Some(Revision(1 << 40)), ..Page::default() };
    assert!(matches!(kv.list(&under("page/"), future).await, Err(Error::FutureRevision { .. })));
    let puts = (0..100).map(|i| Op::put(&key(format!("pages/{i:04}")), "x")).collect::<Vec<_>>();
    for chunk in 0..11 {
        let puts = puts.iter().map(|op| match op {
            Op::Put { key: k, value, .. } => Op::put(&key(format!("{k}-{chunk}")), value.clone()),
            op => op.clone(),
        });
        always(kv, puts.collect()).await;
    }
    let all = list_all(kv, &under("pages/")).await.unwrap();
    assert_eq!(all.items.len(), 1100);
    assert!(all.items.is_sorted_by(|a, b| a.key < b.key) && !all.more);
    a_large_range_is_listed_whole(kv).await;
}

/// Shards are listed in parts, and keys beside them belong to some part too.
async fn a_large_range_is_listed_whole(kv: &dyn Kv) {
    let beside = ["wide/!", "wide/0", "wide/9g", "wide/ff~", "wide/~"].map(|k| Op::put(&key(k), "x"));
    let sharded = (0..4_500).map(|i| Op::put(&key(format!("wide/{:02x}/{i:04}", i % 256)), "x"));
    let puts: Vec<Op> = beside.into_iter().chain(sharded).collect();
    for chunk in puts.chunks(100) {
        always(kv, chunk.to_vec()).await;
    }
    put(kv, "wide0", "x").await;
    let all = list_all(kv, &under("wide/")).await.unwrap();
    assert_eq!((all.items.len(), all.more), (4_505, false));
    assert!(all.items.is_sorted_by(|a, b| a.key < b.key));
    assert!(all.items.iter().all(|kv| kv.key.as_str() != "wide0"));
}

async fn ranges(kv: &dyn Kv) {
    for k in ["range/a", "range/a/b", "range/a~", "range/b", "ranges"] {
        put(kv, k, "x").await;
    }
    for (range, expected) in [
        (Range::key(&key("range/a")), vec!["range/a"]),
        (under("range/a"), vec!["range/a", "range/a/b", "range/a~"]),
        (under("range/a/"), vec!["range/a/b"]),
        (Range::span("range/a/", "range/b").unwrap(), vec!["range/a/b", "range/a~"]),
        (under("range/zzz"), vec![]),
    ] {
        let found: Vec<_> = list_all(kv, &range).await.unwrap().items;
        let found: Vec<_> = found.iter().map(|kv| kv.key.as_str()).collect();
        assert_eq!(found, expected, "{range:?}");
    }
    assert!(list_all(kv, &Range::all()).await.unwrap().items.len() >= 5);
    assert!(Range::span("b", "a").is_err());
}

async fn a_watch_delivers_whole_revisions_once_in_order(kv: &dyn Kv) {
    let start = put(kv, "watch/a", "0").await;
    let mut past = kv.watch(&under("watch/"), start).await.unwrap();
    let mut now = kv.watch(&under("watch/"), start.next()).await.unwrap();
    let both = always(kv, vec![Op::put(&key("watch/b"), "1"), Op::put(&key("watch/a"), "1")]).await.revision;
    let gone = always(kv, vec![Op::Delete { range: under("watch/") }]).await.revision;
    assert_eq!(next_events(&mut past).await.0, start);
    for watch in [&mut past, &mut now] {
        let (revision, events) = next_events(watch).await;
        assert_eq!(revision, both);
        let [Event::Put(a), Event::Put(b)] = &events[..] else { panic!("{events:?}") };
        assert_eq!((a.key.as_str(), a.version, a.create_revision), ("watch/a", 2, start));
        assert_eq!((b.key.as_str(), b.version, b.create_revision), ("watch/b", 1, both));
        let (revision, events) = next_events(watch).await;
        assert_eq!(revision, gone);
        let keys: Vec<_> = events.iter().map(|e| (e.key().as_str(), e.revision())).collect();
        assert_eq!(keys, [("watch/a", gone), ("watch/b", gone)]);
        assert!(events.iter().all(|e| matches!(e, Event::Delete { .. })));
    }
}

async fn a_watch_sees_its_range_only(kv: &dyn Kv) {
    let from = revision(kv).await.next();
    let mut watch = kv.watch(&Range::key(&key("only/a")), from).await.unwrap();
    put(kv, "only/a/b", "x").await;
    let both = always(kv, vec![Op::put(&key("only/b"), "x"), Op::put(&key("only/a"), "x")]).await.revision;
    let (revision, events) = next_events(&mut watch).await;
    assert_eq!((revision, events.len()), (both, 1));
}

async fn an_idle_watch_makes_progress(kv: &dyn Kv) {
    let at = revision(kv).await;
    let mut watch = kv.watch(&under("idle/"), at.next()).await.unwrap();
    let other = put(kv, "idle-not/a", "x").await;
    let item = tokio::time::timeout(PATIENCE, next(&mut watch)).await.expect("progress in time").unwrap();
    assert_eq!(item, WatchItem::Progress(other));
}

async fn a_lease_takes_its_keys_in_one_revision(kv: &dyn Kv) {
    let lease = kv.grant(Duration::from_secs(60)).await.unwrap();
    let puts = ["lease/a", "lease/b"].map(|k| Op::put_leased(&key(k), "x", lease));
    let at = always(kv, puts.into()).await.revision;
    assert_eq!(kv.get(&key("lease/a")).await.unwrap().unwrap().lease, Some(lease));
    assert_eq!(kv.keep_alive(lease).await.unwrap(), Duration::from_secs(60));
    let mut watch = kv.watch(&under("lease/"), at.next()).await.unwrap();
    kv.revoke(lease).await.unwrap();
    let (revision, events) = next_events(&mut watch).await;
    assert_eq!((revision, events.len()), (at.next(), 2));
    assert!(matches!(kv.keep_alive(lease).await, Err(Error::LeaseExpired)), "a lost lease is an error");
    assert!(matches!(kv.revoke(lease).await, Err(Error::LeaseExpired)));
    assert_eq!(list_all(kv, &under("lease/")).await.unwrap().items, []);
}

async fn a_lease_expires_unless_kept_alive(kv: &dyn Kv) {
    let lease = kv.grant(Duration::from_secs(1)).await.unwrap();
    let at = always(kv, vec![Op::put_leased(&key("expire/a"), "x", lease)]).await.revision;
    let mut watch = kv.watch(&under("expire/"), at.next()).await.unwrap();
    let (_, events) = next_events(&mut watch).await;
    assert!(matches!(&events[..], [Event::Delete { .. }]), "{events:?}");
    assert!(matches!(kv.keep_alive(lease).await, Err(Error::LeaseExpired)));
}

async fn a_put_moves_a_key_between_leases(kv: &dyn Kv) {
    let a = kv.grant(Duration::from_secs(60)).await.unwrap();
    let b = kv.grant(Duration::from_secs(60)).await.unwrap();
    assert_ne!(a, b);
    for k in ["move/b", "move/free"] {
        always(kv, vec![Op::put_leased(&key(k), "x", a)]).await;
    }
    always(kv, vec![Op::put_leased(&key("move/b"), "x", b), Op::put(&key("move/free"), "x")]).await;
    kv.revoke(a).await.unwrap();
    assert_eq!(list_all(kv, &under("move/")).await.unwrap().items.len(), 2);
    kv.revoke(b).await.unwrap();
    let left = list_all(kv, &under("move/")).await.unwrap().items;
    assert_eq!(left.iter().map(|kv| kv.key.as_str()).collect::<Vec<_>>(), ["move/free"]);
}

async fn many_writers_never_lose_an_update(kv: &dyn Kv) {
    let counter = key("count/er");
    put(kv, "count/er", "0").await;
    let increment = |_| async {
        loop {
            let found = kv.get(&counter).await.unwrap().unwrap();
            let count: u64 = std::str::from_utf8(&found.value).unwrap().parse().unwrap();
            let put = Op::put(&counter, (count + 1).to_string());
            let answer = kv.txn(Txn::when(vec![Compare::unchanged(&counter, found.mod_revision)], vec![put]));
            let answer = answer.await.unwrap();
            if answer.succeeded {
                return answer.revision;
            }
        }
    };
    let revisions: BTreeSet<_> =
        futures::future::join_all((0..16).map(increment)).await.into_iter().collect();
    assert_eq!(revisions.len(), 16);
    assert_eq!(kv.get(&counter).await.unwrap().unwrap().value, "16");
}

async fn compaction(kv: &dyn Kv) {
    let first = put(kv, "compact/a", "1").await;
    let second = put(kv, "compact/a", "2").await;
    let third = put(kv, "compact/b", "3").await;
    kv.compact(second).await.unwrap();
    let at = |at| Page { at: Some(at), ..Page::default() };
    let old = kv.list(&under("compact/"), at(first)).await;
    assert!(matches!(old, Err(Error::Compacted { .. })), "{old:?}");
    let kept = kv.list(&under("compact/"), at(second)).await.unwrap();
    assert_eq!(kept.items.len(), 1);
    let lost = match kv.watch(&under("compact/"), first).await {
        Ok(mut watch) => next(&mut watch).await.unwrap_err(),
        Err(e) => e,
    };
    assert!(matches!(lost, Error::Compacted { at } if at >= second), "{lost:?}");
    let mut watch = kv.watch(&under("compact/"), third).await.unwrap();
    assert_eq!(next_events(&mut watch).await.0, third);
    assert!(matches!(kv.compact(second).await, Err(Error::Compacted { .. })));
    assert!(matches!(kv.compact(Revision(1 << 40)).await, Err(Error::FutureRevision { .. })));
    let beyond = revision(kv).await.next().next();
    assert!(matches!(kv.watch(&under("compact/"), beyond).await.err(), Some(Error::FutureRevision { .. })));
}
