//! Opening, setting aside, returning and reassigning: compare-and-swap at any replica.

use std::{collections::BTreeMap, time::Duration};

use isocenter_assign::{Exclusion, ReaderProfile, Rejection, filter};
use isocenter_domain::{
    Time,
    id::{ReaderId, StudyUid},
    key::ReadKey,
    record::{
        case::{Case, CaseState},
        read::{Holding, Read, ReadEvent, ReadState, ReturnReason, SuspendReason},
        registry::{Entry, Grade, Reader},
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
    lease,
    plan::{apart, item},
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
    /// Opens what was offered, takes up again what the reader has open or set aside, or, for a reason, takes a read out of
    /// the queue by its name; answers with the token, and with what the reader works from.
    pub async fn open(&self, ask: &Ask, by_name: Option<&str>) -> Result<v1::Read, Error> {
        let mut last = TableError::Conflict.into();
        for _ in 0..ATTEMPTS {
            let read = self.read(&ask.key).await?;
            if let Some(opened) = self.opened_by(ask, &read).await? {
                return Ok(opened);
            }
            let span = telemetry::trace::joined(tracing::info_span!("open read"), &read.head.trace);
            match self.try_open(ask, &read, by_name).instrument(span).await {
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
        self.show_basis(&mut shown, &ask.key, &read.record).await?;
        Ok(Some(shown))
    }

    async fn try_open(&self, ask: &Ask, read: &Stored<Read>, by_name: Option<&str>) -> Result<(), Error> {
        let taken = Taken::of(ask, &read.record, by_name)?;
        let (case, hands) = tokio::try_join!(self.case(&ask.key), self.hands(&ask.key.tenant, &ask.reader))?;
        if case.record.state != CaseState::Ready {
            return Err(Error::CLOSED);
        }
        if hands.holding().open.is_some_and(|open| open != ask.key.read) {
            return Err(Error::READ_OPEN);
        }
        self.not_outranked(ask, read, &hands.holding()).await?;
        let studies = self.studies(&ask.key.tenant, &case.record).await?;
        let (reader, token) = (ask.reader.clone(), random::token());
        let (cause, event) = match (taken, by_name) {
            (Taken::ByName, Some(why)) => {
                let cause = ask.cause().because(format!("reader {}: {why}", ask.reader));
                let studies = seen(&case.record, &studies)?;
                (cause, ReadEvent::OpenedByName { reader, token, studies })
            }
            (Taken::ByName, None) | (Taken::Offered | Taken::Again, _) => {
                let studies = seen(&case.record, &studies)?;
                (ask.cause(), ReadEvent::Opened { reader, token, studies })
            }
        };
        let mut change = self.tables.change(cause);
        match taken {
            Taken::Offered | Taken::ByName => {
                self.still_qualified(&ask.reader, read, &case, &mut change).await?;
            }
            Taken::Again => {
                let registered = self.registered(&case.key.tenant, &ask.reader).await?;
                self.may_continue(&registered, &case.record)?;
                change.unchanged(&registered.0);
            }
        }
        self.apply(&mut change, read, &[&hands], event)?;
        change.unchanged(&case);
        for study in &studies {
            change.unchanged(study);
        }
        change.commit().await?;
        match taken {
            Taken::Offered => self.meters.opened(self.now().since(read.head.updated_at)),
            Taken::ByName => self.tally.opened_by_name(),
            Taken::Again => {}
        }
        Ok(())
    }

    /// What was leased ahead is not begun while something waits that goes before it, whichever call it is begun by.
    async fn not_outranked(&self, ask: &Ask, read: &Stored<Read>, holding: &Holding) -> Result<(), Error> {
        let ReadState::Offered { until, .. } = &read.record.state else { return Ok(()) };
        if holding.open.is_some() || !lease::is_ahead(read.head.updated_at, *until) {
            return Ok(());
        }
        let profile = self.view.profile(&ask.key.tenant, &ask.reader).ok_or(Error::NOT_REGISTERED)?;
        let profile = profile.at_hand(true, 0);
        if self.outrank(&ask.key, &profile, self.now()).await? { Err(Error::OUTRANKED) } else { Ok(()) }
    }

    /// The hard filters once more, on the registry and the other reads of the case as they are; the change rests on their
    /// staying so.
    pub async fn still_qualified(
        &self,
        reader: &ReaderId,
        read: &Stored<Read>,
        case: &Stored<Case>,
        change: &mut Change<'_>,
    ) -> Result<(), Error> {
        let (registered, stored) =
            tokio::try_join!(self.registered(&case.key.tenant, reader), self.reads(&case.key))?;
        let n = read.key.read.n;
        let mut reads: BTreeMap<u32, &Read> = stored.iter().map(|(m, other)| (*m, &other.record)).collect();
        reads.insert(n, &read.record);
        let mut item = self.item(read, &case.record);
        item.excluded.extend(item::exclusions(apart::barred(n, &reads)));
        if let Some(why) = item.excluded.get(reader) {
            return Err(Error::Rejected(Rejection::Excluded(*why)));
        }
        if registered.1.grade == Grade::Resident && read.record.needs_attending() {
            return Err(Error::ATTENDING_ONLY);
        }
        self.permitted(&registered, &case.record, |profile, now| filter::openable(&item, profile, now))?;
        change.unchanged(&registered.0);
        for (m, other) in &stored {
            if apart::apart((n, &read.record), (*m, &other.record)).is_some() {
                change.unchanged(other);
            }
        }
        Ok(())
    }

    /// Whether who has begun a read may go on with it and sign it. Shifts and loads do not count: who has begun may finish.
    pub fn may_continue(&self, registered: &(Stored<Entry>, Reader), case: &Case) -> Result<(), Error> {
        let needs = item::needs(case);
        self.permitted(registered, case, |profile, now| filter::continuable(&needs, profile, now))
    }

    /// Some of the hard filters, on what the registry says of a reader as it is: the mirrors may not know of it yet.
    fn permitted(
        &self,
        (entry, registered): &(Stored<Entry>, Reader),
        case: &Case,
        filters: impl FnOnce(&ReaderProfile, Time) -> Result<(), Rejection>,
    ) -> Result<(), Error> {
        let profile = self.view.people.of(entry, &self.view.ledger).ok_or(Error::NOT_REGISTERED)?;
        filters(&profile, self.now()).map_err(Error::Rejected)?;
        let interest = case.patient.is_some_and(|patient| registered.conflicts.patients.contains(&patient));
        if interest { Err(Error::Rejected(Rejection::Excluded(Exclusion::Conflict))) } else { Ok(()) }
    }

    /// Sets an open read aside for `bound`.
    pub async fn suspend(
        &self,
        ask: &Ask,
        token: &str,
        reason: SuspendReason,
        bound: Duration,
    ) -> Result<v1::Read, Error> {
        let mut last = TableError::Conflict.into();
        for _ in 0..ATTEMPTS {
            let read = self.read(&ask.key).await?;
            if read.head.op_id == ask.request_id && matches!(read.record.state, ReadState::Suspended { .. }) {
                return self.shown(&ask.key).await;
            }
            if read.record.holder() != Some(&ask.reader) {
                return Err(Error::NOT_HELD);
            }
            if read.record.token().map(String::as_str) != Some(token) {
                return Err(Error::Stale { kept: false });
            }
            let hands = self.hands(&ask.key.tenant, &ask.reader).await?;
            if hands.holding().suspended.len() >= Holding::MAX_SUSPENDED {
                return Err(Error::TOO_MANY_SUSPENDED);
            }
            let cause = ask.cause().because(format!("reader {}: {}", ask.reader, reason.name()));
            let mut change = self.tables.change(cause);
            let until = change.now().plus(bound);
            let event =
                ReadEvent::Suspended { reader: ask.reader.clone(), token: token.to_owned(), reason, until };
            self.apply(&mut change, &read, &[&hands], event)?;
            match change.commit().await.map_err(Error::from) {
                Ok(_) => {
                    self.tally.suspended(reason);
                    return self.shown(&ask.key).await;
                }
                Err(e) if e.is_worth_rereading() => last = e,
                Err(e) => return Err(e),
            }
        }
        Err(last)
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
                let returned = read.record.left(&ask.reader, reason);
                return if returned { self.shown(&ask.key).await } else { Err(Error::NOT_HELD) };
            }
            if read.record.token().is_some_and(|present| token.as_ref() != Some(present)) {
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

    /// Takes a read back from the holder `from`, who is gone, and from nobody who is given it meanwhile.
    pub async fn reassign(&self, key: &ReadKey, from: &ReaderId, cause: &Cause) -> Result<v1::Read, Error> {
        let mut last = TableError::Conflict.into();
        for _ in 0..ATTEMPTS {
            let read = self.read(key).await?;
            if read.record.holder() != Some(from) {
                // Nobody is offered again what was taken from him: this was done, now or before.
                let taken = read.record.left(from, ReturnReason::Reassigned);
                return if taken { self.shown(key).await } else { Err(Error::NOT_HELD) };
            }
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

/// How a read comes into a reader's hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    /// It was offered or handed to him.
    Offered,
    /// He had it open or set aside.
    Again,
    /// Out of the queue.
    ByName,
}

impl Taken {
    fn of(ask: &Ask, read: &Read, by_name: Option<&str>) -> Result<Self, Error> {
        over(read)?;
        let ours = read.holder() == Some(&ask.reader);
        match &read.state {
            ReadState::Offered { .. } if ours => Ok(Self::Offered),
            ReadState::Open { .. } | ReadState::Suspended { .. } if ours => Ok(Self::Again),
            ReadState::Waiting | ReadState::AwaitingFinal if by_name.is_some() => Ok(Self::ByName),
            ReadState::Offered { .. }
            | ReadState::Open { .. }
            | ReadState::Suspended { .. }
            | ReadState::Waiting
            | ReadState::AwaitingFinal
            | ReadState::Signed { .. }
            | ReadState::NonDiagnostic { .. }
            | ReadState::Cancelled { .. } => Err(Error::NOT_HELD),
        }
    }
}

/// Refuses what is over.
pub(crate) fn over(read: &Read) -> Result<(), Error> {
    match &read.state {
        ReadState::Signed { .. } | ReadState::NonDiagnostic { .. } => Err(Error::SIGNED),
        ReadState::Cancelled { .. } => Err(Error::CANCELLED),
        ReadState::Waiting
        | ReadState::AwaitingFinal
        | ReadState::Offered { .. }
        | ReadState::Open { .. }
        | ReadState::Suspended { .. } => Ok(()),
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
