//! The answer to an association request: pure, from PDU to PDU.

use dicom_ul::pdu::{
    AssociationAC, AssociationRJ, AssociationRJResult, AssociationRJServiceProviderASCEReason,
    AssociationRJServiceProviderPresentationReason, AssociationRJServiceUserReason, AssociationRJSource,
    AssociationRQ, Pdu, PresentationContextProposed, PresentationContextResult,
    PresentationContextResultReason, UserVariableItem,
};
use isocenter_domain::id::{SopClassUid, TransferSyntaxUid};

use crate::{
    Rejection,
    uid::{
        APPLICATION_CONTEXT, IMPLEMENTATION_CLASS, IMPLEMENTATION_VERSION, IMPLICIT_VR_LITTLE_ENDIAN,
        VERIFICATION, is_storage,
    },
};

/// A presentation context that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Context {
    pub id: u8,
    pub abstract_syntax: SopClassUid,
    pub transfer_syntax: TransferSyntaxUid,
}

/// What of a request can be judged without asking anybody.
pub(crate) fn check_protocol(request: &AssociationRQ) -> Result<(), Rejection> {
    // Bit 0 is version 1; a receiver tests that bit alone (PS3.8 Table 9-11).
    if request.protocol_version & 1 == 0 {
        return Err(Rejection::ProtocolVersion);
    }
    if request.application_context_name.trim_end_matches(['\0', ' ']) != APPLICATION_CONTEXT {
        return Err(Rejection::ApplicationContext);
    }
    Ok(())
}

/// Answers every proposed context, in order. `None`: an identifier is even or used twice, which PS3.8 §9.3.2.2
/// forbids and no answer could repair.
pub(crate) fn contexts(
    proposed: &[PresentationContextProposed],
) -> Option<(Vec<Context>, Vec<PresentationContextResult>)> {
    let (mut accepted, mut results) = (Vec::new(), Vec::with_capacity(proposed.len()));
    let mut seen = [false; 256];
    for context in proposed {
        if context.id % 2 == 0 || std::mem::replace(&mut seen[usize::from(context.id)], true) {
            return None;
        }
        let (reason, transfer_syntax) = match accept(context) {
            Ok(context) => {
                let transfer_syntax = context.transfer_syntax.to_string();
                accepted.push(context);
                (PresentationContextResultReason::Acceptance, transfer_syntax)
            }
            // The transfer syntax of a refused context is not significant (PS3.8 §9.3.3.2), but must be there.
            Err(reason) => (reason, IMPLICIT_VR_LITTLE_ENDIAN.to_owned()),
        };
        results.push(PresentationContextResult { id: context.id, reason, transfer_syntax });
    }
    Some((accepted, results))
}

/// Any storage class and, of the transfer syntaxes proposed, the first: the data set is kept as it comes and nothing
/// here decodes it, so the sender's own preference is the right one.
fn accept(context: &PresentationContextProposed) -> Result<Context, PresentationContextResultReason> {
    use PresentationContextResultReason::{AbstractSyntaxNotSupported, TransferSyntaxesNotSupported};

    let abstract_syntax =
        SopClassUid::new(trimmed(&context.abstract_syntax)).map_err(|_| AbstractSyntaxNotSupported)?;
    if abstract_syntax.as_str() != VERIFICATION && !is_storage(abstract_syntax.as_str()) {
        return Err(AbstractSyntaxNotSupported);
    }
    let transfer_syntax = context
        .transfer_syntaxes
        .iter()
        .find_map(|uid| TransferSyntaxUid::new(trimmed(uid)).ok())
        .ok_or(TransferSyntaxesNotSupported)?;
    Ok(Context { id: context.id, abstract_syntax, transfer_syntax })
}

fn trimmed(uid: &str) -> &str {
    uid.trim_matches(|c: char| c == '\0' || c == ' ')
}

/// The peer's Maximum Length; one that states none has no limit.
pub(crate) fn peer_max_pdu(variables: &[UserVariableItem]) -> u32 {
    variables
        .iter()
        .find_map(|v| if let UserVariableItem::MaxLength(n) = v { Some(*n) } else { None })
        .unwrap_or(0)
}

/// The user information every association of ours states (PS3.7 Annex D.3.3). An asynchronous operations window is
/// never negotiated: one operation at a time.
pub(crate) fn user_variables(max_pdu: u32) -> Vec<UserVariableItem> {
    vec![
        UserVariableItem::MaxLength(max_pdu),
        UserVariableItem::ImplementationClassUID(IMPLEMENTATION_CLASS.to_owned()),
        UserVariableItem::ImplementationVersionName(IMPLEMENTATION_VERSION.to_owned()),
    ]
}

/// A-ASSOCIATE-AC.
pub(crate) fn acceptance(
    request: &AssociationRQ,
    results: Vec<PresentationContextResult>,
    max_pdu: u32,
) -> Pdu {
    Pdu::AssociationAC(AssociationAC {
        protocol_version: 1,
        calling_ae_title: request.calling_ae_title.clone(),
        called_ae_title: request.called_ae_title.clone(),
        application_context_name: APPLICATION_CONTEXT.to_owned(),
        presentation_contexts: results,
        user_variables: user_variables(max_pdu),
    })
}

/// A-ASSOCIATE-RJ (PS3.8 Table 9-21).
pub(crate) fn rejection(why: Rejection) -> Pdu {
    use AssociationRJResult::{Permanent, Transient};
    use AssociationRJServiceProviderPresentationReason as Presentation;
    use AssociationRJServiceUserReason as User;

    let (result, source) = match why {
        Rejection::UnknownCallingAe => {
            (Permanent, AssociationRJSource::ServiceUser(User::CallingAETitleNotRecognized))
        }
        Rejection::UnknownCalledAe => {
            (Permanent, AssociationRJSource::ServiceUser(User::CalledAETitleNotRecognized))
        }
        Rejection::ApplicationContext => {
            (Permanent, AssociationRJSource::ServiceUser(User::ApplicationContextNameNotSupported))
        }
        Rejection::NoReason => (Permanent, AssociationRJSource::ServiceUser(User::NoReasonGiven)),
        Rejection::ProtocolVersion => (
            Permanent,
            AssociationRJSource::ServiceProviderASCE(
                AssociationRJServiceProviderASCEReason::ProtocolVersionNotSupported,
            ),
        ),
        Rejection::TemporaryCongestion => {
            (Transient, AssociationRJSource::ServiceProviderPresentation(Presentation::TemporaryCongestion))
        }
        Rejection::LocalLimit => {
            (Transient, AssociationRJSource::ServiceProviderPresentation(Presentation::LocalLimitExceeded))
        }
    };
    Pdu::AssociationRJ(AssociationRJ { result, source })
}

#[cfg(test)]
mod tests {
    use dicom_ul::pdu::write_pdu;

    use super::*;

    fn proposed(id: u8, class: &str, syntaxes: &[&str]) -> PresentationContextProposed {
        PresentationContextProposed {
            id,
            abstract_syntax: class.into(),
            transfer_syntaxes: syntaxes.iter().map(|s| (*s).into()).collect(),
        }
    }

    #[test]
    fn any_storage_class_is_accepted_in_the_first_syntax_proposed() {
        let private = "1.2.840.113619.5.2";
        let (accepted, results) = contexts(&[
            proposed(1, "1.2.840.10008.5.1.4.1.1.2\0", &[private, IMPLICIT_VR_LITTLE_ENDIAN]),
            proposed(3, "1.2.840.10008.5.1.4.1.2.2.1", &[IMPLICIT_VR_LITTLE_ENDIAN]),
            proposed(5, VERIFICATION, &["not a uid"]),
        ])
        .unwrap();
        assert_eq!(accepted.len(), 1);
        assert_eq!(accepted[0].transfer_syntax.as_str(), private);
        assert_eq!(accepted[0].abstract_syntax.as_str(), "1.2.840.10008.5.1.4.1.1.2");
        let reasons: Vec<_> = results.iter().map(|r| r.reason.clone()).collect();
        assert_eq!(
            reasons,
            [
                PresentationContextResultReason::Acceptance,
                PresentationContextResultReason::AbstractSyntaxNotSupported,
                PresentationContextResultReason::TransferSyntaxesNotSupported
            ]
        );
    }

    #[test]
    fn context_identifiers_are_odd_and_used_once() {
        let c = |id| proposed(id, VERIFICATION, &[IMPLICIT_VR_LITTLE_ENDIAN]);
        assert!(contexts(&[c(2)]).is_none());
        assert!(contexts(&[c(1), c(1)]).is_none());
        assert!(contexts(&[c(1), c(255)]).is_some());
    }

    #[test]
    fn rejections_have_the_standards_numbers() {
        let expected = [
            (Rejection::UnknownCallingAe, [1, 1, 3]),
            (Rejection::UnknownCalledAe, [1, 1, 7]),
            (Rejection::ApplicationContext, [1, 1, 2]),
            (Rejection::NoReason, [1, 1, 1]),
            (Rejection::ProtocolVersion, [1, 2, 2]),
            (Rejection::TemporaryCongestion, [2, 3, 1]),
            (Rejection::LocalLimit, [2, 3, 2]),
        ];
        for (why, numbers) in expected {
            let mut bytes = Vec::new();
            write_pdu(&mut bytes, &rejection(why)).unwrap();
            assert_eq!(bytes[7..10], numbers, "{why}");
        }
    }
}
