//! Where a character of a YAML scalar's value stands in the text.

/// Line and column, both from 1, of the `offset`-th character of the scalar `value` whose source starts `text`, at
/// `start` (line, column). Follows quotes, escapes, line folding and block scalars; where it loses the thread it
/// answers the start of the scalar, which is still the right rule.
pub(crate) fn locate(text: &str, start: (u64, u64), value: &str, offset: usize) -> (u64, u64) {
    let mut cursor = Cursor { rest: text, line: start.0, column: start.1 };
    let style = cursor.open();
    for (index, wanted) in value.chars().enumerate() {
        if !cursor.align(wanted, style) {
            return start;
        }
        if index == offset {
            return (cursor.line, cursor.column);
        }
        cursor.consume(wanted, style);
    }
    // The end of the value: a condition that stops too early.
    (cursor.line, cursor.column)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Plain,
    Single,
    Double,
    Block,
}

struct Cursor<'a> {
    rest: &'a str,
    line: u64,
    column: u64,
}

impl Cursor<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn step(&mut self) {
        let Some(c) = self.peek() else { return };
        self.rest = &self.rest[c.len_utf8()..];
        if c == '\n' {
            self.line += 1;
            self.column = 1;
        } else {
            self.column += 1;
        }
    }

    /// Steps over what opens the scalar.
    fn open(&mut self) -> Style {
        match self.peek() {
            Some('\'') => {
                self.step();
                Style::Single
            }
            Some('"') => {
                self.step();
                Style::Double
            }
            Some('|' | '>') => {
                while self.peek().is_some_and(|c| c != '\n') {
                    self.step();
                }
                self.step();
                Style::Block
            }
            _ => Style::Plain,
        }
    }

    /// Steps over source that stands for nothing, up to what stands for `wanted`.
    fn align(&mut self, wanted: char, style: Style) -> bool {
        loop {
            match self.peek() {
                None => return false,
                Some('\\') if style == Style::Double => {
                    if !self.rest[1..].starts_with(['\n', '\r']) {
                        return true;
                    }
                    self.step();
                }
                Some(c) if c == wanted => return true,
                // A folded line break stands for one space.
                Some('\n' | '\r') if wanted == ' ' => return true,
                Some(c) if c.is_whitespace() => {}
                Some(_) => return false,
            }
            self.step();
        }
    }

    /// Steps over what stands for `wanted`.
    fn consume(&mut self, wanted: char, style: Style) {
        match (self.peek(), style) {
            (Some('\\'), Style::Double) => {
                self.step();
                let digits = match self.peek() {
                    Some('x') => 2,
                    Some('u') => 4,
                    Some('U') => 8,
                    _ => 0,
                };
                (0..=digits).for_each(|_| self.step());
            }
            (Some('\''), Style::Single) if wanted == '\'' => {
                self.step();
                self.step();
            }
            _ => self.step(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::locate;

    #[test]
    fn places_follow_every_style_of_scalar() {
        // (source, value, offset) -> place, with the scalar at line 3, column 9
        let cases = [
            ("a == b\n", "a == b", 5, (3, 14)),
            ("'a == ''b'' x'", "a == 'b' x", 9, (3, 21)),
            (r#""a == \"b\" x""#, r#"a == "b" x"#, 9, (3, 21)),
            ("|\n    a ==\n    b\n", "a ==\nb\n", 5, (5, 5)),
            (">\n    a ==\n    b\n", "a == b\n", 5, (5, 5)),
            ("a ==\n      b\n", "a == b", 5, (4, 7)),
            ("\"a ==\n      b\"", "a == b", 5, (4, 7)),
            ("é == b", "é == b", 5, (3, 14)),
            ("a ==", "a ==", 4, (3, 13)),
        ];
        for (source, value, offset, place) in cases {
            assert_eq!(locate(source, (3, 9), value, offset), place, "{source:?}");
        }
    }

    #[test]
    fn a_lost_thread_answers_the_start() {
        assert_eq!(locate("*alias", (3, 9), "a == b", 5), (3, 9));
    }
}
