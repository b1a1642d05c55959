//! Operators' verbs: reconcile, stuck, rebuild.

use std::time::Duration;

use futures::{StreamExt as _, stream::BoxStream};
use isocenter_domain::{Time, access::Principal};
use isocenter_runtime::{
    status::{Answer, status},
    task::chain,
};
use isocenter_wire::{Timestamp, time, timestamp, v1};
use tokio::sync::mpsc;
use tonic::Status;

use crate::{
    Error, Serving,
    arrivals::Arrivals,
    compare::{Depth, Difference, Order, Remedy, Stuck},
    replay::Replayed,
    rpc::{Rpc, cut, page_after, page_size},
};

/// How long an event may wait to be journaled, and the records may be away, before that is listed.
const LATE: Duration = Duration::from_secs(60);

/// Answers about a rebuild that wait for a slow client; further ones are left out.
const ANSWERS: usize = 16;

impl Rpc {
    pub(crate) async fn reconciled(
        &self,
        caller: &Principal,
        request: v1::ReconcileRequest,
    ) -> Result<v1::ReconcileResponse, Status> {
        if request.repair && request.reason.trim().is_empty() {
            return Err(Answer::invalid("reason", "is needed with repair").status());
        }
        let depth = if request.changed_only { Depth::Changed } else { Depth::Everything };
        let compared = self.comparer.compare(&caller.tenant, depth).await;
        let mut compared = compared.map_err(|e| status(&e))?;
        if request.repair {
            let order = Order { actor: caller.subject.clone(), reason: request.reason };
            self.comparer.mend(&mut compared, &order).await;
        }
        let checked = compared.checked.iter();
        let checked = checked.map(|(kind, count)| v1::Checked { kind: (*kind).to_owned(), count: *count });
        Ok(v1::ReconcileResponse {
            checked: checked.collect(),
            differences: compared.differences.into_iter().map(told).collect(),
            difference_count: compared.total,
        })
    }

    pub(crate) async fn stuck(
        &self,
        caller: &Principal,
        request: &v1::ListStuckRequest,
    ) -> Result<v1::ListStuckResponse, Status> {
        let size = page_size(request.page_size)?;
        let after = page_after(&request.page_token, |parts| match parts {
            [bound, key] => Some((Time(bound.parse().ok()?), (*key).to_owned())),
            _ => None,
        })?;
        let mut stuck = self.of_archive();
        stuck.extend(self.comparer.stuck(&caller.tenant).await);
        if let Some((bound, key)) = after {
            stuck.retain(|s| (s.bound, s.key.as_str()) > (bound, key.as_str()));
        }
        stuck.sort_by(|a, b| (a.bound, &a.key).cmp(&(b.bound, &b.key)));
        let next_page_token = cut(&mut stuck, size, |last| vec![last.bound.0.to_string(), last.key.clone()]);
        let stuck = stuck.into_iter().map(|s| v1::Stuck {
            kind: s.kind.to_owned(),
            key: s.key,
            state: s.state.to_owned(),
            since: Some(timestamp(s.since)),
            bound: Some(timestamp(s.bound)),
            owner: s.owner.to_owned(),
            cause: s.cause,
        });
        Ok(v1::ListStuckResponse { stuck: stuck.collect(), next_page_token })
    }

    /// What waits in the archive itself, of every tenant, as its gauges last saw it.
    fn of_archive(&self) -> Vec<Stuck> {
        let now = self.tables.clock().now();
        let mut stuck = Vec::new();
        let oldest = Duration::from_secs(u64::try_from(self.metrics.outbox_oldest.get()).unwrap_or(0));
        if oldest > LATE {
            let since = now.minus(oldest);
            let cause = format!("{} events are not journaled", self.metrics.outbox_depth.get());
            stuck.push(Stuck::of_process("outbox", since, since.plus(LATE), cause));
        }
        if let (Serving::No(why), down) = (self.records.serving(), self.metrics.down_since.get())
            && down > 0
        {
            let since = Time(down * 1_000_000);
            if now > since.plus(LATE) {
                stuck.push(Stuck::of_process("records", since, since.plus(LATE), why.to_string()));
            }
        }
        stuck
    }

    pub(crate) async fn arrived(
        &self,
        caller: &Principal,
        request: &v1::ListArrivalsRequest,
    ) -> Result<v1::ListArrivalsResponse, Status> {
        let range = [instant(request.from.as_ref(), "from")?, instant(request.to.as_ref(), "to")?];
        if range[0] >= range[1] {
            return Err(Answer::invalid("to", "is not after from").status());
        }
        let size = page_size(request.page_size)?;
        let after = page_after(&request.page_token, |parts| match parts {
            [at, study] => Some((at.parse().ok()?, (*study).to_owned())),
            _ => None,
        })?;
        let found = self.records.arrivals(&caller.tenant, range, after, size + 1).await;
        let mut found = found.map_err(|e| status(&e))?;
        let next_page_token = cut(&mut found, size, |((at, study), _)| vec![at.to_string(), study.clone()]);
        let page = Arrivals::of(found.into_iter().map(|(_, arrived)| arrived));
        let left_out = page.left_out();
        Ok(v1::ListArrivalsResponse { arrivals: page.arrivals, left_out, next_page_token })
    }

    /// Goes on where the caller goes away; it ends with the process.
    pub(crate) fn rebuilt(
        &self,
        caller: &Principal,
        reason: String,
    ) -> Result<BoxStream<'static, Result<v1::RebuildRecordsResponse, Status>>, Status> {
        if reason.trim().is_empty() {
            return Err(Answer::invalid("reason", "is needed").status());
        }
        let (progress, mut heard) = mpsc::channel::<Replayed>(ANSWERS);
        let (ended, end) = tokio::sync::oneshot::channel::<Result<Replayed, Error>>();
        let (records, blobs, now) = (self.records.clone(), self.blobs.clone(), self.tables.clock().now());
        let actor = caller.subject.clone();
        self.tasks.background("rebuild", async move {
            tracing::info!(%actor, %reason, "the records are being made again from the journal");
            let done = records.rebuild(&blobs, now, progress).await;
            match &done {
                Ok(replayed) => tracing::info!(objects = replayed.objects, "the records were made again"),
                Err(e) => tracing::error!(error = %chain(e), "the records could not be made again"),
            }
            // Where nobody listens any more the log has it.
            drop(ended.send(done));
        });
        let going_on = futures::stream::poll_fn(move |context| heard.poll_recv(context));
        let last = futures::stream::once(async move {
            match end.await {
                Ok(Ok(replayed)) => Ok(answer(replayed, true)),
                Ok(Err(e)) => Err(status(&e)),
                Err(_) => Err(Status::unavailable("the process ends")),
            }
        });
        Ok(going_on.map(|replayed| Ok(answer(replayed, false))).chain(last).boxed())
    }
}

fn instant(given: Option<&Timestamp>, field: &'static str) -> Result<Time, Status> {
    let given = given.ok_or_else(|| Answer::invalid(field, "is needed").status())?;
    time(given, field).map_err(|e| status(&e))
}

fn answer(replayed: Replayed, done: bool) -> v1::RebuildRecordsResponse {
    let Replayed { objects, events, forks } = replayed;
    v1::RebuildRecordsResponse { objects, events, forks, done }
}

fn told(difference: Difference) -> v1::Difference {
    let remedy = match (difference.mended, &difference.remedy) {
        (Some(mended), _) => mended,
        (None, Remedy::Person(what)) => what,
        (None, Remedy::Reopen(_)) => "repair reopens the study",
        (None, Remedy::Index(..)) => "repair indexes its images again",
        (None, Remedy::Project) => "repair applies it again, from the journal, the store or the head",
    };
    v1::Difference {
        kind: difference.kind.to_owned(),
        key: difference.key,
        expected: difference.expected,
        found: difference.found,
        mended: difference.mended.is_some(),
        remedy: remedy.to_owned(),
    }
}
