//! Text under a Specific Character Set (PS3.3 §C.12.1.1.2, PS3.5 §6.1) as UTF-8. What cannot be decoded is replaced by
//! U+FFFD: a name that is partly unreadable is no reason to refuse an image.

use encoding_rs::{
    EUC_JP, EUC_KR, Encoding, GB18030, GBK, ISO_8859_2, ISO_8859_3, ISO_8859_4, ISO_8859_5, ISO_8859_6,
    ISO_8859_7, ISO_8859_8, ISO_8859_15, SHIFT_JIS, UTF_8, WINDOWS_874, WINDOWS_1252, WINDOWS_1254,
};

const ESCAPE: u8 = 0x1B;

/// The character sets one data set uses.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CharacterSet {
    /// How bytes from 80 up are read until an escape sequence says otherwise; `None`: they are errors.
    initial: Option<&'static Encoding>,
    /// Whether escape sequences switch (ISO 2022 code extensions): not in the sets that use every byte themselves.
    switches: bool,
}

impl CharacterSet {
    /// Reads the value of Specific Character Set (0008,0005). An unknown term is read as ASCII.
    pub(super) fn new(value: &str) -> Self {
        let first = value.split('\\').next().unwrap_or_default().trim();
        let initial =
            match first.replace("ISO_IR", "IR").replace("ISO 2022 IR", "IR").replace('_', " ").trim() {
                "IR 13" => Some(SHIFT_JIS),
                "IR 87" | "IR 159" => Some(EUC_JP),
                "IR 100" => Some(WINDOWS_1252),
                "IR 101" => Some(ISO_8859_2),
                "IR 109" => Some(ISO_8859_3),
                "IR 110" => Some(ISO_8859_4),
                "IR 126" => Some(ISO_8859_7),
                "IR 127" => Some(ISO_8859_6),
                "IR 138" => Some(ISO_8859_8),
                "IR 144" => Some(ISO_8859_5),
                "IR 148" => Some(WINDOWS_1254),
                "IR 149" => Some(EUC_KR),
                "IR 166" => Some(WINDOWS_874),
                "IR 192" => Some(UTF_8),
                "IR 203" => Some(ISO_8859_15),
                "GB18030" => Some(GB18030),
                "GBK" | "IR 58" => Some(GBK),
                _ => None,
            };
        let whole = [UTF_8, GB18030].iter().any(|e| initial == Some(*e)) || first == "GBK";
        Self { initial, switches: !whole }
    }

    /// The text of `bytes`, padding kept.
    pub(super) fn decode(self, bytes: &[u8]) -> String {
        if !self.switches || !bytes.contains(&ESCAPE) {
            return decode_with(self.initial, bytes);
        }
        let mut out = String::new();
        let mut state = State { upper: self.initial, double: None };
        for (i, part) in bytes.split(|b| *b == ESCAPE).enumerate() {
            let text = if i == 0 { part } else { state.switch(part) };
            out.push_str(&state.decode(text));
        }
        out
    }
}

/// What the escape sequences so far have invoked.
struct State {
    /// Bytes from 80 up (G1).
    upper: Option<&'static Encoding>,
    /// Bytes below 80 (G0) are pairs of this set's, not ASCII.
    double: Option<Double>,
}

#[derive(Clone, Copy)]
enum Double {
    /// JIS X 0208.
    Kanji,
    /// JIS X 0212.
    Supplementary,
}

impl State {
    /// Takes the escape sequence at the start of `part` (PS3.3 Tables C.12-3 and C.12-4) and returns what follows it.
    fn switch<'a>(&mut self, part: &'a [u8]) -> &'a [u8] {
        const SINGLE: [(&[u8], &Encoding); 13] = [
            (b")I", SHIFT_JIS),
            (b"-A", WINDOWS_1252),
            (b"-B", ISO_8859_2),
            (b"-C", ISO_8859_3),
            (b"-D", ISO_8859_4),
            (b"-F", ISO_8859_7),
            (b"-G", ISO_8859_6),
            (b"-H", ISO_8859_8),
            (b"-L", ISO_8859_5),
            (b"-M", WINDOWS_1254),
            (b"-T", WINDOWS_874),
            (b"-b", ISO_8859_15),
            (b"$)C", EUC_KR),
        ];
        if let Some(rest) = part.strip_prefix(b"(B").or_else(|| part.strip_prefix(b"(J")) {
            self.double = None;
            return rest;
        }
        if let Some(rest) = part.strip_prefix(b"$B") {
            self.double = Some(Double::Kanji);
            return rest;
        }
        if let Some(rest) = part.strip_prefix(b"$(D") {
            self.double = Some(Double::Supplementary);
            return rest;
        }
        if let Some(rest) = part.strip_prefix(b"$)A") {
            self.upper = Some(GBK);
            return rest;
        }
        for (sequence, encoding) in SINGLE {
            if let Some(rest) = part.strip_prefix(sequence) {
                self.upper = Some(encoding);
                return rest;
            }
        }
        part
    }

    fn decode(&self, text: &[u8]) -> String {
        let Some(double) = self.double else { return decode_with(self.upper, text) };
        // The same code points in the form that EUC-JP gives them, where both sets can be told apart.
        let mut euc = Vec::with_capacity(text.len() * 2);
        for pair in text.chunks(2) {
            match (pair, double) {
                ([a @ 0x21..=0x7E, b @ 0x21..=0x7E], Double::Kanji) => {
                    euc.extend_from_slice(&[a | 0x80, b | 0x80]);
                }
                ([a @ 0x21..=0x7E, b @ 0x21..=0x7E], Double::Supplementary) => {
                    euc.extend_from_slice(&[0x8F, a | 0x80, b | 0x80]);
                }
                (other, _) => euc.extend_from_slice(other),
            }
        }
        decode_with(Some(EUC_JP), &euc)
    }
}

fn decode_with(encoding: Option<&'static Encoding>, bytes: &[u8]) -> String {
    match encoding {
        Some(encoding) => encoding.decode_without_bom_handling(bytes).0.into_owned(),
        None => bytes.iter().map(|b| if b.is_ascii() { char::from(*b) } else { '\u{FFFD}' }).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(set: &str, bytes: &[u8]) -> String {
        CharacterSet::new(set).decode(bytes)
    }

    /// The examples of PS3.5 Annexes H, I, J and K, and Cyrillic, which half of the senders use.
    #[test]
    fn names_of_the_standards_examples_are_read() {
        assert_eq!(
            decode("\\ISO 2022 IR 87", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"),
            "Yamada^Tarou=山田^太郎"
        );
        assert_eq!(
            decode("ISO 2022 IR 13\\ISO 2022 IR 87", b"\xD4\xCF\xC0\xDE^\xC0\xDB\xB3=\x1b$B;3ED\x1b(J"),
            "ﾔﾏﾀﾞ^ﾀﾛｳ=山田"
        );
        assert_eq!(
            decode("\\ISO 2022 IR 149", b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7"),
            "Hong^Gildong=洪^吉洞"
        );
        assert_eq!(decode("ISO_IR 192", "Wang^XiaoDong=王^小東".as_bytes()), "Wang^XiaoDong=王^小東");
        assert_eq!(decode("GB18030", b"Wang=\xcd\xf5"), "Wang=王");
        assert_eq!(decode("ISO_IR 144", b"\xb8\xd2\xd0\xdd\xde\xd2"), "Иванов");
        assert_eq!(decode("ISO_IR 100", b"Buc^J\xe9r\xf4me"), "Buc^Jérôme");
    }

    #[test]
    fn what_cannot_be_read_is_replaced() {
        assert_eq!(decode("", b"A\xe9"), "A\u{FFFD}");
        assert_eq!(decode("ISO_IR 999", b"A\xe9"), "A\u{FFFD}");
        assert_eq!(decode("ISO_IR 192", b"A\xe9"), "A\u{FFFD}");
        assert_eq!(decode("\\ISO 2022 IR 87", b"\x1b"), "");
        assert!(decode("\\ISO 2022 IR 87", b"\x1b$B;").ends_with(';'));
    }
}
