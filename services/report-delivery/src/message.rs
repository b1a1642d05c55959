//! A report version as the message that carries it.

use isocenter_domain::{
    Phi, Time,
    document::{Manifest, ReportBody},
    id::ReadId,
    key::{DeliveryKey, ReportKey},
    record::{
        delivery::Delivery,
        registry::Destination,
        report::{Report, ReportKind},
    },
};
use isocenter_hl7::{
    Oru,
    message::{
        Coded, Endpoint, Hd, Interpreter, Patient, PatientIdentifier, PersonName, ReportStatus, Sex,
        TextStyle,
    },
};

use isocenter_wire::{timestamp, v1};

/// MSH-3. Receivers know a message by it and by MSH-10, so it never changes.
const APPLICATION: &str = "ISOCENTER";

/// What a message is made of.
pub(crate) struct Parts {
    pub key: DeliveryKey,
    pub delivery: Delivery,
    pub report: Report,
    pub body: ReportBody,
    /// Of the first study that the report names, at the revision that it names.
    pub manifest: Manifest,
    pub to: Destination,
}

impl Parts {
    /// The message: byte for byte the same each time, so that a receiver that compares sees a repeat.
    pub fn oru(&self) -> Oru {
        let images = &self.manifest.images;
        let ReportKey { tenant, read, .. } = &self.key.report;
        let accession = images.accession.reveal().trim();
        let first = if accession.is_empty() { read.case.to_string() } else { accession.to_owned() };
        // A receiver knows a report by its filler order number: an opinion that bore the first report's would replace it.
        let (filler, parent) = match self.report.about {
            None => (first, None),
            Some(_) => (read.to_string(), Some(Phi::new(first))),
        };
        Oru {
            sender: endpoint(APPLICATION, tenant.as_str()),
            receiver: endpoint(&self.to.application, &self.to.facility),
            written_at: self.report.signed_at,
            control_id: self.delivery.message_id.clone(),
            utc_offset_minutes: 0,
            patient: self.patient(),
            visit: None,
            placer_order_number: None,
            filler_order_number: Phi::new(filler),
            service: self.service(),
            // DICOM's study time names no zone.
            observed_at: None,
            reported_at: self.report.signed_at,
            status: match self.report.kind {
                ReportKind::Preliminary => ReportStatus::Preliminary,
                // One that is withheld has no delivery.
                ReportKind::Final | ReportKind::Withheld => ReportStatus::Final,
                ReportKind::Correction => ReportStatus::Correction,
                ReportKind::NonDiagnostic => ReportStatus::NotObtainable,
            },
            parent,
            interpreter: Interpreter { id: self.report.author.to_string(), ..Interpreter::default() },
            studies: self.report.studies.iter().map(|s| s.study.clone()).collect(),
            findings: self.body.findings.clone(),
            impression: self.body.impression.clone(),
            text_style: TextStyle::Lines,
        }
    }

    /// The message for a receiver that fetches it: handed out for the `attempt`-th time, to be acknowledged before `until`.
    pub fn fetched(&self, attempt: u32, until: Time) -> v1::ReportMessage {
        let (images, report) = (&self.manifest.images, &self.report);
        let studies = report.studies.iter().map(|seen| v1::ReportedStudy {
            study_instance_uid: seen.study.to_string(),
            revision: seen.revision,
        });
        let status = match report.kind {
            ReportKind::Preliminary => v1::ReportStatus::Preliminary,
            ReportKind::Final => v1::ReportStatus::Final,
            ReportKind::Correction => v1::ReportStatus::Correction,
            ReportKind::NonDiagnostic => v1::ReportStatus::NoResult,
            ReportKind::Withheld => v1::ReportStatus::Withheld,
        };
        let patient = &images.patient;
        v1::ReportMessage {
            message_id: self.delivery.message_id.clone(),
            destination_id: self.key.destination.to_string(),
            attempt,
            acknowledge_before: Some(timestamp(until)),
            report: Some(v1::Report {
                report_id: self.key.report.read.to_string(),
                version: self.key.report.version,
                status: status.into(),
                case_id: self.key.report.read.case.to_string(),
                reader_id: report.author.to_string(),
                signed_at: Some(timestamp(report.signed_at)),
                findings: self.body.findings.reveal().clone(),
                impression: self.body.impression.reveal().clone(),
                sha256: report.body.0.to_vec(),
                studies: studies.collect(),
                about_report_id: report.about.map(|n| self.beside(n)).unwrap_or_default(),
            }),
            replaces: report.replaces.unwrap_or(0),
            patient: Some(v1::ReportedPatient {
                authority: patient.authority.clone(),
                patient_id: patient.id.reveal().trim().to_owned(),
                name: patient.name.reveal().clone(),
                birth_date: patient.birth_date.reveal().clone(),
                sex: patient.sex.reveal().clone(),
            }),
            accession_number: images.accession.reveal().trim().to_owned(),
            procedure: Some(v1::ReportedProcedure {
                code: images.procedure_code.trim().to_owned(),
                description: images.description.reveal().trim().to_owned(),
                modalities: images.facts(None, None).modalities,
            }),
        }
    }

    fn beside(&self, n: u32) -> String {
        let case = self.key.report.read.case.clone();
        ReadId { case, n }.to_string()
    }

    fn patient(&self) -> Patient {
        let patient = &self.manifest.images.patient;
        let id = patient.id.reveal().trim();
        let identifier = if id.is_empty() {
            // PID-3 is required. Images without a patient id are reported all the same, under the case's own number
            // and a type (table 0203) that says that it is not the patient's.
            PatientIdentifier {
                value: Phi::new(self.key.report.read.case.to_string()),
                authority: Hd::local(APPLICATION),
                type_code: "U".to_owned(),
            }
        } else {
            PatientIdentifier {
                value: Phi::new(id.to_owned()),
                authority: Hd::local(&patient.authority),
                type_code: "PI".to_owned(),
            }
        };
        Patient {
            identifiers: vec![identifier],
            name: Phi::new(PersonName::from_dicom(patient.name.reveal())),
            birth_date: patient.birth_date.clone(),
            sex: Phi::new(Sex::from_dicom(patient.sex.reveal())),
        }
    }

    /// OBR-4: the procedure as the images name it, else their modalities.
    fn service(&self) -> Coded {
        let images = &self.manifest.images;
        let code = images.procedure_code.trim().to_owned();
        let mut text = images.description.reveal().trim().to_owned();
        if text.is_empty() {
            text = images.facts(None, None).modalities.join(" ");
        }
        if text.is_empty() && code.is_empty() {
            "Imaging study".clone_into(&mut text);
        }
        // Table 0396: a local code.
        let system = if code.is_empty() { "" } else { "L" };
        Coded { code, text, system: system.to_owned() }
    }
}

fn endpoint(application: &str, facility: &str) -> Endpoint {
    Endpoint { application: Hd::local(application), facility: Hd::local(facility) }
}
