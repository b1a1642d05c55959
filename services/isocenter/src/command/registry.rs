//! `isocenter site`, `reader`, `pool`, `destination` and `ai`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use isocenter_runtime::config::Period;
use isocenter_wire::v1::{
    AiReceives, AiService, DeleteRequest, Destination, DestinationProtocol, ListRequest, Overflow, Pool,
    PoolKind, PutRequest, Reader, RegistryEntry, RegistryKind, Site, Skill, registry_client::RegistryClient,
    registry_entry::Entry,
};

use super::{connect, pages, request_id};
use crate::{
    cli::Client,
    output::{self, Usage},
};

/// Sites that send.
#[derive(Args, Debug)]
pub struct SiteArgs {
    #[command(subcommand)]
    verb: Verb<AddSite>,
    #[command(flatten)]
    client: Client,
}

/// Readers.
#[derive(Args, Debug)]
pub struct ReaderArgs {
    #[command(subcommand)]
    verb: Verb<AddReader>,
    #[command(flatten)]
    client: Client,
}

/// Pools of readers.
#[derive(Args, Debug)]
pub struct PoolArgs {
    #[command(subcommand)]
    verb: super::pool::Verb<Verb<AddPool>>,
    #[command(flatten)]
    client: Client,
}

/// Destinations of reports.
#[derive(Args, Debug)]
pub struct DestinationArgs {
    #[command(subcommand)]
    verb: Verb<AddDestination>,
    #[command(flatten)]
    client: Client,
}

/// AI services.
#[derive(Args, Debug)]
pub struct AiArgs {
    #[command(subcommand)]
    verb: super::ai::Verb<Verb<AddAi>>,
    #[command(flatten)]
    client: Client,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb<A: Args> {
    /// Create or replace an entry.
    Add(A),
    /// Every entry.
    List,
    /// Remove an entry.
    Remove {
        /// Its id.
        id: String,
    },
}

#[derive(Args, Debug)]
struct AddSite {
    /// The site's id.
    id: String,
    /// An AE title its devices call from; may be repeated.
    #[arg(long, required = true)]
    ae_title: Vec<String>,
    /// Assigning authority of patient ids that name none.
    #[arg(long, default_value = "")]
    authority: String,
    /// How long no image may have come before a study counts as whole, e.g. 30s.
    #[arg(long)]
    quiet_period: Option<Period>,
    /// The longest that assembling may take, e.g. 30m.
    #[arg(long)]
    max_assembly: Option<Period>,
    /// Where the readers of its studies must be licensed; none is asked for without.
    #[arg(long, default_value = "")]
    jurisdiction: String,
    /// Its local time, e.g. Europe/Moscow; UTC without.
    #[arg(long, default_value = "")]
    time_zone: String,
}

#[derive(Args, Debug)]
struct AddReader {
    /// The reader's id.
    id: String,
    /// What the reader is competent in: MODALITY, or MODALITY:BODYPART; * is any. May be repeated.
    #[arg(long, required = true)]
    skill: Vec<String>,
    /// A site the reader is authorized for; * is all. May be repeated.
    #[arg(long, required = true)]
    site: Vec<String>,
    /// A pool the reader belongs to; may be repeated.
    #[arg(long, required = true)]
    pool: Vec<String>,
    #[command(flatten)]
    person: super::roster::Person,
}

#[derive(Args, Debug)]
struct AddPool {
    /// The pool's id.
    id: String,
    /// For people.
    #[arg(long, default_value = "")]
    description: String,
    /// Whose readers they are; without it a site's for site:NAME, else the center's.
    #[arg(long)]
    kind: Option<Whose>,
    /// Where its work goes when it cannot be done in time.
    #[arg(long, value_name = "POOL")]
    overflow_to: Option<String>,
    /// The share of the deadline, in percent, that may pass before it does.
    #[arg(long, value_name = "PERCENT", default_value_t = 25, requires = "overflow_to")]
    overflow_at: u32,
    /// The predicted wait beyond which it does whatever the age, e.g. 2h.
    #[arg(long, value_name = "PERIOD", requires = "overflow_to")]
    overflow_wait: Option<Period>,
}

/// Whose readers a pool has.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Whose {
    /// The reference center's.
    Center,
    /// A regional site's own.
    Site,
    /// Those who are called when the others do not suffice.
    OnCall,
}

impl AddPool {
    fn entry(self) -> Pool {
        let kind = match self.kind {
            None => PoolKind::Unspecified,
            Some(Whose::Center) => PoolKind::Center,
            Some(Whose::Site) => PoolKind::Site,
            Some(Whose::OnCall) => PoolKind::OnCall,
        };
        let (at_percent, wait) = (self.overflow_at, self.overflow_wait);
        let overflow = self.overflow_to.map(|to_pool_id| Overflow {
            to_pool_id,
            at_percent,
            predicted_wait: wait.map(|p| isocenter_wire::duration(p.0)),
        });
        Pool { pool_id: self.id, description: self.description, kind: kind.into(), overflow }
    }
}

#[derive(Args, Debug)]
struct AddDestination {
    /// The destination's id; a site's own has the site's id.
    id: String,
    #[command(flatten)]
    way: Way,
    /// MSH-5.
    #[arg(long, default_value = "")]
    receiving_application: String,
    /// MSH-6.
    #[arg(long, default_value = "")]
    receiving_facility: String,
}

/// How reports get to a destination.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Way {
    /// Host and port of an HL7 v2 receiver that speaks MLLP.
    #[arg(long, value_name = "HOST:PORT")]
    hl7: Option<String>,
    /// The same within TLS.
    #[arg(long, value_name = "HOST:PORT")]
    hl7_tls: Option<String>,
    /// The destination's own system fetches them by gRPC: ReportDelivery.WatchReports.
    #[arg(long)]
    grpc: bool,
}

#[derive(Args, Debug)]
struct AddAi {
    /// The service's id.
    id: String,
    /// Its gRPC address, http://host:port.
    #[arg(long)]
    address: String,
    /// It may be sent original images, patient identity included. Without this it is sent nothing.
    #[arg(long)]
    receives_original: bool,
    /// Analyses at once.
    #[arg(long, default_value_t = 1)]
    max_concurrency: u32,
}

/// `isocenter site`.
pub async fn site(args: SiteArgs) -> Result<ExitCode> {
    let fields =
        ["siteId", "aeTitles", "authority", "quietPeriod", "maxAssembly", "jurisdiction", "timeZone"];
    run(args.verb, args.client, RegistryKind::Site, &fields, |a| {
        Ok(Entry::Site(Site {
            site_id: a.id,
            ae_titles: a.ae_title,
            authority: a.authority,
            quiet_period: a.quiet_period.map(|p| isocenter_wire::duration(p.0)),
            max_assembly: a.max_assembly.map(|p| isocenter_wire::duration(p.0)),
            jurisdiction: a.jurisdiction,
            time_zone: a.time_zone,
        }))
    })
    .await
}

/// `isocenter reader`.
pub async fn reader(args: ReaderArgs) -> Result<ExitCode> {
    let fields = [
        "readerId",
        "skills",
        "siteIds",
        "poolIds",
        "grade",
        "roster",
        "homeSiteId",
        "targetPercent",
        "capacity",
    ];
    run(args.verb, args.client, RegistryKind::Reader, &fields, |a| {
        let skills = a.skill.iter().map(|text| skill(text)).collect::<Result<_>>()?;
        let reader =
            Reader { reader_id: a.id, skills, site_ids: a.site, pool_ids: a.pool, ..Reader::default() };
        Ok(Entry::Reader(a.person.fill(reader)?))
    })
    .await
}

/// `isocenter pool`.
pub async fn pool(args: PoolArgs) -> Result<ExitCode> {
    let fields = ["poolId", "kind", "description", "overflow"];
    let verb = match args.verb {
        super::pool::Verb::Registry(verb) => verb,
        super::pool::Verb::Forecast => return super::pool::forecast(&args.client).await,
    };
    run(verb, args.client, RegistryKind::Pool, &fields, |a| Ok(Entry::Pool(a.entry()))).await
}

/// `isocenter destination`.
pub async fn destination(args: DestinationArgs) -> Result<ExitCode> {
    let fields = ["destinationId", "protocol", "mllp", "receivingApplication", "receivingFacility"];
    run(args.verb, args.client, RegistryKind::Destination, &fields, |a| {
        let (protocol, mllp) = match (a.way.hl7, a.way.hl7_tls) {
            (Some(address), _) => (DestinationProtocol::Mllp, address),
            (None, Some(address)) => (DestinationProtocol::MllpOverTls, address),
            (None, None) => (DestinationProtocol::Grpc, String::new()),
        };
        Ok(Entry::Destination(Destination {
            destination_id: a.id,
            mllp,
            receiving_application: a.receiving_application,
            receiving_facility: a.receiving_facility,
            protocol: protocol.into(),
        }))
    })
    .await
}

/// `isocenter ai`.
pub async fn ai(args: AiArgs) -> Result<ExitCode> {
    let fields = ["serviceId", "address", "receives", "maxConcurrency"];
    let verb = match args.verb {
        super::ai::Verb::Registry(verb) => verb,
        super::ai::Verb::Health => return super::ai::health(&args.client).await,
        super::ai::Verb::Check(check) => return super::ai::check(check).await,
    };
    run(verb, args.client, RegistryKind::AiService, &fields, |a| {
        let receives = if a.receives_original { AiReceives::Original } else { AiReceives::Unspecified };
        Ok(Entry::AiService(AiService {
            service_id: a.id,
            address: a.address,
            receives: receives.into(),
            max_concurrency: a.max_concurrency,
        }))
    })
    .await
}

fn skill(text: &str) -> Result<Skill> {
    let (modality, body_part) = text.split_once(':').unwrap_or((text, "*"));
    if modality.is_empty() || body_part.is_empty() {
        return Err(
            Usage(format!("--skill {text}: write MODALITY or MODALITY:BODYPART, e.g. CT:HEAD")).into()
        );
    }
    Ok(Skill { modality: modality.to_uppercase(), body_part: body_part.to_uppercase() })
}

async fn run<A: Args>(
    verb: Verb<A>,
    client: Client,
    kind: RegistryKind,
    fields: &[&str],
    entry: impl FnOnce(A) -> Result<Entry>,
) -> Result<ExitCode> {
    let entry = match verb {
        Verb::Add(add) => Some(entry(add)?),
        Verb::List => None,
        Verb::Remove { id } => {
            let request = DeleteRequest { kind: kind.into(), id, request_id: request_id() };
            RegistryClient::new(connect(&client).await?).delete(request).await?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    let mut registry = RegistryClient::new(connect(&client).await?);
    if let Some(entry) = entry {
        let entry = Some(RegistryEntry { entry: Some(entry) });
        registry.put(PutRequest { entry, request_id: request_id() }).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let entries = pages(|page_token| {
        let mut registry = registry.clone();
        async move {
            let request = ListRequest { kind: kind.into(), page_size: 1000, page_token };
            let page = registry.list(request).await?.into_inner();
            Ok((page.entries, page.next_page_token))
        }
    })
    .await?;
    if client.json {
        output::many(&entries, fields, true)?;
    } else {
        output::many(&entries.iter().map(inner).collect::<Result<Vec<_>>>()?, fields, false)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What is registered, without the wrapper that says which kind it is.
fn inner(entry: &RegistryEntry) -> Result<serde_json::Value> {
    let value = serde_json::to_value(entry)?;
    let inner = value.as_object().and_then(|fields| fields.values().next()).cloned();
    let mut inner = inner.unwrap_or_default();
    if let Some(Entry::Reader(reader)) = &entry.entry {
        if let Some(roster) = &reader.roster {
            inner["roster"] = super::roster::short(roster).into();
        }
        inner["skills"] = reader.skills.iter().map(|s| format!("{}:{}", s.modality, s.body_part)).collect();
    }
    Ok(inner)
}
