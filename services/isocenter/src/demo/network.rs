//! The demo's network: two sites, a reference center, one regional pool, four readers, one AI vendor with two services, one
//! HL7 receiver. Registered as an operator would, and speaking to Isocenter over sockets only.

use std::time::Duration;

use anyhow::{Context as _, Result};
use isocenter_domain::id::{AeTitle, ReaderId};
use isocenter_peers::{
    LOOPBACK,
    reader::{Reader, ReaderConfig},
    receiver::Receiver,
    sample::Algorithm,
    vendor::{Vendor, VendorConfig},
};
use isocenter_runtime::{clock, task::Tasks};
use isocenter_wire::v1::{
    AiReceives, AiService, ApplyPolicyRequest, Destination, Overflow, Pool, PutRequest,
    Reader as ReaderEntry, RegistryEntry, Site, Skill, registry_client::RegistryClient,
    registry_entry::Entry, routing_client::RoutingClient,
};
use tonic::transport::Channel;

use crate::command::request_id;

/// The AE title under which the demo answers.
pub const CALLED: &str = "ISOCENTER";
/// Site and the AE title of its modality.
pub const SITES: [(&str, &str); 2] = [("north", "NORTH_CT"), ("south", "SOUTH_XR")];
/// Two subspecialists and a generalist of the center, and one reader of a site's own.
const READERS: [Person; 4] = [
    Person { id: "neuro", pools: &["neuro", "reference-center"], skills: &[("CT", "*"), ("MR", "*")] },
    Person {
        id: "mammo",
        pools: &["mammo", "reference-center"],
        skills: &[("MG", "*"), ("US", "*"), ("CR", "*"), ("DX", "*")],
    },
    Person { id: "general", pools: &["reference-center"], skills: &[("*", "*")] },
    Person { id: "regional", pools: &["site:north"], skills: &[("CR", "CHEST"), ("DX", "CHEST")] },
];

/// A reader of the demo.
struct Person {
    id: &'static str,
    pools: &'static [&'static str],
    /// Modality and body part.
    skills: &'static [(&'static str, &'static str)],
}

/// AI service and what it computes.
const SERVICES: [(&str, Algorithm); 2] =
    [("sample-density", Algorithm::Density), ("sample-opacity", Algorithm::Opacity)];

/// The peers, running.
pub struct Network {
    /// Takes the reports.
    pub receiver: Receiver,
    /// The readers.
    pub readers: Vec<(&'static str, Reader)>,
}

impl Network {
    /// Starts the peers on `tasks` and registers them with the server at `server`.
    pub async fn start(server: &str, channel: Channel, seed: u64, tasks: &Tasks) -> Result<Self> {
        let receiver = Receiver::start(LOOPBACK, clock::system(), tasks).await?;
        let mut registry = RegistryClient::new(channel.clone());
        for (id, algorithm) in SERVICES {
            let vendor = Vendor::start(LOOPBACK, VendorConfig::new(algorithm), tasks).await?;
            let entry = Entry::AiService(AiService {
                service_id: id.into(),
                address: vendor.url(),
                receives: AiReceives::Original.into(),
                max_concurrency: 2,
            });
            put(&mut registry, entry).await?;
        }
        for (site, ae_title) in SITES {
            for entry in site_entries(site, ae_title, &receiver) {
                put(&mut registry, entry).await?;
            }
        }
        for (pool, description) in [
            ("reference-center", "every radiologist of the reference center"),
            ("neuro", "neuroradiologists of the reference center"),
            ("mammo", "breast radiologists of the reference center"),
            ("site:north", "the northern site's own"),
        ] {
            let overflow = pool.starts_with("site:").then(|| Overflow {
                to_pool_id: "reference-center".into(),
                at_percent: 25,
                predicted_wait: None,
            });
            let description = description.into();
            let pool = Pool { pool_id: pool.into(), description, overflow, ..Pool::default() };
            put(&mut registry, Entry::Pool(pool)).await?;
        }
        let text = include_str!("policy.yaml").to_owned();
        let request = ApplyPolicyRequest { text, request_id: request_id() };
        RoutingClient::new(channel).apply_policy(request).await.context("the demo's policy was refused")?;
        let mut readers = Vec::new();
        for person in READERS {
            let id = person.id;
            put(&mut registry, person.entry()).await?;
            let id_typed: ReaderId = id.parse().context("a literal is a reader id")?;
            let config = ReaderConfig {
                think: Duration::from_millis(150)..Duration::from_millis(900),
                return_share: if id == "neuro" { 0.1 } else { 0.0 },
                ..ReaderConfig::new(id_typed, server.to_owned(), seed)
            };
            readers.push((id, Reader::start(config, tasks)?));
        }
        Ok(Self { receiver, readers })
    }

    /// Reports signed so far, by all readers.
    pub fn signed(&self) -> u64 {
        self.readers.iter().map(|(_, reader)| reader.counts().signed).sum()
    }
}

/// The modality's AE title of the n-th study.
pub fn calling(study: usize) -> Result<AeTitle> {
    SITES[study % SITES.len()].1.parse().context("a literal is an AE title")
}

fn site_entries(site: &str, ae_title: &str, receiver: &Receiver) -> [Entry; 2] {
    let authority = format!("{}-HOSPITAL", site.to_uppercase());
    let ae_titles = vec![ae_title.to_owned()];
    [
        Entry::Site(Site { site_id: site.into(), ae_titles, authority, ..Site::default() }),
        Entry::Destination(Destination {
            destination_id: site.into(),
            mllp: receiver.address().to_string(),
            receiving_application: "RIS".into(),
            receiving_facility: site.to_uppercase(),
            ..Default::default()
        }),
    ]
}

impl Person {
    fn entry(&self) -> Entry {
        let skill = |(modality, body_part): &(&str, &str)| Skill {
            modality: (*modality).into(),
            body_part: (*body_part).into(),
        };
        Entry::Reader(ReaderEntry {
            reader_id: self.id.into(),
            skills: self.skills.iter().map(skill).collect(),
            site_ids: vec!["*".into()],
            pool_ids: self.pools.iter().map(|pool| (*pool).to_owned()).collect(),
            home_site_id: self
                .pools
                .iter()
                .find_map(|pool| pool.strip_prefix("site:"))
                .unwrap_or_default()
                .into(),
            ..ReaderEntry::default()
        })
    }
}

async fn put(registry: &mut RegistryClient<Channel>, entry: Entry) -> Result<()> {
    let entry = Some(RegistryEntry { entry: Some(entry) });
    registry.put(PutRequest { entry, request_id: request_id() }).await?;
    Ok(())
}
