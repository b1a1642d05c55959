//! Opening, returning and reassigning: compare-and-swap at any replica.

use isocenter_assign::filter;
use isocenter_domain::{
    id::{ReaderId, StudyUid},
    key::ReadKey,
    record::{
        case::{Case, CaseState},
        read::{Read, ReadEvent, ReadState, ReturnReason},
        registry::Entry,
        report::StudyRevision,
        study::Study,
    },
};
use isocenter_runtime::{random, telemetry};
use isocenter_store::table::{Cause, Change, Stored, TableError};
use isocenter_wire::v1;
use tracing::Instrument as _;

use crate::{
    desk::{ATTEMPTS, Desk},
    error::Error,
    view::reader_key,
};

/// Who does something to a read, on behalf of which request.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub key: ReadKey,
    pub reader: ReaderId,
    pub request_id: String,
    /// For the event.
    pub actor: String,
}

impl Ask {
    /// The event names the reader as well as who called: a workstation may act for a reader under a name of its own.
    pub fn cause(&self) -> Cause {
        Cause::request(&self.request_id, &self.actor).because(format!("reader {}", self.reader))
    }
}

impl Desk {
    /// Opens what was offered, or takes up again what the reader has open; answers with the token.
    pub async fn open(&self, ask: &Ask) -> Result<v1::Read, Error> {
        let mut last = TableError::Conflict.into();
        for _ in 0..ATTEMPTS {
            let read = self.read(&ask.key).await?;
            if let Some(opened) = self.opened_by(ask, &read).await? {
                return Ok(opened);
            }
            let span = telemetry::trace::joined(tracing::info_span!("open read"), &read.head.trace);
            match self.try_open(ask, &read).instrument(span).await {
                // What was committed is read back: another delivery of the request may have been first, with its token.
                Ok(()) => {}
                Err(e) if e.is_worth_rereading() => last = e,
                Err(e) => return Err(e),
            }
        }
        // The last commit may have been the one.
        let read = self.read(&ask.key).await?;
        self.opened_by(ask, &read).await?.ok_or(last)
    }

    /// The answer to a request that has opened the read.
    async fn opened_by(&self, ask: &Ask, read: &Stored<Read>) -> Result<Option<v1::Read>, Error> {
        if read.head.op_id != ask.request_id {
            return Ok(None);
        }
        let ReadState::Open { reader, token, .. } = &read.record.state else { return Ok(None) };
        if *reader != ask.reader {
            return Ok(None);
        }
        let case = self.case(&ask.key).await?;
        let mut shown = self.show(read, &case.key, &case.record);
        shown.open_token.clone_from(token);
        Ok(Some(shown))
    }

    async fn try_open(&self, ask: &Ask, read: &Stored<Read>) -> Result<(), Error> {
        let offered = match &read.record.state {
            ReadState::Signed { .. } => return Err(Error::SIGNED),
            _ if read.record.holder() != Some(&ask.reader) => return Err(Error::NOT_HELD),
            ReadState::Offered { .. } => true,
            ReadState::Open { .. } | ReadState::Waiting => false,
        };
        let case = self.case(&ask.key).await?;
        if case.record.state != CaseState::Ready {
            return Err(Error::CLOSED);
        }
        let hands = self.hands(&ask.key.tenant, &ask.reader).await?;
        if hands.holding().open.is_some_and(|open| open != ask.key.read) {
            return Err(Error::READ_OPEN);
        }
        let studies = self.studies(&ask.key.tenant, &case.record).await?;
        let mut change = self.tables.change(ask.cause());
        if offered {
            self.still_qualified(ask, read, &case.record, &mut change).await?;
        }
        let event = ReadEvent::Opened {
            reader: ask.reader.clone(),
            token: random::token(),
            studies: seen(&case.record, &studies)?,
        };
        self.apply(&mut change, read, &hands, event)?;
        change.unchanged(&case);
        for study in &studies {
            change.unchanged(study);
        }
        change.commit().await?;
        if offered {
            self.meters.opened(self.now().since(read.head.updated_at));
        }
        Ok(())
    }

    /// The hard filters once more, on the registry as it is; the change rests on its staying so.
    async fn still_qualified(
        &self,
        ask: &Ask,
        read: &Stored<Read>,
        case: &Case,
        change: &mut Change<'_>,
    ) -> Result<(), Error> {
        let entry = self.tables.load::<Entry>(&reader_key(&ask.key.tenant, &ask.reader)).await?;
        let Some(entry) = entry else { return Err(Error::NOT_REGISTERED) };
        let Some(profile) = self.view.people.of(&entry, &self.view.ledger) else {
            return Err(Error::NOT_REGISTERED);
        };
        filter::openable(&self.item(read, case), &profile, self.now()).map_err(Error::Rejected)?;
        change.unchanged(&entry);
        Ok(())
    }

    /// Gives a read back to the queue.
    pub async fn give_back(
        &self,
        ask: &Ask,
        token: Option<String>,
        reason: ReturnReason,
    ) -> Result<v1::Read, Error> {
        let mut last = TableError::Conflict.into();
        for _ in 0..ATTEMPTS {
            let read = self.read(&ask.key).await?;
            let holds = read.record.holder() == Some(&ask.reader);
            if !holds {
                // A read is never offered again to a reader who has returned it: this was done, now or before.
                let returned =
                    read.record.returns.iter().any(|r| r.reader == ask.reader && r.reason == reason);
                return if returned { self.shown(&ask.key).await } else { Err(Error::NOT_HELD) };
            }
            if let ReadState::Open { token: present, .. } = &read.record.state
                && token.as_ref() != Some(present)
            {
                return Err(Error::Stale { kept: false });
            }
            let event = ReadEvent::Returned { reader: ask.reader.clone(), token: token.clone(), reason };
            match self
                .take_back(
                    &read,
                    event,
                    ask.cause().because(format!("reader {}: {}", ask.reader, reason.name())),
                )
                .await
            {
                Ok(()) => {
                    self.meters.returned(reason);
                    return self.shown(&ask.key).await;
                }
                Err(e) if e.is_worth_rereading() => last = e,
                Err(e) => return Err(e),
            }
        }
        Err(last)
    }

    /// Takes a read back from a holder who is gone: from the one who holds it when this is called, and from nobody who
    /// is given it meanwhile.
    pub async fn reassign(&self, key: &ReadKey, cause: &Cause) -> Result<v1::Read, Error> {
        let mut last = TableError::Conflict.into();
        let mut from: Option<ReaderId> = None;
        for _ in 0..ATTEMPTS {
            let read = self.read(key).await?;
            if read.head.op_id == cause.op_id && read.record.state == ReadState::Waiting {
                return self.shown(key).await;
            }
            if matches!(read.record.state, ReadState::Signed { .. }) {
                return Err(Error::SIGNED);
            }
            let taken = |from: &ReaderId| {
                read.record.returns.iter().any(|r| r.reader == *from && r.reason == ReturnReason::Reassigned)
            };
            if from.as_ref().is_some_and(|from| read.record.holder() != Some(from) && taken(from)) {
                return self.shown(key).await;
            }
            from = from.or_else(|| read.record.holder().cloned());
            match self.take_back(&read, ReadEvent::Reassigned, cause.clone()).await {
                Ok(()) => {
                    self.meters.returned(ReturnReason::Reassigned);
                    return self.shown(key).await;
                }
                Err(e) if e.is_worth_rereading() => last = e,
                Err(e) => return Err(e),
            }
        }
        Err(last)
    }
}

/// The studies of a case at their present revisions, as what a reader who opens it sees.
fn seen(case: &Case, studies: &[Stored<Study>]) -> Result<Vec<StudyRevision>, Error> {
    let revision = |uid: &StudyUid| {
        let study = studies.iter().find(|study| study.key.study == *uid).ok_or(Error::CLOSED)?;
        Ok(StudyRevision { study: uid.clone(), revision: study.record.revision })
    };
    case.members.iter().map(revision).collect()
}
