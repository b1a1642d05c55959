//! Acknowledgements: read, judged, written.

use isocenter_domain::{Kind, Kinded, Phi, Time};

use crate::{
    message::{
        BuildError, Endpoint, Hd, Header, ParseError, Segment, delimiters_of, fields_of, segment_lines,
        time_stamp,
    },
    mllp::MllpError,
};

/// How much of an error's text is kept: 200 characters. It may repeat what the message said.
pub const ERROR_TEXT_LIMIT: usize = 200;

/// How many ERR segments are kept: 16. Those after them change no verdict that those before them did not.
const ERRORS_KEPT: usize = 16;

/// MSA-1, table 0008 (§2.9.2, §2.9.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckCode {
    /// `AA`: the application accepted.
    ApplicationAccept,
    /// `AE`: the application found an error.
    ApplicationError,
    /// `AR`: the application rejected.
    ApplicationReject,
    /// `CA`: received and kept; the application has not spoken yet.
    CommitAccept,
    /// `CE`: could not be kept, for other reasons than the message.
    CommitError,
    /// `CR`: could not be kept, because of the message.
    CommitReject,
}

impl AckCode {
    /// The code of table 0008.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ApplicationAccept => "AA",
            Self::ApplicationError => "AE",
            Self::ApplicationReject => "AR",
            Self::CommitAccept => "CA",
            Self::CommitError => "CE",
            Self::CommitReject => "CR",
        }
    }

    fn read(text: &str) -> Option<Self> {
        Some(match text {
            "AA" => Self::ApplicationAccept,
            "AE" => Self::ApplicationError,
            "AR" => Self::ApplicationReject,
            "CA" => Self::CommitAccept,
            "CE" => Self::CommitError,
            "CR" => Self::CommitReject,
            _ => return None,
        })
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// MSA-1.
    pub code: AckCode,
    /// MSA-2: the MSH-10 of the message that is answered.
    pub control_id: String,
    /// What the receiver found wrong, at most 16.
    pub errors: Vec<AckError>,
}

/// One thing that the receiver found wrong: ERR (§2.15.5), or what v2.4 and older say in ERR-1 and MSA-6.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AckError {
    /// ERR-3.1, table 0357; `None` where it is not a number of three digits.
    pub code: Option<u16>,
    /// ERR-4.
    pub severity: Severity,
    /// ERR-8, ERR-7 or the text of the code, at most [`ERROR_TEXT_LIMIT`] characters.
    pub text: Phi<String>,
}

/// ERR-4, table 0516.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// `E`, and whatever is neither `W` nor `I`.
    Error,
    /// `W`
    Warning,
    /// `I`
    Information,
}

/// Reads an answer. Text that is not UTF-8 does not spoil it: codes are ASCII.
pub fn parse_ack(bytes: &[u8]) -> Result<Ack, ParseError> {
    let text = String::from_utf8_lossy(bytes);
    let delimiters = delimiters_of(&text)?;
    let find =
        |name: &'static str| segment_lines(&text).map(|(_, line)| line).filter(move |l| l.starts_with(name));
    let msa =
        find("MSA").find_map(|line| fields_of(line, delimiters)).ok_or(ParseError::NoAcknowledgement)?;
    let code = msa.component(1, 1).as_deref().map(str::trim).and_then(AckCode::read);
    let code = code.ok_or(ParseError::AcknowledgementCode)?;
    let control_id = msa.component(2, 1).unwrap_or_default().trim().to_owned();
    let mut errors: Vec<AckError> = find("ERR")
        .filter_map(|line| fields_of(line, delimiters))
        .take(ERRORS_KEPT)
        .map(|err| read_error(&err))
        .collect();
    let (condition, said) = (msa.component(6, 1), msa.component(3, 1).filter(|text| !text.is_empty()));
    if errors.is_empty() && (condition.as_deref().is_some_and(|c| !c.is_empty()) || said.is_some()) {
        let code = condition.as_deref().and_then(error_code);
        errors.push(AckError { code, severity: Severity::Error, text: shortened(said.unwrap_or_default()) });
    }
    Ok(Ack { code, control_id, errors })
}

fn read_error(err: &crate::message::Fields<'_>) -> AckError {
    let filled = |value: Option<String>| value.filter(|text| !text.trim().is_empty());
    // Until v2.4 the code stood in ERR-1, as the first subcomponent of the fourth component.
    let code = filled(err.component(3, 1)).or_else(|| err.subcomponent(1, 4, 1));
    let text = filled(err.component(8, 1))
        .or_else(|| filled(err.component(7, 1)))
        .or_else(|| filled(err.component(3, 2)))
        .or_else(|| err.subcomponent(1, 4, 2));
    let severity = match err.component(4, 1).as_deref().map(str::trim) {
        Some("W") => Severity::Warning,
        Some("I") => Severity::Information,
        _ => Severity::Error,
    };
    AckError {
        code: code.as_deref().and_then(error_code),
        severity,
        text: shortened(text.unwrap_or_default()),
    }
}

/// A code of table 0357. Anything but one to three digits is no code, and is not kept: it might be anything.
fn error_code(text: &str) -> Option<u16> {
    let text = text.trim();
    if text.len() > 3 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

fn shortened(text: String) -> Phi<String> {
    Phi::new(text.chars().take(ERROR_TEXT_LIMIT).collect())
}

/// What an answer, or the lack of one, means for the delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// AA: the application has it.
    Accepted,
    /// CA: the receiver has it; the application's answer is still to come.
    CommitAccepted,
    /// Send it again later with the same MSH-10. It may have been accepted, unless the error says that it was
    /// certainly not sent.
    Retry,
    /// Sending it again as it is will not help; a human has to look.
    DeadLetter(Refusal),
}

/// Why a message became a dead letter. Free of patient identity, so it may be logged and stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The receiver refused it.
    #[error("receiver answered {}{}", .code.as_str(), ErrorNumber(*.error))]
    Answered {
        /// MSA-1.
        code: AckCode,
        /// The first code of table 0357 that tells why, where there is one.
        error: Option<u16>,
    },
    /// It cannot be sent at all.
    #[error("message cannot be sent: {why}")]
    Unsendable {
        /// What is wrong with it.
        why: &'static str,
    },
}

impl Kinded for Refusal {
    fn kind(&self) -> Kind {
        Kind::FailedPrecondition
    }
}

/// `, error 102`, or nothing.
struct ErrorNumber(Option<u16>);

impl std::fmt::Display for ErrorNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(code) => write!(f, ", error {code}"),
            None => Ok(()),
        }
    }
}

impl Verdict {
    /// The verdict on what [`crate::mllp::Client::send`] returned.
    ///
    /// No answer, CE, and AE, AR or CR whose errors are all 206 (record locked) or 207 (application internal error)
    /// are retried: they say nothing about the message. Any other AE, AR or CR is a dead letter.
    #[must_use]
    pub fn of(outcome: &Result<Ack, MllpError>) -> Self {
        match outcome {
            Ok(ack) => Self::of_ack(ack),
            Err(MllpError::Unsendable { why }) => Self::DeadLetter(Refusal::Unsendable { why }),
            Err(
                MllpError::Connect { .. }
                | MllpError::ConnectTimeout { .. }
                | MllpError::Handshake { .. }
                | MllpError::Unusable
                | MllpError::Io(_)
                | MllpError::Closed
                | MllpError::NoAnswer { .. }
                | MllpError::HalfAnswer { .. }
                | MllpError::AnswerTooLong
                | MllpError::NotMllp(_)
                | MllpError::NotHl7(_)
                | MllpError::OtherMessage,
            ) => Self::Retry,
        }
    }

    /// The verdict on an answer.
    #[must_use]
    pub fn of_ack(ack: &Ack) -> Self {
        match ack.code {
            AckCode::ApplicationAccept => Self::Accepted,
            AckCode::CommitAccept => Self::CommitAccepted,
            AckCode::CommitError => Self::Retry,
            AckCode::ApplicationError | AckCode::ApplicationReject | AckCode::CommitReject => {
                let mut errors =
                    ack.errors.iter().filter(|e| e.severity == Severity::Error && e.code != Some(0));
                let is_passing = |e: &AckError| matches!(e.code, Some(206 | 207));
                let lasting = errors.clone().find(|e| !is_passing(e));
                if lasting.is_none() && errors.next().is_some() {
                    return Self::Retry;
                }
                Self::DeadLetter(Refusal::Answered { code: ack.code, error: lasting.and_then(|e| e.code) })
            }
        }
    }
}

/// Writes the answer to the message whose header is `to`: MSH, MSA, and ERR where `error` is given (§2.9.2, §2.15.8).
///
/// `control_id` is the answer's own MSH-10, `at` its MSH-7 (in UTC), `error` a code of table 0357. Sender and receiver
/// change places, by the first component of each; MSH-9.2, MSH-11 and MSH-12 are the message's.
pub fn ack_for(
    to: &Header,
    code: AckCode,
    control_id: &str,
    at: Time,
    error: Option<u16>,
) -> Result<String, BuildError> {
    let written_at =
        time_stamp(at, 0).ok_or(BuildError { field: "MSH-7", why: "is outside the years 1 to 9999" })?;
    let side = |application: &str, facility: &str| Endpoint {
        application: Hd::local(application),
        facility: Hd::local(facility),
    };
    let sender = side(&to.receiving_application, &to.receiving_facility);
    let receiver = side(&to.sending_application, &to.sending_facility);
    let trigger = crate::text::escape(&to.trigger_event);
    let kind = if trigger.is_empty() { "ACK".to_owned() } else { format!("ACK^{trigger}^ACK") };
    let mut out = String::new();
    Segment::header(&sender, &receiver, &written_at)
        .raw(9, &kind)
        .text(10, control_id)
        .text(11, if to.processing_id.is_empty() { "P" } else { &to.processing_id })
        .text(12, if to.version.is_empty() { "2.5.1" } else { &to.version })
        .raw(18, "UNICODE UTF-8")
        .end(&mut out);
    Segment::new("MSA").raw(1, code.as_str()).text(2, &to.control_id).end(&mut out);
    if let Some(error) = error {
        let condition = format!("{error}^{}^HL70357", condition_name(error));
        Segment::new("ERR").raw(3, &condition).raw(4, "E").end(&mut out);
    }
    Ok(out)
}

/// Table 0357.
const fn condition_name(code: u16) -> &'static str {
    match code {
        100 => "Segment sequence error",
        101 => "Required field missing",
        102 => "Data type error",
        103 => "Table value not found",
        200 => "Unsupported message type",
        201 => "Unsupported event code",
        202 => "Unsupported processing id",
        203 => "Unsupported version id",
        204 => "Unknown key identifier",
        205 => "Duplicate key identifier",
        206 => "Application record locked",
        207 => "Application internal error",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MSH: &str = "MSH|^~\\&|EMR|S|ISO|N|20260101||ACK|9|P|2.5.1\r";

    fn judged(rest: &str) -> Verdict {
        Verdict::of_ack(&parse_ack(format!("{MSH}{rest}").as_bytes()).unwrap())
    }

    fn dead(code: AckCode, error: Option<u16>) -> Verdict {
        Verdict::DeadLetter(Refusal::Answered { code, error })
    }

    #[test]
    fn every_kind_of_answer_has_its_verdict() {
        use AckCode::{ApplicationError as Ae, ApplicationReject as Ar, CommitReject as Cr};
        for (answer, verdict) in [
            ("MSA|AA|1", Verdict::Accepted),
            ("MSA|AA|1\rERR|||103|W", Verdict::Accepted),
            ("MSA|CA|1", Verdict::CommitAccepted),
            ("MSA|CE|1\rERR|||101|E", Verdict::Retry),
            ("MSA|AE|1\rERR|||207^Application internal error^HL70357|E", Verdict::Retry),
            ("MSA|AR|1\rERR|||206|E", Verdict::Retry),
            ("MSA|CR|1\rERR|||207|", Verdict::Retry),
            ("MSA|AE|1\rERR|||207|E\rERR|||103|W", Verdict::Retry),
            ("MSA|AE|1\rERR|||207|E\rERR|||101|E", dead(Ae, Some(101))),
            ("MSA|AE|1\rERR|||207|W", dead(Ae, None)),
            ("MSA|AE|1", dead(Ae, None)),
            ("MSA|AE|1\rERR|||WARD 7|E", dead(Ae, None)),
            ("MSA|AR|1\rERR|||203|E", dead(Ar, Some(203))),
            ("MSA|CR|1\rERR|||200|E", dead(Cr, Some(200))),
            // v2.4: MSA-6; v2.3: ERR-1.
            ("MSA|AE|1|try later|||207", Verdict::Retry),
            ("MSA|AE|1\rERR|PID^1^3^207&Application internal error&HL70357", Verdict::Retry),
            ("MSA|AE|1\rERR|PID^1^3^101&Required field missing&HL70357", dead(Ae, Some(101))),
        ] {
            assert_eq!(judged(answer), verdict, "{answer:?}");
        }
    }

    #[test]
    fn no_answer_is_tried_again_and_what_cannot_be_sent_is_not() {
        assert_eq!(Verdict::of(&Err(MllpError::NoAnswer { waited: Duration::from_secs(1) })), Verdict::Retry);
        assert_eq!(Verdict::of(&Err(MllpError::Closed)), Verdict::Retry);
        let verdict = Verdict::of(&Err(MllpError::Unsendable { why: "it is no message" }));
        assert!(matches!(verdict, Verdict::DeadLetter(Refusal::Unsendable { .. })));
    }

    #[test]
    fn an_answer_is_read_whatever_surrounds_it() {
        let ack = parse_ack(b"MSH|^~\\&#|EMR\r\n\r\nZZZ\r\nMSA| AE |4\\F\\2|caf\xe9\r\n").unwrap();
        assert_eq!((ack.code, ack.control_id.as_str()), (AckCode::ApplicationError, "4|2"));
        assert_eq!(parse_ack(MSH.as_bytes()), Err(ParseError::NoAcknowledgement));
        assert_eq!(parse_ack(format!("{MSH}MSA|OK|1").as_bytes()), Err(ParseError::AcknowledgementCode));
        assert_eq!(parse_ack(b"HTTP/1.1 400 Bad Request"), Err(ParseError::NoHeader));
    }

    #[test]
    fn error_texts_are_short_and_never_printed() {
        let ack = parse_ack(format!("{MSH}MSA|AE|1\rERR|||101|E||||{}", "ж".repeat(500)).as_bytes()).unwrap();
        assert_eq!(ack.errors[0].text.reveal().chars().count(), ERROR_TEXT_LIMIT);
        assert!(!format!("{ack:?}").contains('ж'));
        let refusal = Refusal::Answered { code: AckCode::ApplicationError, error: Some(101) };
        assert_eq!(refusal.to_string(), "receiver answered AE, error 101");
        let many = format!("{MSH}MSA|AE|1{}", "\rERR|||101|E".repeat(40));
        assert_eq!(parse_ack(many.as_bytes()).unwrap().errors.len(), ERRORS_KEPT);
    }

    #[test]
    fn an_answer_that_is_written_is_read_back() {
        let to = Header {
            sending_application: "ISO|1".to_owned(),
            receiving_application: "EMR".to_owned(),
            trigger_event: "R01".to_owned(),
            control_id: "A^1".to_owned(),
            version: "2.3".to_owned(),
            ..Header::default()
        };
        let text = ack_for(&to, AckCode::ApplicationReject, "77", Time::ZERO, Some(207)).unwrap();
        let expected = "MSH|^~\\&|EMR||ISO\\F\\1||19700101000000+0000||ACK^R01^ACK|77|P|2.3||||||UNICODE UTF-8\r\
                        MSA|AR|A\\S\\1\rERR|||207^Application internal error^HL70357|E\r";
        assert_eq!(text, expected);
        let ack = parse_ack(text.as_bytes()).unwrap();
        assert_eq!((ack.code, ack.control_id.as_str()), (AckCode::ApplicationReject, "A^1"));
        assert_eq!(Verdict::of_ack(&ack), Verdict::Retry);
    }
}
