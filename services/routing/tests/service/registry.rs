//! The registry over a real store and real sockets.

use isocenter_wire::v1::{self, registry_entry::Entry};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::common::{Cell, Running};

fn site(id: &str, titles: &[&str]) -> Entry {
    Entry::Site(v1::Site {
        site_id: id.into(),
        ae_titles: titles.iter().map(ToString::to_string).collect(),
        quiet_period: Some(isocenter_wire::duration(std::time::Duration::from_secs(3))),
        ..v1::Site::default()
    })
}

fn reader() -> v1::Reader {
    v1::Reader {
        reader_id: "anna".into(),
        skills: vec![v1::Skill { modality: "CT".into(), body_part: "*".into() }],
        site_ids: vec!["*".into()],
        pool_ids: vec!["general".into(), "site:north".into()],
        grade: v1::ReaderGrade::Attending.into(),
        ..v1::Reader::default()
    }
}

fn ai() -> v1::AiService {
    v1::AiService {
        service_id: "opacity".into(),
        address: "http://127.0.0.1:9000".into(),
        receives: v1::AiReceives::Original.into(),
        max_concurrency: 0,
    }
}

fn destination() -> v1::Destination {
    v1::Destination {
        destination_id: "ris".into(),
        mllp: "ris.north:2575".into(),
        receiving_application: "RIS".into(),
        receiving_facility: "NORTH".into(),
        protocol: v1::DestinationProtocol::Mllp.into(),
    }
}

async fn put(running: &Running, entry: Entry, request_id: &str) -> Result<v1::RegistryEntry, Status> {
    let entry = Some(v1::RegistryEntry { entry: Some(entry) });
    let request = v1::PutRequest { entry, request_id: request_id.into() };
    running.registry.clone().put(request).await.map(tonic::Response::into_inner)
}

async fn delete(running: &Running, kind: v1::RegistryKind, id: &str, request: &str) -> Result<(), Status> {
    let request = v1::DeleteRequest { kind: kind.into(), id: id.into(), request_id: request.into() };
    running.registry.clone().delete(request).await.map(|_| ())
}

async fn get(running: &Running, kind: v1::RegistryKind, id: &str) -> Result<Option<Entry>, Status> {
    let request = v1::GetRequest { kind: kind.into(), id: id.into() };
    running.registry.clone().get(request).await.map(|answer| answer.into_inner().entry)
}

#[tokio::test]
async fn what_is_put_is_got_listed_and_deleted_with_an_event_each() {
    let cell = Cell::new().await;
    let running = cell.serve().await;
    let pool = Entry::Pool(v1::Pool {
        pool_id: "site:north".into(),
        description: "North's own readers".into(),
        kind: v1::PoolKind::Site.into(),
        overflow: Some(v1::Overflow {
            to_pool_id: "center".into(),
            at_percent: 25,
            predicted_wait: Some(isocenter_wire::duration(std::time::Duration::from_secs(3_600))),
        }),
    });
    let entries = [
        (v1::RegistryKind::Site, "north", site("north", &["CT1", "MR 1"])),
        (v1::RegistryKind::Reader, "anna", Entry::Reader(reader())),
        (v1::RegistryKind::Reader, "boris", Entry::Reader(rostered())),
        (v1::RegistryKind::Pool, "site:north", pool),
        (
            v1::RegistryKind::AiService,
            "opacity",
            Entry::AiService(v1::AiService { max_concurrency: 1, ..ai() }),
        ),
        (v1::RegistryKind::Destination, "ris", Entry::Destination(destination())),
    ];
    for (kind, id, entry) in entries {
        assert_eq!(put(&running, entry.clone(), "r1").await.unwrap().entry, Some(entry.clone()));
        assert_eq!(get(&running, kind, id).await.unwrap(), Some(entry.clone()));
        let request = v1::ListRequest { kind: kind.into(), ..v1::ListRequest::default() };
        let listed = running.registry.clone().list(request).await.unwrap().into_inner();
        assert_eq!((listed.entries.len(), listed.next_page_token.as_str()), (1, ""));
        delete(&running, kind, id, "r2").await.unwrap();
        assert_eq!(get(&running, kind, id).await.unwrap_err().code(), Code::NotFound);
        delete(&running, kind, id, "r2").await.expect("a repeat answers as the first");
        assert_eq!(delete(&running, kind, id, "r3").await.unwrap_err().code(), Code::NotFound);
    }
    let events = cell.events("registry/t/site/north").await;
    let told: Vec<(&str, &str)> = events.iter().map(|e| (e.1.as_str(), e.2.as_str())).collect();
    assert_eq!(told, [("created", "dev"), ("deleted", "dev")]);

    // Registered again, its change counter goes on: what follows the events applies them only upward.
    put(&running, site("north", &["CT1"]), "r4").await.unwrap();
    let again = cell.events("registry/t/site/north").await;
    assert_eq!(again.len(), 3);
    assert!(again[2].3 > events[1].3 && again[2].1 == "created", "{again:?}");
    running.stop().await;
}

#[tokio::test]
async fn the_same_put_again_changes_nothing_and_another_replaces() {
    let cell = Cell::new().await;
    let running = cell.serve().await;
    let first = put(&running, site("north", &["CT1"]), "r1").await.unwrap();
    assert_eq!(put(&running, site("north", &["CT2"]), "r1").await.unwrap(), first);
    put(&running, site("north", &["CT1", "CT2"]), "r2").await.unwrap();
    let events: Vec<String> = cell.events("registry/").await.into_iter().map(|e| e.1).collect();
    assert_eq!(events, ["created", "replaced"]);
    running.stop().await;
}

#[tokio::test]
async fn a_list_comes_in_pages_in_the_order_of_ids() {
    let cell = Cell::new().await;
    let running = cell.serve().await;
    for id in ["b", "a-1", "a", "d", "c"] {
        let pool = v1::Pool { pool_id: id.into(), ..v1::Pool::default() };
        put(&running, Entry::Pool(pool), "r1").await.unwrap();
    }
    let (mut seen, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListRequest { kind: v1::RegistryKind::Pool.into(), page_size: 2, page_token };
        let page = running.registry.clone().list(request).await.unwrap().into_inner();
        seen.extend(page.entries.into_iter().map(|entry| match entry.entry {
            Some(Entry::Pool(pool)) => pool.pool_id,
            other => panic!("{other:?}"),
        }));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, ["a", "a-1", "b", "c", "d"]);
    let wrong = v1::ListRequest { kind: v1::RegistryKind::Pool.into(), page_size: -1, ..Default::default() };
    assert_eq!(running.registry.clone().list(wrong).await.unwrap_err().code(), Code::InvalidArgument);
    running.stop().await;
}

#[tokio::test]
async fn a_wrong_entry_is_refused_by_the_name_of_its_field() {
    let seconds = |s| Some(isocenter_wire::duration(std::time::Duration::from_secs(s)));
    let site = |change: &dyn Fn(&mut v1::Site)| {
        let mut site = v1::Site { site_id: "north".into(), ..v1::Site::default() };
        change(&mut site);
        Entry::Site(site)
    };
    let reader = |change: &dyn Fn(&mut v1::Reader)| {
        let mut reader = reader();
        change(&mut reader);
        Entry::Reader(reader)
    };
    let overflow = |change: &dyn Fn(&mut v1::Overflow)| {
        let mut overflow = v1::Overflow { to_pool_id: "center".into(), ..v1::Overflow::default() };
        change(&mut overflow);
        let pool_id = "north".into();
        Entry::Pool(v1::Pool { pool_id, overflow: Some(overflow), ..v1::Pool::default() })
    };
    let cell = Cell::new().await;
    let running = cell.serve().await;
    let cases = [
        (site(&|s| s.site_id = "North".into()), "entry.site.site_id"),
        (site(&|s| s.ae_titles = vec!["CT1".into(), "A\\B".into()]), "entry.site.ae_titles[1]"),
        (site(&|s| s.ae_titles = vec!["CT1".into(), "CT1".into()]), "entry.site.ae_titles[1]"),
        (site(&|s| s.quiet_period = seconds(0)), "entry.site.quiet_period"),
        (site(&|s| s.max_assembly = seconds(100_000)), "entry.site.max_assembly"),
        (site(&|s| (s.quiet_period, s.max_assembly) = (seconds(20), seconds(10))), "entry.site.quiet_period"),
        (site(&|s| s.authority = "A\nB".into()), "entry.site.authority"),
        (reader(&|r| r.skills.clear()), "entry.reader.skills"),
        (reader(&|r| r.skills[0].modality = "ct".into()), "entry.reader.skills[0].modality"),
        (reader(&|r| r.skills[0].body_part = String::new()), "entry.reader.skills[0].body_part"),
        (reader(&|r| r.site_ids = vec!["north".into(), "*".into()]), "entry.reader.site_ids[1]"),
        (reader(&|r| r.pool_ids = vec!["a/b".into()]), "entry.reader.pool_ids[0]"),
        (Entry::Pool(v1::Pool { pool_id: "site:".into(), ..v1::Pool::default() }), "entry.pool.pool_id"),
        (site(&|s| s.jurisdiction = "RU".into()), "entry.site.jurisdiction"),
        (site(&|s| s.time_zone = "Europe/Moskva".into()), "entry.site.time_zone"),
        (overflow(&|o| o.to_pool_id = "north".into()), "entry.pool.overflow.to_pool_id"),
        (overflow(&|o| o.to_pool_id = String::new()), "entry.pool.overflow.to_pool_id"),
        (overflow(&|o| o.at_percent = 101), "entry.pool.overflow.at_percent"),
        (overflow(&|o| o.predicted_wait = seconds(1)), "entry.pool.overflow.predicted_wait"),
    ];
    for (entry, field) in cases {
        refused(&running, entry, field).await;
    }
    for address in
        ["", "127.0.0.1:9000", "ftp://a:1", "http://a", "http://a:0", "http://a:1/x", "http://u@a:1"]
    {
        let entry = v1::AiService { address: address.into(), ..ai() };
        refused(&running, Entry::AiService(entry), "entry.ai_service.address").await;
    }
    for mllp in ["", "ris", "ris:", "ris:0", "ris:70000", "http://ris:1", ":1", "::1:2575", "ris:+1"] {
        let entry = v1::Destination { mllp: mllp.into(), ..destination() };
        refused(&running, Entry::Destination(entry), "entry.destination.mllp").await;
    }
    let grpc = v1::Destination { protocol: v1::DestinationProtocol::Grpc.into(), ..destination() };
    refused(&running, Entry::Destination(grpc.clone()), "entry.destination.mllp").await;
    let unknown = v1::Destination { protocol: 9, ..destination() };
    refused(&running, Entry::Destination(unknown), "entry.destination.protocol").await;
    put(&running, Entry::Destination(v1::Destination { mllp: String::new(), ..grpc }), "g").await.unwrap();
    put(&running, Entry::Destination(v1::Destination { mllp: "[::1]:2575".into(), ..destination() }), "r")
        .await
        .unwrap();
    running.stop().await;
}

#[tokio::test]
async fn a_wrong_reader_is_refused_by_the_name_of_its_field_and_an_expired_licence_is_not() {
    let cell = Cell::new().await;
    let running = cell.serve().await;
    type Change<'a> = &'a dyn Fn(&mut v1::Reader);
    let cases: [(Change<'_>, &str); 22] = [
        (&|r| r.grade = 9, "entry.reader.grade"),
        (&|r| r.home_site_id = "North".into(), "entry.reader.home_site_id"),
        (&|r| r.target_percent = 201, "entry.reader.target_percent"),
        (&|r| r.capacity = -1.0, "entry.reader.capacity"),
        (&|r| r.capacity = f64::NAN, "entry.reader.capacity"),
        (&|r| r.capacity = 1e9, "entry.reader.capacity"),
        (&|r| r.licences[1].jurisdiction = "ru".into(), "entry.reader.licences[1].jurisdiction"),
        (&|r| r.licences[0].valid_until.as_mut().unwrap().nanos = -1, "entry.reader.licences[0].valid_until"),
        (&|r| r.licences = vec![v1::Licence::default(); 33], "entry.reader.licences"),
        (&|r| r.conflict_patient_refs = vec!["Doe".into()], "entry.reader.conflict_patient_refs[0]"),
        (&|r| r.conflict_site_ids.push("south".into()), "entry.reader.conflict_site_ids[1]"),
        (&|r| plan(r).time_zone = "Mars/Olympus".into(), "entry.reader.roster.time_zone"),
        (&|r| plan(r).time_zone = "../etc".into(), "entry.reader.roster.time_zone"),
        (&|r| plan(r).shifts[0].days.clear(), "entry.reader.roster.shifts[0].days"),
        (&|r| plan(r).shifts[0].days[0] = 8, "entry.reader.roster.shifts[0].days"),
        (&|r| plan(r).shifts[0].hours = None, "entry.reader.roster.shifts[0].hours"),
        (&|r| first(r).start = "25:00".into(), "entry.reader.roster.shifts[0].hours.start"),
        (&|r| first(r).end = "20:00".into(), "entry.reader.roster.shifts[0].hours.end"),
        (&|r| first(r).breaks[0].end = "09:00".into(), "entry.reader.roster.shifts[0].hours.breaks[0]"),
        (
            &|r| {
                let shift = plan(r).shifts[0].clone();
                plan(r).shifts.push(shift)
            },
            "entry.reader.roster.shifts[1]",
        ),
        (&|r| plan(r).exceptions[0].date = "2026-02-29".into(), "entry.reader.roster.exceptions[0].date"),
        (
            &|r| {
                let off = plan(r).exceptions[0].clone();
                plan(r).exceptions.push(off)
            },
            "entry.reader.roster.exceptions[1].date",
        ),
    ];
    for (change, field) in cases {
        let mut reader = rostered();
        change(&mut reader);
        refused(&running, Entry::Reader(reader), field).await;
    }
    let mut expired = rostered();
    expired.licences[0].valid_until = Some(isocenter_wire::timestamp(isocenter_domain::Time(1_000_000)));
    let listed = put(&running, Entry::Reader(expired.clone()), "x").await.unwrap().entry;
    assert_eq!(listed, Some(Entry::Reader(expired)));
    running.stop().await;
}

fn plan(reader: &mut v1::Reader) -> &mut v1::Roster {
    reader.roster.as_mut().unwrap()
}

fn first(reader: &mut v1::Reader) -> &mut v1::Hours {
    plan(reader).shifts[0].hours.as_mut().unwrap()
}

/// A resident with all there is to say.
fn rostered() -> v1::Reader {
    let pause = v1::Break { start: "00:00".into(), end: "00:45".into() };
    let night = v1::Hours { start: "20:00".into(), end: "08:00".into(), breaks: vec![pause] };
    let until = Some(isocenter_wire::timestamp(isocenter_domain::Time(1_900_000_000_000_000)));
    v1::Reader {
        reader_id: "boris".into(),
        grade: v1::ReaderGrade::Resident.into(),
        licences: vec![
            v1::Licence { jurisdiction: "ru".into(), valid_until: until },
            v1::Licence { jurisdiction: "kz".into(), valid_until: None },
        ],
        paediatric: true,
        home_site_id: "north".into(),
        roster: Some(v1::Roster {
            time_zone: "Asia/Vladivostok".into(),
            shifts: vec![v1::Shift { days: vec![1, 2, 5, 7], hours: Some(night) }],
            exceptions: vec![v1::RosterException { date: "2026-12-31".into(), hours: Vec::new() }],
        }),
        target_percent: 50,
        capacity: 62.5,
        conflict_patient_refs: vec!["aeaqcaibaeaqcaibaeaqcaibae".into()],
        conflict_site_ids: vec!["south".into()],
        ..reader()
    }
}

async fn refused(running: &Running, entry: Entry, field: &str) {
    let shown = format!("{entry:?}");
    let refused = put(running, entry, "r").await.expect_err(&shown);
    assert_eq!(refused.code(), Code::InvalidArgument, "{shown}");
    let fields = refused.get_details_bad_request().unwrap().field_violations;
    assert_eq!(fields[0].field, field, "{shown}: {}", fields[0].description);
}

#[tokio::test]
async fn an_ae_title_is_one_sites_also_where_two_replicas_are_asked_at_once() {
    let cell = Cell::new().await;
    let (a, b) = (cell.serve().await, cell.serve().await);
    put(&a, site("north", &["CT1"]), "r1").await.unwrap();
    let refused = put(&b, site("south", &["MR1", "CT1"]), "r1").await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
    assert!(refused.message().contains("CT1 belongs to site north"), "{}", refused.message());
    assert_eq!(refused.get_details_bad_request().unwrap().field_violations[0].field, "entry.site.ae_titles");

    for n in 0..20 {
        let title = format!("DX{n}");
        let (left, right) = (format!("left-{n}"), format!("right-{n}"));
        let titles = [title.as_str()];
        let (one, other) =
            tokio::join!(put(&a, site(&left, &titles), "r1"), put(&b, site(&right, &titles), "r1"));
        assert!(one.is_ok() != other.is_ok(), "{title}: {one:?} {other:?}");
        let lost = one.err().or(other.err()).unwrap();
        assert_eq!(lost.code(), Code::AlreadyExists, "{title}: {lost:?}");
    }
    a.stop().await;
    b.stop().await;
}
