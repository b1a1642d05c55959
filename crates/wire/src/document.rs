//! Documents in blobs, converted.

use isocenter_domain::{
    Phi, Time,
    document::{
        AiFinding, AiResult, Event, Head, Images, Instance, JournalEntry, Manifest, Patient, Quarantined,
        ReportBody, Segment, Series,
    },
};
use prost::Message;

use crate::{
    error::{Malformed, Undecodable},
    record::{LEVEL, field},
    stored::{self, document::Body},
};

/// A document that has a stored form.
pub trait Stored: Sized {
    /// The bytes to keep. Equal documents have equal bytes, so that their hash can name them.
    fn encode(&self) -> Vec<u8> {
        stored::Document { level: LEVEL, body: Some(self.to_body().0) }.encode_to_vec()
    }

    /// The document in `bytes`; refused where it is damaged, of another kind, or of a level above ours.
    fn decode(bytes: &[u8]) -> Result<Self, Undecodable> {
        let document = stored::Document::decode(bytes).map_err(|e| Undecodable::Damaged(e.to_string()))?;
        if document.level > LEVEL {
            return Err(Undecodable::FromTheFuture { level: document.level, ours: LEVEL });
        }
        let body = document.body.ok_or_else(|| Undecodable::Damaged("document has no body".into()))?;
        Ok(Self::from_body(Form(body))?)
    }

    /// The stored form.
    #[doc(hidden)]
    fn to_body(&self) -> Form;
    /// The document of a stored form.
    #[doc(hidden)]
    fn from_body(body: Form) -> Result<Self, Malformed>;
}

/// A document's stored form; opaque outside this crate.
#[derive(Debug)]
#[doc(hidden)]
pub struct Form(Body);

fn wrong(what: &str) -> Malformed {
    Malformed::new("body", format!("is not {what}"))
}

impl Stored for Segment {
    fn to_body(&self) -> Form {
        Form(Body::Segment(stored::Segment {
            study: self.study.to_string(),
            node: self.node.to_string(),
            images: Some(images(&self.images)),
        }))
    }

    fn from_body(body: Form) -> Result<Self, Malformed> {
        let Body::Segment(s) = body.0 else { return Err(wrong("a segment")) };
        Ok(Self {
            study: field::id(&s.study, "segment.study")?,
            node: field::id(&s.node, "segment.node")?,
            images: from_images(s.images.unwrap_or_default())?,
        })
    }
}

impl Stored for Manifest {
    fn to_body(&self) -> Form {
        Form(Body::Manifest(stored::Manifest {
            study: self.study.to_string(),
            revision: self.revision,
            site: self.site.to_string(),
            complete_at: self.complete_at.0,
            images: Some(images(&self.images)),
        }))
    }

    fn from_body(body: Form) -> Result<Self, Malformed> {
        let Body::Manifest(m) = body.0 else { return Err(wrong("a manifest")) };
        Ok(Self {
            study: field::id(&m.study, "manifest.study")?,
            revision: m.revision,
            site: field::id(&m.site, "manifest.site")?,
            complete_at: Time(m.complete_at),
            images: from_images(m.images.unwrap_or_default())?,
        })
    }
}

fn images(i: &Images) -> stored::Images {
    stored::Images {
        authority: i.patient.authority.clone(),
        patient_id: i.patient.id.reveal().clone(),
        patient_name: i.patient.name.reveal().clone(),
        birth_date: i.patient.birth_date.reveal().clone(),
        sex: i.patient.sex.reveal().clone(),
        accession: i.accession.reveal().clone(),
        study_date: i.study_date.clone(),
        study_time: i.study_time.clone(),
        description: i.description.reveal().clone(),
        procedure_code: i.procedure_code.clone(),
        priority: i.priority.clone(),
        institution: i.institution.clone(),
        series: i
            .series
            .iter()
            .map(|(uid, s)| stored::Series {
                series: uid.to_string(),
                modality: s.modality.clone(),
                body_part: s.body_part.clone(),
                number: s.number,
                instances: s.instances.values().map(instance).collect(),
            })
            .collect(),
        quarantined: i
            .quarantined
            .iter()
            .map(|q| stored::Quarantined {
                instance: q.instance.to_string(),
                sha256: q.sha256.0.to_vec(),
                why: q.why.clone(),
            })
            .collect(),
    }
}

fn from_images(i: stored::Images) -> Result<Images, Malformed> {
    let series = i.series.into_iter().map(|s| {
        let instances =
            s.instances.into_iter().map(from_instance).map(|i| i.map(|i| (i.instance.clone(), i)));
        let instances = instances.collect::<Result<_, Malformed>>()?;
        let (modality, body_part, number) = (s.modality, s.body_part, s.number);
        Ok((field::id(&s.series, "series.series")?, Series { modality, body_part, number, instances }))
    });
    let quarantined = i.quarantined.into_iter().map(|q| {
        Ok(Quarantined {
            instance: field::id(&q.instance, "quarantined.instance")?,
            sha256: field::digest(&q.sha256, "quarantined.sha256")?,
            why: q.why,
        })
    });
    Ok(Images {
        patient: Patient {
            authority: i.authority,
            id: Phi::new(i.patient_id),
            name: Phi::new(i.patient_name),
            birth_date: Phi::new(i.birth_date),
            sex: Phi::new(i.sex),
        },
        accession: Phi::new(i.accession),
        study_date: i.study_date,
        study_time: i.study_time,
        description: Phi::new(i.description),
        procedure_code: i.procedure_code,
        priority: i.priority,
        institution: i.institution,
        series: series.collect::<Result<_, Malformed>>()?,
        quarantined: quarantined.collect::<Result<_, Malformed>>()?,
    })
}

fn instance(i: &Instance) -> stored::Instance {
    stored::Instance {
        sop_class: i.sop_class.to_string(),
        instance: i.instance.to_string(),
        transfer_syntax: i.transfer_syntax.to_string(),
        size: i.size,
        sha256: i.sha256.0.to_vec(),
        data_set: i.data_set.0.to_vec(),
        number: i.number,
        frames: i.frames,
        image: i.image,
    }
}

fn from_instance(i: stored::Instance) -> Result<Instance, Malformed> {
    Ok(Instance {
        sop_class: field::id(&i.sop_class, "instance.sop_class")?,
        instance: field::id(&i.instance, "instance.instance")?,
        transfer_syntax: field::id(&i.transfer_syntax, "instance.transfer_syntax")?,
        size: i.size,
        sha256: field::digest(&i.sha256, "instance.sha256")?,
        data_set: field::digest(&i.data_set, "instance.data_set")?,
        number: i.number,
        frames: i.frames,
        image: i.image,
    })
}

impl Stored for ReportBody {
    fn to_body(&self) -> Form {
        let (findings, impression) = (self.findings.reveal().clone(), self.impression.reveal().clone());
        Form(Body::ReportBody(stored::ReportBody { findings, impression }))
    }

    fn from_body(body: Form) -> Result<Self, Malformed> {
        let Body::ReportBody(b) = body.0 else { return Err(wrong("a report body")) };
        Ok(Self { findings: Phi::new(b.findings), impression: Phi::new(b.impression) })
    }
}

impl Stored for AiResult {
    fn to_body(&self) -> Form {
        let findings = self.findings.iter().map(|f| stored::AiFinding {
            code: f.code.clone(),
            code_scheme: f.code_scheme.clone(),
            label: f.label.clone(),
            probability: f.probability,
            instance: field::text(f.instance.as_ref()),
            frame: f.frame,
            bounds: f.bounds.clone(),
        });
        Form(Body::AiResult(stored::AiResult {
            abnormal_probability: self.abnormal_probability,
            summary: self.summary.clone(),
            findings: findings.collect(),
            model: self.model.clone(),
            model_version: self.model_version.clone(),
        }))
    }

    fn from_body(body: Form) -> Result<Self, Malformed> {
        let Body::AiResult(r) = body.0 else { return Err(wrong("an AI result")) };
        let findings = r.findings.into_iter().map(|f| {
            Ok(AiFinding {
                code: f.code,
                code_scheme: f.code_scheme,
                label: f.label,
                probability: f.probability,
                instance: field::optional(&f.instance, "finding.instance")?,
                frame: f.frame,
                bounds: f.bounds,
            })
        });
        Ok(Self {
            abnormal_probability: r.abnormal_probability,
            summary: r.summary,
            findings: findings.collect::<Result<_, Malformed>>()?,
            model: r.model,
            model_version: r.model_version,
        })
    }
}

impl Stored for Head {
    fn to_body(&self) -> Form {
        let records = self.records.iter().cloned().map(|(key, value)| stored::StoredRecord { key, value });
        Form(Body::Head(stored::Head {
            study: self.study.to_string(),
            closed_at: self.closed_at.0,
            records: records.collect(),
        }))
    }

    fn from_body(body: Form) -> Result<Self, Malformed> {
        let Body::Head(h) = body.0 else { return Err(wrong("a head")) };
        Ok(Self {
            study: field::id(&h.study, "head.study")?,
            closed_at: Time(h.closed_at),
            records: h.records.into_iter().map(|r| (r.key, r.value)).collect(),
        })
    }
}

impl Stored for Vec<JournalEntry> {
    fn to_body(&self) -> Form {
        let entries = self.iter().map(|e| stored::JournalEntry {
            key: e.event.key.clone(),
            seq: e.event.seq,
            event: e.event.event.clone(),
            actor: e.event.actor.clone(),
            reason: e.event.reason.clone(),
            at: e.event.at.0,
            op_id: e.event.op_id.clone(),
            trace: e.event.trace.clone(),
            value_seq: e.value_seq,
            value: e.value.clone(),
        });
        Form(Body::Journal(stored::Journal { entries: entries.collect() }))
    }

    fn from_body(body: Form) -> Result<Self, Malformed> {
        let Body::Journal(j) = body.0 else { return Err(wrong("a journal")) };
        let entry = |e: stored::JournalEntry| JournalEntry {
            event: Event {
                key: e.key,
                seq: e.seq,
                event: e.event,
                actor: e.actor,
                reason: e.reason,
                at: Time(e.at),
                op_id: e.op_id,
                trace: e.trace,
            },
            value_seq: e.value_seq,
            value: e.value,
        };
        Ok(j.entries.into_iter().map(entry).collect())
    }
}

#[cfg(test)]
mod tests {
    use isocenter_domain::refs::Digest;

    use super::*;

    #[test]
    fn a_manifest_reads_back_and_another_document_is_refused() {
        let instance = Instance {
            sop_class: "1.2.840.10008.5.1.4.1.1.2".parse().unwrap(),
            instance: "1.2.3.4".parse().unwrap(),
            transfer_syntax: "1.2.840.10008.1.2.1".parse().unwrap(),
            size: 12,
            sha256: Digest::of(b"a"),
            data_set: Digest::of(b"b"),
            number: 1,
            frames: 1,
            image: true,
        };
        let mut series = Series { modality: "CT".into(), body_part: "HEAD".into(), ..Series::default() };
        series.instances.insert(instance.instance.clone(), instance);
        let mut images = Images { accession: Phi::new("A1".into()), ..Images::default() };
        images.series.insert("1.2.3".parse().unwrap(), series);
        let study = "1.2".parse().unwrap();
        let site = "north".parse().unwrap();
        let manifest = Manifest { study, revision: 1, site, complete_at: Time(4), images };
        let bytes = manifest.encode();
        assert_eq!(Manifest::decode(&bytes), Ok(manifest));
        assert!(matches!(Segment::decode(&bytes), Err(Undecodable::Damaged(_))));
    }
}
