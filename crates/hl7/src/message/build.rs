//! Writing.

use isocenter_domain::{Kind, Kinded, Phi, Time};

use super::oru::{Coded, Endpoint, Hd, Oru, Patient, PersonName, TEXT_LIMIT, TextStyle, Visit};
use crate::text::{escape, lines};

/// What keeps a message from being written: a field that the standard requires is empty, or one is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {why}")]
pub struct BuildError {
    /// The field, as the standard names it.
    pub field: &'static str,
    /// What is wrong with it.
    pub why: &'static str,
}

impl Kinded for BuildError {
    fn kind(&self) -> Kind {
        Kind::Invalid
    }
}

/// MSH-2, written after the field delimiter.
const ENCODING_CHARACTERS: &str = r"^~\&";

impl Oru {
    /// Writes the message in UTF-8, each segment ended by CR, the same bytes for the same data.
    ///
    /// MSH-15 and MSH-16 are empty: original mode (§2.9.2), in which one answer, AA, AE or AR, is the application's.
    /// A delivery is done when the application has accepted it; enhanced mode would bring that answer in a message of
    /// its own, often on another connection.
    pub fn build(&self) -> Result<String, BuildError> {
        self.check()?;
        let mut out =
            String::with_capacity(1024 + self.findings.reveal().len() + self.impression.reveal().len());
        let written_at = self.stamp("MSH-7", self.written_at)?;
        let mut msh = Segment::header(&self.sender, &self.receiver, &written_at);
        msh.raw(9, "ORU^R01^ORU_R01").text(10, &self.control_id).raw(11, "P").raw(12, "2.5.1");
        msh.raw(18, "UNICODE UTF-8").end(&mut out);
        write_patient(&self.patient, &mut out);
        if let Some(visit) = &self.visit {
            write_visit(visit, &mut out);
        }
        let placer = self.placer_order_number.as_ref().map_or("", |number| number.reveal());
        Segment::new("ORC")
            .raw(1, "RE")
            .text(2, placer)
            .text(3, self.filler_order_number.reveal())
            .end(&mut out);
        self.write_request(placer, &mut out)?;
        self.write_observations(&mut out);
        Ok(out)
    }

    fn check(&self) -> Result<(), BuildError> {
        let length = self.control_id.chars().count();
        let too_long = |text: &Phi<String>| text.reveal().chars().count() > TEXT_LIMIT;
        let nothing = |text: &Phi<String>| text.reveal().trim().is_empty();
        let faults = [
            (length == 0, "MSH-10", "is empty"),
            (length > 20, "MSH-10", "is longer than 20 characters"),
            (self.patient.identifiers.is_empty(), "PID-3", "is empty"),
            (
                self.patient.identifiers.iter().any(|id| nothing(&id.value)),
                "PID-3",
                "has an empty identifier",
            ),
            (nothing(&self.filler_order_number), "OBR-3", "is empty"),
            (self.service.code.is_empty() && self.service.text.is_empty(), "OBR-4", "is empty"),
            (self.interpreter.id.is_empty(), "OBR-32", "names nobody"),
            (self.studies.is_empty(), "OBX-5 of 113014", "is empty"),
            (too_long(&self.findings), "OBX-5 of 59776-5", "is longer than 65536 characters"),
            (too_long(&self.impression), "OBX-5 of 19005-8", "is longer than 65536 characters"),
            (nothing(&self.findings) && nothing(&self.impression), "OBX-5", "says nothing"),
        ];
        match faults.into_iter().find(|(is_fault, ..)| *is_fault) {
            Some((_, field, why)) => Err(BuildError { field, why }),
            None => Ok(()),
        }
    }

    /// OBR (§7.4.1).
    fn write_request(&self, placer: &str, out: &mut String) -> Result<(), BuildError> {
        let reported_at = self.stamp("OBR-22", self.reported_at)?;
        let observed_at = self.observed_at.map(|at| self.stamp("OBR-7", at)).transpose()?.unwrap_or_default();
        let reader = [&self.interpreter.id, &self.interpreter.family, &self.interpreter.given];
        Segment::new("OBR")
            .raw(1, "1")
            .text(2, placer)
            .text(3, self.filler_order_number.reveal())
            .raw(4, &coded(&self.service))
            .raw(7, &observed_at)
            .raw(22, &reported_at)
            .raw(25, self.status.result_status())
            .raw(29, &self.parent.as_ref().map(|p| format!("^{}", escape(p.reveal()))).unwrap_or_default())
            .raw(32, &join('&', reader.map(String::as_str)))
            .end(out);
        Ok(())
    }

    /// OBX (§7.4.2): the studies first, so that a receiver knows the images before it reads the text.
    fn write_observations(&self, out: &mut String) {
        let mut set_id = 0;
        let several = self.studies.len() > 1;
        for (i, study) in self.studies.iter().enumerate() {
            set_id += 1;
            let mut obx = Segment::new("OBX");
            obx.raw(1, &set_id.to_string()).raw(2, "ST").raw(3, "113014^DICOM Study^DCM");
            if several {
                // The same OBX-3 more than once is told apart by OBX-4 (§7.4.2.4).
                obx.raw(4, &(i + 1).to_string());
            }
            obx.text(5, study.as_str()).raw(11, "O").end(out);
        }
        let texts = [
            ("59776-5^Procedure Findings^LN", self.findings.reveal()),
            ("19005-8^Procedure Impression^LN", self.impression.reveal()),
        ];
        for (code, text) in texts.into_iter().filter(|(_, text)| !text.trim().is_empty()) {
            set_id += 1;
            let (value_type, separator) = match self.text_style {
                TextStyle::Lines => ("TX", "~"),
                TextStyle::Formatted => ("FT", r"\.br\"),
            };
            // A report that ends its last line says no more than one that does not.
            let text = text.trim_end_matches(['\r', '\n']);
            let value = lines(text).map(escape).collect::<Vec<_>>().join(separator);
            Segment::new("OBX")
                .raw(1, &set_id.to_string())
                .raw(2, value_type)
                .raw(3, code)
                .raw(5, &value)
                .raw(11, self.status.observation_status())
                .end(out);
        }
    }

    fn stamp(&self, field: &'static str, at: Time) -> Result<String, BuildError> {
        time_stamp(at, self.utc_offset_minutes).ok_or(BuildError {
            field,
            why: "is outside the years 1 to 9999, or its UTC offset beyond a day",
        })
    }
}

/// PID (§3.4.2). A name that says nothing is sent as unknown (`U`, table 0200): PID-5 is required.
fn write_patient(patient: &Patient, out: &mut String) {
    let identifiers: Vec<String> = patient
        .identifiers
        .iter()
        .map(|id| {
            let (value, kind) = (escape(id.value.reveal()), escape(&id.type_code));
            join_raw('^', &[&value, "", "", &hd('&', &id.authority), &kind])
        })
        .collect();
    let birth_date = patient.birth_date.reveal().trim_matches([' ', '\0']);
    let is_date = matches!(birth_date.len(), 4 | 6 | 8) && birth_date.bytes().all(|b| b.is_ascii_digit());
    Segment::new("PID")
        .raw(1, "1")
        .raw(3, &identifiers.join("~"))
        .raw(5, &person(patient.name.reveal()))
        .raw(7, if is_date { birth_date } else { "" })
        .raw(8, patient.sex.reveal().code())
        .end(out);
}

fn person(name: &PersonName) -> String {
    if *name == PersonName::default() {
        return "^^^^^^U".to_owned();
    }
    join('^', [&name.family, &name.given, &name.middle, &name.suffix, &name.prefix].map(String::as_str))
}

/// PV1 (§3.4.3).
fn write_visit(visit: &Visit, out: &mut String) {
    Segment::new("PV1")
        .raw(1, "1")
        .raw(2, visit.class.code())
        .text(3, &visit.point_of_care)
        .text(19, visit.visit_number.reveal())
        .end(out);
}

fn coded(coded: &Coded) -> String {
    join('^', [&coded.code, &coded.text, &coded.system].map(String::as_str))
}

fn hd(delimiter: char, hd: &Hd) -> String {
    join(delimiter, [&hd.namespace_id, &hd.universal_id, &hd.universal_id_type].map(String::as_str))
}

/// Escapes `parts` and joins them, without the delimiters that only empty parts would follow (§2.6.1).
fn join<const N: usize>(delimiter: char, parts: [&str; N]) -> String {
    let parts = parts.map(escape);
    join_raw(delimiter, &parts.each_ref().map(String::as_str))
}

fn join_raw(delimiter: char, parts: &[&str]) -> String {
    let used = parts.iter().rposition(|part| !part.is_empty()).map_or(0, |i| i + 1);
    parts[..used].join(&String::from(delimiter))
}

/// An instant as TS (§2.A.77): to the second, with its offset from UTC. `None` where there is no such time of four
/// year digits.
pub(crate) fn time_stamp(at: Time, utc_offset_minutes: i16) -> Option<String> {
    let offset = jiff::tz::Offset::from_seconds(i32::from(utc_offset_minutes) * 60).ok()?;
    let local = offset.to_datetime(jiff::Timestamp::from_microsecond(at.0).ok()?);
    if local.year() < 1 || utc_offset_minutes.unsigned_abs() >= 24 * 60 {
        return None;
    }
    let sign = if utc_offset_minutes < 0 { '-' } else { '+' };
    let minutes = utc_offset_minutes.unsigned_abs();
    let (hours, minutes) = (minutes / 60, minutes % 60);
    Some(format!("{}{sign}{hours:02}{minutes:02}", local.strftime("%Y%m%d%H%M%S")))
}

/// A segment in the making. Fields are given in ascending order; those between are empty.
pub(crate) struct Segment {
    line: String,
    last: usize,
}

impl Segment {
    pub(crate) fn new(name: &str) -> Self {
        Self { line: name.to_owned(), last: 0 }
    }

    /// MSH up to MSH-7 (§2.15.9).
    pub(crate) fn header(sender: &Endpoint, receiver: &Endpoint, written_at: &str) -> Self {
        // MSH-1 is the delimiter that stands before MSH-2.
        let mut msh = Self { line: "MSH".to_owned(), last: 1 };
        msh.raw(2, ENCODING_CHARACTERS);
        let systems = [&sender.application, &sender.facility, &receiver.application, &receiver.facility];
        for (i, system) in systems.into_iter().enumerate() {
            msh.raw(3 + i, &hd('^', system));
        }
        msh.raw(7, written_at);
        msh
    }

    /// Writes a field that is made of components or needs no escaping.
    pub(crate) fn raw(&mut self, field: usize, value: &str) -> &mut Self {
        debug_assert!(field > self.last, "fields are written in ascending order");
        if !value.is_empty() {
            self.line.extend(std::iter::repeat_n('|', field - self.last));
            self.line.push_str(value);
            self.last = field;
        }
        self
    }

    /// Writes a field that is one value.
    pub(crate) fn text(&mut self, field: usize, value: &str) -> &mut Self {
        self.raw(field, &escape(value))
    }

    pub(crate) fn end(&self, out: &mut String) {
        out.push_str(&self.line);
        out.push('\r');
    }
}
