//! Registry entries from and to the wire. What is refused names its field as the proto spells it.

use std::time::Duration;

use isocenter_domain::{
    id::{Id, IdKind},
    key::RegistryItem,
    record::registry::{AiService, Destination, Entry, Grade, Pool, Reader, Site, Sites, Skill, Via},
};
use isocenter_runtime::status::Answer;
use isocenter_wire::{
    std_duration,
    v1::{self, registry_entry::Entry as Wire},
};
use tonic::{Status, transport::Uri};

use super::id;

/// Stands for every site, modality or body part.
const ANY: &str = "*";
/// The longest value of DICOM CS (PS3.5 §6.2).
const CS_LIMIT: usize = 16;
/// The longest authority: DICOM LO (PS3.5 §6.2), as (0010,0021) is.
const AUTHORITY_LIMIT: usize = 64;
/// The longest HD of HL7 v2.5.1 §2.A.33: MSH-5 and MSH-6.
const HD_LIMIT: usize = 227;
/// The longest text for people: the record that holds it has at most 4 KiB.
const DESCRIPTION_LIMIT: usize = 1_024;
/// Shorter, and every pause between two series would end a study; longer, and nobody would read it in time.
const QUIET: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60 * 60));
/// A study whose sender never stops is whole after a day at the latest.
const ASSEMBLY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(24 * 60 * 60));

/// The item and the entry of a request.
///
/// # Errors
/// `INVALID_ARGUMENT` that names the first field that is wrong.
pub(super) fn checked(entry: Option<v1::RegistryEntry>) -> Result<(RegistryItem, Entry), Status> {
    let Some(entry) = entry.and_then(|entry| entry.entry) else {
        return wrong("entry", "is absent; give a site, reader, pool, AI service or destination");
    };
    Ok(match entry {
        Wire::Site(s) => (RegistryItem::Site(id(&s.site_id, "entry.site.site_id")?), Entry::Site(site(s)?)),
        Wire::Reader(r) => {
            (RegistryItem::Reader(id(&r.reader_id, "entry.reader.reader_id")?), Entry::Reader(reader(r)?))
        }
        Wire::Pool(p) => {
            let item = RegistryItem::Pool(id(&p.pool_id, "entry.pool.pool_id")?);
            text(&p.description, "entry.pool.description", DESCRIPTION_LIMIT)?;
            (item, Entry::Pool(Pool { description: p.description }))
        }
        Wire::AiService(a) => {
            (RegistryItem::Ai(id(&a.service_id, "entry.ai_service.service_id")?), Entry::Ai(ai_service(a)?))
        }
        Wire::Destination(d) => {
            let item = RegistryItem::Destination(id(&d.destination_id, "entry.destination.destination_id")?);
            (item, Entry::Destination(destination(d)?))
        }
    })
}

fn wrong<T>(field: impl Into<String>, why: impl Into<String>) -> Result<T, Status> {
    Err(Answer::invalid(field, why).status())
}

fn site(s: v1::Site) -> Result<Site, Status> {
    let ae_titles = ids(&s.ae_titles, "entry.site.ae_titles")?;
    text(&s.authority, "entry.site.authority", AUTHORITY_LIMIT)?;
    let quiet_period = period(s.quiet_period, "entry.site.quiet_period", QUIET)?;
    let max_assembly = period(s.max_assembly, "entry.site.max_assembly", ASSEMBLY)?;
    if let (Some(quiet), Some(bound)) = (quiet_period, max_assembly)
        && quiet > bound
    {
        return wrong("entry.site.quiet_period", "is longer than max_assembly");
    }
    Ok(Site { ae_titles, authority: s.authority, quiet_period, max_assembly })
}

fn reader(r: v1::Reader) -> Result<Reader, Status> {
    if r.skills.is_empty() {
        return wrong(
            "entry.reader.skills",
            "is empty; name at least one modality and body part, `*` for any",
        );
    }
    let mut skills = Vec::with_capacity(r.skills.len());
    for (i, skill) in r.skills.into_iter().enumerate() {
        code(&skill.modality, || format!("entry.reader.skills[{i}].modality"))?;
        code(&skill.body_part, || format!("entry.reader.skills[{i}].body_part"))?;
        skills.push(Skill { modality: skill.modality, body_part: skill.body_part });
    }
    let sites = match r.site_ids.as_slice() {
        [any] if any == ANY => Sites::All,
        sites => Sites::Some(ids(sites, "entry.reader.site_ids")?),
    };
    let pools = ids(&r.pool_ids, "entry.reader.pool_ids")?;
    Ok(Reader { skills, sites, pools, grade: Grade::Attending })
}

fn ai_service(a: v1::AiService) -> Result<AiService, Status> {
    address(&a.address)?;
    let receives_original = match v1::AiReceives::try_from(a.receives) {
        Ok(v1::AiReceives::Original) => true,
        Ok(v1::AiReceives::Unspecified) => false,
        Err(_) => return wrong("entry.ai_service.receives", "is not a value this version knows"),
    };
    Ok(AiService { address: a.address, receives_original, max_concurrency: a.max_concurrency.max(1) })
}

fn destination(d: v1::Destination) -> Result<Destination, Status> {
    let via = via(&d)?;
    text(&d.receiving_application, "entry.destination.receiving_application", HD_LIMIT)?;
    text(&d.receiving_facility, "entry.destination.receiving_facility", HD_LIMIT)?;
    Ok(Destination { via, application: d.receiving_application, facility: d.receiving_facility })
}

fn via(d: &v1::Destination) -> Result<Via, Status> {
    use v1::DestinationProtocol as Protocol;
    let field = "entry.destination.protocol";
    match Protocol::try_from(d.protocol) {
        Ok(Protocol::Unspecified | Protocol::Mllp) => mllp(&d.mllp).map(|()| Via::Mllp(d.mllp.clone())),
        Ok(Protocol::MllpOverTls) => mllp(&d.mllp).map(|()| Via::MllpOverTls(d.mllp.clone())),
        Ok(Protocol::Grpc) if d.mllp.is_empty() => Ok(Via::Grpc),
        Ok(Protocol::Grpc) => wrong("entry.destination.mllp", "is for MLLP; a destination of gRPC has none"),
        Err(_) => wrong(field, "is not a value this version knows"),
    }
}

/// Identifiers, each once.
fn ids<K: IdKind>(texts: &[String], field: &str) -> Result<Vec<Id<K>>, Status> {
    let mut found: Vec<Id<K>> = Vec::with_capacity(texts.len());
    for (i, text) in texts.iter().enumerate() {
        let next = id(text, &format!("{field}[{i}]"))?;
        if found.contains(&next) {
            return wrong(format!("{field}[{i}]"), "is in the list already");
        }
        found.push(next);
    }
    Ok(found)
}

fn text(value: &str, field: &str, limit: usize) -> Result<(), Status> {
    if value.len() > limit {
        return wrong(field, format!("is longer than {limit} bytes"));
    }
    if value.chars().any(char::is_control) {
        return wrong(field, "has a control character");
    }
    Ok(())
}

/// A DICOM CS (PS3.5 §6.2) or `*`.
fn code(value: &str, field: impl Fn() -> String) -> Result<(), Status> {
    let cs = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_' || b == b' ';
    let whole = !value.is_empty() && value.len() <= CS_LIMIT && value.trim() == value;
    if value == ANY || (whole && value.bytes().all(cs)) {
        return Ok(());
    }
    wrong(field(), "is not 1 to 16 of A-Z, 0-9, '_' and space, nor `*`")
}

fn period(
    value: Option<isocenter_wire::Duration>,
    field: &'static str,
    (least, most): (Duration, Duration),
) -> Result<Option<Duration>, Status> {
    let Some(value) = value else { return Ok(None) };
    let period = std_duration(&value, field).map_err(|e| Answer::invalid(field, e.why).status())?;
    if period < least || period > most {
        let (least, most) =
            (isocenter_runtime::config::Period(least), isocenter_runtime::config::Period(most));
        return wrong(field, format!("is not between {least} and {most}"));
    }
    Ok(Some(period))
}

fn address(value: &str) -> Result<(), Status> {
    let uri = value.parse::<Uri>().ok().filter(|uri| {
        uri.scheme_str().is_some_and(|scheme| ["http", "https"].contains(&scheme))
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri.port_u16().is_some_and(|port| port != 0)
            && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
            && uri.path() == "/"
            && uri.query().is_none()
    });
    match uri {
        Some(_) => Ok(()),
        None => wrong("entry.ai_service.address", "is not http://host:port or https://host:port"),
    }
}

fn mllp(value: &str) -> Result<(), Status> {
    let formed = value.rsplit_once(':').is_some_and(|(host, port)| {
        // An IPv6 address has colons of its own and so stands in brackets.
        let name = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let named = match name {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
                !host.is_empty() && host.len() <= 253 && host.bytes().all(ok)
            }
        };
        named && port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    if formed { Ok(()) } else { wrong("entry.destination.mllp", "is not host:port") }
}

/// An entry as callers see it.
pub(super) fn shown(item: &RegistryItem, entry: &Entry) -> v1::RegistryEntry {
    let name = item_id(item).to_owned();
    let entry = match entry.clone() {
        Entry::Site(s) => Wire::Site(v1::Site {
            site_id: name,
            ae_titles: texts(&s.ae_titles),
            authority: s.authority,
            quiet_period: s.quiet_period.map(isocenter_wire::duration),
            max_assembly: s.max_assembly.map(isocenter_wire::duration),
        }),
        Entry::Reader(r) => Wire::Reader(v1::Reader {
            reader_id: name,
            skills: r
                .skills
                .into_iter()
                .map(|s| v1::Skill { modality: s.modality, body_part: s.body_part })
                .collect(),
            site_ids: match r.sites {
                Sites::All => vec![ANY.to_owned()],
                Sites::Some(sites) => texts(&sites),
            },
            pool_ids: texts(&r.pools),
        }),
        Entry::Pool(p) => Wire::Pool(v1::Pool { pool_id: name, description: p.description }),
        Entry::Ai(a) => Wire::AiService(v1::AiService {
            service_id: name,
            address: a.address,
            receives: match a.receives_original {
                true => v1::AiReceives::Original.into(),
                false => v1::AiReceives::Unspecified.into(),
            },
            max_concurrency: a.max_concurrency,
        }),
        Entry::Destination(d) => {
            let (protocol, mllp) = match d.via {
                Via::Mllp(address) => (v1::DestinationProtocol::Mllp, address),
                Via::MllpOverTls(address) => (v1::DestinationProtocol::MllpOverTls, address),
                Via::Grpc => (v1::DestinationProtocol::Grpc, String::new()),
            };
            Wire::Destination(v1::Destination {
                destination_id: name,
                mllp,
                receiving_application: d.application,
                receiving_facility: d.facility,
                protocol: protocol.into(),
            })
        }
    };
    v1::RegistryEntry { entry: Some(entry) }
}

fn texts<K: IdKind>(ids: &[Id<K>]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

/// The id of an item, as its key ends.
pub(super) fn item_id(item: &RegistryItem) -> &str {
    match item {
        RegistryItem::Site(id) => id.as_str(),
        RegistryItem::Reader(id) => id.as_str(),
        RegistryItem::Pool(id) => id.as_str(),
        RegistryItem::Ai(id) => id.as_str(),
        RegistryItem::Destination(id) => id.as_str(),
    }
}

/// The part of a key that says the kind.
pub(super) const fn kind_segment(kind: v1::RegistryKind) -> &'static str {
    match kind {
        v1::RegistryKind::Unspecified => "",
        v1::RegistryKind::Site => "site",
        v1::RegistryKind::Reader => "reader",
        v1::RegistryKind::Pool => "pool",
        v1::RegistryKind::AiService => "ai",
        v1::RegistryKind::Destination => "destination",
    }
}
