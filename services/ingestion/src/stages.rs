//! The gauges of how many studies are in which stage, and how old the oldest is.

use std::{sync::Arc, time::Duration};

use isocenter_domain::{Time, record::study::Study, stage::Stage};
use isocenter_runtime::clock::Clock;
use isocenter_store::table::{Mirrors, gather};

use crate::{metrics::Meters, mover::blocking};

/// For each second of counting, this many pass before it is counted again: the gauges cost a few percent of a processor at
/// most, however many studies are live.
const SPARING: u32 = 30;

/// Makes the gauges fresh after each `period`, for ever; after a longer time where counting takes long.
pub(crate) async fn watch(mirrors: Mirrors, clock: Arc<dyn Clock>, meters: Meters, period: Duration) {
    mirrors.of::<Study>().synced().await;
    let mut pause = period;
    loop {
        // First the pause: a process that starts has more urgent work.
        tokio::time::sleep(pause).await;
        let began = clock.monotonic();
        let (mirrors, clock, meters) = (mirrors.clone(), Arc::clone(&clock), meters.clone());
        // A cell's live studies are some hundred thousand look-ups: off the async threads.
        let counted = blocking(move || (count(&mirrors, clock.now(), &meters), clock.monotonic())).await;
        let Ok(((), ended)) = counted else { return };
        pause = period.max(ended.saturating_duration_since(began) * SPARING);
    }
}

fn count(mirrors: &Mirrors, now: Time, meters: &Meters) {
    let mut stages = Stage::ALL.map(|stage| (stage, 0_usize, Duration::ZERO));
    for study in mirrors.of::<Study>().all() {
        let Some(stage) = isocenter_domain::stage::stage(&gather(mirrors, &study.key)) else { continue };
        let since = study.record.complete_at.unwrap_or(study.record.first_received_at);
        if let Some((_, studies, oldest)) = stages.iter_mut().find(|(s, _, _)| *s == stage) {
            *studies += 1;
            *oldest = (*oldest).max(now.since(since));
        }
    }
    for (stage, studies, oldest) in stages {
        meters.stage(stage, studies, oldest);
    }
}
