//! TLS on the server's main port, and calls passed on to other processes.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{Router, routing::get};
use isocenter_domain::{access::Principal, id::TenantId};
use isocenter_runtime::{
    config::Period,
    metrics::Metrics,
    nodes::{Nodes, ON_BEHALF_OF},
    readiness::Readiness,
    server::{Directory, Elsewhere, Located, Options, Served, bind},
    task::{Drained, Tasks},
    tls::{self, Client, ClientFiles, Files, Tls},
};
use isocenter_testkit::{Pair, Pki, Usage, Validity, wait_for};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_stream::StreamExt as _;
use tonic::{Code, Request, Status, service::Routes, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::StatusExt as _;

const PATIENCE: Duration = Duration::from_secs(60);

struct Running {
    tasks: Tasks,
    metrics: Metrics,
    tls: Tls,
    address: SocketAddr,
}

fn files(pki: &Pki) -> Files {
    let node = pki.issue("O=net,OU=node,CN=n1");
    Files { cert: node.cert, key: node.key, client_ca: pki.ca(), ..Files::default() }
}

/// Says who calls, and what claims arrive.
async fn who(headers: http::HeaderMap, axum::Extension(principal): axum::Extension<Principal>) -> String {
    let claim = if headers.contains_key(ON_BEHALF_OF) { " claims" } else { "" };
    format!("{} of {}{claim}", principal.subject, principal.tenant)
}

/// A server with the health service, or another one in its place.
async fn serve(
    files: &Files,
    directory: Option<Arc<dyn Directory>>,
    limits: impl FnOnce(&mut Options),
) -> Running {
    let (tasks, metrics) = (Tasks::new(), Metrics::new());
    let (readiness, _starting) = Readiness::new();
    let tls = Tls::load(files).unwrap();
    tls.follow(&tasks, &metrics);
    let mut options = Options::local(TenantId::new("dev").unwrap());
    options.tls = Some(tls.clone());
    options.streaming = &["/grpc.health.v1.Health/Watch"];
    limits(&mut options);
    let bound = bind(options).await.unwrap();
    let address = bound.address();
    let grpc = match directory {
        None => Routes::new(readiness.health(&tasks)),
        Some(_) => Routes::default(),
    };
    let http = Router::new().route("/who", get(who));
    let elsewhere = Elsewhere { directory, nodes: Nodes::new(Some(&tls)) };
    bound.serve(&tasks, Served { grpc, http, elsewhere }, &metrics, &readiness);
    Running { tasks, metrics, tls, address }
}

fn client(pki: &Pki, pair: &Pair) -> Client {
    let files = ClientFiles { ca: pki.ca(), cert: pair.cert.clone(), key: pair.key.clone() };
    Client::load(&files).unwrap()
}

fn channel(address: SocketAddr, client: &Client) -> Channel {
    tls::channel(&format!("https://{address}"), Some(client)).unwrap()
}

async fn check(address: SocketAddr, client: &Client) -> Result<(), Status> {
    let request = HealthCheckRequest { service: "liveness".into() };
    HealthClient::new(channel(address, client)).check(request).await.map(|_| ())
}

/// What a request over HTTP/1.1 is answered; `None`: no connection.
async fn fetch(address: SocketAddr, client: &Client, path: &str, more: &str) -> Option<String> {
    let stream = TcpStream::connect(address).await.ok()?;
    let mut stream = client.connect_plain("localhost", stream).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{more}\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    Some(text)
}

#[tokio::test]
async fn the_certificate_says_who_calls() {
    let pki = Pki::new();
    let running = serve(&files(&pki), None, |_| {}).await;
    let anna = client(&pki, &pki.issue("O=moscow,OU=reader,CN=anna"));
    let claim = "isocenter-on-behalf-of: Q049aXZhbixPVT1vcGVyYXRvcixPPW1vc2Nvdw\r\n";
    let answer = fetch(running.address, &anna, "/who", claim).await.unwrap();
    assert!(answer.ends_with("CN=anna,OU=reader,O=moscow of moscow"), "{answer}");
    let node = client(&pki, &pki.issue("O=net,OU=node,CN=n2"));
    let answer = fetch(running.address, &node, "/who", claim).await.unwrap();
    assert!(answer.ends_with("CN=ivan,OU=operator,O=moscow of moscow"), "{answer}");
    check(running.address, &anna).await.unwrap();
    for subject in [
        "O=moscow,OU=root,CN=x",
        "O=Moscow,OU=operator,CN=x",
        "O=moscow,OU=operator",
        "O=moscow,CN=x",
        "OU=operator,CN=x",
        "O=moscow,O=kazan,OU=operator,CN=x",
        "O=moscow,OU=reader,OU=operator,CN=x",
        "O=moscow,OU=operator,CN=x,CN=y",
    ] {
        let nobody = client(&pki, &pki.issue(subject));
        let refused = check(running.address, &nobody).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{subject}");
        assert!(refused.message().contains("the certificate"), "{}", refused.message());
        let answer = fetch(running.address, &nobody, "/who", "").await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    }
}

#[tokio::test]
async fn figures_are_for_operators_and_nodes() {
    let pki = Pki::new();
    let running = serve(&files(&pki), None, |_| {}).await;
    for (subject, status) in [
        ("O=moscow,OU=operator,CN=ivan", "200"),
        ("O=moscow,OU=node,CN=n2", "200"),
        ("O=moscow,OU=reader,CN=anna", "403"),
        ("O=moscow,OU=vendor,CN=opacity", "403"),
        ("O=moscow,OU=network,CN=pacs", "403"),
    ] {
        let answer =
            fetch(running.address, &client(&pki, &pki.issue(subject)), "/metrics", "").await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{subject}: {answer}");
    }
}

#[tokio::test]
async fn certificates_that_are_not_to_be_believed_get_no_connection() {
    let (mut pki, stranger) = (Pki::new(), Pki::new());
    let good = pki.issue("O=moscow,OU=operator,CN=good");
    let revoked = pki.issue("O=moscow,OU=operator,CN=revoked");
    let crl = pki.folder().join("crl.pem");
    fs::write(&crl, pki.revoke(&[&revoked])).unwrap();
    let running = serve(&Files { crl, ..files(&pki) }, None, |_| {}).await;
    check(running.address, &client(&pki, &good)).await.unwrap();
    let ivan = "O=moscow,OU=operator,CN=ivan";
    let bad = [
        ("revoked", revoked),
        ("ended", pki.issue_as(ivan, Validity::Ended, Usage::Both)),
        ("not valid yet", pki.issue_as("O=moscow,OU=operator,CN=later", Validity::Later, Usage::Both)),
        ("for servers", pki.issue_as("O=moscow,OU=operator,CN=server", Validity::Now, Usage::Server)),
        ("self-signed", pki.self_signed("O=moscow,OU=operator,CN=self")),
        ("of another authority", stranger.issue(ivan)),
    ];
    for (what, pair) in &bad {
        assert!(check(running.address, &client(&pki, pair)).await.is_err(), "{what}");
        assert_eq!(fetch(running.address, &client(&pki, pair), "/who", "").await, None, "{what}");
    }
    let nobody = Client::load(&ClientFiles { ca: pki.ca(), ..ClientFiles::default() }).unwrap();
    assert_eq!(fetch(running.address, &nobody, "/who", "").await, None);
    // A server that another authority vouches for is not believed either.
    assert!(check(running.address, &client(&stranger, &good)).await.is_err());
    let text = running.metrics.render().unwrap();
    assert!(text.contains("isocenter_connections_total{outcome=\"no-handshake\",port=\"main\"}"), "{text}");
}

/// The folder as Kubernetes mounts a secret: `name` is a link into `..data`, itself a link that is swapped.
fn swap(folder: &Path, version: &str, files: &[(&str, PathBuf)]) {
    let data = folder.join(version);
    fs::create_dir(&data).unwrap();
    for (name, from) in files {
        fs::copy(from, data.join(name)).unwrap();
    }
    let new = folder.join("..data_tmp");
    symlink(version, &new).unwrap();
    fs::rename(new, folder.join("..data")).unwrap();
}

#[tokio::test]
async fn files_that_change_hold_for_new_connections_and_broken_ones_do_not() {
    let (old, new) = (Pki::new(), Pki::new());
    let mounted = tempfile::tempdir().unwrap();
    let (first, second) = (files(&old), files(&new));
    let of = |files: &Files| {
        [("cert", files.cert.clone()), ("key", files.key.clone()), ("ca", files.client_ca.clone())]
    };
    swap(mounted.path(), "v1", &of(&first));
    let at = |name: &str| {
        let path = mounted.path().join(name);
        symlink(format!("..data/{name}"), &path).unwrap();
        path
    };
    let files = Files { cert: at("cert"), key: at("key"), client_ca: at("ca"), ..Files::default() };
    let running = serve(&files, None, |_| {}).await;
    let ivan = client(&old, &old.issue("O=moscow,OU=operator,CN=ivan"));
    let kept = channel(running.address, &ivan);
    let ask = || HealthCheckRequest { service: "liveness".into() };
    HealthClient::new(kept.clone()).check(ask()).await.unwrap();

    let broken = mounted.path().join("broken");
    fs::write(&broken, "-----BEGIN CERTIFICATE-----\nbm90IG9uZQ==\n-----END CERTIFICATE-----\n").unwrap();
    let mut mixed = of(&second);
    mixed[0].1 = broken;
    swap(mounted.path(), "v2", &mixed);
    let stale = || async { running.metrics.render().unwrap().contains("\nisocenter_tls_stale 1\n") };
    wait_for("the broken files to be told of", PATIENCE, stale).await;
    check(running.address, &ivan).await.unwrap();

    swap(mounted.path(), "v3", &of(&second));
    let olga = client(&new, &new.issue("O=moscow,OU=operator,CN=olga"));
    let taken = || async { check(running.address, &olga).await.is_ok() };
    wait_for("the new files to hold", PATIENCE, taken).await;
    assert!(check(running.address, &ivan).await.is_err());
    // The connection that was judged by the old authority is asked to end; its caller cannot come back.
    let gone = || async { HealthClient::new(kept.clone()).check(ask()).await.is_err() };
    wait_for("the old connection to end", PATIENCE, gone).await;
    let text = running.metrics.render().unwrap();
    for line in ["\nisocenter_tls_stale 0\n", "isocenter_tls_reloads_total{outcome=\"refused\"} 1"] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    assert!(running.tls.until() > isocenter_domain::Time::ZERO);
}

#[tokio::test]
async fn what_is_wrong_with_the_files_is_named() {
    let pki = Pki::new();
    let good = files(&pki);
    let other = pki.issue("O=net,OU=node,CN=n2");
    let wrong = |files: Files| Tls::load(&files).unwrap_err().to_string();
    assert_eq!(wrong(Files::default()), "tls.cert is not set: TLS needs cert, key and client_ca");
    assert!(wrong(Files { key: "/nowhere".into(), ..good.clone() }).starts_with("tls.key /nowhere"));
    let garbage = pki.folder().join("garbage");
    fs::write(&garbage, "no PEM").unwrap();
    let said = wrong(Files { client_ca: garbage.clone(), ..good.clone() });
    assert!(said.contains("client_ca") && said.contains("no usable certificate"), "{said}");
    assert!(wrong(Files { crl: garbage, ..good.clone() }).contains("revocation list"));
    assert!(wrong(Files { key: other.key, ..good }).contains("cert and key"));
}

/// Every service is at one address, or nowhere.
#[derive(Debug)]
struct At(Option<SocketAddr>);

impl Directory for At {
    fn locate(&self, service: &str) -> Located {
        match (service, self.0) {
            ("grpc.health.v1.Health", Some(address)) => {
                Located::At { role: "health", address: address.to_string() }
            }
            ("grpc.health.v1.Health", None) => Located::Nowhere { role: "health" },
            _ => Located::Unknown,
        }
    }
}

#[tokio::test]
async fn a_call_of_another_process_is_passed_on_whole() {
    let pki = Pki::new();
    let home = serve(&files(&pki), None, |_| {}).await;
    let front = serve(&files(&pki), Some(Arc::new(At(Some(home.address)))), |_| {}).await;
    let anna = client(&pki, &pki.issue("O=moscow,OU=reader,CN=anna"));
    let mut health = HealthClient::new(channel(front.address, &anna));
    let ask = |service: &str| Request::new(HealthCheckRequest { service: service.into() });
    assert_eq!(health.check(ask("liveness")).await.unwrap().into_inner().status, 1);
    // An error with its words, and a stream that goes on.
    assert_eq!(health.check(ask("nobody")).await.unwrap_err().code(), Code::NotFound);
    let mut watched = health.watch(ask("liveness")).await.unwrap().into_inner();
    assert_eq!(watched.next().await.unwrap().unwrap().status, 1);
    let under_way = || async {
        home.metrics
            .render()
            .unwrap()
            .contains("isocenter_calls_total{code=\"0\",method=\"/grpc.health.v1.Health/Watch\"} 1")
    };
    wait_for("the stream to be at home", PATIENCE, under_way).await;
    drop(watched);
    // A caller who goes takes the call along: nothing keeps either server.
    drop(health);
    assert_eq!(front.tasks.drain(PATIENCE).await, Drained::Clean);
    assert_eq!(home.tasks.drain(PATIENCE).await, Drained::Clean);
}

#[tokio::test]
async fn a_service_that_nobody_serves_is_unavailable_and_loops_end() {
    let pki = Pki::new();
    let anna = client(&pki, &pki.issue("O=moscow,OU=reader,CN=anna"));
    let alone = serve(&files(&pki), Some(Arc::new(At(None))), |_| {}).await;
    let refused = check(alone.address, &anna).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("role health"), "{refused:?}");
    assert!(refused.get_details_retry_info().is_some());

    let dead = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let front = serve(&files(&pki), Some(Arc::new(At(Some(dead)))), |_| {}).await;
    assert_eq!(check(front.address, &anna).await.unwrap_err().code(), Code::Unavailable);

    // Two that each take the other for the home.
    let looped = serve(&files(&pki), Some(Arc::new(At(Some(alone.address)))), |_| {}).await;
    assert_eq!(check(looped.address, &anna).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_flood_of_one_address_leaves_room_for_others() {
    let pki = Pki::new();
    let short = Period(Duration::from_millis(300));
    let running = serve(&files(&pki), None, |options| {
        options.limits.connections_per_peer = 8;
        options.limits.handshake = short;
    })
    .await;
    let mut flood = Vec::new();
    for _ in 0..40 {
        flood.push(TcpStream::connect(running.address).await.unwrap());
    }
    // From another address, as 127.0.0.2 is, the server answers all the while.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let stream = socket.connect(running.address).await.unwrap();
    let anna = client(&pki, &pki.issue("O=moscow,OU=reader,CN=anna"));
    let mut stream = anna.connect_plain("localhost", stream).await.unwrap();
    stream.write_all(b"GET /who HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    // Those without a word are let go.
    let free = || async { check(running.address, &anna).await.is_ok() };
    wait_for("the silent connections to be closed", PATIENCE, free).await;
    let text = running.metrics.render().unwrap();
    assert!(text.contains("outcome=\"too-many-of-peer\",port=\"main\""), "{text}");
}

#[tokio::test]
async fn a_connection_that_does_nothing_ends_and_so_does_an_old_one() {
    let pki = Pki::new();
    let short = Period(Duration::from_millis(200));
    let anna = client(&pki, &pki.issue("O=moscow,OU=reader,CN=anna"));
    let idle = serve(&files(&pki), None, |options| options.limits.idle = short).await;
    let old = serve(&files(&pki), None, |options| options.limits.age = short).await;
    for running in [idle, old] {
        let stream = TcpStream::connect(running.address).await.unwrap();
        let mut stream = anna.connect("localhost", stream).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        let mut said = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said)).await;
        assert!(ended.is_ok(), "the connection stays");
    }
}
