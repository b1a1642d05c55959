//! Brings one task to its end: claims it, has the service called, records what was heard.
//!
//! A call takes as long as its task may; a run does not. The call is a task of its own which leaves what it heard in
//! [`Calls`](super::calls::Calls) and wakes its key, so that recording it has the runner's retries and a service that
//! does not answer occupies nothing but its own permits.

use std::sync::Arc;

use isocenter_blobs::path;
use isocenter_domain::{
    key::{AiTaskKey, PlanKey, ReadKey},
    record::{
        ai_task::{AiTask, AiTaskEvent, AiTaskState, SkipReason},
        plan::Plan,
        read::Read,
        registry::AiService,
    },
    refs::Digest,
};
use isocenter_reconcile::{Failed, Outcome, Queue, Reconciler};
use isocenter_runtime::{task::Tasks, telemetry::trace};
use isocenter_store::table::{Cause, Change, Mirror, Stored, owner_range};
use isocenter_wire::document::Stored as _;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{
    ACTOR, Core,
    calls::Over,
    gate::{Gate, Pass},
};
use crate::{
    Config, Error,
    plan::{self, Decision, Heard},
    token,
    vendor::{Client, call::Call},
};

#[derive(Clone)]
pub(crate) struct Analyses {
    pub core: Core,
    pub config: Config,
    pub known: Mirror<AiTask>,
    pub gate: Gate,
    pub queue: Queue<AiTaskKey>,
    pub tasks: Tasks,
    /// Where vendors fetch pixels.
    pub fetch_address: Arc<str>,
}

#[async_trait::async_trait]
impl Reconciler for Analyses {
    type Key = AiTaskKey;

    async fn reconcile(&self, key: &AiTaskKey) -> Result<Outcome, Failed> {
        if let Some(over) = self.core.calls.over(key) {
            self.record(key, &over).await?;
            self.core.calls.drop(key);
        } else if self.known.get(key).is_some_and(|task| task.record.settled()) {
            // Settled is for ever, so that a mirror may say it.
            self.leave(key);
            return Ok(Outcome::Done);
        }
        Ok(self.advance(key).await?)
    }
}

impl Analyses {
    /// Nobody waits for the task any more.
    fn leave(&self, key: &AiTaskKey) {
        self.core.calls.drop(key);
        self.gate.forgo(key);
    }

    async fn advance(&self, key: &AiTaskKey) -> Result<Outcome, Error> {
        let Some(task) = self.core.tables.load::<AiTask>(key).await? else {
            self.leave(key);
            return Ok(Outcome::Done);
        };
        let service = self.core.registered(&key.tenant, &key.service).await?;
        let now = self.core.tables.clock().now();
        let decision = plan::decide(&task.record, service.as_ref(), self.core.calls.running(key), now);
        let event = match (decision, &service) {
            (Decision::Over, _) => {
                self.leave(key);
                return Ok(Outcome::Done);
            }
            (Decision::Wait(at), _) => return Ok(Outcome::At(at)),
            (Decision::Call, Some(service)) => return self.call(&task, service).await,
            (Decision::Call, None) => AiTaskEvent::Skipped { why: SkipReason::NotRegistered },
            (Decision::Skip(why), _) => AiTaskEvent::Skipped { why },
            (Decision::Expire, _) => AiTaskEvent::Expired,
            (Decision::Lapse, _) => AiTaskEvent::Lapsed,
        };
        self.gate.forgo(key);
        let change = self.core.tables.change(Cause::role(ACTOR));
        let next = self.commit(change, &task, event, now, service.as_ref()).await?;
        Ok(if next.settled() { Outcome::Done } else { Outcome::At(now) })
    }

    /// Commits `change` with `event` of `task`, and obeys what follows from it.
    async fn commit(
        &self,
        mut change: Change<'_>,
        task: &Stored<AiTask>,
        event: AiTaskEvent,
        at: isocenter_domain::Time,
        service: Option<&AiService>,
    ) -> Result<AiTask, Error> {
        let name = event.name();
        let (next, effects) = task.record.clone().transition(event, at)?;
        change.update(task, &next, name);
        change.commit().await?;
        self.core.follow(&task.key, &next, &effects, service);
        Ok(next)
    }

    /// Claims the task and has the service called, if it takes one more analysis and these images.
    async fn call(&self, task: &Stored<AiTask>, service: &AiService) -> Result<Outcome, Error> {
        let key = &task.key;
        let deadline = Outcome::At(task.record.deadline_at);
        let Some(vendor) = self.core.vendors.look(key, service) else { return Ok(deadline) };
        let limit = plan::limit(service, vendor.description.as_ref());
        let Some(pass) = self.gate.enter(key, limit) else { return Ok(deadline) };
        let manifest = super::manifest(&self.core.blobs, key, Some(&task.record.manifest)).await?;
        let change = self.core.tables.change(Cause::role(ACTOR));
        let now = change.now();
        if !plan::takes(vendor.description.as_ref(), &manifest.images) {
            let event = AiTaskEvent::Skipped { why: SkipReason::NotForModality };
            self.commit(change, task, event, now, Some(service)).await?;
            return Ok(Outcome::Done);
        }
        let until = plan::until(&task.record, self.config.claim.0, now);
        let next = self.commit(change, task, AiTaskEvent::Claimed { until }, now, Some(service)).await?;
        let call = Call {
            key: key.clone(),
            attempt: next.attempts,
            request_id: token::request_id(&self.core.secret, key),
            fetch_address: self.fetch_address.to_string(),
            fetch_token: token::issue(&self.core.secret, key, until),
            trace: task.head.trace.clone(),
            manifest,
            deadline: next.deadline_at,
        };
        let stop = self.core.calls.begin(key, next.attempts);
        let span = tracing::info_span!("ai analyse", service = %key.service, attempt = next.attempts);
        let span = trace::joined(span, &task.head.trace);
        let this = self.clone();
        self.tasks.background(
            "ai call",
            async move { this.listen(call, vendor.client, stop, pass).await }.instrument(span),
        );
        Ok(deadline)
    }

    /// Makes the call and leaves what was heard to the next run.
    async fn listen(&self, call: Call, client: Option<Client>, stop: CancellationToken, pass: Pass) {
        let metrics = &self.core.metrics;
        let clock = self.core.tables.clock();
        let service = call.key.service.as_str();
        let in_flight = metrics.in_flight.with_label_values(&[service]);
        let (began, ended) = (clock.monotonic(), self.tasks.token());
        in_flight.inc();
        let heard = tokio::select! {
            biased;
            () = stop.cancelled() => None,
            () = ended.cancelled() => {
                self.give_back(&call).await;
                None
            }
            heard = call.make(client, clock) => Some(heard),
        };
        in_flight.dec();
        drop(pass);
        let name = heard.as_ref().map_or("dropped", Heard::name);
        metrics.calls.with_label_values(&[service, name]).inc();
        let Some(heard) = heard else { return };
        let took = clock.monotonic().saturating_duration_since(began);
        metrics.answers.with_label_values(&[service]).observe(took.as_secs_f64());
        let over = Over { attempt: call.attempt, at: clock.now(), heard };
        self.core.calls.end(&call.key, over);
        self.queue.wake(call.key);
    }

    /// On the way down: another dispatcher may call at once, under the same request id, instead of after the claim's time.
    async fn give_back(&self, call: &Call) {
        let attempt = async {
            let Some(task) = self.core.tables.load::<AiTask>(&call.key).await? else { return Ok(()) };
            let ours = matches!(task.record.state, AiTaskState::Dispatched { .. })
                && task.record.attempts == call.attempt;
            if ours {
                let change = self.core.tables.change(Cause::role(ACTOR).because("shutdown"));
                let now = change.now();
                self.commit(change, &task, AiTaskEvent::Lapsed, now, None).await?;
            }
            Ok::<(), Error>(())
        };
        if let Err(e) = attempt.await {
            tracing::info!(error = %isocenter_runtime::task::chain(&e), "a claim is left to lapse by itself");
        }
    }

    /// Puts what was heard into the task's record, if it still says something about it.
    async fn record(&self, key: &AiTaskKey, over: &Over) -> Result<(), Error> {
        let Some(task) = self.core.tables.load::<AiTask>(key).await? else { return Ok(()) };
        if !plan::counts(&task.record, over.attempt, &over.heard) {
            return Ok(());
        }
        let mut change = self.core.tables.change(Cause::role(ACTOR));
        let schedule = self.config.schedule();
        let event = match &over.heard {
            Heard::Result(result) => {
                // First the result, durably; then the record that refers to it.
                let bytes = result.encode();
                let digest = Digest::of(&bytes);
                let name = path::ai(&key.tenant, &key.study, &key.service, key.revision, &digest);
                self.core.blobs.put_new(&name, bytes.into()).await?;
                let after_signature = self.signed(key, &mut change).await?;
                Some(AiTaskEvent::Answered { answer: result.answer(digest, over.at), after_signature })
            }
            heard @ (Heard::Declined(_) | Heard::Failed { .. } | Heard::Nothing) => {
                plan::event(&task.record, heard, &schedule, self.config.max_attempts, over.at)
            }
        };
        let Some(event) = event else { return Ok(()) };
        let service = self.core.registered(&key.tenant, &key.service).await?;
        self.commit(change, &task, event, over.at, service.as_ref()).await?;
        Ok(())
    }

    /// Whether all that a person reads of the study is signed; `change` then rests on that.
    async fn signed(&self, key: &AiTaskKey, change: &mut Change<'_>) -> Result<bool, Error> {
        let plan_key = PlanKey { tenant: key.tenant.clone(), study: key.study.clone() };
        let plan = self.core.tables.load::<Plan>(&plan_key).await?;
        let Some(case) = plan.as_ref().and_then(|plan| plan.record.case()) else { return Ok(false) };
        let range = owner_range::<ReadKey>(&key.tenant, case.as_str(), &[case.as_str()]);
        let (reads, revision) = self.core.tables.list::<Read>(&range).await?;
        change.none_newer(range, revision);
        Ok(plan::signed(reads.iter().map(|read| &read.record)))
    }
}
