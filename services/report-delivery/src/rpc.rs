//! `isocenter.v1.ReportDelivery`.

use data_encoding::BASE64URL_NOPAD;
use isocenter_domain::{
    Kind, Kinded as _,
    access::{Action, Principal},
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
    v1::{self, report_delivery_server::ReportDelivery},
};
use tonic::{Request, Response, Status};

use crate::Error;

/// Deliveries on a page where the caller does not say.
const PAGE: usize = 100;
/// Deliveries on a page at most: some 200 KiB.
const LARGEST_PAGE: usize = 1_000;
/// The longest request id. It is kept in the record.
const REQUEST_ID_LIMIT: usize = 128;
/// How often a replay is decided again after losing to another change. A dead letter has no other writer but replays.
const TRIES: usize = 5;

/// The calls.
#[derive(Clone, Debug)]
pub(crate) struct Rpc {
    tables: Tables,
    deliveries: Mirror<Delivery>,
}

impl Rpc {
    pub fn new(tables: Tables, deliveries: Mirror<Delivery>) -> Self {
        Self { tables, deliveries }
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
        let read: ReadId = parse(&request.report_id, "report_id")?;
        let destination = parse(&request.destination_id, "destination_id")?;
        if request.version == 0 {
            return Err(Answer::invalid("version", "is counted from 1").status());
        }
        if request.request_id.is_empty() || request.request_id.len() > REQUEST_ID_LIMIT {
            return Err(Answer::invalid("request_id", "has 1 to 128 characters").status());
        }
        let report = ReportKey { tenant: caller.tenant.clone(), read, version: request.version };
        let key = DeliveryKey { report, destination };
        let cause = Cause::request(&request.request_id, &caller.subject).because("replay was asked for");
        let delivery = self.replay(&key, &cause).await.map_err(|e| status(&e))?;
        Ok(Response::new(shown(&key, &delivery)))
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
        DeliveryState::DeadLetter { .. } => v1::DeliveryState::DeadLetter,
    }
}

fn shown(key: &DeliveryKey, delivery: &Delivery) -> v1::Delivery {
    let (next, error) = match &delivery.state {
        DeliveryState::Retrying { next, error } => (Some(*next), error.as_str()),
        DeliveryState::DeadLetter { reason, .. } => (None, reason.as_str()),
        DeliveryState::Pending | DeliveryState::Sent { .. } | DeliveryState::ApplicationAccepted { .. } => {
            (None, "")
        }
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
    }
}
