//! What waits to be read.

use std::collections::BTreeSet;

use isocenter_domain::{
    Time,
    id::{ClassId, PoolId, ReadId, ReaderId, SiteId},
};

/// Modalities whose objects accompany images and are not read themselves (PS3.3 §C.7.3.1.1.1): reports, key object
/// selections, presentation states, registrations, fiducials, segmentations, documents, audio.
const NOT_READ: [&str; 8] = ["AU", "DOC", "FID", "KO", "PR", "REG", "SEG", "SR"];

/// What a read asks of a reader. Reads with the same needs wait in one bucket of the queue, so that a reader is
/// judged once for all of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Needs {
    modalities: BTreeSet<String>,
    body_part: String,
    site: SiteId,
    pools: Vec<PoolId>,
}

impl Needs {
    /// Needs of a read of images of `modalities` of `body_part` (empty where absent) from `site`, for the readers of
    /// `pools` in order of preference. Codes are compared trimmed and in upper case; modalities that only accompany
    /// images (SR, PR, KO and the like) ask for no skill.
    #[must_use]
    pub fn new(
        modalities: impl IntoIterator<Item = impl AsRef<str>>,
        body_part: &str,
        site: SiteId,
        pools: Vec<PoolId>,
    ) -> Self {
        let modalities = modalities
            .into_iter()
            .map(|modality| code(modality.as_ref()))
            .filter(|modality| !modality.is_empty() && !NOT_READ.contains(&modality.as_str()))
            .collect();
        Self { modalities, body_part: code(body_part), site, pools }
    }

    /// The modalities to be read, in upper case.
    #[must_use]
    pub const fn modalities(&self) -> &BTreeSet<String> {
        &self.modalities
    }

    /// Body Part Examined in upper case, empty where absent.
    #[must_use]
    pub fn body_part(&self) -> &str {
        &self.body_part
    }

    /// The site the study came from.
    #[must_use]
    pub const fn site(&self) -> &SiteId {
        &self.site
    }

    /// The pools whose readers may have it, in order of preference.
    #[must_use]
    pub fn pools(&self) -> &[PoolId] {
        &self.pools
    }
}

pub(crate) fn code(text: &str) -> String {
    text.trim().to_uppercase()
}

/// One read that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The read.
    pub read: ReadId,
    /// Its class, for display; what the class means for the order is in the times below.
    pub class: ClassId,
    /// When its case became complete: revision 1, by our clock. A returned read keeps it.
    pub complete_at: Time,
    /// `complete_at + deadline - ai_credit * p`: what the queue orders by.
    pub virtual_due: Time,
    /// When it must be signed.
    pub deadline_at: Time,
    /// Since when it has waited for a reader this time; later than `complete_at` after a return.
    pub waiting_since: Time,
    /// What it asks of a reader.
    pub needs: Needs,
    /// Readers who must not have it: they returned or declined it, or read this case before.
    pub excluded: BTreeSet<ReaderId>,
}
