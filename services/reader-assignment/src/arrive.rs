//! A read that arrives while readers wait for work goes to the one of them whom it suits best, not to whoever asks first.

use std::{sync::Arc, time::Duration};

use isocenter_assign::{Idle, choose_idle};
use isocenter_domain::{
    id::TenantId,
    key::{HoldingKey, ReadKey},
};
use tokio_util::sync::CancellationToken;

use crate::{desk::Desk, offer::Offers, reconcile::ACTOR};

/// How often it is looked for work that time has opened to other pools.
const EVERY: Duration = Duration::from_secs(1);

impl Desk {
    /// Who is to be made an offer of which read, of those that came since the last time.
    pub(crate) fn match_arrivals(&self) -> Vec<(ReadKey, HoldingKey)> {
        let now = self.now();
        let arrivals = self.board.arrivals(now);
        let mut chosen = Vec::new();
        let mut idle: Vec<(TenantId, Idle)> = Vec::new();
        if !arrivals.is_empty() {
            let waits = self.board.idle(now).into_iter();
            idle.extend(waits.filter_map(|(key, since)| self.idle(key, since)));
        }
        for (read, item) in arrivals {
            if idle.is_empty() {
                break;
            }
            let of_tenant = idle.iter().filter(|(tenant, _)| *tenant == read.tenant).map(|(_, idle)| idle);
            let Some(reader) = choose_idle(&item, of_tenant, now).map(|idle| idle.reader.id.clone()) else {
                continue;
            };
            idle.retain(|(tenant, idle)| *tenant != read.tenant || idle.reader.id != reader);
            let holder = HoldingKey { tenant: read.tenant.clone(), reader };
            chosen.push((read, holder));
        }
        chosen
    }

    fn idle(&self, key: HoldingKey, since: isocenter_domain::Time) -> Option<(TenantId, Idle)> {
        let reader = self.view.profile(&key.tenant, &key.reader)?;
        Some((key.tenant, Idle { reader, since }))
    }

    /// Makes offers of what arrives to those who wait, until `ended`. Only the leader does.
    pub(crate) async fn keep_arrivals(self: Arc<Self>, offers: Offers, ended: CancellationToken) {
        loop {
            tokio::select! {
                () = ended.cancelled() => return,
                () = self.board.arrived.notified() => {}
                () = tokio::time::sleep(EVERY) => self.board.ripen(&self.view, self.now()),
            }
            let chosen = self.match_arrivals();
            let Some(fence) = self.leadership.fence() else { continue };
            for (_, holder) in chosen {
                // Where it is not made, the reader asks again and the read still waits.
                offers.begin(fence.clone(), holder.tenant, holder.reader, ACTOR.to_owned());
            }
        }
    }
}
