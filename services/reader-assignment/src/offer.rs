//! Offers: made by the leader alone, each reserved in memory first and answered after its commit.

use std::sync::Arc;

use isocenter_assign::{Item, ReaderProfile, filter, next_up};
use isocenter_domain::{
    id::{ReaderId, TenantId},
    key::{HoldingKey, ReadKey},
    record::{
        case::{Case, CaseState},
        read::{Holding, Read, ReadEvent, ReadState},
    },
};
use isocenter_runtime::{random, retry::Schedule, telemetry};
use isocenter_store::{
    Compare,
    election::Fence,
    table::{Cause, Stored, TableError},
};
use isocenter_wire::v1;
use tokio::sync::oneshot;
use tracing::Instrument as _;

use crate::{
    board::{ReadReserved, ReaderReserved},
    desk::{Desk, Hands},
    error::Error,
    lease,
    presence::Known,
    reconcile::ACTOR,
    view::case_key,
};

/// Offers being committed at a time. At 20 ms for a commit this is 3,200 offers a second, a thousand times a large
/// city's peak; more in flight would only wait in the store.
pub(crate) const FLIGHTS: usize = 64;

/// Reads that may turn out to be taken before one is found that is not: each is one that the mirror is behind on.
const LOOKS: u32 = 8;

/// Between attempts to read back what is not known to have happened.
const READ_BACK: Schedule =
    Schedule::new(std::time::Duration::from_millis(200), std::time::Duration::from_secs(5));

/// Makes offers.
#[derive(Clone, Debug)]
pub(crate) struct Offers {
    desk: Arc<Desk>,
}

/// Who asks for work.
#[derive(Clone, Debug)]
struct Asking {
    tenant: TenantId,
    reader: ReaderId,
    /// For the event.
    actor: String,
}

impl Asking {
    fn holding(&self) -> HoldingKey {
        HoldingKey { tenant: self.tenant.clone(), reader: self.reader.clone() }
    }
}

/// A reader who counts as present.
struct Present {
    /// Whether offers are wanted.
    accepting: bool,
    /// Holds for as long as this is so.
    still: Compare,
}

/// What an offer rests on, as the mirrors or the store have it. The commit compares all but the profile, which the registry, rosters and
/// what was read today make up: those are looked at once more when the read is opened.
struct Basis {
    /// Holds while the reader is present as he was.
    still: Compare,
    hands: Hands,
    profile: ReaderProfile,
    read: Stored<Read>,
    case: Stored<Case>,
}

/// An offer that is about to be committed. Whatever becomes of it, read and reader are free again when it is dropped.
struct Reserved {
    read: ReadReserved,
    reader: ReaderReserved,
}

/// What an attempt came to.
enum Attempt {
    Made(Box<v1::Read>),
    /// The read was not to be had; another may be.
    Other(ReaderReserved),
}

impl Offers {
    pub fn new(desk: Arc<Desk>) -> Self {
        Self { desk }
    }

    /// The reader's standing offer, else a new one; `None` where nothing waits for this reader.
    ///
    /// The work goes on where the caller does not wait for it, so that what is reserved is never let go of halfway.
    pub async fn next(
        &self,
        tenant: TenantId,
        reader: ReaderId,
        actor: String,
    ) -> Result<Option<v1::Read>, Error> {
        let fence = self.desk.leadership.fence().ok_or(Error::NoLeader)?;
        self.under(fence, tenant, reader, actor).await
    }

    /// As [`Offers::next`], for the leader that `fence` belongs to; one who was deposed is refused by the store.
    pub async fn under(
        &self,
        fence: Fence,
        tenant: TenantId,
        reader: ReaderId,
        actor: String,
    ) -> Result<Option<v1::Read>, Error> {
        let answered = self.begin(fence, tenant, reader, actor).ok_or(Error::Busy)?;
        // The task ends without an answer only where this process does.
        answered.await.unwrap_or(Err(Error::NoLeader))
    }

    /// Sets about an offer; none where as many are being committed as may be. The answer need not be waited for.
    pub fn begin(
        &self,
        fence: Fence,
        tenant: TenantId,
        reader: ReaderId,
        actor: String,
    ) -> Option<oneshot::Receiver<Result<Option<v1::Read>, Error>>> {
        let flight = Arc::clone(&self.desk.flights).try_acquire_owned().ok()?;
        let (answer, answered) = oneshot::channel();
        let (offers, asking) = (self.clone(), Asking { tenant, reader, actor });
        self.desk.tasks.background("offer", async move {
            let offered = offers.offer(&asking, &fence).await;
            offers.note(&asking, &offered);
            // A caller that is gone asks again and is given the standing offer.
            drop(answer.send(offered));
            drop(flight);
        });
        Some(answered)
    }

    /// Who got nothing waits for work.
    fn note(&self, asking: &Asking, offered: &Result<Option<v1::Read>, Error>) {
        let key = asking.holding();
        match offered {
            Ok(None) => self.desk.board.waits(&key, self.desk.now()),
            Ok(Some(_)) | Err(_) => self.desk.board.works(&key),
        }
    }

    /// First by the mirrors, which costs one call of the store; else, and wherever they turn out to be behind, by the store.
    async fn offer(&self, asking: &Asking, fence: &Fence) -> Result<Option<v1::Read>, Error> {
        let mut reserved = self.desk.board.reserve_reader(asking.holding())?;
        let signs = &self.desk.view.presence;
        let mut present = self.present(signs.now(&asking.tenant, &asking.reader).await?)?;
        if let Some((read, basis)) = self.by_mirrors(asking, &present) {
            match self.attempt(asking, fence, Reserved { read, reader: reserved }, &basis).await? {
                Attempt::Made(read) => return Ok(Some(*read)),
                Attempt::Other(reader) => reserved = reader,
            }
            present = self.present(signs.load(&asking.tenant, &asking.reader).await?)?;
        }
        for _ in 0..LOOKS {
            let hands = self.desk.hands(&asking.tenant, &asking.reader).await?;
            let holding = hands.holding();
            if let Some(open) = &holding.open {
                let key = ReadKey { tenant: asking.tenant.clone(), read: open.clone() };
                if !self.desk.tables.load::<Read>(&key).await?.is_some_and(|read| is_held(&read, asking)) {
                    self.free(&hands, &Holding { open: None, ..holding }).await?;
                    continue;
                }
            }
            // Who has a read open is leased the one after it, if any may be.
            let busy = holding.open.is_some();
            let profile =
                self.desk.view.profile(&asking.tenant, &asking.reader).ok_or(Error::NOT_REGISTERED)?;
            // What the store says of the hands, not the mirror, which may not have seen the last signature yet.
            let profile = profile.at_hand(present.accepting, u32::from(busy));
            if let Some(offered) = holding.offered {
                let key = ReadKey { tenant: asking.tenant.clone(), read: offered };
                if !busy && self.desk.outrank(&key, &profile, self.desk.now()).await? {
                    continue;
                }
                match self.standing(asking, &hands, &key).await? {
                    Some(read) => return Ok(Some(read)),
                    None => continue,
                }
            }
            let Some(read) = self.found(asking, &profile).await? else {
                return if busy { Err(Error::READ_OPEN) } else { Ok(None) };
            };
            let (tables, case) = (&self.desk.tables, case_key(read.key()));
            let loaded = tokio::try_join!(tables.load(read.key()), tables.load(&case))?;
            let (Some(stored), Some(case)) = loaded else { continue };
            let basis = Basis { still: present.still.clone(), hands, profile, read: stored, case };
            match self.attempt(asking, fence, Reserved { read, reader: reserved }, &basis).await? {
                Attempt::Made(read) => return Ok(Some(*read)),
                Attempt::Other(reader) => reserved = reader,
            }
            present = self.present(signs.load(&asking.tenant, &asking.reader).await?)?;
        }
        Err(TableError::Conflict.into())
    }

    /// A read for a reader whose hands are free, found without a call of the store. `None` where the mirrors show anything else:
    /// nothing but an offer, whose commit finds out whether they are behind, is done or answered on their word.
    fn by_mirrors(&self, asking: &Asking, present: &Present) -> Option<(ReadReserved, Basis)> {
        let (board, view, tenant) = (&self.desk.board, &self.desk.view, &asking.tenant);
        let key = asking.holding();
        let hands = Hands { stored: view.holdings.get(&key).map(Arc::unwrap_or_clone), key };
        let holding = hands.holding();
        if holding.open.is_some() || holding.offered.is_some() {
            return None;
        }
        let profile = view.profile(tenant, &asking.reader)?.at_hand(present.accepting, 0);
        let now = self.desk.now();
        board.ripen(view, now);
        let instead = board.peek(tenant, &profile, now)?;
        if self.desk.better_used(tenant, &profile, Some(&instead), now).is_some() {
            return None;
        }
        let reserved = board.reserve_read(view, tenant, &profile, now)?;
        let read = Arc::unwrap_or_clone(view.reads.get(reserved.key())?);
        let case = Arc::unwrap_or_clone(view.cases.get(&case_key(reserved.key()))?);
        Some((reserved, Basis { still: present.still.clone(), hands, profile, read, case }))
    }

    /// Reserves the read that the reader is to have: of the queue, or one that is leased to somebody who makes less of it.
    async fn found(&self, asking: &Asking, profile: &ReaderProfile) -> Result<Option<ReadReserved>, Error> {
        let (board, view, tenant) = (&self.desk.board, &self.desk.view, &asking.tenant);
        let now = self.desk.now();
        board.ripen(view, now);
        if profile.holding.open == 0 {
            let instead = board.peek(tenant, profile, now);
            // Nothing is taken from another for who does not want it any more, which the mirror may not know yet.
            if let Some(leased) = self.desk.better_used(tenant, profile, instead.as_ref(), now)
                && self.present(view.presence.load(tenant, &asking.reader).await?)?.accepting
                && let Some(recalled) = self.desk.recall(&leased, now).await?
                && let Some(read) = board.reserve_this(view, recalled)
            {
                return Ok(Some(read));
            }
        }
        Ok(board.reserve_read(view, tenant, profile, now))
    }

    /// Refuses where the reader is not present.
    fn present(&self, known: Known) -> Result<Present, Error> {
        let accepting = match known.sign {
            Some(sign) => sign.accepting,
            None if self.desk.leadership.grants_grace() => true,
            None => return Err(Error::NOT_PRESENT),
        };
        Ok(Present { accepting, still: known.still })
    }

    /// The offer that the reader's hands name, where it still stands; else it is cleared away.
    async fn standing(
        &self,
        asking: &Asking,
        hands: &Hands,
        key: &ReadKey,
    ) -> Result<Option<v1::Read>, Error> {
        let read = self.desk.tables.load::<Read>(key).await?;
        let Some(read) = read.filter(|read| is_held(read, asking)) else {
            self.free(hands, &Holding { offered: None, ..hands.holding() }).await?;
            return Ok(None);
        };
        match &read.record.state {
            ReadState::Offered { until, .. } if *until <= self.desk.now() => {
                let cause = Cause::role(ACTOR).because("the offer's time has passed");
                self.desk.take_back(&read, ReadEvent::Lapsed, cause).await?;
                Ok(None)
            }
            ReadState::Offered { .. } => {
                let case = self.desk.case(key).await?;
                Ok(Some(self.desk.show(&read, &case.key, &case.record)))
            }
            // Opened since the hands were loaded.
            ReadState::Waiting
            | ReadState::AwaitingFinal
            | ReadState::Open { .. }
            | ReadState::Suspended { .. }
            | ReadState::Signed { .. }
            | ReadState::NonDiagnostic { .. }
            | ReadState::Cancelled { .. } => Ok(None),
        }
    }

    /// A read went without its holder's hands being told, as by a restore: they must not stay bound to it.
    async fn free(&self, hands: &Hands, freed: &Holding) -> Result<(), Error> {
        let mut change = self.desk.tables.change(Cause::role(ACTOR));
        hands.put(&mut change, freed, "freed", "");
        change.commit().await?;
        Ok(())
    }

    async fn attempt(
        &self,
        asking: &Asking,
        fence: &Fence,
        pair: Reserved,
        basis: &Basis,
    ) -> Result<Attempt, Error> {
        let Basis { profile, read, case, .. } = basis;
        let fits = read.record.is_queued()
            && case.record.state == CaseState::Ready
            && self.may_have(&asking.tenant, &self.desk.item(read, &case.record), profile);
        if !fits {
            pair.read.not_before(read.mod_revision);
            return Ok(Attempt::Other(pair.reader));
        }
        let span = telemetry::trace::joined(tracing::info_span!("offer read"), &read.head.trace);
        let lasts = if profile.holding.open > 0 { lease::LASTS } else { self.desk.config.offer.0 };
        let committed = self.commit(asking, fence, basis, lasts).instrument(span).await;
        match committed {
            Ok(offered) => {
                pair.read.not_before(offered.mod_revision);
                self.desk.meters.offered(self.desk.now().since(read.record.waiting_since));
                Ok(Attempt::Made(Box::new(self.desk.show(&offered, &case.key, &case.record))))
            }
            Err(Error::Table(TableError::Conflict)) => {
                // Either a record moved, or another leads: then no attempt can succeed.
                if self.desk.leadership.holds(fence).await? {
                    Ok(Attempt::Other(pair.reader))
                } else {
                    Err(Error::NoLeader)
                }
            }
            Err(e) if e.is_worth_rereading() => {
                self.freeze(pair);
                Err(e)
            }
            Err(e) => Err(e),
        }
    }

    async fn commit(
        &self,
        asking: &Asking,
        fence: &Fence,
        basis: &Basis,
        lasts: std::time::Duration,
    ) -> Result<Stored<Read>, Error> {
        let Basis { still, hands, read, case, .. } = basis;
        let cause = Cause::request(&random::uuid_v7().to_string(), &asking.actor);
        let cause = cause.because(format!("reader {}", asking.reader));
        let mut change = self.desk.tables.change(cause);
        let until = change.now().plus(lasts);
        let event = ReadEvent::Offered { reader: asking.reader.clone(), until };
        self.desk.apply(&mut change, read, &[hands], event)?;
        change.unchanged(case);
        change.require(still.clone());
        change.require(fence.compare());
        let mod_revision = change.commit().await?;
        let record = Read {
            state: ReadState::Offered { reader: asking.reader.clone(), until },
            ..read.record.clone()
        };
        Ok(Stored { record, mod_revision, ..read.clone() })
    }

    /// Every filter: of an offer, or of a lease to one who has a read open.
    fn may_have(&self, tenant: &TenantId, item: &Item, profile: &ReaderProfile) -> bool {
        let now = self.desk.now();
        if profile.holding.open == 0 {
            return filter::eligible(item, profile, now).is_ok();
        }
        next_up::may_lease(profile, now).is_ok()
            && next_up::may_wait(&self.desk.board.params(tenant, now), item, now)
            && filter::qualified(item, profile, now).is_ok()
    }

    /// It is not known whether the offer was made: neither read nor reader is touched before the store has said so.
    fn freeze(&self, pair: Reserved) {
        let desk = Arc::clone(&self.desk);
        let ended = desk.tasks.token();
        self.desk.tasks.background("read back offer", async move {
            // Moved in whole: a block that names one field alone would capture that field, and let the reader go.
            let pair = pair;
            for attempt in 1.. {
                if let Ok(found) = desk.tables.load::<Read>(pair.read.key()).await {
                    if let Some(read) = found {
                        pair.read.not_before(read.mod_revision);
                    }
                    return;
                }
                tokio::select! {
                    () = ended.cancelled() => return,
                    () = tokio::time::sleep(random::jitter(READ_BACK.ceiling(attempt))) => {}
                }
            }
        });
    }
}

/// Whether the read is in the asking reader's hands.
fn is_held(read: &Stored<Read>, asking: &Asking) -> bool {
    read.record.holder() == Some(&asking.reader)
}
