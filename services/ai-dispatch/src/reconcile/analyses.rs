//! Brings one task to its end: claims it, has the service called, records what was heard.
//!
//! A call takes as long as its task may; a run does not. The call is a task of its own which leaves what it heard in
//! [`Calls`](super::calls::Calls) and wakes its key, so that recording it has the runner's retries and a service that
//! does not answer occupies nothing but its own permits.

use std::sync::Arc;

use isocenter_blobs::path;
use isocenter_domain::{
    key::{AiTaskKey, PlanKey, ReadKey, shard_of},
    record::{
        ai_task::{AiFailure, AiTask, AiTaskEvent, AiTaskState, SkipReason},
        plan::Plan,
        read::Read,
        registry::AiService,
    },
    refs::Digest,
};
use isocenter_reconcile::{Failed, Outcome, Queue, Reconciler};
use isocenter_runtime::{
    task::{Tasks, chain},
    telemetry::trace,
};
use isocenter_store::{
    members::Shares,
    table::{Cause, Change, Mirror, Stored, owner_range},
};
use isocenter_wire::document::Stored as _;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{
    ACTOR, Core,
    calls::Over,
    gate::{Ended, Gate, Pass, Turn},
};
use crate::{
    Config, Error,
    plan::{self, Decision, Heard, Model, breaker::Verdict},
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
    /// How many processes dispatch beside this one.
    pub shares: Shares,
}

/// A task that is never to be sent, and why, for the journal.
const fn skipped(why: SkipReason) -> (AiTaskEvent, &'static str) {
    (AiTaskEvent::Skipped { why }, why.name())
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
        let advanced = self.advance(key).await;
        if advanced.is_err() {
            // Whoever is tried again later holds up nobody who waits behind it.
            self.gate.forgo(key);
        }
        Ok(advanced?)
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
        let (event, why) = match (decision, &service) {
            (Decision::Over, _) => {
                self.leave(key);
                return Ok(Outcome::Done);
            }
            (Decision::Wait(at), _) => {
                self.gate.forgo(key);
                return Ok(Outcome::At(at));
            }
            (Decision::Call, Some(service)) => return self.call(&task, service).await,
            (Decision::Call, None) => skipped(SkipReason::NotRegistered),
            (Decision::Skip(why), _) => skipped(why),
            (Decision::Expire, _) => {
                let known = self.core.vendors.known(&(key.tenant.clone(), key.service.clone()));
                let serving = known.is_none_or(|(_, serving)| serving);
                plan::expired(&task.record, self.gate.standing(key), serving)
            }
            (Decision::Lapse, _) => (AiTaskEvent::Lapsed, "who called the service said nothing more"),
        };
        self.gate.forgo(key);
        let change = self.core.tables.change(Cause::role(ACTOR).because(why));
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
        let limit = plan::limit(service, vendor.description.as_ref(), self.shares.replicas());
        let now = self.core.tables.clock().now();
        let turn = self.gate.enter(key, limit, vendor.closed, now);
        if matches!(turn, Turn::Later(_)) && !self.shares.owns(shard_of(key)) {
            // Its shard went to another process during this run: in line it would hold up who waits behind it.
            self.gate.forgo(key);
        }
        let pass = match turn {
            Turn::Now(pass) => pass,
            Turn::Later(Some(at)) => return Ok(Outcome::At(at.min(task.record.deadline_at))),
            Turn::Later(None) => return Ok(deadline),
        };
        let manifest = super::manifest(&self.core.blobs, key, Some(&task.record.manifest)).await?;
        if let Some(why) = plan::refuses(vendor.description.as_ref(), &manifest.images) {
            let (event, why) = skipped(why);
            let change = self.core.tables.change(Cause::role(ACTOR).because(why));
            self.commit(change, task, event, now, Some(service)).await?;
            return Ok(Outcome::Done);
        }
        let change = self.core.tables.change(Cause::role(ACTOR));
        let now = change.now();
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
            allowed: next.deadline_at.since(next.requested_at),
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
            heard = self.hear(&call, client) => Some(heard),
        };
        in_flight.dec();
        let took = clock.monotonic().saturating_duration_since(began);
        let outcome = heard.as_ref().map_or("dropped", Heard::name);
        let verdict = heard.as_ref().map_or(Verdict::Nothing, |heard| heard.verdict(took, call.allowed));
        metrics.calls.with_label_values(&[service, outcome]).inc();
        pass.end(&Ended { outcome, verdict, took, at: clock.now() });
        metrics.tell(&call.key.service, self.gate.standing(&call.key));
        if verdict == Verdict::Ill {
            self.core.vendors.doubt(&call.key);
        }
        let Some(heard) = heard else { return };
        metrics.answers.with_label_values(&[service]).observe(took.as_secs_f64());
        let over = Over { attempt: call.attempt, at: clock.now(), heard };
        // At once, whoever works on the task's shard by now: its queue does not take what is another process's. Where this
        // fails it is left to the runner, which tries again.
        match self.record(&call.key, &over).await {
            Ok(()) => self.core.calls.done(&call.key, call.attempt),
            Err(e) if self.shares.owns(shard_of(&call.key)) => {
                tracing::info!(service, error = %chain(&e), "what was heard is recorded later");
                self.core.calls.end(&call.key, over);
            }
            // Whoever works on it now calls again after the claim, under the same request id.
            Err(e) => {
                tracing::warn!(service, error = %chain(&e), "what was heard is not recorded");
                self.core.calls.done(&call.key, call.attempt);
            }
        }
        self.queue.wake(call.key);
    }

    /// Makes the call. An answer of a model that the service does not announce is none: whoever trusts one version has not
    /// said so of another. It may be announced by the time of another attempt.
    async fn hear(&self, call: &Call, client: Option<Client>) -> Heard {
        let heard = call.make(client, self.core.tables.clock()).await;
        let Heard::Result(result) = &heard else { return heard };
        let model = Model { id: result.model.clone(), version: result.model_version.clone() };
        if self.core.vendors.announces(&call.key, &model).await {
            return heard;
        }
        tracing::warn!(service = %call.key.service, why = "its model is not the one described", "ai service broke the contract");
        Heard::Failed { failure: AiFailure::InvalidAnswer, again: true }
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
            tracing::info!(error = %chain(&e), "a claim is left to lapse by itself");
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
