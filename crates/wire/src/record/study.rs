//! Study and intake.

use isocenter_domain::{
    Time,
    record::{
        intake::Intake,
        study::{Doubt, Evidence, Facts, Study, StudyState},
    },
};

use super::{Body, Stored, field};
use crate::{
    error::Malformed,
    stored::{self, record::Body as B},
};

impl Stored for Study {
    fn to_body(&self) -> Body {
        let (state, evidence, doubt) = match &self.state {
            StudyState::Receiving => (1, 0, None),
            StudyState::Complete { evidence, doubt } => (2, evidence_number(*evidence), doubt.as_ref()),
            StudyState::Closed => (3, 0, None),
        };
        Body(B::Study(stored::Study {
            site: self.site.to_string(),
            calling_ae: self.calling_ae.to_string(),
            state,
            evidence,
            doubt_node: field::text(doubt.map(|d| &d.node)),
            doubt_pending: doubt.map(|d| d.pending).unwrap_or_default(),
            revision: self.revision,
            first_received_at: self.first_received_at.0,
            complete_at: self.complete_at.unwrap_or_default().0,
            manifest: field::digest_bytes(self.manifest),
            facts: Some(facts(&self.facts)),
        }))
    }

    fn from_body(body: Body) -> Result<Self, Malformed> {
        let B::Study(s) = body.0 else { return Err(Malformed::new("body", "is not a study")) };
        let doubt = field::optional(&s.doubt_node, "study.doubt_node")?
            .map(|node| Doubt { node, pending: s.doubt_pending });
        let state = match (s.state, s.evidence) {
            (1, _) => StudyState::Receiving,
            (2, 1) => StudyState::Complete { evidence: Evidence::QuietPeriod, doubt },
            (2, 2) => StudyState::Complete { evidence: Evidence::AssemblyBound, doubt },
            (2, 3) => StudyState::Complete { evidence: Evidence::Released, doubt },
            (2, other) => return field::unknown("study.evidence", other),
            (3, _) => StudyState::Closed,
            (other, _) => return field::unknown("study.state", other),
        };
        Ok(Self {
            site: field::id(&s.site, "study.site")?,
            calling_ae: field::id(&s.calling_ae, "study.calling_ae")?,
            state,
            revision: s.revision,
            first_received_at: Time(s.first_received_at),
            complete_at: field::maybe_time(s.complete_at),
            manifest: field::maybe_digest(&s.manifest, "study.manifest")?,
            facts: from_facts(s.facts.unwrap_or_default())?,
        })
    }
}

const fn evidence_number(evidence: Evidence) -> u32 {
    match evidence {
        Evidence::QuietPeriod => 1,
        Evidence::AssemblyBound => 2,
        Evidence::Released => 3,
    }
}

fn facts(f: &Facts) -> stored::Facts {
    stored::Facts {
        modalities: f.modalities.clone(),
        body_part: f.body_part.clone(),
        procedure_code: f.procedure_code.clone(),
        order_priority: f.order_priority.clone(),
        images: f.images,
        instances: f.instances,
        series: f.series,
        bytes: f.bytes,
        patient: field::reference_bytes(f.patient),
        accession: field::reference_bytes(f.accession),
    }
}

fn from_facts(f: stored::Facts) -> Result<Facts, Malformed> {
    Ok(Facts {
        modalities: f.modalities,
        body_part: f.body_part,
        procedure_code: f.procedure_code,
        order_priority: f.order_priority,
        images: f.images,
        instances: f.instances,
        series: f.series,
        bytes: f.bytes,
        patient: field::maybe_reference(&f.patient, "facts.patient")?,
        accession: field::maybe_reference(&f.accession, "facts.accession")?,
    })
}

impl Stored for Intake {
    fn to_body(&self) -> Body {
        Body(B::Intake(stored::Intake {
            stored: self.stored,
            bytes: self.bytes,
            pending: self.pending,
            open_associations: self.open_associations,
            quarantined: self.quarantined,
            last_at: self.last_at.0,
            segment: field::digest_bytes(self.segment),
        }))
    }

    fn from_body(body: Body) -> Result<Self, Malformed> {
        let B::Intake(i) = body.0 else { return Err(Malformed::new("body", "is not an intake")) };
        Ok(Self {
            stored: i.stored,
            bytes: i.bytes,
            pending: i.pending,
            open_associations: i.open_associations,
            quarantined: i.quarantined,
            last_at: Time(i.last_at),
            segment: field::maybe_digest(&i.segment, "intake.segment")?,
        })
    }
}
