//! What this role counts and measures.

use std::{sync::Arc, time::Duration};

use isocenter_assign::shortage::Outlook;
use isocenter_domain::{
    id::TenantId,
    record::read::{ReadState, ReturnReason},
};
use isocenter_runtime::metrics::{HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Metrics};
use tokio_util::sync::CancellationToken;

use crate::desk::Desk;

/// How often gauges are made fresh: each time walks over all live reads.
const EVERY: Duration = Duration::from_secs(5);

/// The metrics of reader assignment.
#[derive(Clone, Debug)]
pub(crate) struct Meters {
    seconds: HistogramVec,
    returns: IntCounterVec,
    lapses: IntCounter,
    forwarded: IntCounter,
    recalls: IntCounterVec,
    nearing: IntGauge,
    waits: IntGaugeVec,
    shortages: IntGaugeVec,
    reads: IntGaugeVec,
    depth: IntGauge,
    oldest: IntGauge,
    overdue: IntGauge,
    signed: IntCounterVec,
    stuck: IntGauge,
    parked: IntGauge,
    leader: IntGauge,
    readers: IntGaugeVec,
}

impl Meters {
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            seconds: metrics.histogram_vec(
                "step_seconds",
                "Waiting until offered, offered until opened, and answering a signature.",
                &["step"],
            ),
            returns: metrics.counter_vec(
                "returns_total",
                "Reads given or taken back, by reason.",
                &["reason"],
            ),
            lapses: metrics.counter("lapses_total", "Offers that lapsed."),
            forwarded: metrics.counter("forwarded_total", "Requests for work passed on to the leader."),
            recalls: metrics.counter_vec(
                "recalls_total",
                "Reads leased ahead and taken back, by reason.",
                &["reason"],
            ),
            nearing: metrics.gauge("nearing", "Reads in the queue of which most of the deadline has passed."),
            waits: metrics.gauge_vec(
                "predicted_wait_seconds",
                "How long a read that comes now is predicted to wait; -1: beyond eight hours.",
                &["class", "pool"],
            ),
            shortages: metrics.gauge_vec(
                "predicted_late_seconds",
                "Reading time of the next eight hours that is predicted to be late.",
                &["class", "pool"],
            ),
            reads: metrics.gauge_vec("reads", "Live reads by state.", &["state"]),
            depth: metrics.gauge("queue_depth", "Reads in the queue."),
            oldest: metrics.gauge("queue_oldest_seconds", "The age of the oldest read in the queue."),
            overdue: metrics
                .gauge("overdue", "First reads that are not signed and past their class's deadline."),
            signed: metrics.counter_vec(
                "signed_total",
                "First reads signed, in-time or late for their class's deadline.",
                &["due"],
            ),
            stuck: metrics.gauge("stuck", "Reads open for longer than their class allows."),
            parked: metrics.gauge("parked", "Reads in the queue that no registered reader could have."),
            leader: metrics.gauge("leader", "1 where this process makes the offers."),
            readers: metrics.gauge_vec(
                "readers",
                "Readers present, with an offer, and with an open read.",
                &["state"],
            ),
        }
    }

    pub fn offered(&self, waited: Duration) {
        self.seconds.with_label_values(&["offer"]).observe(waited.as_secs_f64());
    }

    pub fn opened(&self, after: Duration) {
        self.seconds.with_label_values(&["open"]).observe(after.as_secs_f64());
    }

    pub fn signed(&self, took: Duration) {
        self.seconds.with_label_values(&["sign"]).observe(took.as_secs_f64());
    }

    /// A first read was signed `late` or in time for the deadline of its class.
    pub fn punctual(&self, late: bool) {
        self.signed.with_label_values(&[if late { "late" } else { "in-time" }]).inc();
    }

    pub fn returned(&self, reason: ReturnReason) {
        self.returns.with_label_values(&[reason.name()]).inc();
    }

    pub fn lapsed(&self) {
        self.lapses.inc();
    }

    /// A read leased ahead was taken back.
    pub fn recalled(&self, reason: &str) {
        self.recalls.with_label_values(&[reason]).inc();
    }

    /// What is predicted, of the whole network.
    pub fn ahead(&self, outlook: &Outlook) {
        self.waits.reset();
        for first in &outlook.forecasts {
            let labels = [first.class.as_str(), first.pool.as_str()];
            if first.at == outlook.forecasts[0].at {
                self.waits.with_label_values(&labels).set(first.wait.map_or(-1, seconds));
            }
        }
        self.shortages.reset();
        for shortage in &outlook.shortages {
            let labels = [shortage.class.as_str(), shortage.pool.as_str()];
            self.shortages.with_label_values(&labels).set(seconds(shortage.late));
        }
    }

    pub fn forwarded(&self) {
        self.forwarded.inc();
    }

    /// Keeps the gauges fresh until `ended`.
    pub async fn observe(desk: Arc<Desk>, ended: CancellationToken) {
        let mut tick = tokio::time::interval(EVERY);
        loop {
            tokio::select! {
                () = ended.cancelled() => return,
                _ = tick.tick() => desk.meters.look(&desk),
            }
        }
    }

    fn look(&self, desk: &Desk) {
        let now = desk.now();
        let (depth, oldest) = desk.board.depth();
        self.depth.set(gauge(depth));
        let oldest = oldest.map_or(0, |since| now.since(since).as_secs());
        self.oldest.set(i64::try_from(oldest).unwrap_or(i64::MAX));
        self.nearing.set(gauge(desk.board.nearing(now)));
        self.stuck.set(gauge(desk.stuck(now)));
        self.overdue.set(gauge(desk.overdue(now)));
        let parked = |tenant: &TenantId| desk.board.parked(&desk.view, tenant, now).len();
        self.parked.set(gauge(desk.board.tenants().iter().map(parked).sum()));
        self.leader.set(i64::from(desk.leadership.fence().is_some()));
        let (mut waiting, mut offered, mut open, mut signed) = (0, 0, 0, 0);
        let (mut awaiting, mut suspended) = (0, 0);
        for read in desk.view.reads.all() {
            match read.record.state {
                ReadState::Waiting => waiting += 1,
                ReadState::AwaitingFinal => awaiting += 1,
                ReadState::Offered { .. } => offered += 1,
                ReadState::Open { .. } => open += 1,
                ReadState::Suspended { .. } => suspended += 1,
                ReadState::Signed { .. } | ReadState::NonDiagnostic { .. } | ReadState::Cancelled { .. } => {
                    signed += 1;
                }
            }
        }
        let states = [
            ("waiting", waiting),
            ("awaiting-final", awaiting),
            ("offered", offered),
            ("open", open),
            ("suspended", suspended),
            ("signed", signed),
        ];
        for (state, n) in states {
            self.reads.with_label_values(&[state]).set(n);
        }
        // A reader has one offer and one open read at most, so that these are also the readers who have one.
        for (state, n) in
            [("present", gauge(desk.view.presence.count())), ("offered", offered), ("open", open)]
        {
            self.readers.with_label_values(&[state]).set(n);
        }
    }
}

fn seconds(d: Duration) -> i64 {
    i64::try_from(d.as_secs()).unwrap_or(i64::MAX)
}

fn gauge(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
