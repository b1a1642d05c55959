//! Second opinions and consultations: reads that somebody asks for.

use std::collections::BTreeMap;

use bytes::Bytes;
use isocenter_domain::{
    Time,
    id::ReadId,
    key::{CaseKey, ReadKey},
    record::{
        case::{Case, CaseState},
        read::{Read, ReadKind, ReadState},
    },
    refs::Digest,
};
use isocenter_store::table::{Cause, Stored, TableError};
use isocenter_wire::{Malformed, v1};

use crate::{
    desk::{ATTEMPTS, Desk},
    error::Error,
};

/// Reads of one case that may be under way at a time, whoever asks.
const MOST: usize = 16;

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    /// The text in its stored form: it may name the patient, so that no record holds it.
    pub body: Bytes,
    /// When the answer should be signed; none: within the deadline of the case's class.
    pub due: Option<Time>,
    /// The request, for ever.
    pub cause: Cause,
}

impl Desk {
    /// Creates the read that `question` asks for: an opinion on a read, or a consultation. The same request again gets the
    /// same read.
    pub async fn ask(&self, case: &CaseKey, kind: ReadKind, question: &Question) -> Result<v1::Read, Error> {
        let mut last = TableError::Conflict.into();
        for _ in 0..ATTEMPTS {
            let loaded = self.tables.load::<Case>(case).await?.ok_or(Error::NotFound("case"))?;
            let reads = self.reads(case).await?;
            let asked = reads.values().find(|read| read.record.request_id == question.cause.op_id);
            if let Some(read) = asked {
                let same =
                    read.record.kind == kind && read.record.question == Some(Digest::of(&question.body));
                return if same { self.shown(&read.key).await } else { Err(Error::OTHER_REQUEST) };
            }
            if loaded.record.state != CaseState::Ready {
                return Err(Error::CLOSED);
            }
            if reads.values().filter(|read| read.record.is_live()).count() >= MOST {
                return Err(Error::TOO_MANY_ASKED);
            }
            if let ReadKind::SecondOpinion { of } = kind {
                may_be_asked_on(reads.get(&of))?;
            }
            if kind == ReadKind::Consultation && is_blinded(&reads) {
                return Err(Error::BLINDED);
            }
            let n = reads.keys().max().map_or(1, |last| last + 1);
            // Read 1 is the case's own, and made by its own rule.
            if n == 1 {
                return Err(Error::NotFound("read"));
            }
            match self.try_ask(&loaded, n, kind, question).await {
                Ok(key) => {
                    self.tally.asked(kind);
                    return self.shown(&key).await;
                }
                Err(e) if e.is_worth_rereading() => last = e,
                Err(e) => return Err(e),
            }
        }
        Err(last)
    }

    async fn try_ask(
        &self,
        case: &Stored<Case>,
        n: u32,
        kind: ReadKind,
        question: &Question,
    ) -> Result<ReadKey, Error> {
        let id = ReadId { case: case.key.case.clone(), n };
        let key = ReadKey { tenant: case.key.tenant.clone(), read: id };
        let digest = Digest::of(&question.body);
        let path = isocenter_blobs::path::report(&key.tenant, &key.read, &digest);
        self.blobs.put_new(&path, question.body.clone()).await?;
        let mut change = self.tables.change(question.cause.clone());
        let now = change.now();
        if question.due.is_some_and(|due| due <= now) {
            return Err(Malformed::new("due_at", "is not in the future").into());
        }
        let read = Read {
            due: question.due,
            request_id: question.cause.op_id.clone(),
            question: Some(digest),
            ..Read::waiting(kind, now)
        };
        self.create(&mut change, case, n, &read);
        change.unchanged(case);
        change.commit().await?;
        Ok(key)
    }
}

/// Whether two blinded reads have not come to a report: an answer beside them would tell one reader what the other says.
fn is_blinded(reads: &BTreeMap<u32, Stored<Read>>) -> bool {
    let of_record = || reads.values().map(|read| &read.record).filter(|read| read.kind.is_of_record());
    let pair = of_record().any(|read| matches!(read.kind, ReadKind::Blinded { .. }));
    pair && !of_record().any(|read| read.released() > 0)
}

/// An opinion is on what the case's own readers say.
fn may_be_asked_on(read: Option<&Stored<Read>>) -> Result<(), Error> {
    let Some(read) = read else { return Err(Error::NotFound("read")) };
    if !read.record.kind.is_of_record() {
        return Err(Error::NOT_OF_RECORD);
    }
    if matches!(read.record.kind, ReadKind::Blinded { .. }) && read.record.released() == 0 {
        return Err(Error::BLINDED);
    }
    match read.record.state {
        ReadState::Cancelled { .. } => Err(Error::CANCELLED),
        ReadState::Waiting
        | ReadState::AwaitingFinal
        | ReadState::Offered { .. }
        | ReadState::Open { .. }
        | ReadState::Suspended { .. }
        | ReadState::Signed { .. }
        | ReadState::NonDiagnostic { .. } => Ok(()),
    }
}
