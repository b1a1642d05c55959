//! The checker of vendors, judged by a vendor that keeps the contract and by the same one when it does not.

use std::time::Duration;

use isocenter_peers::{
    LOOPBACK,
    sample::Algorithm,
    vendor::{
        Misbehaviour, Vendor, VendorConfig,
        conformance::{Options, Report, Verdict, check},
    },
};
use isocenter_runtime::task::Tasks;

async fn checked(how: Misbehaviour, algorithm: Algorithm) -> Report {
    let tasks = Tasks::new();
    let vendor = Vendor::start(LOOPBACK, VendorConfig::new(algorithm), &tasks).await.unwrap();
    vendor.misbehave(how);
    let options = Options { patience: Duration::from_secs(5), ..Options::new(vendor.url()) };
    let report = check(options, &tasks).await.unwrap();
    tasks.drain(Duration::from_secs(5)).await;
    report
}

fn broken(report: &Report) -> Vec<&'static str> {
    let broken = report.clauses.iter().filter(|clause| matches!(clause.verdict, Verdict::Fail(_)));
    broken.map(|clause| clause.id).collect()
}

#[tokio::test]
async fn the_sample_vendors_keep_every_clause() {
    for algorithm in [Algorithm::Density, Algorithm::Opacity] {
        let report = checked(Misbehaviour::None, algorithm).await;
        assert!(report.conforms(), "{report}");
        assert!(report.clauses.len() > 20, "{report}");
        assert!(report.clauses.iter().all(|clause| clause.verdict == Verdict::Pass), "{report}");
    }
}

#[tokio::test]
async fn what_breaks_the_contract_is_found_and_named() {
    let of = |how| checked(how, Algorithm::Density);
    let (garbage, error) = tokio::join!(of(Misbehaviour::Garbage), of(Misbehaviour::Error));
    for (how, report) in [(Misbehaviour::Garbage, garbage), (Misbehaviour::Error, error)] {
        assert!(!report.conforms() && broken(&report).contains(&"analyze.answers"), "{how:?}\n{report}");
    }
}

#[tokio::test]
async fn a_service_that_is_not_there_is_a_report_too() {
    // A port that nobody listens on: bound, read, and closed.
    let free = std::net::TcpListener::bind(LOOPBACK).unwrap().local_addr().unwrap();
    let tasks = Tasks::new();
    let report = check(Options::new(format!("http://{free}")), &tasks).await.unwrap();
    assert_eq!(broken(&report), ["describe.answers"]);
    assert!(check(Options::new("no address at all"), &tasks).await.is_err());
    tasks.drain(Duration::from_secs(5)).await;
}
