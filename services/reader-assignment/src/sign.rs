//! Signing: the body into blobs first, then one transaction.

use std::collections::BTreeMap;

use bytes::Bytes;
use isocenter_domain::{
    Time,
    id::StudyUid,
    key::ReportKey,
    record::{
        case::Case,
        read::{Insufficiency, Read, ReadEffect, ReadEvent, ReadKind},
        registry::{Entry, Reader},
        report::{Report, ReportKind},
        study::Study,
    },
    refs::Digest,
};
use isocenter_runtime::telemetry;
use isocenter_store::table::{Cause, Change, Stored, TableError, owner_range};
use isocenter_wire::v1;
use tracing::Instrument as _;

use crate::{
    desk::{ATTEMPTS, Desk, Hands},
    error::Error,
    hold::Ask,
    plan::{
        conclude::{Among, Concluded, Said},
        sign::{Signature, Verdict, judge},
    },
    view::case_key,
};

/// Everything that one attempt rests on.
struct Loaded {
    read: Stored<Read>,
    case: Stored<Case>,
    hands: Hands,
    studies: Vec<Stored<Study>>,
    /// Every read of the case, by number.
    reads: BTreeMap<u32, Stored<Read>>,
    /// What the registry says of who signs.
    registered: (Stored<Entry>, Reader),
}

/// What a reader wants to be signed.
#[derive(Clone, Debug)]
pub(crate) enum Deed {
    /// A report.
    Report(Said),
    /// A notice that the images do not allow one.
    NonDiagnostic {
        /// Why.
        reason: Insufficiency,
        /// Whether the examination is to be repeated.
        repeat: bool,
    },
}

impl Desk {
    /// Signs a read with `body`, the stored form of the report's text. `Ok`: the report is durable and will be delivered.
    ///
    /// The same request again gets the first answer, for as long as the report is in the store.
    pub async fn sign(
        &self,
        ask: &Ask,
        signature: &Signature,
        deed: &Deed,
        body: Bytes,
    ) -> Result<v1::SignReadResponse, Error> {
        let read = self.read(&ask.key).await?;
        if let Some(answer) = self.signed_by(ask).await? {
            return Ok(answer);
        }
        let span = telemetry::trace::joined(tracing::info_span!("sign read"), &read.head.trace);
        let began = self.tables.clock().monotonic();
        let answer = self.put_and_sign(ask, signature, deed, body).instrument(span).await?;
        self.meters.signed(self.tables.clock().monotonic().saturating_duration_since(began));
        Ok(answer)
    }

    async fn put_and_sign(
        &self,
        ask: &Ask,
        signature: &Signature,
        deed: &Deed,
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
                    if let Err(refused) = self.may_continue(&loaded.registered, &loaded.case.record) {
                        self.keep_draft(ask, digest).await?;
                        return Err(refused);
                    }
                    let concluded = loaded.conclude(ask, signature, deed)?;
                    let committed = self
                        .commit_signature(ask, signature, deed, digest, &loaded, &concluded, newer_images)
                        .await;
                    match committed {
                        Ok(()) => {
                            self.count_signature(deed, &loaded, &concluded);
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
        let case = case_key(&ask.key);
        let (case, hands, reads, registered) = tokio::try_join!(
            self.case(&ask.key),
            self.hands(&ask.key.tenant, &ask.reader),
            self.reads(&case),
            self.registered(&ask.key.tenant, &ask.reader),
        )?;
        let studies = self.studies(&ask.key.tenant, &case.record).await?;
        Ok(Loaded { read, case, hands, studies, reads, registered })
    }

    #[expect(clippy::too_many_arguments, reason = "what one transaction rests on and what it writes")]
    async fn commit_signature(
        &self,
        ask: &Ask,
        signature: &Signature,
        deed: &Deed,
        body: Digest,
        loaded: &Loaded,
        concluded: &Concluded,
        newer_images: bool,
    ) -> Result<(), Error> {
        let Loaded { read, case, hands, studies, reads, registered } = loaded;
        let preliminary = concluded.kind == ReportKind::Preliminary;
        let why = match (&concluded.conclusion, preliminary) {
            (Some(conclusion), _) => format!("reader {}: {}", ask.reader, conclusion.name()),
            (None, true) => format!("reader {}: preliminary", ask.reader),
            (None, false) => format!("reader {}", ask.reader),
        };
        let mut change = self.tables.change(ask.cause().because(why));
        let now = change.now();
        let version = read.record.next_version();
        let report = Report {
            kind: concluded.kind,
            body,
            author: ask.reader.clone(),
            signed_at: now,
            studies: signature.studies.clone(),
            replaces: concluded.replaces,
            about: concluded.about,
            request_id: ask.request_id.clone(),
        };
        // Written first: where the answer is lost, the report tells whether this request has signed.
        let key = ReportKey { tenant: ask.key.tenant.clone(), read: ask.key.read.clone(), version };
        change.create(&key, &report, "signed", &read.head.trace);
        let event = event(ask, signature, deed, concluded, version, newer_images);
        let effects = self.apply(&mut change, read, &[hands], event)?;
        self.follow_up(&mut change, loaded, &effects, now);
        change.unchanged(case);
        change.unchanged(&registered.0);
        for study in studies {
            change.unchanged(study);
        }
        // What the conclusion was compared with must still be so.
        for (n, other) in reads {
            let compared = read.record.kind.about().contains(&Some(*n))
                || read.record.kind == (ReadKind::Blinded { with: *n });
            if compared {
                change.unchanged(other);
            }
        }
        change.commit().await?;
        Ok(())
    }

    /// Creates the reads that a signature leads to, in its transaction.
    fn follow_up(&self, change: &mut Change<'_>, loaded: &Loaded, effects: &[ReadEffect], now: Time) {
        let own = loaded.read.key.read.n;
        let mut n = loaded.reads.keys().max().copied().unwrap_or(own);
        for effect in effects {
            let (kind, since) = match effect {
                ReadEffect::CreateDiscrepancy { disagrees_with: None } => {
                    (ReadKind::Discrepancy { of: own, with: None }, now)
                }
                ReadEffect::CreateDiscrepancy { disagrees_with: Some(of) } => {
                    (ReadKind::Discrepancy { of: *of, with: Some(own) }, now)
                }
                ReadEffect::CreateArbitration => {
                    let ReadKind::Blinded { with } = loaded.read.record.kind else { continue };
                    // The patient has waited since the pair was made.
                    let since = loaded.read.record.waiting_since;
                    (ReadKind::Arbitration { of: own.min(with), with: own.max(with) }, since)
                }
                ReadEffect::HoldOffered(_)
                | ReadEffect::HoldOpen(_)
                | ReadEffect::HoldSuspended(_)
                | ReadEffect::Release(_)
                | ReadEffect::CreateReport => continue,
            };
            n += 1;
            self.create(change, &loaded.case, n, &Read::waiting(kind, since));
        }
    }

    fn count_signature(&self, deed: &Deed, loaded: &Loaded, concluded: &Concluded) {
        let kind = loaded.read.record.kind;
        if concluded.kind == ReportKind::Preliminary {
            return self.tally.preliminary(kind);
        }
        if kind.is_first() {
            self.meters.punctual(self.now() > loaded.case.record.due_at());
        }
        match deed {
            Deed::Report(_) => self.tally.concluded(kind, concluded.conclusion.as_ref()),
            Deed::NonDiagnostic { reason, .. } => self.tally.non_diagnostic(*reason),
        }
    }

    /// The first answer to this request, if it has signed.
    async fn signed_by(&self, ask: &Ask) -> Result<Option<v1::SignReadResponse>, Error> {
        let Ask { key, .. } = ask;
        let (id, n) = (key.read.case.as_str(), key.read.n.to_string());
        let (reports, _) =
            self.tables.list::<Report>(&owner_range::<ReportKey>(&key.tenant, id, &[id, &n])).await?;
        let ours =
            |r: &Stored<Report>| r.record.request_id == ask.request_id && r.record.author == ask.reader;
        let Some(report) = reports.into_iter().find(ours) else { return Ok(None) };
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
            if !held || !read.record.is_live() {
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

impl Loaded {
    fn conclude(&self, ask: &Ask, signature: &Signature, deed: &Deed) -> Result<Concluded, Error> {
        let mut reads: BTreeMap<u32, &Read> = self.reads.iter().map(|(n, read)| (*n, &read.record)).collect();
        let (n, grade) = (ask.key.read.n, self.registered.1.grade);
        reads.insert(n, &self.read.record);
        let among = Among { read: &self.read.record, reads: &reads };
        match deed {
            Deed::Report(said) => among.sign(said, grade, &signature.studies),
            Deed::NonDiagnostic { .. } => among.give_up(grade, &signature.studies),
        }
    }
}

fn event(
    ask: &Ask,
    signature: &Signature,
    deed: &Deed,
    concluded: &Concluded,
    version: u32,
    newer_images: bool,
) -> ReadEvent {
    let (reader, token) = (ask.reader.clone(), signature.token.clone());
    let (studies, conclusion) = (signature.studies.clone(), concluded.conclusion.clone());
    match deed {
        Deed::Report(_) if concluded.kind == ReportKind::Preliminary => {
            ReadEvent::SignedPreliminary { reader, token, studies }
        }
        Deed::Report(_) => ReadEvent::Signed { reader, token, version, studies, conclusion, newer_images },
        Deed::NonDiagnostic { reason, repeat } => ReadEvent::DeclaredNonDiagnostic {
            reader,
            token,
            version,
            studies,
            reason: *reason,
            repeat: *repeat,
            conclusion,
        },
    }
}
