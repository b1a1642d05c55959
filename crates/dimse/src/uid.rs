//! The UIDs this crate decides by (PS3.6 Annex A), and those it is known by.

use dicom_core::dictionary::{UidDictionary as _, UidDictionaryEntry as _};
use dicom_dictionary_std::StandardSopClassDictionary;

/// Verification SOP Class.
pub const VERIFICATION: &str = "1.2.840.10008.1.1";
/// DICOM Application Context Name (PS3.7 Annex A.2.1).
pub(crate) const APPLICATION_CONTEXT: &str = "1.2.840.10008.3.1.1.1";
/// Implicit VR Little Endian, the default transfer syntax.
pub const IMPLICIT_VR_LITTLE_ENDIAN: &str = "1.2.840.10008.1.2";

/// Implementation Class UID (0002,0012) of everything this implementation sends and writes: a UUID under 2.25 (PS3.5
/// Annex B.2), the same for all versions.
pub const IMPLEMENTATION_CLASS: &str = "2.25.242108744379180243113284157096480273521";
/// Implementation Version Name (0002,0013), at most 16 characters.
pub const IMPLEMENTATION_VERSION: &str = concat!("ISOCENTER_", env!("CARGO_PKG_VERSION"));

/// What objects of every storage SOP class of the standard are under.
pub(crate) const STORAGE_ROOT: &str = "1.2.840.10008.5.1.4.1.1.";
/// What every UID that DICOM itself assigned is under.
const DICOM_ROOT: &str = "1.2.840.10008.";
/// Named "Storage" in the standard, yet never the class of an object on a network.
const DIRECTORY: &str = "1.2.840.10008.1.3.10";

/// Whether objects of this SOP class are stored.
///
/// Yes for each class the standard calls a storage class, retired ones too; for classes under its storage root newer
/// than the dictionary compiled in; and for private classes, whose meaning the sender and its readers share. No for the
/// standard's other services (query, print, worklist), which would otherwise seem to be on offer.
#[must_use]
pub fn is_storage(sop_class: &str) -> bool {
    if !sop_class.starts_with(DICOM_ROOT) {
        return !sop_class.is_empty();
    }
    match StandardSopClassDictionary.by_uid(sop_class) {
        Some(entry) => entry.alias().contains("Storage") && is_object(sop_class, entry.alias()),
        None => sop_class.starts_with(STORAGE_ROOT),
    }
}

fn is_object(sop_class: &str, alias: &str) -> bool {
    sop_class != DIRECTORY && !alias.contains("StorageCommitment") && !alias.contains("StorageManagement")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storage_is_told_from_the_other_services() {
        let ct = "1.2.840.10008.5.1.4.1.1.2";
        let newer = "1.2.840.10008.5.1.4.1.1.999.7";
        let hanging_protocol = "1.2.840.10008.5.1.4.38.1";
        let private = "1.3.46.670589.11.0.0.12.1";
        for uid in [ct, newer, hanging_protocol, private] {
            assert!(is_storage(uid), "{uid}");
        }
        let study_root_find = "1.2.840.10008.5.1.4.1.2.2.1";
        let inventory_find = "1.2.840.10008.5.1.4.1.1.201.2";
        let commitment = "1.2.840.10008.1.20.1";
        for uid in [VERIFICATION, study_root_find, inventory_find, commitment, DIRECTORY, ""] {
            assert!(!is_storage(uid), "{uid}");
        }
    }

    #[test]
    fn the_names_we_are_known_by_fit_their_fields() {
        assert!(IMPLEMENTATION_VERSION.len() <= 16);
        assert!(isocenter_domain::id::SopClassUid::new(IMPLEMENTATION_CLASS).is_ok());
    }
}
