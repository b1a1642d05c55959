//! Registry entries and the active policy.

use std::time::Duration;

use isocenter_domain::{
    Time,
    record::{
        policy::ActivePolicy,
        registry::{AiService, Destination, Entry, Overflow, Pool, PoolKind, Site, Via},
    },
};

use super::{Body, Stored, field, reader};
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
                jurisdiction: field::text(s.jurisdiction.as_ref()),
                zone: field::text(s.zone.as_ref()),
            }),
            Self::Reader(r) => E::Reader(reader::stored(r)),
            Self::Pool(p) => E::Pool(stored::Pool {
                description: p.description.clone(),
                kind: match p.kind {
                    PoolKind::Center => 1,
                    PoolKind::Site => 2,
                    PoolKind::OnCall => 3,
                },
                overflow: p.overflow.as_ref().map(|o| stored::Overflow {
                    to: o.to.to_string(),
                    at_percent: o.at_percent,
                    predicted_wait: o.predicted_wait.map(field::micros).unwrap_or_default(),
                }),
            }),
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
                jurisdiction: field::optional(&s.jurisdiction, "site.jurisdiction")?,
                zone: field::optional(&s.zone, "site.zone")?,
            }),
            E::Reader(r) => Self::Reader(reader::read(r)?),
            E::Pool(p) => Self::Pool(Pool {
                description: p.description,
                kind: match p.kind {
                    1 => PoolKind::Center,
                    2 => PoolKind::Site,
                    3 => PoolKind::OnCall,
                    other => return field::unknown("pool.kind", other),
                },
                overflow: p.overflow.map(overflow).transpose()?,
            }),
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

fn overflow(o: stored::Overflow) -> Result<Overflow, Malformed> {
    Ok(Overflow {
        to: field::id(&o.to, "pool.overflow.to")?,
        at_percent: o.at_percent,
        predicted_wait: maybe(o.predicted_wait, "pool.overflow.predicted_wait")?,
    })
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
