//! What waits to be read.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use isocenter_domain::{
    Time,
    id::{ClassId, JurisdictionId, PoolId, ReadId, ReaderId, SiteId},
};

use crate::{Ppm, Work};

/// Modalities whose objects accompany images and are not read themselves (PS3.3 §C.7.3.1.1.1): reports, key object
/// selections, presentation states, registrations, fiducials, segmentations, documents, audio.
const NOT_READ: [&str; 8] = ["AU", "DOC", "FID", "KO", "PR", "REG", "SEG", "SR"];

/// What a class means for the order: data of the policy, copied into the case when it was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Urgency {
    /// From complete to signed: the class's deadline.
    pub target: Duration,
    /// The cost of a delay of one whole target, beside the other classes'.
    pub weight: u32,
    /// The cost of an hour's delay of a study that is certainly critical; 0: AI does not order this class.
    pub critical: u32,
    /// The probability that a study of this class is critical: used where AI says nothing, and the floor under what it
    /// says, so that AI never demotes below the ordered class. Each class has its own: one for all loses the order of
    /// the classes.
    pub prior: Ppm,
    /// Whether it may be leased ahead of time to a reader who is still busy. False makes the class *immediate*
    /// (STAT): it is never leased and, by [`Params::immediate_first`](crate::Params), goes before all others.
    pub next_up: bool,
    /// Whether it joins the front lane for having waited long beside the others, before its deadline nears.
    pub may_outwait: bool,
}

/// What a read asks of a reader. Reads with the same needs are one family of the queue, so that a reader is judged
/// once for all of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Needs {
    // Shared, because many reads need the same: see `queue::family`.
    pub(crate) competence: Arc<Competence>,
    pub(crate) place: Arc<Place>,
    pub(crate) pools: Arc<Vec<PoolId>>,
}

/// The part of the needs that skills answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Competence {
    pub modalities: BTreeSet<String>,
    pub body_part: String,
    pub paediatric: bool,
    pub attending: bool,
}

/// The part of the needs that privileges and licences answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub site: SiteId,
    pub jurisdiction: Option<JurisdictionId>,
}

impl Needs {
    /// Needs of a read of images of `modalities` of `body_part` (empty where absent) from `site`, for the readers of
    /// `pools` in order of preference. Codes are compared trimmed and in upper case; modalities that only accompany
    /// images (SR, PR, KO and the like) ask for no skill. Neither licence, nor competence in children, nor grade is
    /// asked for before the methods below say so.
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
        let competence =
            Competence { modalities, body_part: code(body_part), paediatric: false, attending: false };
        let place = Place { site, jurisdiction: None };
        Self { competence: Arc::new(competence), place: Arc::new(place), pools: Arc::new(pools) }
    }

    /// The same for a case under `jurisdiction`: a licence for it is asked for; none where `None`.
    #[must_use]
    pub fn under(mut self, jurisdiction: Option<JurisdictionId>) -> Self {
        Arc::make_mut(&mut self.place).jurisdiction = jurisdiction;
        self
    }

    /// The same for a child, if `paediatric`.
    #[must_use]
    pub fn of_a_child(mut self, paediatric: bool) -> Self {
        Arc::make_mut(&mut self.competence).paediatric = paediatric;
        self
    }

    /// The same for readers whose signature is final alone, if `attending`.
    #[must_use]
    pub fn by_an_attending(mut self, attending: bool) -> Self {
        Arc::make_mut(&mut self.competence).attending = attending;
        self
    }

    /// The same for the readers of other pools.
    #[must_use]
    pub fn for_pools(mut self, pools: Vec<PoolId>) -> Self {
        self.pools = Arc::new(pools);
        self
    }

    /// The modalities to be read, in upper case.
    #[must_use]
    pub fn modalities(&self) -> &BTreeSet<String> {
        &self.competence.modalities
    }

    /// Body Part Examined in upper case, empty where absent.
    #[must_use]
    pub fn body_part(&self) -> &str {
        &self.competence.body_part
    }

    /// Whether the patient is a child.
    #[must_use]
    pub fn paediatric(&self) -> bool {
        self.competence.paediatric
    }

    /// Whether the signature has to be final.
    #[must_use]
    pub fn attending(&self) -> bool {
        self.competence.attending
    }

    /// The site the study came from.
    #[must_use]
    pub fn site(&self) -> &SiteId {
        &self.place.site
    }

    /// Where its readers are licensed; none: no licence is asked for.
    #[must_use]
    pub fn jurisdiction(&self) -> Option<&JurisdictionId> {
        self.place.jurisdiction.as_ref()
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

/// Why one reader must not have one read, whatever their skills.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Exclusion {
    /// They returned or declined it.
    Returned,
    /// They read the case before: a second opinion or a review is another's.
    ReadBefore,
    /// They are the first reader of a double reading.
    FirstReader,
    /// They know of the other report, which a blinded reader must not.
    Blinded,
    /// They declared an interest in the patient.
    Conflict,
    /// They recused themselves from the case.
    Recused,
}

impl Exclusion {
    /// Its name in answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Returned => "returned",
            Self::ReadBefore => "read-before",
            Self::FirstReader => "first-reader",
            Self::Blinded => "blinded",
            Self::Conflict => "conflict",
            Self::Recused => "recused",
        }
    }
}

impl fmt::Display for Exclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Returned => "returned or declined it",
            Self::ReadBefore => "read the case before",
            Self::FirstReader => "is its first reader",
            Self::Blinded => "knows of the other report",
            Self::Conflict => "declared a conflict of interest",
            Self::Recused => "is recused from it",
        })
    }
}

/// One read that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The read.
    pub read: ReadId,
    /// Its class, for display; what the class means for the order is in `urgency`.
    pub class: ClassId,
    /// What its class means for the order.
    pub urgency: Urgency,
    /// When its case became complete: revision 1, by our clock. Its age counts from here; a returned read keeps it.
    pub complete_at: Time,
    /// Since when it has waited for a reader this time; later than `complete_at` after a return.
    pub waiting_since: Time,
    /// What AI says: a calibrated posterior that the study is critical. None: no answer.
    pub probability: Option<Ppm>,
    /// How much work it is.
    pub work: Work,
    /// What it asks of a reader.
    pub needs: Needs,
    /// Readers who must not have it, and why.
    pub excluded: BTreeMap<ReaderId, Exclusion>,
    /// Who read a linked case: preferred, softly.
    pub prefers: Option<ReaderId>,
}

impl Item {
    /// When it must be signed: a target after it was complete.
    #[must_use]
    pub fn deadline_at(&self) -> Time {
        self.complete_at.plus(self.urgency.target)
    }

    /// The probability that it is critical, as the order counts it before levels: what AI says, or the class's prior
    /// where that is more.
    #[must_use]
    pub fn posterior(&self) -> Ppm {
        self.probability.map_or(self.urgency.prior, |said| said.max(self.urgency.prior))
    }
}
