//! Reading. `hl7-parser` reads one segment at a time, so that a bad or endless segment that nobody asks for costs
//! nothing and hides none after it.

use std::ops::Range;

use hl7_parser::{message::Separators, parser::parse_segment_with_separators};
use isocenter_domain::{Kind, Kinded, Phi};

use crate::text::{Delimiters, unescape};

/// What is wrong with a message. No part of it is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// It does not begin with an MSH segment (§2.5.2).
    #[error("message does not begin with MSH")]
    NoHeader,
    /// MSH-1 and MSH-2 are not five distinct punctuation characters (§2.5.4).
    #[error("MSH-1 and MSH-2 do not name five different delimiters")]
    Delimiters,
    /// It is not UTF-8.
    #[error("message is not UTF-8")]
    Encoding,
    /// A line is not a segment: three letters or digits and fields.
    #[error("line {line} is not a segment")]
    Segment {
        /// Which line, from 1.
        line: usize,
    },
    /// An acknowledgement without an MSA segment.
    #[error("message has no MSA segment")]
    NoAcknowledgement,
    /// An acknowledgement whose MSA-1 is none of table 0008.
    #[error("MSA-1 is not a code of table 0008")]
    AcknowledgementCode,
}

impl Kinded for ParseError {
    fn kind(&self) -> Kind {
        Kind::Invalid
    }
}

/// What a message says about itself: MSH (§2.15.9). Absent fields are empty. Only the first component of the fields
/// that name a system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// MSH-3: the sending application.
    pub sending_application: String,
    /// MSH-4: the sending facility.
    pub sending_facility: String,
    /// MSH-5: the receiving application.
    pub receiving_application: String,
    /// MSH-6: the receiving facility.
    pub receiving_facility: String,
    /// MSH-9.1: the message code, e.g. `ORU`.
    pub message_code: String,
    /// MSH-9.2: the trigger event, e.g. `R01`.
    pub trigger_event: String,
    /// MSH-10: the message control id. A receiver knows a message by this and MSH-3.
    pub control_id: String,
    /// MSH-11: the processing id, e.g. `P`.
    pub processing_id: String,
    /// MSH-12: the version, e.g. `2.5.1`.
    pub version: String,
    /// MSH-15: when a commit answer is wanted; empty in original mode.
    pub accept_acknowledgment: String,
    /// MSH-16: when an application's answer is wanted; empty in original mode.
    pub application_acknowledgment: String,
    /// MSH-18, first repetition: the character set, e.g. `UNICODE UTF-8`.
    pub character_set: String,
}

/// A message that was read. `Debug` shows its header only.
#[derive(Clone)]
pub struct Message {
    text: String,
    delimiters: Delimiters,
    segments: Vec<Range<usize>>,
    header: Header,
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Message")
            .field("header", &self.header)
            .field("bytes", &self.text.len())
            .finish_non_exhaustive()
    }
}

/// Reads a message in UTF-8. Segments may end with CR, LF or CRLF; empty lines are passed over.
pub fn parse_message(bytes: &[u8]) -> Result<Message, ParseError> {
    let text = std::str::from_utf8(bytes).map_err(|_| ParseError::Encoding)?;
    let header = header_of(text)?;
    let delimiters = delimiters_of(text)?;
    let mut segments = Vec::new();
    for (number, line) in segment_lines(text) {
        if !is_segment(line, delimiters) {
            return Err(ParseError::Segment { line: number });
        }
        let start = line.as_ptr() as usize - text.as_ptr() as usize;
        segments.push(start..start + line.len());
    }
    Ok(Message { text: text.to_owned(), delimiters, segments, header })
}

impl Message {
    /// What the message says about itself.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// The message as it was received.
    #[must_use]
    pub fn text(&self) -> Phi<&str> {
        Phi::new(&self.text)
    }

    /// The names of its segments, in order.
    pub fn segment_names(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().map(|range| &self.text[range.clone()][..3])
    }

    /// The value of a component, unescaped: `nth` of the segments of that name, field, component of its first
    /// repetition, each from 1 and as the standard numbers them. `None` where there is no such component; a component
    /// with subcomponents is given whole.
    #[must_use]
    pub fn component(
        &self,
        segment: &str,
        nth: usize,
        field: usize,
        component: usize,
    ) -> Option<Phi<String>> {
        let fields = fields_of(self.line(segment, nth)?, self.delimiters)?;
        let value = fields.component(field, component)?;
        Some(Phi::new(value))
    }

    /// The first component of each repetition of a field, unescaped; numbered as for [`Message::component`].
    #[must_use]
    pub fn repetitions(&self, segment: &str, nth: usize, field: usize) -> Vec<Phi<String>> {
        let Some(fields) = self.line(segment, nth).and_then(|line| fields_of(line, self.delimiters)) else {
            return Vec::new();
        };
        fields.repetitions(field).into_iter().map(Phi::new).collect()
    }

    fn line(&self, segment: &str, nth: usize) -> Option<&str> {
        let mut lines = self.segments.iter().map(|range| &self.text[range.clone()]);
        lines.by_ref().filter(|line| line.starts_with(segment) && segment.len() == 3).nth(nth.checked_sub(1)?)
    }
}

/// The lines of a message that are not empty, and their numbers from 1.
pub(crate) fn segment_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    crate::text::lines(text).enumerate().filter(|(_, line)| !line.is_empty()).map(|(i, line)| (i + 1, line))
}

fn is_segment(line: &str, delimiters: Delimiters) -> bool {
    let Some((name, rest)) = line.split_at_checked(3) else { return false };
    name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
        && (rest.is_empty() || rest.starts_with(delimiters.field))
}

/// The delimiters that the first line declares. A fifth encoding character (the truncation character of v2.7) is
/// allowed and has no meaning here.
pub(crate) fn delimiters_of(text: &str) -> Result<Delimiters, ParseError> {
    let declared = text.strip_prefix("MSH").ok_or(ParseError::NoHeader)?;
    let mut chars = declared.chars();
    let mut next = || chars.next().filter(char::is_ascii_punctuation).ok_or(ParseError::Delimiters);
    let all = [next()?, next()?, next()?, next()?, next()?];
    if (1..all.len()).any(|i| all[..i].contains(&all[i])) {
        return Err(ParseError::Delimiters);
    }
    let [field, component, repetition, escape, subcomponent] = all;
    Ok(Delimiters { field, component, repetition, escape, subcomponent })
}

/// Reads the header alone.
pub(crate) fn header_of(text: &str) -> Result<Header, ParseError> {
    let delimiters = delimiters_of(text)?;
    let line = crate::text::lines(text).next().unwrap_or_default();
    let fields = fields_of(line, delimiters).ok_or(ParseError::Delimiters)?;
    let value = |field, component| fields.component(field, component).unwrap_or_default();
    Ok(Header {
        sending_application: value(3, 1),
        sending_facility: value(4, 1),
        receiving_application: value(5, 1),
        receiving_facility: value(6, 1),
        message_code: value(9, 1),
        trigger_event: value(9, 2),
        control_id: value(10, 1),
        processing_id: value(11, 1),
        version: value(12, 1),
        accept_acknowledgment: value(15, 1),
        application_acknowledgment: value(16, 1),
        character_set: value(18, 1),
    })
}

/// The fields of one segment.
pub(crate) struct Fields<'a> {
    segment: hl7_parser::message::Segment<'a>,
    delimiters: Delimiters,
}

/// Reads one line as a segment; `None` where it is none.
pub(crate) fn fields_of(line: &str, delimiters: Delimiters) -> Option<Fields<'_>> {
    if !is_segment(line, delimiters) {
        return None;
    }
    let separators = Separators {
        field: delimiters.field,
        component: delimiters.component,
        subcomponent: delimiters.subcomponent,
        repetition: delimiters.repetition,
        escape: delimiters.escape,
        lenient_newlines: false,
    };
    let segment = parse_segment_with_separators(line, separators).ok()?;
    Some(Fields { segment, delimiters })
}

impl Fields<'_> {
    fn field(&self, number: usize) -> Option<&hl7_parser::message::Field<'_>> {
        // MSH-1 is the delimiter itself, so what stands first in the line is MSH-2.
        let first = if self.segment.name == "MSH" { 2 } else { 1 };
        self.segment.fields.get(number.checked_sub(first)?)
    }

    /// A component of a field's first repetition, unescaped.
    pub(crate) fn component(&self, field: usize, component: usize) -> Option<String> {
        let repeat = self.field(field)?.repeats.first()?;
        let value = repeat.components.get(component.checked_sub(1)?)?.raw_value();
        Some(unescape(value, self.delimiters))
    }

    /// A subcomponent of a field's first repetition, unescaped.
    pub(crate) fn subcomponent(&self, field: usize, component: usize, subcomponent: usize) -> Option<String> {
        let repeat = self.field(field)?.repeats.first()?;
        let component = repeat.components.get(component.checked_sub(1)?)?;
        Some(unescape(component.subcomponents.get(subcomponent.checked_sub(1)?)?.value, self.delimiters))
    }

    /// The first component of each repetition of a field, unescaped.
    pub(crate) fn repetitions(&self, field: usize) -> Vec<String> {
        let Some(field) = self.field(field) else { return Vec::new() };
        let first = |r: &hl7_parser::message::Repeat<'_>| {
            r.components.first().map_or("", |c| c.raw_value()).to_owned()
        };
        field.repeats.iter().map(|r| unescape(&first(r), self.delimiters)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "MSH|^~\\&|RIS^1.2^ISO|NORTH|EMR|SOUTH|20260102030405+0300||ORU^R01^ORU_R01|42|P|2.5.1||||||UNICODE UTF-8\rPID|||7^^^N||Иванова^A\\T\\B~x\rOBX|1|TX|||one~two\r";

    #[test]
    fn any_line_ending_will_do() {
        for ending in ["\r", "\n", "\r\n", "\r\r\n"] {
            let message = parse_message(REPORT.replace('\r', ending).as_bytes()).unwrap();
            assert_eq!(message.segment_names().collect::<Vec<_>>(), ["MSH", "PID", "OBX"]);
            assert_eq!(message.header().control_id, "42");
            assert_eq!(message.header().sending_application, "RIS");
            assert_eq!(message.header().trigger_event, "R01");
            assert_eq!(message.header().character_set, "UNICODE UTF-8");
            assert_eq!(message.component("PID", 1, 5, 2), Some(Phi::new("A&B".to_owned())));
            assert_eq!(message.repetitions("OBX", 1, 5), ["one", "two"].map(|s| Phi::new(s.to_owned())));
        }
    }

    #[test]
    fn numbers_out_of_range_find_nothing() {
        let message = parse_message(REPORT.as_bytes()).unwrap();
        for (segment, nth, field, component) in [
            ("PID", 0, 3, 1),
            ("PID", 2, 3, 1),
            ("PID", 1, 0, 1),
            ("PID", 1, 3, 0),
            ("PID", 1, 99, 1),
            ("PI", 1, 3, 1),
        ] {
            assert_eq!(message.component(segment, nth, field, component), None);
        }
        assert_eq!(message.component("MSH", 1, 1, 1), None);
        assert_eq!(message.component("MSH", 1, 12, 1), Some(Phi::new("2.5.1".to_owned())));
    }

    #[test]
    fn other_delimiters_and_the_truncation_character_are_understood() {
        let message = parse_message(b"MSH#*~!@|#A*1#B#C#D###ACK*R01#9#P#2.8\rMSA#AA#7!F!8\r").unwrap();
        assert_eq!(message.header().sending_application, "A");
        assert_eq!(message.header().control_id, "9");
        assert_eq!(message.component("MSA", 1, 2, 1), Some(Phi::new("7#8".to_owned())));
    }

    #[test]
    fn what_is_no_message_is_named() {
        assert_eq!(parse_message(b"").unwrap_err(), ParseError::NoHeader);
        assert_eq!(parse_message(b"PID|1").unwrap_err(), ParseError::NoHeader);
        assert_eq!(parse_message(b"MSH|^~\\").unwrap_err(), ParseError::Delimiters);
        assert_eq!(parse_message(b"MSH|^^\\&|").unwrap_err(), ParseError::Delimiters);
        assert_eq!(parse_message(b"MSH|^~\\&|\xff").unwrap_err(), ParseError::Encoding);
        let torn = parse_message(b"MSH|^~\\&|A\rPID|1\rrest of a line\rOBX|1").unwrap_err();
        assert_eq!(torn, ParseError::Segment { line: 3 });
    }

    #[test]
    fn a_message_never_prints_what_it_says() {
        let message = parse_message(REPORT.as_bytes()).unwrap();
        assert!(!format!("{message:?}").contains("Иванова"));
    }
}
