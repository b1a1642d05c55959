//! What befalls a cluster's store: certificates, users, a full disk, a snapshot put back, a member replaced.

mod common;

use std::{fs, path::Path, sync::Arc, time::Duration};

use common::{PATIENCE, etcd, key, put};
use etcd_client::{
    AlarmAction, AlarmOptions, AlarmType, Client, CompactionOptions, ConnectOptions, Identity, TlsOptions,
};
use isocenter_domain::{key::StudyKey, record::study::Study};
use isocenter_runtime::{
    clock,
    metrics::Metrics,
    secret::Secret,
    task::{Tasks, chain},
};
use isocenter_store::{
    Access, Error, Kv, Login, Op, Range, TlsFiles, Txn,
    check::check,
    members::{Members, NodeOptions},
    open_with,
    space::{Pressure, Space},
    table::{Cause, Mirrors, TableError, Tables},
};
use isocenter_testkit::{EtcdCluster, EtcdServer, Pki, wait_for};

fn tls_server(pki: &Pki) -> EtcdServer {
    let (pair, ca) = (pki.issue("CN=etcd"), pki.ca());
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let (cert, key, ca) = (path(&pair.cert), path(&pair.key), path(&ca));
    let (listen, advertise) = ("--listen-client-urls", "--advertise-client-urls");
    let url = "https://127.0.0.1:0";
    let files = ["--cert-file", &cert, "--key-file", &key, "--trusted-ca-file", &ca, "--client-cert-auth"];
    EtcdServer::start_with(&[&[listen, url, advertise, url], &files[..]].concat())
}

async fn open(server: &EtcdServer, access: &Access) -> Arc<dyn Kv> {
    open_with(&format!("etcd://{}", server.endpoint()), access).await.unwrap()
}

async fn try_put(kv: &dyn Kv) -> Result<(), Error> {
    kv.txn(Txn::always(vec![Op::put(&key("a"), "x")])).await.map(|_| ())
}

fn tls(pki: &Pki, subject: &str) -> TlsFiles {
    let pair = pki.issue(subject);
    TlsFiles { ca: pki.ca(), identity: Some((pair.cert, pair.key)) }
}

#[tokio::test]
async fn only_a_known_certificate_gets_in_and_a_renewed_one_without_a_restart() {
    let (pki, stranger) = (Pki::new(), Pki::new());
    let server = tls_server(&pki);
    let files = tls(&pki, "O=net,OU=node,CN=isocenter");
    let kv = open(&server, &Access { tls: Some(files.clone()), ..Access::default() }).await;
    try_put(&*kv).await.unwrap();
    assert!(kv.usage().await.unwrap().used > 0);

    let anonymous = TlsFiles { identity: None, ..files.clone() };
    let other_authority = TlsFiles { ca: stranger.ca(), ..files.clone() };
    let self_made = TlsFiles { identity: tls(&stranger, "CN=isocenter").identity, ..files.clone() };
    for (why, tls) in [
        ("plain", None),
        ("no certificate", Some(anonymous)),
        ("a server that another authority signed", Some(other_authority)),
        ("a certificate that another authority signed", Some(self_made.clone())),
    ] {
        let kv = open(&server, &Access { tls, ..Access::default() }).await;
        let refused = try_put(&*kv).await;
        assert!(refused.is_err(), "{why} got in");
    }

    // The certificate is replaced under a client that is running.
    let kv = open(&server, &Access { tls: Some(self_made.clone()), ..Access::default() }).await;
    try_put(&*kv).await.unwrap_err();
    let ((cert, key), (new_cert, new_key)) = (self_made.identity.unwrap(), files.identity.unwrap());
    fs::copy(new_cert, cert).unwrap();
    fs::copy(new_key, key).unwrap();
    wait_for("the renewed certificate", PATIENCE, || async { try_put(&*kv).await.is_ok() }).await;
    let missing = TlsFiles { ca: "/nowhere/ca.pem".into(), identity: None };
    let address = format!("etcd://{}", server.endpoint());
    let refused = open_with(&address, &Access { tls: Some(missing), ..Access::default() }).await;
    assert!(matches!(refused, Err(Error::Io { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_user_gets_in_by_password_and_a_changed_password_without_a_restart() {
    let pki = Pki::new();
    let server = tls_server(&pki);
    let files = tls(&pki, "O=net,OU=node,CN=isocenter");
    let (cert, private) = files.identity.clone().unwrap();
    let identity = Identity::from_pem(fs::read(cert).unwrap(), fs::read(private).unwrap());
    let options = TlsOptions::new()
        .ca_certificate(etcd_client::Certificate::from_pem(fs::read(pki.ca()).unwrap()))
        .identity(identity);
    let mut admin =
        Client::connect([server.endpoint()], Some(ConnectOptions::new().with_tls(options))).await.unwrap();
    admin.user_add("root", "correct horse", None).await.unwrap();
    admin.user_grant_role("root", "root").await.unwrap();
    admin.auth_enable().await.unwrap();

    let folder = tempfile::tempdir().unwrap();
    let password_file = folder.path().join("password");
    fs::write(&password_file, "wrong\n").unwrap();
    let certificate_only = Access { tls: Some(files), ..Access::default() };
    let refused = try_put(&*open(&server, &certificate_only).await).await;
    assert!(matches!(refused, Err(Error::Denied { .. } | Error::Protocol { .. })), "{refused:?}");
    let login = Login { user: "root".into(), password_file: password_file.clone() };
    let kv = open(&server, &Access { login: Some(login), ..certificate_only }).await;
    let refused = try_put(&*kv).await;
    assert!(matches!(refused, Err(Error::Denied { .. })), "{refused:?}");
    fs::write(&password_file, "correct horse\n").unwrap();
    wait_for("the right password", PATIENCE, || async { try_put(&*kv).await.is_ok() }).await;
    let at = kv.status().await.unwrap().revision;
    let mut watch = kv.watch(&Range::all(), at.next()).await.unwrap();
    try_put(&*kv).await.unwrap();
    common::next_events(&mut watch).await;
}

#[tokio::test]
async fn a_full_store_says_so_and_takes_changes_again_once_it_has_room() {
    let server = EtcdServer::start_with(&["--quota-backend-bytes", "4194304"]);
    let access = Access { quota_bytes: Some(4_194_304), ..Access::default() };
    let kv = open(&server, &access).await;
    let (tasks, metrics) = (Tasks::new(), Metrics::new());
    let usage = kv.usage().await.unwrap();
    assert_eq!((usage.quota, usage.no_space, Pressure::of(&usage)), (4_194_304, false, Pressure::Ok));
    let mut n = 0;
    loop {
        let fill = (0..128).map(|i| Op::put(&key(format!("fill/{n}/{i}")), vec![7; 4096])).collect();
        match kv.txn(Txn::always(fill)).await {
            Ok(_) => n += 1,
            Err(Error::NoSpace) => break,
            Err(e) => panic!("{e}"),
        }
    }
    let space = Space::start(Arc::clone(&kv), &metrics, &tasks);
    wait_for("the brake", PATIENCE, || async { space.pressure() == Pressure::Full }).await;
    assert!(space.usage().unwrap().no_space);
    let text = metrics.render().unwrap();
    assert!(text.contains("isocenter_store_space_bytes{kind=\"quota\"} 4194304"), "{text}");
    assert!(text.contains("isocenter_store_no_space 1"), "{text}");

    // As the operator does it: delete, compact, defragment, disarm.
    let deleted = common::always(&*kv, vec![Op::Delete { range: Range::prefix("fill/").unwrap() }]).await;
    let mut admin = Client::connect([server.endpoint()], None).await.unwrap();
    let physical = CompactionOptions::new().with_physical();
    admin.compact(i64::try_from(deleted.revision.0).unwrap(), Some(physical)).await.unwrap();
    admin.defragment().await.unwrap();
    assert!(matches!(try_put(&*kv).await, Err(Error::NoSpace)), "still armed");
    let raised = admin.alarm(AlarmAction::Get, AlarmType::None, None).await.unwrap();
    for alarm in raised.alarms() {
        let mut of = AlarmOptions::new();
        of.with_member(alarm.member_id());
        admin.alarm(AlarmAction::Deactivate, alarm.alarm(), Some(of)).await.unwrap();
    }
    wait_for("changes", PATIENCE, || async { try_put(&*kv).await.is_ok() }).await;
    let usage = kv.usage().await.unwrap();
    assert_eq!(Pressure::of(&usage), Pressure::Ok, "{usage:?}");
    tasks.drain(PATIENCE).await;
}

async fn tables(kv: &Arc<dyn Kv>) -> Tables {
    let (cell, secret) = ("cell".parse().unwrap(), Secret::new([1; 32]));
    Tables::open(Arc::clone(kv), clock::system(), cell, &secret).await.unwrap()
}

fn process(tables: &Tables, id: &str) -> (Members, Tasks) {
    let tasks = Tasks::new();
    let me = NodeOptions {
        id: id.parse().unwrap(),
        address: "127.0.0.1:1".into(),
        roles: vec!["routing"],
        version: "test".into(),
    };
    (Members::start(tables, me, &tasks), tasks)
}

async fn create(tables: &Tables, n: usize) -> Result<(), TableError> {
    let study = StudyKey { tenant: "t".parse().unwrap(), study: format!("1.2.{n}").parse().unwrap() };
    let mut change = tables.change(Cause::role("tester"));
    let record = Study::receiving("north".parse().unwrap(), "CT1".parse().unwrap(), change.now());
    change.create(&study, &record, "created", "");
    change.commit().await.map(|_| ())
}

#[tokio::test]
async fn after_a_snapshot_was_put_back_nothing_of_the_old_epoch_is_written() {
    let mut cluster = EtcdCluster::start(1);
    let kv = etcd(&cluster.endpoints()).await;
    let old = tables(&kv).await;
    let (members, tasks) = process(&old, "a");
    let studies = Mirrors::new(old.clone(), &tasks).of::<Study>();
    members.registered().await;
    create(&old, 1).await.unwrap();
    let snapshot = cluster.snapshot();
    for n in 2..20 {
        wait_for("a study", PATIENCE, || async {
            matches!(create(&old, n).await, Ok(()) | Err(TableError::Conflict))
        })
        .await;
    }
    wait_for("the mirror", PATIENCE, || async { studies.all().len() == 19 }).await;
    cluster.restore(&snapshot);
    // The revisions are given again, in the same cluster: only a new list tells.
    wait_for("a new list", PATIENCE, || async { studies.all().len() == 1 }).await;

    let kv = etcd(&cluster.endpoints()).await;
    let restored = tables(&kv).await;
    assert_eq!(restored.bump_epoch("restored from a snapshot").await.unwrap(), 2);
    tasks.token().cancelled().await;
    let failure = chain(&*tasks.failure().unwrap());
    assert!(failure.contains("epoch 2"), "{failure}");
    wait_for("a refusal", PATIENCE, || async { matches!(create(&old, 50).await, Err(TableError::Conflict)) })
        .await;

    let new = tables(&kv).await;
    create(&new, 2).await.unwrap();
    let (members, new_tasks) = process(&new, "a");
    members.registered().await;
    let report = check(&new).await.unwrap();
    assert_eq!((report.found, report.outbox), (0, 2), "{report:?}");
    tasks.drain(Duration::from_secs(1)).await;
    new_tasks.drain(PATIENCE).await;
}

/// One snapshot put back twice: the second epoch has the number and the revision of the first.
#[tokio::test]
async fn who_joined_after_a_restore_is_refused_after_the_same_restore_again() {
    let mut cluster = EtcdCluster::start(1);
    create(&tables(&etcd(&cluster.endpoints()).await).await, 1).await.unwrap();
    let snapshot = cluster.snapshot();
    let mut begun = Vec::new();
    let mut survivor = None;
    for restore in 1..=2 {
        cluster.restore(&snapshot);
        let kv = etcd(&cluster.endpoints()).await;
        let tool = tables(&kv).await;
        assert_eq!(tool.bump_epoch("restored from a snapshot").await.unwrap(), 2);
        begun.push(kv.get(&key("meta/epoch")).await.unwrap().unwrap());
        if restore == 1 {
            let joined = tables(&kv).await;
            let (members, tasks) = process(&joined, "a");
            members.registered().await;
            create(&joined, 2).await.unwrap();
            survivor = Some((joined, tasks));
        }
    }
    assert_eq!(begun[0].mod_revision, begun[1].mod_revision, "else this shows nothing");

    let (survivor, tasks) = survivor.unwrap();
    wait_for("an answer", PATIENCE, || async {
        matches!(create(&survivor, 50).await, Ok(()) | Err(TableError::Conflict))
    })
    .await;
    let now = tables(&etcd(&cluster.endpoints()).await).await;
    let study = StudyKey { tenant: "t".parse().unwrap(), study: "1.2.50".parse().unwrap() };
    assert_eq!(now.load::<Study>(&study).await.unwrap(), None, "it was refused");
    wait_for("the survivor's end", PATIENCE, || async { tasks.failure().is_some() }).await;
    let failure = chain(&*tasks.failure().unwrap());
    assert!(failure.contains("epoch 2"), "{failure}");
    create(&now, 50).await.unwrap();
    let report = check(&now).await.unwrap();
    assert_eq!(report.found, 0, "{report:?}");
    tasks.drain(Duration::from_secs(1)).await;
}

/// etcd's own client waits for ever: a call that reaches a member as it dies would never end.
fn bounded() -> ConnectOptions {
    ConnectOptions::new().with_timeout(Duration::from_secs(3)).with_connect_timeout(Duration::from_secs(1))
}

#[tokio::test]
async fn membership_outlives_a_lost_quorum_and_a_replaced_member() {
    let mut cluster = EtcdCluster::start(3);
    let kv = etcd(&cluster.endpoints()).await;
    let tables = tables(&kv).await;
    let ((a, a_tasks), (b, b_tasks)) = (process(&tables, "a"), process(&tables, "b"));
    let (of_a, of_b) = (a.shares("routing"), b.shares("routing"));
    let shared = || async { (0..=u8::MAX).all(|shard| of_a.owns(shard) != of_b.owns(shard)) };
    wait_for("shares", PATIENCE, shared).await;

    cluster.kill(0);
    cluster.kill(1);
    wait_for("no quorum", PATIENCE, || async { try_put(&*kv).await.is_err() }).await;
    assert!(shared().await, "who does not see the store keeps what it had");
    cluster.restart_all(&[0, 1]);
    wait_for("writes", PATIENCE, || async { try_put(&*kv).await.is_ok() }).await;

    // One member is lost with its disk, removed, and added again without data.
    let mut admin = Client::connect(cluster.endpoints(), Some(bounded())).await.unwrap();
    let members = admin.member_list().await.unwrap();
    let lost = members.members().iter().find(|m| m.name() == "m0").unwrap().clone();
    cluster.kill(0);
    let admin = Client::connect(&cluster.endpoints()[1..], Some(bounded())).await.unwrap();
    wait_for("the member removed", PATIENCE, || {
        let (mut admin, id) = (admin.clone(), lost.id());
        async move {
            // What an answer that was lost says, the list says too.
            drop(admin.member_remove(id).await);
            admin.member_list().await.is_ok_and(|list| list.members().iter().all(|m| m.id() != id))
        }
    })
    .await;
    wait_for("the member added", PATIENCE, || {
        let (mut admin, urls) = (admin.clone(), lost.peer_urls().to_vec());
        async move {
            drop(admin.member_add(urls.clone(), None).await);
            admin.member_list().await.is_ok_and(|list| list.members().iter().any(|m| m.peer_urls() == urls))
        }
    })
    .await;
    cluster.renew(0);
    cluster.kill(1);
    wait_for("writes by the new member", PATIENCE, || async { try_put(&*kv).await.is_ok() }).await;
    put(&*kv, "b", "x").await;
    wait_for("shares", PATIENCE, shared).await;
    assert_eq!((a.nodes("routing").len(), b.nodes("routing").len()), (2, 2));
    for tasks in [a_tasks, b_tasks] {
        assert!(tasks.failure().is_none());
        tasks.drain(PATIENCE).await;
    }
}
