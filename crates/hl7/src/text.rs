//! Escape sequences: HL7 v2.5.1 §2.7.
//!
//! Structure is read by `hl7-parser`. Its decoder of escape sequences is not used: it counts characters where it
//! slices bytes, so that text outside ASCII is decoded wrongly or panics.

use std::fmt::Write as _;

/// The delimiters that a message declares in MSH-1 and MSH-2 (§2.5.4). All are distinct printable ASCII characters,
/// neither letters nor digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delimiters {
    /// Between fields (MSH-1).
    pub field: char,
    /// Between components.
    pub component: char,
    /// Between repetitions of a field.
    pub repetition: char,
    /// Around an escape sequence.
    pub escape: char,
    /// Between subcomponents.
    pub subcomponent: char,
}

impl Delimiters {
    /// The delimiters recommended by §2.5.4, and the only ones that this crate writes.
    pub const STANDARD: Self =
        Self { field: '|', component: '^', repetition: '~', escape: '\\', subcomponent: '&' };
}

/// The explicit null of §2.5.3: it tells the receiver to delete what it holds.
const NULL: &str = "\"\"";

/// Writes `value` so that it cannot be mistaken for structure (§2.7.1), with [`Delimiters::STANDARD`].
///
/// Delimiters become `\F\ \S\ \T\ \R\ \E\`; control characters become `\Xhh\`, so that neither a segment nor an MLLP
/// frame can end within a value. Everything else stays as it is, in UTF-8. A value of two quotation marks is written
/// in hexadecimal: as it stands it would tell the receiver to delete.
#[must_use]
pub fn escape(value: &str) -> String {
    if value == NULL {
        return r"\X2222\".to_owned();
    }
    let mut out = String::with_capacity(value.len() + value.len() / 8);
    for c in value.chars() {
        escape_char(c, &mut out);
    }
    out
}

fn escape_char(c: char, out: &mut String) {
    match c {
        '|' => out.push_str(r"\F\"),
        '^' => out.push_str(r"\S\"),
        '&' => out.push_str(r"\T\"),
        '~' => out.push_str(r"\R\"),
        '\\' => out.push_str(r"\E\"),
        c if c.is_ascii_control() => {
            write!(out, r"\X{:02X}\", u32::from(c)).expect("writing to a String does not fail");
        }
        c => out.push(c),
    }
}

/// The lines of a text, whichever of CR, LF and CRLF ends them.
pub fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = text.find(['\r', '\n']) else {
            return rest.take();
        };
        let ending = if text[end..].starts_with("\r\n") { 2 } else { 1 };
        rest = Some(&text[end + ending..]);
        Some(&text[..end])
    })
}

/// Reads back what [`escape`] wrote, and what other systems write.
///
/// `\.br\` and `\.sp\` (§2.7.6) become line feeds; hexadecimal data (§2.7.5) is read as UTF-8, and what is not UTF-8
/// becomes U+FFFD; highlighting `\H\ \N\` is dropped; a sequence that is not known, or does not end, is kept as it is.
#[must_use]
pub fn unescape(value: &str, delimiters: Delimiters) -> String {
    let mut out = String::with_capacity(value.len());
    let mut rest = value;
    while let Some((before, after)) = rest.split_once(delimiters.escape) {
        out.push_str(before);
        let Some((sequence, next)) = after.split_once(delimiters.escape) else {
            out.push(delimiters.escape);
            rest = after;
            break;
        };
        if unescape_one(sequence, delimiters, &mut out) {
            rest = next;
        } else if sequence.starts_with(['C', 'M', 'X', 'Z', '.']) {
            // A character set, a local sequence or a formatting command that has no plain text: kept whole.
            out.push(delimiters.escape);
            out.push_str(sequence);
            out.push(delimiters.escape);
            rest = next;
        } else {
            // No sequence at all: the character that seems to close it may open the next one.
            out.push(delimiters.escape);
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// Writes what `sequence` stands for; false if it stands for nothing.
fn unescape_one(sequence: &str, delimiters: Delimiters, out: &mut String) -> bool {
    match sequence {
        "F" => out.push(delimiters.field),
        "S" => out.push(delimiters.component),
        "T" => out.push(delimiters.subcomponent),
        "R" => out.push(delimiters.repetition),
        "E" => out.push(delimiters.escape),
        "H" | "N" => {}
        _ => return unescape_long(sequence, out),
    }
    true
}

fn unescape_long(sequence: &str, out: &mut String) -> bool {
    if let Some(hex) = sequence.strip_prefix('X')
        && !hex.is_empty()
        && let Ok(bytes) = data_encoding::HEXUPPER_PERMISSIVE.decode(hex.as_bytes())
    {
        out.push_str(&String::from_utf8_lossy(&bytes));
        return true;
    }
    let Some(command) = sequence.strip_prefix('.') else { return false };
    if command == "br" {
        out.push('\n');
        return true;
    }
    // `.sp` and `.spN`: N lines, at most 99 so that a message cannot grow without bound.
    let Some(count) = command.strip_prefix("sp") else { return false };
    let count = match count.trim_start_matches('+') {
        "" => 1,
        digits => digits.parse::<usize>().unwrap_or(100),
    };
    if count > 99 {
        return false;
    }
    out.extend(std::iter::repeat_n('\n', count));
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delimiters_and_control_characters_are_written_as_sequences() {
        assert_eq!(escape("a|b^c&d~e\\f\rg\u{1c}"), r"a\F\b\S\c\T\d\R\e\E\f\X0D\g\X1C\");
        assert_eq!(escape("Иванова 王"), "Иванова 王");
        assert_eq!(escape("\"\""), r"\X2222\");
    }

    #[test]
    fn what_others_write_is_read() {
        let read = |s| unescape(s, Delimiters::STANDARD);
        assert_eq!(read(r"one\.br\two\.sp2\three"), "one\ntwo\n\nthree");
        assert_eq!(read(r"\H\bold\N\ \xC3A9\"), r"bold \xC3A9\", "a lower-case x is no hexadecimal data");
        assert_eq!(read(r"caf\XC3A9\"), "café");
        assert_eq!(read(r"5 \ 3"), r"5 \ 3");
        assert_eq!(read(r"C:\T\"), "C:&");
        assert_eq!(read(r"\Zlocal\F\F\"), r"\Zlocal\F|");
        assert_eq!(read(r"a \b\F\"), r"a \b|");
        assert_eq!(read(r"\.sp100000000000\"), r"\.sp100000000000\");
    }

    #[test]
    fn lines_end_with_any_of_the_three() {
        let all = |s| lines(s).collect::<Vec<_>>();
        assert_eq!(all("a\r\nb\rc\nd"), ["a", "b", "c", "d"]);
        assert_eq!(all("a\n\nb\n"), ["a", "", "b", ""]);
        assert_eq!(all(""), [""]);
    }
}
