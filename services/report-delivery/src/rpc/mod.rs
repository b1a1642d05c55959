//! `isocenter.v1.ReportDelivery`.

pub(crate) mod watch;

use data_encoding::BASE64URL_NOPAD;
use isocenter_domain::{
    Kind, Kinded as _,
    access::{Action, Principal, Role},
    id::{DestinationId, ReadId},
    key::{self, DeliveryKey, ReportKey},
    record::delivery::{Delivery, DeliveryEvent, DeliveryState},
};
use isocenter_runtime::{
    principal::{authorized, principal},
    status::{Answer, status},
};
use isocenter_store::table::{Cause, Mirror, Tables};
use isocenter_wire::{
    timestamp,
    v1::{self, acknowledge_report_request::Outcome, report_delivery_server::ReportDelivery},
};
use tonic::{Request, Response, Status};

use self::watch::{Reports, Watches};
use crate::{Error, plan::Told};

/// Deliveries on a page where the caller does not say.
const PAGE: usize = 100;
/// Deliveries on a page at most: some 200 KiB.
const LARGEST_PAGE: usize = 1_000;
/// The longest request id. It is kept in the record.
const REQUEST_ID_LIMIT: usize = 128;
/// The longest id of a person and the longest code of a refusal. Both are kept in the record.
const WORD_LIMIT: usize = 64;
/// How often a replay is decided again after losing to another change. A dead letter has no other writer but replays.
const TRIES: usize = 5;

/// The calls.
#[derive(Clone, Debug)]
pub(crate) struct Rpc {
    tables: Tables,
    deliveries: Mirror<Delivery>,
    watches: Watches,
}

impl Rpc {
    pub fn new(watches: Watches) -> Self {
        Self { tables: watches.book.tables.clone(), deliveries: watches.deliveries.clone(), watches }
    }

    /// Replays once: the same request again finds itself in the record and changes nothing.
    async fn replay(&self, key: &DeliveryKey, cause: &Cause) -> Result<Delivery, Error> {
        let mut tries = 0;
        loop {
            tries += 1;
            let stored = self.tables.load::<Delivery>(key).await?.ok_or(Error::NoDelivery)?;
            if stored.head.op_id == cause.op_id {
                return Ok(stored.record);
            }
            let mut change = self.tables.change(cause.clone());
            let now = change.now();
            let (pending, _) = stored.record.clone().transition(DeliveryEvent::Replayed, now)?;
            change.update(&stored, &pending, DeliveryEvent::Replayed.name());
            match change.commit().await {
                Ok(_) => return Ok(pending),
                Err(e) if tries < TRIES && matches!(e.kind(), Kind::Conflict | Kind::Unknown) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

#[tonic::async_trait]
impl ReportDelivery for Rpc {
    async fn list_deliveries(
        &self,
        request: Request<v1::ListDeliveriesRequest>,
    ) -> Result<Response<v1::ListDeliveriesResponse>, Status> {
        let caller = allowed(&request, &Action::Observe)?;
        let request = request.into_inner();
        let size = page_size(request.page_size)?;
        let after = page_after(&request.page_token)?;
        let to = Some(request.destination_id.as_str()).filter(|id| !id.is_empty());
        let to: Option<DestinationId> = to.map(|id| parse(id, "destination_id")).transpose()?;
        let mut states = Vec::new();
        for (i, state) in request.states.iter().enumerate() {
            match v1::DeliveryState::try_from(*state) {
                Ok(state) if state != v1::DeliveryState::Unspecified => states.push(state),
                _ => return Err(Answer::invalid(format!("states[{i}]"), "is not a state").status()),
            }
        }
        self.deliveries.synced().await;
        let mut found = self.deliveries.all();
        found.retain(|d| {
            d.key.report.tenant == caller.tenant
                && to.as_ref().is_none_or(|to| d.key.destination == *to)
                && (states.is_empty() || states.contains(&state_of(&d.record.state)))
                && after.as_ref().is_none_or(|after| d.key > *after)
        });
        found.sort_by(|a, b| a.key.cmp(&b.key));
        let more = found.len() > size;
        found.truncate(size);
        let next_page_token =
            found.last().filter(|_| more).map(|last| page_token(&last.key)).unwrap_or_default();
        let deliveries = found.iter().map(|d| shown(&d.key, &d.record)).collect();
        Ok(Response::new(v1::ListDeliveriesResponse { deliveries, next_page_token }))
    }

    async fn replay_delivery(
        &self,
        request: Request<v1::ReplayDeliveryRequest>,
    ) -> Result<Response<v1::Delivery>, Status> {
        let caller = allowed(&request, &Action::Operate)?;
        let request = request.into_inner();
        let key = delivery_key(&caller, &request.report_id, request.version, &request.destination_id)?;
        if request.request_id.is_empty() || request.request_id.len() > REQUEST_ID_LIMIT {
            return Err(Answer::invalid("request_id", "has 1 to 128 characters").status());
        }
        let cause = Cause::request(&request.request_id, &caller.subject).because("replay was asked for");
        let delivery = self.replay(&key, &cause).await.map_err(|e| status(&e))?;
        Ok(Response::new(shown(&key, &delivery)))
    }

    type WatchReportsStream = Reports;

    async fn watch_reports(
        &self,
        request: Request<v1::WatchReportsRequest>,
    ) -> Result<Response<Reports>, Status> {
        let caller = allowed(&request, &Action::SeePatient)?;
        let request = request.into_inner();
        let to = parse(&request.destination_id, "destination_id")?;
        receiver(&caller, &to)?;
        let wrong = || Answer::invalid("max_unacknowledged", "is not 1 to 256, or 0 for 32").status();
        let window = Watches::window(request.max_unacknowledged).ok_or_else(wrong)?;
        self.watches.open(caller, to, window).await.map(Response::new).map_err(|e| status(&e))
    }

    async fn acknowledge_report(
        &self,
        request: Request<v1::AcknowledgeReportRequest>,
    ) -> Result<Response<v1::Delivery>, Status> {
        let caller = allowed(&request, &Action::SeePatient)?;
        let request = request.into_inner();
        let key = delivery_key(&caller, &request.report_id, request.version, &request.destination_id)?;
        receiver(&caller, &key.destination)?;
        let told = told(request.outcome)?;
        let op_id = isocenter_runtime::random::uuid_v7().to_string();
        let cause = Cause::request(&op_id, &caller.subject).because("its receiver says so");
        let book = &self.watches.book;
        let delivery = book.tell(&key, &request.message_id, &told, &cause).await.map_err(|e| status(&e))?;
        Ok(Response::new(shown(&key, &delivery)))
    }
}

fn delivery_key(caller: &Principal, read: &str, version: u32, to: &str) -> Result<DeliveryKey, Status> {
    let read: ReadId = parse(read, "report_id")?;
    let destination = parse(to, "destination_id")?;
    if version == 0 {
        return Err(Answer::invalid("version", "is counted from 1").status());
    }
    Ok(DeliveryKey { report: ReportKey { tenant: caller.tenant.clone(), read, version }, destination })
}

/// Reports are for the destination itself: the network's system whose certificate bears the destination's id as its
/// common name.
fn receiver(caller: &Principal, to: &DestinationId) -> Result<(), Status> {
    let named = |name: &str| caller.subject.split(',').any(|part| part.strip_prefix("CN=") == Some(name));
    match caller.role {
        Role::Developer => Ok(()),
        Role::Network if named(to.as_str()) => Ok(()),
        Role::Network | Role::Operator | Role::Reader(_) | Role::Vendor(_) | Role::Node => {
            Err(status(&Error::NotYours(to.clone())))
        }
    }
}

/// What the receiver says. Neither an id nor a code has room for what a person would write about a patient.
fn told(outcome: Option<Outcome>) -> Result<Told, Status> {
    let word = |text: &str, also: fn(u8) -> bool| {
        let fits = !text.is_empty() && text.len() <= WORD_LIMIT;
        fits && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_' || also(b))
    };
    match outcome {
        None => Err(Answer::invalid("outcome", "is absent; say accepted or refused").status()),
        Some(Outcome::Accepted(v1::ReportAccepted { viewed_by })) if viewed_by.is_empty() => {
            Ok(Told::Accepted { viewed_by: None })
        }
        Some(Outcome::Accepted(v1::ReportAccepted { viewed_by: by })) => {
            if word(&by, |b| b.is_ascii_lowercase() || b".@-".contains(&b)) {
                return Ok(Told::Accepted { viewed_by: Some(by) });
            }
            Err(Answer::invalid("accepted.viewed_by", "is not 1 to 64 of letters, digits and .@_-").status())
        }
        Some(Outcome::Refused(v1::ReportRefused { reason })) => {
            if word(&reason, |_| false) {
                return Ok(Told::Refused { reason: format!("receiver refused it: {reason}") });
            }
            Err(Answer::invalid("refused.reason", "is not a code of 1 to 64 of A-Z, 0-9 and _").status())
        }
    }
}

/// The caller, who acts in their own tenant only.
fn allowed<T>(request: &Request<T>, action: &Action) -> Result<Principal, Status> {
    let tenant = principal(request)?.tenant;
    authorized(request, action, &tenant)
}

fn parse<T: std::str::FromStr<Err = isocenter_domain::id::InvalidId>>(
    text: &str,
    field: &'static str,
) -> Result<T, Status> {
    text.parse().map_err(|e: T::Err| Answer::invalid(field, e.to_string()).status())
}

fn page_size(asked: i32) -> Result<usize, Status> {
    match usize::try_from(asked) {
        Ok(0) => Ok(PAGE),
        Ok(size) if size <= LARGEST_PAGE => Ok(size),
        _ => Err(Answer::invalid("page_size", "is not 1 to 1000, or 0 for 100").status()),
    }
}

/// The last delivery of a page. Opaque to callers.
fn page_token(last: &DeliveryKey) -> String {
    BASE64URL_NOPAD.encode(key::text(last).as_bytes())
}

fn page_after(token: &str) -> Result<Option<DeliveryKey>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    let text = BASE64URL_NOPAD.decode(token.as_bytes()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let last = text.and_then(|text| key::parse(&text));
    last.map(Some).ok_or_else(|| Answer::invalid("page_token", "is not from an earlier answer").status())
}

const fn state_of(state: &DeliveryState) -> v1::DeliveryState {
    match state {
        DeliveryState::Pending => v1::DeliveryState::Pending,
        DeliveryState::Sent { .. } => v1::DeliveryState::Sent,
        DeliveryState::Retrying { .. } => v1::DeliveryState::Retrying,
        DeliveryState::ApplicationAccepted { .. } => v1::DeliveryState::ApplicationAccepted,
        DeliveryState::Viewed { .. } => v1::DeliveryState::Viewed,
        DeliveryState::Superseded { .. } => v1::DeliveryState::Superseded,
        DeliveryState::DeadLetter { .. } => v1::DeliveryState::DeadLetter,
    }
}

fn shown(key: &DeliveryKey, delivery: &Delivery) -> v1::Delivery {
    let (next, error, viewed_by) = match &delivery.state {
        DeliveryState::Retrying { next, error } => (Some(*next), error.as_str(), ""),
        DeliveryState::DeadLetter { reason, .. } => (None, reason.as_str(), ""),
        DeliveryState::Viewed { by, .. } => (None, "", by.as_str()),
        DeliveryState::Pending
        | DeliveryState::Sent { .. }
        | DeliveryState::ApplicationAccepted { .. }
        | DeliveryState::Superseded { .. } => (None, "", ""),
    };
    v1::Delivery {
        report_id: key.report.read.to_string(),
        version: key.report.version,
        destination_id: key.destination.to_string(),
        state: state_of(&delivery.state).into(),
        attempts: delivery.attempts,
        next_attempt_at: next.map(timestamp),
        last_error: error.to_owned(),
        message_id: delivery.message_id.clone(),
        viewed_by: viewed_by.to_owned(),
    }
}
