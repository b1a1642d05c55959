//! The worklist and the reasons behind it: from the mirrors and the queue in memory, at any replica.

use std::{collections::BinaryHeap, sync::Arc};

use isocenter_assign::{Item, Params, ReaderProfile, Rejection, filter};
use isocenter_domain::{
    Time,
    id::{ReaderId, TenantId},
    key::{CaseKey, PlanKey, ReadKey},
    record::{
        case::Case,
        read::{Read, ReadKind, ReadState},
    },
};
use isocenter_store::table::Stored;
use isocenter_wire::{Malformed, v1};

use crate::{
    desk::Desk,
    error::Error,
    plan::{apart::Barred, item},
    show,
    view::case_key,
};

/// The place of a read in the worklist: the queue in its order, then what is in hand, then what is done, the newest
/// first. As text it is the page token.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    group: u8,
    lane: u8,
    first: i64,
    second: i64,
    read: String,
}

impl Place {
    fn of(item: &Item, read: &Read, params: &Params, now: Time) -> Self {
        let (group, (lane, first, second)) = match &read.state {
            ReadState::Waiting | ReadState::AwaitingFinal => (0, params.rank(item, None, now).numbers()),
            ReadState::Offered { .. } | ReadState::Open { .. } | ReadState::Suspended { .. } => {
                (1, (0, item.complete_at.0, 0))
            }
            ReadState::Signed { at, .. }
            | ReadState::NonDiagnostic { at, .. }
            | ReadState::Cancelled { at } => (2, (0, at.0.saturating_neg(), 0)),
        };
        Self { group, lane, first, second, read: item.read.to_string() }
    }

    fn text(&self) -> String {
        format!("{},{},{},{},{}", self.group, self.lane, self.first, self.second, self.read)
    }

    fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split(',').collect();
        let [group, lane, first, second, read] = parts.as_slice() else { return None };
        Some(Self {
            group: group.parse().ok()?,
            lane: lane.parse().ok()?,
            first: first.parse().ok()?,
            second: second.parse().ok()?,
            read: (*read).to_owned(),
        })
    }
}

/// What of the worklist is asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    /// Only what this reader may see.
    pub reader: Option<ReaderId>,
    /// Empty: all.
    pub states: Vec<v1::ReadState>,
}

/// A page of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Page {
    pub size: usize,
    pub token: String,
}

/// A read in its place; ordered by that alone, which the read's id makes unique.
struct Listed {
    place: Place,
    read: Arc<Stored<Read>>,
    case: Arc<Stored<Case>>,
}

impl PartialEq for Listed {
    fn eq(&self, other: &Self) -> bool {
        self.place == other.place
    }
}

impl Eq for Listed {}

impl PartialOrd for Listed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Listed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.place.cmp(&other.place)
    }
}

impl Desk {
    /// A page of the worklist. It costs one look at each live read and no sort of them: only the page is kept in order.
    pub fn worklist(
        &self,
        tenant: &TenantId,
        filter: &Filter,
        page: &Page,
    ) -> Result<v1::ListWorklistResponse, Error> {
        let after = match page.token.as_str() {
            "" => None,
            text => Some(
                Place::parse(text)
                    .ok_or_else(|| Malformed::new("page_token", "is not from an earlier answer"))?,
            ),
        };
        let profile = self.viewer(tenant, filter)?;
        let now = self.now();
        let order = &self.board.params(tenant, now);
        let mut first: BinaryHeap<Listed> = BinaryHeap::with_capacity(page.size + 2);
        for read in self.view.reads.all() {
            if read.key.tenant != *tenant || !filter.has(&read.record) {
                continue;
            }
            let Some(listed) = self.placed(read, profile.as_ref(), (order, now)) else { continue };
            if after.as_ref().is_some_and(|after| listed.place <= *after) {
                continue;
            }
            first.push(listed);
            // One more than the page, which tells whether there is another.
            if first.len() > page.size + 1 {
                first.pop();
            }
        }
        let more = first.len() > page.size;
        let mut listed = first.into_sorted_vec();
        listed.truncate(page.size);
        let last = listed.last().filter(|_| more).map(|listed| listed.place.text());
        let shown = listed.iter().map(|l| self.show(&l.read, &l.case.key, &l.case.record));
        Ok(v1::ListWorklistResponse { reads: shown.collect(), next_page_token: last.unwrap_or_default() })
    }

    /// The profile of the reader whose worklist is asked for; none: everybody's.
    pub fn viewer(&self, tenant: &TenantId, filter: &Filter) -> Result<Option<ReaderProfile>, Error> {
        let Some(reader) = &filter.reader else { return Ok(None) };
        self.view.profile(tenant, reader).ok_or(Error::NOT_REGISTERED).map(Some)
    }

    /// The reads of one case that the filter names and the viewer sees.
    pub fn visible_of(
        &self,
        case: &CaseKey,
        filter: &Filter,
        profile: Option<&ReaderProfile>,
    ) -> Vec<v1::Read> {
        let Some(case) = self.view.cases.get(case) else { return Vec::new() };
        let reads = self.view.reads_of(&case.key).into_values().filter(|read| filter.has(&read.record));
        let sees = |read: &Arc<Stored<Read>>| {
            profile.is_none_or(|profile| self.sees(read, &self.item_of(read, &case.record), profile))
        };
        reads.filter(sees).map(|read| self.show(&read, &case.key, &case.record)).collect()
    }

    /// What AI says orders only what waits.
    fn item_of(&self, read: &Stored<Read>, case: &Case) -> Item {
        if read.record.is_queued() {
            self.view.item(&read.key, &read.record, case)
        } else {
            self.item(read, case)
        }
    }

    /// A read with its place, where the viewer may see it.
    fn placed(
        &self,
        read: Arc<Stored<Read>>,
        profile: Option<&ReaderProfile>,
        (order, now): (&Params, Time),
    ) -> Option<Listed> {
        let case = self.view.cases.get(&case_key(&read.key))?;
        // The queue has what waits in its place; only what a reader may see is asked of the mirrors, which takes ten times as long.
        if profile.is_none() && read.record.is_queued() {
            let place = |item: &Item| Place::of(item, &read.record, order, now);
            if let Some(place) = self.board.of(&read.key, place) {
                return Some(Listed { place, read, case });
            }
        }
        let item = self.item_of(&read, &case.record);
        if !profile.is_none_or(|profile| self.sees(&read, &item, profile)) {
            return None;
        }
        Some(Listed { place: Place::of(&item, &read.record, order, now), read, case })
    }

    /// Whether a reader sees a read: his own, and what the hard filters allow him.
    pub fn sees(&self, read: &Stored<Read>, item: &Item, profile: &ReaderProfile) -> bool {
        let record = &read.record;
        let own = record.holder() == Some(&profile.id)
            || record.concluded().is_some_and(|(reader, ..)| *reader == profile.id)
            || record.preliminary.as_ref().is_some_and(|signed| signed.reader == profile.id);
        own || (filter::qualified(item, profile, self.now()).is_ok() && !self.is_hidden(read))
    }

    /// Whether what has become of a read is hidden from all other readers: any of them may be given the other one of its
    /// pair.
    fn is_hidden(&self, read: &Stored<Read>) -> bool {
        let ReadKind::Blinded { with } = read.record.kind else { return false };
        let other = self.view.reads_of(&case_key(&read.key)).remove(&with);
        let both_done = !read.record.is_live() && other.is_some_and(|other| !other.record.is_live());
        !read.record.is_queued() && !both_done
    }

    /// Why a read is where it is, as `viewer` may know it: none, everything.
    pub async fn explain(
        &self,
        key: &ReadKey,
        viewer: Option<&ReaderId>,
    ) -> Result<v1::ExplainReadResponse, Error> {
        let (read, case) = tokio::try_join!(self.read(key), self.case(key))?;
        let profiles = self.view.profiles(&key.tenant);
        let now = self.now();
        let explanation = self.board.explain(&key.tenant, &key.read, now, &profiles);
        let item = self.view.item(key, &read.record, &case.record);
        if let Some(viewer) = viewer {
            let profile =
                profiles.iter().find(|profile| profile.id == *viewer).ok_or(Error::NOT_REGISTERED)?;
            if !self.sees(&read, &item, profile) {
                return Err(Error::NotFound("read"));
            }
        }
        let barred = self.view.barred(key, &read.record);
        // To a reader only what stands against himself: of a review the one who is passed over is whose report it is.
        let asked_of = profiles.iter().filter(|profile| viewer.is_none_or(|viewer| profile.id == *viewer));
        let readers = asked_of.map(|profile| {
            let rejections = filter::rejections(&item, profile, now);
            // Whose report is reviewed, or who has the other read of a pair, is for no reader to know.
            let why = barred.get(&profile.id).filter(|_| viewer.is_none());
            v1::ReaderVerdict {
                reader_id: profile.id.to_string(),
                eligible: rejections.is_empty(),
                rejected_by: item::telling(&rejections)
                    .map(|r| told(r, why, viewer.is_some()))
                    .unwrap_or_default()
                    .to_owned(),
            }
        });
        let first = case.record.members.first();
        let plan = first.and_then(|study| {
            self.view.plans.get(&PlanKey { tenant: key.tenant.clone(), study: study.clone() })
        });
        let rule = plan.as_ref().and_then(|p| p.record.rules.iter().find(|(field, _)| field == "class"));
        Ok(v1::ExplainReadResponse {
            position: explanation.as_ref().map_or(0, |e| u32::try_from(e.position).unwrap_or(u32::MAX)),
            policy_version: plan.as_ref().map(|p| p.record.policy.to_string()).unwrap_or_default(),
            rule: rule.map(|(_, rule)| rule.clone()).unwrap_or_default(),
            terms: explanation.iter().flat_map(|e| &e.terms).map(term).collect(),
            readers: readers.collect(),
            read: Some(self.show(&read, &case.key, &case.record)),
        })
    }
}

impl Filter {
    /// Whether the filter's states have the read's.
    fn has(&self, read: &Read) -> bool {
        self.states.is_empty() || self.states.contains(&show::state(&read.state))
    }
}

/// A filter's name; of the one that bars single readers, why this one, which no reader is told.
fn told(rejection: Rejection, why: Option<&Barred>, to_a_reader: bool) -> &'static str {
    match (rejection, why) {
        (Rejection::Excluded(_), _) if to_a_reader => "excluded",
        (Rejection::Excluded(_), Some(why)) => why.name(),
        (rejection, _) => item::rejection_name(rejection),
    }
}

fn term(term: &isocenter_assign::Term) -> v1::IndexTerm {
    v1::IndexTerm { name: term.name.to_owned(), value: term.value, unit: term.unit.to_owned() }
}
