//! The worklist and the reasons behind it: from the mirrors and the queue in memory, at any replica.

use std::sync::Arc;

use isocenter_assign::{ReaderProfile, filter};
use isocenter_domain::{
    Time,
    id::{ReaderId, TenantId},
    key::{PlanKey, ReadKey},
    record::{
        case::Case,
        read::{Read, ReadState},
    },
};
use isocenter_store::table::Stored;
use isocenter_wire::{Malformed, v1};

use crate::{desk::Desk, error::Error, plan::item, show, view::case_key};

/// The place of a read in the worklist: the queue in its order, then what is in hand, then what is signed, the newest
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
    fn of(item: &isocenter_assign::Item, state: &ReadState, now: Time) -> Self {
        let (group, (lane, first, second)) = match state {
            ReadState::Waiting => (0, item::order(item, now)),
            ReadState::Offered { .. } | ReadState::Open { .. } => (1, (0, item.complete_at.0, 0)),
            ReadState::Signed { at, .. } => (2, (0, at.0.saturating_neg(), 0)),
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
    pub reader: Option<ReaderId>,
    /// Empty: all.
    pub states: Vec<v1::ReadState>,
    pub page_size: usize,
    pub page_token: String,
}

type Listed = (Place, Arc<Stored<Read>>, Arc<Stored<Case>>);

impl Desk {
    /// A page of the worklist.
    pub fn worklist(&self, tenant: &TenantId, filter: &Filter) -> Result<v1::ListWorklistResponse, Error> {
        let after = match filter.page_token.as_str() {
            "" => None,
            text => Some(
                Place::parse(text)
                    .ok_or_else(|| Malformed::new("page_token", "is not from an earlier answer"))?,
            ),
        };
        let profile = match &filter.reader {
            None => None,
            Some(reader) => Some(self.view.profile(tenant, reader).ok_or(Error::NOT_REGISTERED)?),
        };
        let now = self.now();
        let reads = self.view.reads.all();
        let mut listed: Vec<Listed> = reads
            .into_iter()
            .filter(|read| read.key.tenant == *tenant)
            .filter(|read| {
                filter.states.is_empty() || filter.states.contains(&show::state(&read.record.state))
            })
            .filter_map(|read| self.placed(read, profile.as_ref(), now))
            .filter(|(place, ..)| after.as_ref().is_none_or(|after| place > after))
            .collect();
        listed.sort_by(|a, b| a.0.cmp(&b.0));
        let more = listed.len() > filter.page_size;
        listed.truncate(filter.page_size);
        let last = listed.last().filter(|_| more).map(|(place, ..)| place.text());
        Ok(v1::ListWorklistResponse {
            reads: listed.iter().map(|(_, read, case)| self.show(read, &case.key, &case.record)).collect(),
            next_page_token: last.unwrap_or_default(),
        })
    }

    /// A read with its place, where the reader, if one is named, may see it.
    fn placed(&self, read: Arc<Stored<Read>>, profile: Option<&ReaderProfile>, now: Time) -> Option<Listed> {
        let case = self.view.cases.get(&case_key(&read.key))?;
        // What AI says orders only what waits.
        let item = match read.record.state {
            ReadState::Waiting => self.view.item(&read.key, &read.record, &case.record),
            ReadState::Offered { .. } | ReadState::Open { .. } | ReadState::Signed { .. } => {
                self.item(&read, &case.record)
            }
        };
        let visible = profile.is_none_or(|profile| {
            let signed =
                matches!(&read.record.state, ReadState::Signed { reader, .. } if *reader == profile.id);
            signed
                || read.record.holder() == Some(&profile.id)
                || filter::qualified(&item, profile, now).is_ok()
        });
        visible.then(|| (Place::of(&item, &read.record.state, now), read, case))
    }

    /// Why a read is where it is.
    pub async fn explain(&self, key: &ReadKey) -> Result<v1::ExplainReadResponse, Error> {
        let (read, case) = tokio::try_join!(self.read(key), self.case(key))?;
        let profiles = self.view.profiles(&key.tenant);
        let now = self.now();
        let explanation = self.board.explain(&key.tenant, &key.read, now, &profiles);
        let item = self.view.item(key, &read.record, &case.record);
        let readers = profiles.iter().map(|profile| {
            let rejections = filter::rejections(&item, profile, now);
            v1::ReaderVerdict {
                reader_id: profile.id.to_string(),
                eligible: rejections.is_empty(),
                rejected_by: item::telling(&rejections)
                    .map(item::rejection_name)
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

fn term(term: &isocenter_assign::Term) -> v1::IndexTerm {
    v1::IndexTerm { name: term.name.to_owned(), value: term.value, unit: term.unit.to_owned() }
}
