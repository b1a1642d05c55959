//! Read, holding, report, delivery and lane.

use isocenter_domain::{
    Time, key,
    record::{
        delivery::{Delivery, DeliveryState, Lane},
        read::{Holding, Read, ReadKind, ReadState, Return, ReturnReason},
        report::{Report, ReportKind},
    },
};

use super::{Body, Stored, field};
use crate::{
    error::Malformed,
    stored::{self, record::Body as B},
};

impl Stored for Read {
    fn to_body(&self) -> Body {
        let mut read = stored::Read {
            waiting_since: self.waiting_since.0,
            drafts: self.drafts.iter().map(|d| d.0.to_vec()).collect(),
            ..Default::default()
        };
        (read.kind, read.discrepancy_of) = match self.kind {
            ReadKind::Primary => (1, 0),
            ReadKind::Discrepancy { of } => (2, of),
        };
        read.returns = self
            .returns
            .iter()
            .map(|r| stored::Return {
                reader: r.reader.to_string(),
                reason: reason_number(r.reason),
                at: r.at.0,
            })
            .collect();
        match &self.state {
            ReadState::Waiting => read.state = 1,
            ReadState::Offered { reader, until } => {
                (read.state, read.reader, read.state_at) = (2, reader.to_string(), until.0);
            }
            ReadState::Open { reader, token, since, studies } => {
                (read.state, read.reader, read.state_at) = (3, reader.to_string(), since.0);
                (read.token, read.studies) = (token.clone(), field::revisions(studies));
            }
            ReadState::Signed { reader, at, version, studies } => {
                (read.state, read.reader, read.state_at) = (4, reader.to_string(), at.0);
                (read.version, read.studies) = (*version, field::revisions(studies));
            }
        }
        Body(B::Read(read))
    }

    fn from_body(body: Body) -> Result<Self, Malformed> {
        let B::Read(r) = body.0 else { return Err(Malformed::new("body", "is not a read")) };
        let reader = || field::id(&r.reader, "read.reader");
        let at = Time(r.state_at);
        let state = match r.state {
            1 => ReadState::Waiting,
            2 => ReadState::Offered { reader: reader()?, until: at },
            3 => ReadState::Open {
                reader: reader()?,
                token: r.token,
                since: at,
                studies: field::from_revisions(r.studies, "read.studies")?,
            },
            4 => ReadState::Signed {
                reader: reader()?,
                at,
                version: r.version,
                studies: field::from_revisions(r.studies, "read.studies")?,
            },
            other => return field::unknown("read.state", other),
        };
        let returns = r.returns.iter().map(|ret| {
            Ok(Return {
                reader: field::id(&ret.reader, "read.returns.reader")?,
                reason: match ret.reason {
                    1 => ReturnReason::NotCompetent,
                    2 => ReturnReason::Conflict,
                    3 => ReturnReason::ImagesInsufficient,
                    4 => ReturnReason::Interrupted,
                    5 => ReturnReason::Reassigned,
                    other => return field::unknown("read.returns.reason", other),
                },
                at: Time(ret.at),
            })
        });
        Ok(Self {
            kind: match r.kind {
                1 => ReadKind::Primary,
                2 => ReadKind::Discrepancy { of: r.discrepancy_of },
                other => return field::unknown("read.kind", other),
            },
            state,
            waiting_since: Time(r.waiting_since),
            returns: returns.collect::<Result<_, Malformed>>()?,
            drafts: r.drafts.iter().map(|d| field::digest(d, "read.drafts")).collect::<Result<_, _>>()?,
        })
    }
}

const fn reason_number(reason: ReturnReason) -> u32 {
    match reason {
        ReturnReason::NotCompetent => 1,
        ReturnReason::Conflict => 2,
        ReturnReason::ImagesInsufficient => 3,
        ReturnReason::Interrupted => 4,
        ReturnReason::Reassigned => 5,
    }
}

impl Stored for Holding {
    fn to_body(&self) -> Body {
        let (offered, open) = (field::text(self.offered.as_ref()), field::text(self.open.as_ref()));
        Body(B::Holding(stored::Holding { offered, open }))
    }

    fn from_body(body: Body) -> Result<Self, Malformed> {
        let B::Holding(h) = body.0 else { return Err(Malformed::new("body", "is not a holding")) };
        Ok(Self {
            offered: field::optional(&h.offered, "holding.offered")?,
            open: field::optional(&h.open, "holding.open")?,
        })
    }
}

impl Stored for Report {
    fn to_body(&self) -> Body {
        Body(B::Report(stored::Report {
            kind: kind_number(self.kind),
            body: self.body.0.to_vec(),
            author: self.author.to_string(),
            signed_at: self.signed_at.0,
            studies: field::revisions(&self.studies),
            replaces: self.replaces.unwrap_or_default(),
            request_id: self.request_id.clone(),
        }))
    }

    fn from_body(body: Body) -> Result<Self, Malformed> {
        let B::Report(r) = body.0 else { return Err(Malformed::new("body", "is not a report")) };
        Ok(Self {
            kind: from_kind(r.kind, "report.kind")?,
            body: field::digest(&r.body, "report.body")?,
            author: field::id(&r.author, "report.author")?,
            signed_at: Time(r.signed_at),
            studies: field::from_revisions(r.studies, "report.studies")?,
            replaces: (r.replaces != 0).then_some(r.replaces),
            request_id: r.request_id,
        })
    }
}

const fn kind_number(kind: ReportKind) -> u32 {
    match kind {
        ReportKind::Final => 1,
        ReportKind::Correction => 2,
    }
}

fn from_kind(number: u32, name: &'static str) -> Result<ReportKind, Malformed> {
    match number {
        1 => Ok(ReportKind::Final),
        2 => Ok(ReportKind::Correction),
        other => field::unknown(name, other),
    }
}

impl Stored for Delivery {
    fn to_body(&self) -> Body {
        let mut delivery = stored::Delivery {
            message_id: self.message_id.clone(),
            kind: kind_number(self.kind),
            accession: self.accession.0.to_vec(),
            signed_at: self.signed_at.0,
            attempts: self.attempts,
            since: self.since.0,
            ..Default::default()
        };
        match &self.state {
            DeliveryState::Pending => delivery.state = 1,
            DeliveryState::Sent { until } => (delivery.state, delivery.state_at) = (2, until.0),
            DeliveryState::Retrying { next, error } => {
                (delivery.state, delivery.state_at, delivery.why) = (3, next.0, error.clone());
            }
            DeliveryState::ApplicationAccepted { at } => (delivery.state, delivery.state_at) = (4, at.0),
            DeliveryState::Viewed { accepted, at, by } => {
                (delivery.state, delivery.state_at) = (6, at.0);
                (delivery.accepted_at, delivery.viewed_by) = (accepted.0, by.clone());
            }
            DeliveryState::DeadLetter { reason, at } => {
                (delivery.state, delivery.state_at, delivery.why) = (5, at.0, reason.clone());
            }
        }
        Body(B::Delivery(delivery))
    }

    fn from_body(body: Body) -> Result<Self, Malformed> {
        let B::Delivery(d) = body.0 else { return Err(Malformed::new("body", "is not a delivery")) };
        let at = Time(d.state_at);
        Ok(Self {
            state: match d.state {
                1 => DeliveryState::Pending,
                2 => DeliveryState::Sent { until: at },
                3 => DeliveryState::Retrying { next: at, error: d.why },
                4 => DeliveryState::ApplicationAccepted { at },
                5 => DeliveryState::DeadLetter { reason: d.why, at },
                6 => DeliveryState::Viewed { accepted: Time(d.accepted_at), at, by: d.viewed_by },
                other => return field::unknown("delivery.state", other),
            },
            message_id: d.message_id,
            kind: from_kind(d.kind, "delivery.kind")?,
            accession: field::reference(&d.accession, "delivery.accession")?,
            signed_at: Time(d.signed_at),
            attempts: d.attempts,
            since: Time(d.since),
        })
    }
}

impl Stored for Lane {
    fn to_body(&self) -> Body {
        let in_flight = self.in_flight.as_ref().map(key::text).unwrap_or_default();
        Body(B::Lane(stored::Lane { in_flight }))
    }

    fn from_body(body: Body) -> Result<Self, Malformed> {
        let B::Lane(l) = body.0 else { return Err(Malformed::new("body", "is not a lane")) };
        if l.in_flight.is_empty() {
            return Ok(Self::default());
        }
        let not_a_key = || Malformed::new("lane.in_flight", "is not the key of a delivery");
        Ok(Self { in_flight: Some(key::parse(&l.in_flight).ok_or_else(not_a_key)?) })
    }
}
