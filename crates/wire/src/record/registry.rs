//! Registry entries and the active policy.

use std::time::Duration;

use isocenter_domain::{
    Time,
    record::{
        policy::ActivePolicy,
        registry::{AiService, Destination, Entry, Grade, Pool, Reader, Site, Sites, Skill, Via},
    },
};

use super::{Body, Stored, field};
use crate::{
    error::Malformed,
    stored::{self, entry::Entry as E, record::Body as B},
};

impl Stored for Entry {
    fn to_body(&self) -> Body {
        let entry = match self {
            Self::Site(s) => E::Site(stored::Site {
                ae_titles: field::texts(&s.ae_titles),
                authority: s.authority.clone(),
                quiet_period: s.quiet_period.map(field::micros).unwrap_or_default(),
                max_assembly: s.max_assembly.map(field::micros).unwrap_or_default(),
            }),
            Self::Reader(r) => {
                let (all_sites, sites) = match &r.sites {
                    Sites::All => (true, Vec::new()),
                    Sites::Some(sites) => (false, field::texts(sites)),
                };
                let skills = r.skills.iter().cloned();
                let skills = skills.map(|s| stored::Skill { modality: s.modality, body_part: s.body_part });
                E::Reader(stored::Reader {
                    skills: skills.collect(),
                    all_sites,
                    sites,
                    pools: field::texts(&r.pools),
                    grade: match r.grade {
                        Grade::Attending => 0,
                        Grade::Resident => 1,
                    },
                })
            }
            Self::Pool(p) => E::Pool(stored::Pool { description: p.description.clone() }),
            Self::Ai(a) => E::Ai(stored::AiService {
                address: a.address.clone(),
                receives_original: a.receives_original,
                max_concurrency: a.max_concurrency,
            }),
            Self::Destination(d) => {
                let (via, mllp) = match &d.via {
                    Via::Mllp(address) => (0, address.clone()),
                    Via::MllpOverTls(address) => (1, address.clone()),
                    Via::Grpc => (2, String::new()),
                };
                let (application, facility) = (d.application.clone(), d.facility.clone());
                E::Destination(stored::Destination { mllp, application, facility, via })
            }
        };
        Body(B::Entry(stored::Entry { entry: Some(entry) }))
    }

    fn from_body(body: Body) -> Result<Self, Malformed> {
        let B::Entry(stored::Entry { entry }) = body.0 else {
            return Err(Malformed::new("body", "is not a registry entry"));
        };
        Ok(match entry.ok_or_else(|| Malformed::new("entry", "is absent"))? {
            E::Site(s) => Self::Site(Site {
                ae_titles: field::ids(&s.ae_titles, "site.ae_titles")?,
                authority: s.authority,
                quiet_period: maybe(s.quiet_period, "site.quiet_period")?,
                max_assembly: maybe(s.max_assembly, "site.max_assembly")?,
            }),
            E::Reader(r) => Self::Reader(Reader {
                skills: r
                    .skills
                    .into_iter()
                    .map(|s| Skill { modality: s.modality, body_part: s.body_part })
                    .collect(),
                sites: match r.all_sites {
                    true => Sites::All,
                    false => Sites::Some(field::ids(&r.sites, "reader.sites")?),
                },
                pools: field::ids(&r.pools, "reader.pools")?,
                grade: match r.grade {
                    0 => Grade::Attending,
                    1 => Grade::Resident,
                    other => return field::unknown("reader.grade", other),
                },
            }),
            E::Pool(p) => Self::Pool(Pool { description: p.description }),
            E::Ai(a) => Self::Ai(AiService {
                address: a.address,
                receives_original: a.receives_original,
                max_concurrency: a.max_concurrency,
            }),
            E::Destination(d) => Self::Destination(Destination {
                via: match d.via {
                    0 => Via::Mllp(d.mllp),
                    1 => Via::MllpOverTls(d.mllp),
                    2 => Via::Grpc,
                    other => return field::unknown("destination.via", other),
                },
                application: d.application,
                facility: d.facility,
            }),
        })
    }
}

fn maybe(micros: i64, name: &'static str) -> Result<Option<Duration>, Malformed> {
    if micros == 0 { Ok(None) } else { field::from_micros(micros, name).map(Some) }
}

impl Stored for ActivePolicy {
    fn to_body(&self) -> Body {
        Body(B::Policy(stored::ActivePolicy {
            text: self.text.0.to_vec(),
            applied_by: self.applied_by.clone(),
            applied_at: self.applied_at.0,
        }))
    }

    fn from_body(body: Body) -> Result<Self, Malformed> {
        let B::Policy(p) = body.0 else { return Err(Malformed::new("body", "is not an active policy")) };
        Ok(Self {
            text: field::digest(&p.text, "policy.text")?,
            applied_by: p.applied_by,
            applied_at: Time(p.applied_at),
        })
    }
}
