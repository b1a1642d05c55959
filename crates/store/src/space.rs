//! How full the store is, and the brake that is put on before it is.
//!
//! A store that is full refuses every change, and work in progress with it. So what brings new work stops while there is
//! still room to finish the old: above 70 % of the quota no study is taken in. From 50 % on somebody has to know.
//!
//! A file that has grown once does not shrink, and what is free within it is used again: one that is mostly free room after
//! a compaction stops nobody before 90 %. The rest is for what grows faster than it is compacted.

use std::{fmt, sync::Arc, time::Duration};

use isocenter_runtime::{
    metrics::{IntGauge, IntGaugeVec, Metrics},
    task::Tasks,
};
use tokio::sync::watch;

use crate::kv::{Kv, Usage};

/// How often the store is asked. At the highest rate that a cell is sized for, a quota of 2 GiB takes longer than ten
/// minutes from the brake to the end.
const ASK: Duration = Duration::from_secs(10);

/// How much room there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// Enough.
    Ok,
    /// Half of the quota is used: somebody has to look while there is time.
    High,
    /// Nothing new is to be taken in: above 70 % of the quota, with at least half of the quota live; above 90 %, whatever is
    /// live; or the store has refused a change for want of space.
    Full,
}

impl Pressure {
    /// What a usage means.
    #[must_use]
    pub fn of(usage: &Usage) -> Self {
        let percent = |bytes: u64, n: u64| u128::from(bytes) * 100 >= u128::from(usage.quota) * u128::from(n);
        let used = |n| percent(usage.used, n);
        match usage {
            Usage { no_space: true, .. } => Self::Full,
            Usage { quota: 0, .. } => Self::Ok,
            Usage { .. } if used(90) || used(70) && percent(usage.live, 50) => Self::Full,
            Usage { .. } if used(50) => Self::High,
            Usage { .. } => Self::Ok,
        }
    }
}

/// What is known of the store's room. Cheap to clone and to ask.
#[derive(Clone)]
pub struct Space {
    usage: watch::Receiver<Option<Usage>>,
}

impl fmt::Debug for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Space").field("usage", &self.usage()).finish()
    }
}

impl Space {
    /// A store that never fills: for tests, and where nobody asks.
    #[must_use]
    pub fn unlimited() -> Self {
        Self { usage: watch::Sender::new(None).subscribe() }
    }

    /// Asks the store every ten seconds, on `tasks`, and tells `metrics`: `store_space_bytes{kind}` is what is `used` of
    /// the `quota` and how much of that is `live`; `store_no_space` is 1 while the store refuses changes.
    #[must_use]
    pub fn start(kv: Arc<dyn Kv>, metrics: &Metrics, tasks: &Tasks) -> Self {
        let metrics = metrics.scoped("store");
        let gauges = Gauges {
            bytes: metrics.gauge_vec("space_bytes", "Bytes used, live, and allowed.", &["kind"]),
            no_space: metrics.gauge("no_space", "1 while the store refuses changes for want of space."),
        };
        let (sender, usage) = watch::channel(None);
        let ended = tasks.token();
        tasks.background("space", async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = ask(kv, sender, gauges) => {}
            }
        });
        Self { usage }
    }

    /// How much room there is; [`Pressure::Ok`] before the store has said. What was said last holds while it says nothing.
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        self.usage().as_ref().map_or(Pressure::Ok, Pressure::of)
    }

    /// What the store said last.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        *self.usage.borrow()
    }
}

struct Gauges {
    bytes: IntGaugeVec,
    no_space: IntGauge,
}

async fn ask(kv: Arc<dyn Kv>, sender: watch::Sender<Option<Usage>>, gauges: Gauges) {
    let mut before = Pressure::Ok;
    loop {
        match kv.usage().await {
            Ok(usage) => {
                sender.send_replace(Some(usage));
                gauges.set(&usage);
                let now = Pressure::of(&usage);
                if now != before {
                    let Usage { used, quota, no_space, .. } = usage;
                    tracing::warn!(pressure = ?now, used, quota, no_space, "the store's room has changed");
                }
                before = now;
            }
            Err(error) => tracing::debug!(%error, "could not ask how full the store is"),
        }
        tokio::time::sleep(ASK).await;
    }
}

impl Gauges {
    fn set(&self, usage: &Usage) {
        let bytes = |kind: &str, n: u64| {
            self.bytes.with_label_values(&[kind]).set(i64::try_from(n).unwrap_or(i64::MAX));
        };
        bytes("used", usage.used);
        bytes("live", usage.live);
        bytes("quota", usage.quota);
        self.no_space.set(i64::from(usage.no_space));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_is_high_seventy_percent_is_full_and_so_is_a_refusal() {
        let of =
            |used: u64, no_space: bool| Pressure::of(&Usage { used, live: used, quota: 1_000, no_space });
        assert_eq!(
            (of(0, false), of(499, false), of(500, false)),
            (Pressure::Ok, Pressure::Ok, Pressure::High)
        );
        assert_eq!((of(699, false), of(700, false)), (Pressure::High, Pressure::Full));
        assert_eq!(of(0, true), Pressure::Full);
        let none = Usage { used: 5, live: 5, quota: 0, no_space: false };
        assert_eq!(Pressure::of(&none), Pressure::Ok, "no quota is known");
        assert_eq!(Space::unlimited().pressure(), Pressure::Ok);
    }

    #[test]
    fn a_file_of_free_room_stops_nobody_until_it_is_nearly_as_large_as_it_may_be() {
        let of = |used: u64, live: u64| Pressure::of(&Usage { used, live, quota: 1_000, no_space: false });
        assert_eq!((of(700, 499), of(700, 500)), (Pressure::High, Pressure::Full));
        assert_eq!((of(899, 10), of(900, 10)), (Pressure::High, Pressure::Full));
        assert_eq!(of(499, 499), Pressure::Ok);
        let refuses = Usage { used: 0, live: 0, quota: 1_000, no_space: true };
        assert_eq!(Pressure::of(&refuses), Pressure::Full);
    }
}
