//! The files read again when they change.
//!
//! They are looked at, not watched: a folder of links that Kubernetes swaps, a network file system and an editor that
//! writes anew each tell of a change in another way, or not at all. The files are small.

use std::{sync::Arc, time::Duration};

use super::{Material, Tls, TlsError, files::Contents};
use crate::{
    metrics::{IntCounterVec, IntGauge, Metrics},
    task::{Tasks, chain},
};

/// How often the files are looked at.
const EVERY: Duration = Duration::from_secs(2);

struct Meters {
    reloads: IntCounterVec,
    stale: IntGauge,
    until: IntGauge,
}

impl Tls {
    /// Keeps to the files as a task of `tasks`: new connections are judged by what they say a few seconds after they
    /// change. Files that cannot be used change nothing, and are told of: once in the log, and as
    /// `isocenter_tls_stale` as long as they stay. Call it once for a process.
    pub fn follow(&self, tasks: &Tasks, metrics: &Metrics) {
        let metrics = metrics.scoped("tls");
        let meters = Meters {
            reloads: metrics.counter_vec(
                "reloads_total",
                "Changes of the certificate files, by whether they could be used.",
                &["outcome"],
            ),
            stale: metrics
                .gauge("stale", "1 while the certificate files cannot be used and earlier ones are."),
            until: metrics.gauge(
                "certificate_not_after_seconds",
                "When this process's own certificate ends, in seconds since 1970.",
            ),
        };
        meters.show(self);
        let (tls, ended) = (self.clone(), tasks.token());
        tasks.background("certificates", async move {
            // What was last complained of, so that it is said once.
            let mut told = None;
            while ended.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
                tls.look(&meters, &mut told).await;
            }
        });
    }

    async fn look(&self, meters: &Meters, told: &mut Option<String>) {
        let (files, now) = (self.0.files.clone(), self.current().contents);
        let read = tokio::task::spawn_blocking(move || {
            let contents = Contents::read(&files)?;
            let changed = contents.digest() != now;
            Ok::<_, TlsError>(if changed { Some(Material::of(&files, &contents)?) } else { None })
        });
        // A reading that panicked, or was cut off by the end of the process, is looked at again if there is a next time.
        let Ok(read) = read.await else { return };
        match read {
            Ok(None) => {
                *told = None;
                meters.stale.set(0);
            }
            Ok(Some(material)) => {
                *told = None;
                self.0.current.send_replace(Arc::new(material));
                meters.reloads.with_label_values(&["loaded"]).inc();
                meters.show(self);
                tracing::info!("certificates changed");
            }
            Err(error) => {
                let error = chain(&error);
                meters.stale.set(1);
                if told.as_ref() != Some(&error) {
                    meters.reloads.with_label_values(&["refused"]).inc();
                    tracing::error!(error, "certificate files cannot be used; the earlier ones stay");
                    *told = Some(error);
                }
            }
        }
    }
}

impl Meters {
    fn show(&self, tls: &Tls) {
        let seconds = tls.until().since(isocenter_domain::Time::ZERO).as_secs();
        self.until.set(i64::try_from(seconds).unwrap_or(i64::MAX));
        self.stale.set(0);
    }
}
