//! MLLP over TLS, judged by another implementation of TLS.

use std::process::Stdio;

use isocenter_domain::record::registry::Via;
use isocenter_runtime::tls::{Client, ClientFiles};
use isocenter_testkit::{Pair, Pki, Usage, Validity};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use crate::{
    bench::{Bench, LONG, config, delivery_key},
    unhurried,
};

struct Receiver {
    address: String,
    says: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Receiver {
    /// A receiver with this certificate that believes the authority's senders.
    async fn start(pki: &Pki, shows: &Pair) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls/receiver.py");
        let mut command = Command::new("python3");
        command.arg(script).args([pki.ca(), shows.cert.clone(), shows.key.clone()]);
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let mut says = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = timeout(LONG, says.next_line()).await.unwrap().unwrap().expect("a port");
        Self { address: format!("127.0.0.1:{port}"), says, _child: child }
    }

    async fn said(&mut self) -> String {
        timeout(LONG, self.says.next_line()).await.unwrap().unwrap().expect("a line")
    }
}

fn sender(pki: &Pki, pair: &Pair) -> Client {
    Client::load(&ClientFiles { ca: pki.ca(), cert: pair.cert.clone(), key: pair.key.clone() }).unwrap()
}

#[tokio::test]
async fn a_report_goes_over_tls_with_both_sides_certified() {
    let (bench, pki) = (Bench::new().await, Pki::new());
    let mut ris = Receiver::start(&pki, &pki.issue_as("O=north,CN=ris", Validity::Now, Usage::Server)).await;
    bench.register_via("ris", Via::MllpOverTls(ris.address.clone())).await;
    bench.case(1, &["ris"]).await;
    bench.sign(1, 1).await;
    let node = pki.issue("O=t,OU=node,CN=n1");
    let _running = bench.serve_tls(unhurried(), sender(&pki, &node));
    let delivery = bench.until_accepted(&delivery_key(1, 1, "ris")).await;
    assert_eq!(ris.said().await, format!("n1 {}", delivery.message_id));
}

#[tokio::test]
async fn no_report_leaves_to_a_receiver_whose_certificate_is_not_believed() {
    let (bench, pki, others) = (Bench::new().await, Pki::new(), Pki::new());
    let node = pki.issue("O=t,OU=node,CN=n1");
    let ended = pki.issue_as("O=north,CN=ended", Validity::Ended, Usage::Server);
    let shown = [
        ("ended", ended),
        ("self-signed", pki.self_signed("O=north,CN=self")),
        ("other-authority", others.issue("O=north,CN=other")),
        ("client-only", pki.issue_as("O=north,CN=client", Validity::Now, Usage::Client)),
    ];
    let mut receivers = Vec::new();
    let names: Vec<&str> = shown.iter().map(|(name, _)| *name).collect();
    bench.case(1, &names).await;
    for (name, pair) in &shown {
        let receiver = Receiver::start(&pki, pair).await;
        bench.register_via(name, Via::MllpOverTls(receiver.address.clone())).await;
        receivers.push(receiver);
    }
    bench.sign(1, 1).await;
    let _running = bench.serve_tls(config(), sender(&pki, &node));
    for (name, receiver) in names.iter().zip(&mut receivers) {
        let error = bench.until_retrying(&delivery_key(1, 1, name)).await;
        assert!(error.starts_with("could not agree on TLS with 127.0.0.1:"), "{name}: {error}");
        let said = receiver.said().await;
        assert!(said.starts_with("refused"), "{name}: {said}");
    }
}

#[tokio::test]
async fn without_certificates_nothing_leaves_in_the_clear() {
    let bench = Bench::new().await;
    let ris = bench.receiver_at("127.0.0.1:0".parse().unwrap()).await;
    bench.register_via("ris", Via::MllpOverTls(ris.address().to_string())).await;
    bench.case(1, &["ris"]).await;
    bench.sign(1, 1).await;
    let _running = bench.serve(config());
    let error = bench.until_retrying(&delivery_key(1, 1, "ris")).await;
    assert_eq!(error, "MLLP over TLS needs certificates, which this process does not have");
    assert_eq!(ris.counts().connections, 0);
}
