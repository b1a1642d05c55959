//! Signing: the body into blobs first, then one transaction.

use std::collections::BTreeMap;

use bytes::Bytes;
use isocenter_domain::{
    id::{ReadId, StudyUid},
    key::{ReadKey, ReportKey},
    record::{
        case::Case,
        read::{Read, ReadEffect, ReadEvent, ReadKind},
        report::Report,
        study::Study,
    },
    refs::Digest,
};
use isocenter_runtime::telemetry;
use isocenter_store::table::{Cause, Stored, TableError, owner_range};
use isocenter_wire::v1;
use tracing::Instrument as _;

use crate::{
    desk::{ATTEMPTS, Desk, Hands},
    error::Error,
    hold::Ask,
    plan::sign::{Signature, Verdict, judge, report_kind},
};

/// The version that signing makes: a read is signed once.
const VERSION: u32 = 1;

/// Everything that one attempt rests on.
struct Loaded {
    read: Stored<Read>,
    case: Stored<Case>,
    hands: Hands,
    studies: Vec<Stored<Study>>,
    /// The highest number that a read of the case has.
    last: u32,
}

impl Desk {
    /// Signs a read with `body`, the stored form of the report's text. `Ok`: the report is durable and will be delivered.
    ///
    /// The same request again gets the first answer, for as long as the report is in the store.
    pub async fn sign(
        &self,
        ask: &Ask,
        signature: &Signature,
        body: Bytes,
    ) -> Result<v1::SignReadResponse, Error> {
        let read = self.read(&ask.key).await?;
        if let Some(answer) = self.signed_by(ask).await? {
            return Ok(answer);
        }
        let span = telemetry::trace::joined(tracing::info_span!("sign read"), &read.head.trace);
        let began = self.tables.clock().monotonic();
        let answer = self.put_and_sign(ask, signature, body).instrument(span).await?;
        self.meters.signed(self.tables.clock().monotonic().saturating_duration_since(began));
        Ok(answer)
    }

    async fn put_and_sign(
        &self,
        ask: &Ask,
        signature: &Signature,
        body: Bytes,
    ) -> Result<v1::SignReadResponse, Error> {
        let digest = Digest::of(&body);
        let path = isocenter_blobs::path::report(&ask.key.tenant, &ask.key.read, &digest);
        self.blobs.put_new(&path, body).await?;
        let mut last = TableError::Conflict.into();
        for _ in 0..ATTEMPTS {
            let loaded = self.load_for_signing(ask).await?;
            let studies: BTreeMap<StudyUid, &Study> =
                loaded.studies.iter().map(|s| (s.key.study.clone(), &s.record)).collect();
            let verdict = judge(signature, &loaded.read.record, &loaded.case.record, &studies);
            // Another delivery of this very request may have signed meanwhile.
            if matches!(&verdict, Err(_) | Ok(Verdict::Stale))
                && let Some(answer) = self.signed_by(ask).await?
            {
                return Ok(answer);
            }
            match verdict? {
                Verdict::Take { newer_images } => {
                    match self.commit_signature(ask, signature, digest, &loaded, newer_images).await {
                        Ok(()) => {
                            if loaded.read.record.kind == ReadKind::Primary {
                                self.meters.punctual(self.now() > loaded.case.record.due_at());
                            }
                            return self.signed_by(ask).await?.ok_or(Error::NotFound("report"));
                        }
                        Err(e) if e.is_worth_rereading() => last = e,
                        Err(e) => return Err(e),
                    }
                }
                Verdict::Stale => {
                    let kept = self.keep_draft(ask, digest).await?;
                    return Err(Error::Stale { kept });
                }
            }
        }
        self.signed_by(ask).await?.ok_or(last)
    }

    async fn load_for_signing(&self, ask: &Ask) -> Result<Loaded, Error> {
        // The read first: whatever it rests on is loaded after it, and compared with it in one transaction.
        let read = self.read(&ask.key).await?;
        let case = self.case(&ask.key).await?;
        let hands = self.hands(&ask.key.tenant, &ask.reader).await?;
        let studies = self.studies(&ask.key.tenant, &case.record).await?;
        let id = ask.key.read.case.as_str();
        let range = owner_range::<ReadKey>(&ask.key.tenant, id, &[id]);
        let (reads, _) = self.tables.list::<Read>(&range).await?;
        let last = reads.iter().map(|read| read.key.read.n).max().unwrap_or(ask.key.read.n);
        Ok(Loaded { read, case, hands, studies, last })
    }

    async fn commit_signature(
        &self,
        ask: &Ask,
        signature: &Signature,
        body: Digest,
        loaded: &Loaded,
        newer_images: bool,
    ) -> Result<(), Error> {
        let Loaded { read, case, hands, studies, last } = loaded;
        let mut change = self.tables.change(ask.cause());
        let now = change.now();
        let (kind, replaces) = report_kind(read.record.kind);
        let report = Report {
            kind,
            body,
            author: ask.reader.clone(),
            signed_at: now,
            studies: signature.studies.clone(),
            replaces,
            request_id: ask.request_id.clone(),
        };
        // Written first: where the answer is lost, the report tells whether this request has signed.
        change.create(&report_key(&ask.key), &report, "signed", &read.head.trace);
        let event = ReadEvent::Signed {
            reader: ask.reader.clone(),
            token: signature.token.clone(),
            version: VERSION,
            studies: signature.studies.clone(),
            newer_images,
        };
        let effects = self.apply(&mut change, read, hands, event)?;
        if effects.contains(&ReadEffect::CreateDiscrepancy) {
            let id = ReadId { case: ask.key.read.case.clone(), n: last + 1 };
            let key = ReadKey { tenant: ask.key.tenant.clone(), read: id };
            let next = Read::waiting(ReadKind::Discrepancy { of: ask.key.read.n }, now);
            self.create(&mut change, case, &key, &next);
        }
        change.unchanged(case);
        for study in studies {
            change.unchanged(study);
        }
        change.commit().await?;
        Ok(())
    }

    /// The first answer to this request, if it has signed.
    async fn signed_by(&self, ask: &Ask) -> Result<Option<v1::SignReadResponse>, Error> {
        let report = self.tables.load::<Report>(&report_key(&ask.key)).await?;
        let ours =
            |r: &Stored<Report>| r.record.request_id == ask.request_id && r.record.author == ask.reader;
        let Some(report) = report.filter(ours) else { return Ok(None) };
        Ok(Some(v1::SignReadResponse {
            read: Some(self.shown(&ask.key).await?),
            report_id: ask.key.read.to_string(),
            version: report.key.version,
            sha256: report.record.body.0.to_vec(),
        }))
    }

    /// Keeps a body whose token is stale, for the next holder to see; `false` where this reader never held the read, or
    /// it is signed: a stranger's text must not push out a holder's.
    async fn keep_draft(&self, ask: &Ask, body: Digest) -> Result<bool, Error> {
        let mut last = TableError::Conflict.into();
        for _ in 0..ATTEMPTS {
            let read = self.read(&ask.key).await?;
            let held = read.record.holder() == Some(&ask.reader)
                || read.record.returns.iter().any(|back| back.reader == ask.reader);
            if !held || !crate::plan::is_live(&read.record) {
                return Ok(false);
            }
            if read.record.drafts.contains(&body) {
                return Ok(true);
            }
            // An operation of its own: the read's open state keeps the request that opened it only until the next change.
            let cause = Cause { op_id: format!("draft-{}", ask.request_id), ..ask.cause() };
            let mut change = self.tables.change(cause);
            let event = ReadEvent::DraftKept { body };
            let name = event.name();
            let (next, _) = read.record.clone().transition(event, change.now())?;
            change.update(&read, &next, name);
            match change.commit().await.map_err(Error::from) {
                Ok(_) => return Ok(true),
                Err(e) if e.is_worth_rereading() => last = e,
                Err(e) => return Err(e),
            }
        }
        Err(last)
    }
}

fn report_key(read: &ReadKey) -> ReportKey {
    ReportKey { tenant: read.tenant.clone(), read: read.read.clone(), version: VERSION }
}
