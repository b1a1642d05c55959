//! The answer to a C-STORE request (PS3.4 Annex B.2.3, PS3.7 §9.1.1.1.9).

/// The status of a C-STORE response, and why.
///
/// The comment goes to the peer as Error Comment (0000,0902) and into its logs. It is a `&'static str`, so that it
/// cannot carry anything of the object stored, in particular no patient identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StoreStatus {
    code: u16,
    comment: &'static str,
}

/// What a status code means for the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StatusClass {
    /// The object is stored.
    Success,
    /// The object is stored, and the receiver remarks something on it.
    Warning,
    /// The object is not stored; sending it again may succeed.
    Refused,
    /// The object is not stored and never will be as it is.
    Failure,
}

impl StoreStatus {
    /// The object is stored (0000).
    pub const SUCCESS: Self = Self { code: 0x0000, comment: "" };

    /// Refused: out of resources (A700). Senders are expected to try again later.
    #[must_use]
    pub const fn out_of_resources(comment: &'static str) -> Self {
        Self { code: 0xA700, comment }
    }

    /// Error: the data set does not match the SOP class (A900).
    #[must_use]
    pub const fn does_not_match_sop_class(comment: &'static str) -> Self {
        Self { code: 0xA900, comment }
    }

    /// Error: cannot understand (C000).
    #[must_use]
    pub const fn cannot_understand(comment: &'static str) -> Self {
        Self { code: 0xC000, comment }
    }

    /// Refused: not authorized (0124, PS3.7 Annex C).
    #[must_use]
    pub const fn not_authorized(comment: &'static str) -> Self {
        Self { code: 0x0124, comment }
    }

    /// A status as a peer sent it. The peer's comment is dropped: it may repeat patient identity.
    #[must_use]
    pub const fn from_code(code: u16) -> Self {
        Self { code, comment: "" }
    }

    /// Status (0000,0900).
    #[must_use]
    pub const fn code(self) -> u16 {
        self.code
    }

    /// Error Comment (0000,0902): at most 64 characters (VR LO), empty where there is none.
    #[must_use]
    pub fn comment(self) -> &'static str {
        let end = self.comment.char_indices().nth(64).map_or(self.comment.len(), |(i, _)| i);
        &self.comment[..end]
    }

    /// What the code means for the sender (PS3.7 Annex C, PS3.4 Table B.2-1).
    #[must_use]
    pub const fn class(self) -> StatusClass {
        match self.code {
            0x0000 => StatusClass::Success,
            0x0001 | 0x0107 | 0x0116 | 0xB000..=0xBFFF => StatusClass::Warning,
            0xA700..=0xA7FF => StatusClass::Refused,
            _ => StatusClass::Failure,
        }
    }

    /// Whether the object is stored: success, or stored with a warning.
    #[must_use]
    pub const fn is_stored(self) -> bool {
        matches!(self.class(), StatusClass::Success | StatusClass::Warning)
    }
}

impl std::fmt::Display for StoreStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04X}", self.code)?;
        if self.comment.is_empty() { Ok(()) } else { write!(f, " {}", self.comment()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_standard() {
        assert_eq!(StoreStatus::SUCCESS.class(), StatusClass::Success);
        assert_eq!(StoreStatus::out_of_resources("spool full").to_string(), "A700 spool full");
        assert_eq!(StoreStatus::out_of_resources("").class(), StatusClass::Refused);
        assert_eq!(StoreStatus::does_not_match_sop_class("").code(), 0xA900);
        assert_eq!(StoreStatus::cannot_understand("").code(), 0xC000);
        assert!(StoreStatus::from_code(0xB000).is_stored());
        assert!(!StoreStatus::from_code(0x0110).is_stored());
    }

    #[test]
    fn a_comment_fits_its_value_representation() {
        let long = "0123456789012345678901234567890123456789012345678901234567890123456789";
        assert_eq!(StoreStatus::cannot_understand(long).comment().len(), 64);
    }
}
