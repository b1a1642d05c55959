//! Report, delivery and lane.

use isocenter_domain::{
    Time, key,
    record::{
        delivery::{Delivery, DeliveryState, Lane},
        report::{Report, ReportKind},
    },
};

use super::{Body, Stored, field};
use crate::{
    error::Malformed,
    stored::{self, record::Body as B},
};

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
            about: self.about.unwrap_or_default(),
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
            about: (r.about != 0).then_some(r.about),
        })
    }
}

const fn kind_number(kind: ReportKind) -> u32 {
    match kind {
        ReportKind::Final => 1,
        ReportKind::Correction => 2,
        ReportKind::Preliminary => 3,
        ReportKind::NonDiagnostic => 4,
        ReportKind::Withheld => 5,
    }
}

fn from_kind(number: u32, name: &'static str) -> Result<ReportKind, Malformed> {
    match number {
        1 => Ok(ReportKind::Final),
        2 => Ok(ReportKind::Correction),
        3 => Ok(ReportKind::Preliminary),
        4 => Ok(ReportKind::NonDiagnostic),
        5 => Ok(ReportKind::Withheld),
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
            DeliveryState::Superseded { at } => (delivery.state, delivery.state_at) = (7, at.0),
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
                7 => DeliveryState::Superseded { at },
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
