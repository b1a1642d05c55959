//! What one node has received of a study. Owner: that node, so that it needs no agreement. Only an operator who releases a study
//! has another node settle the record of one that is gone; a node that is not gone states the truth anew at its next write.

use super::Record;
use crate::{key::IntakeKey, refs::Digest, time::Time};

/// One node's account of one study. It is an observation, not a state: the node puts it whole.
///
/// Written before the first answer of each association that carries the study, when that association closes, and when
/// nothing is pending any more; so that no instance was acknowledged of a study that the store does not know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Intake {
    /// Instances of the study in blobs and listed in the node's segment.
    pub stored: u32,
    /// Bytes of those.
    pub bytes: u64,
    /// Instances acknowledged and not yet in blobs. Falls only once they are there and listed.
    pub pending: u32,
    /// Associations that have carried the study and are still open.
    pub open_associations: u32,
    /// Instances of this study put aside because the same SOP Instance UID came with other content.
    pub quarantined: u32,
    /// When the last instance arrived.
    pub last_at: Time,
    /// The node's segment: the list of its instances in blobs. None before the first.
    pub segment: Option<Digest>,
}

impl Record for Intake {
    type Key = IntakeKey;
}

impl Intake {
    /// Whether everything this node has acknowledged is in blobs and no association may bring more.
    #[must_use]
    pub const fn settled(&self) -> bool {
        self.pending == 0 && self.open_associations == 0
    }

    /// The account of a node for which nobody waits any longer: what it has listed stays.
    #[must_use]
    pub fn released(self) -> Self {
        Self { pending: 0, open_associations: 0, ..self }
    }
}
