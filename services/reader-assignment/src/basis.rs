//! What a reader works from beside the images: what was asked, and the reports that the read is about.

use std::collections::BTreeMap;

use isocenter_domain::{
    document::ReportBody,
    id::ReadId,
    key::{ReadKey, ReportKey},
    record::{
        read::{Conclusion, Read, ReadKind},
        report::Report,
    },
    refs::Digest,
};
use isocenter_store::table::{Stored, owner_range};
use isocenter_wire::{document::Stored as _, v1};

use crate::{desk::Desk, error::Error, view::case_key};

impl Desk {
    /// Adds to the answer to OpenRead what nobody but the read's holder is shown.
    pub async fn show_basis(&self, shown: &mut v1::Read, key: &ReadKey, read: &Read) -> Result<(), Error> {
        if let Some(question) = &read.question {
            shown.question = self.body(key, &key.read, question).await?.impression.into_revealed();
        }
        let about = read.kind.about();
        let alone =
            about == [None, None] && read.preliminary.is_none() && read.kind != ReadKind::Consultation;
        if alone {
            return Ok(());
        }
        let id = key.read.case.as_str();
        let (reports, _) =
            self.tables.list::<Report>(&owner_range::<ReportKey>(&key.tenant, id, &[id])).await?;
        let reads = self.reads(&case_key(key)).await?;
        let wanted = |report: &Stored<Report>| {
            let n = report.key.read.n;
            let own = n == key.read.n && read.preliminary.is_some();
            // Of two blinded reads that differ neither is the case's report.
            let consulted = read.kind == ReadKind::Consultation
                && report.record.kind.is_released()
                && reads.get(&n).is_some_and(|of| of.record.kind.is_of_record());
            own || about.contains(&Some(n)) || consulted
        };
        // The last version of each: the final one of what was preliminary.
        let latest: BTreeMap<u32, &Stored<Report>> = reports
            .iter()
            .filter(|report| wanted(report))
            .map(|report| (report.key.read.n, report))
            .collect();
        for (n, report) in latest {
            let body = self.body(key, &report.key.read, &report.record.body).await?;
            let masked = matches!(read.kind, ReadKind::Review { .. });
            let conclusion = reads.get(&n).and_then(|read| read.record.conclusion.as_ref());
            shown.earlier_reports.push(v1::EarlierReport {
                report_id: report.key.read.to_string(),
                version: report.key.version,
                reader_id: if masked { String::new() } else { report.record.author.to_string() },
                findings: body.findings.into_revealed(),
                impression: body.impression.into_revealed(),
                assessment: conclusion.map(assessment).unwrap_or_default(),
            });
        }
        Ok(())
    }

    async fn body(&self, key: &ReadKey, of: &ReadId, digest: &Digest) -> Result<ReportBody, Error> {
        let path = isocenter_blobs::path::report(&key.tenant, of, digest);
        let bytes = self.blobs.get_checked(&path, digest).await?;
        Ok(ReportBody::decode(&bytes)?)
    }
}

/// The assessment of a blinded read; empty where it was non-diagnostic, or is of another kind.
pub(crate) fn assessment(conclusion: &Conclusion) -> String {
    match conclusion {
        Conclusion::Blinded { assessment: Some(assessment), .. } => assessment.to_string(),
        Conclusion::Blinded { assessment: None, .. }
        | Conclusion::Final(_)
        | Conclusion::Opinion(_)
        | Conclusion::Review(_) => String::new(),
    }
}
