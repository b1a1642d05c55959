//! How deep a condition nests, judged before it is parsed.
//!
//! CEL's parser descends once per bracket and once per operator of a chain, and ends the whole process when the
//! stack does: its own limit comes too late, a few hundred bytes of `(` are enough. So the text is measured first,
//! without recursion. The measure errs on the safe side: whatever it cannot tell apart from nesting it refuses.

use crate::Problem;

/// The most brackets and `?` inside one another.
pub(crate) const MAX_DEPTH: usize = 8;
/// The most operators, selections and indexes between two of `&&`, `||` and `,`.
pub(crate) const MAX_CHAIN: usize = 6;

/// What is open at one level of brackets.
#[derive(Clone, Copy, Default)]
struct Level {
    /// Operators since the last separator.
    chain: usize,
    /// `?` since the bracket; each opens a level that only the bracket's end closes.
    questions: usize,
}

/// Checks that `source` can be parsed in little stack. An error says at which character it cannot.
pub(crate) fn check(source: &str) -> Result<(), (usize, Problem)> {
    let chars: Vec<char> = source.chars().collect();
    let mut levels = vec![Level::default()];
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        let start = at;
        at += 1;
        let nested = levels.len() > 1;
        let last = levels.last_mut().expect("the outermost level is never closed");
        match c {
            '\'' | '"' => at = end_of_text(&chars, start)?,
            '(' | '[' | '{' => {
                last.chain += 1;
                levels.push(Level::default());
            }
            ')' | ']' | '}' if nested => {
                levels.pop();
            }
            ',' => last.chain = 0,
            '?' => last.questions += 1,
            '&' | '|' if chars.get(at) == Some(&c) => {
                last.chain = 0;
                at += 1;
            }
            '.' | '=' | '!' | '<' | '>' | '+' | '-' | '*' | '/' | '%' => {
                last.chain += 1;
                at = run(&chars, at, |c| "=!<>+-*/%".contains(c));
            }
            _ if is_word(c) => {
                at = run(&chars, at, is_word);
                if chars[start..at] == ['i', 'n'] {
                    last.chain += 1;
                }
            }
            _ => {}
        }
        let depth: usize = levels.iter().map(|level| level.questions).sum::<usize>() + levels.len() - 1;
        if depth > MAX_DEPTH || levels.iter().any(|level| level.chain > MAX_CHAIN) {
            return Err((start, Problem::Nesting));
        }
    }
    Ok(())
}

/// The end of the text in quotes that starts at `start`. Forms in which CEL could see another end are refused.
fn end_of_text(chars: &[char], start: usize) -> Result<usize, (usize, Problem)> {
    let quote = chars[start];
    let end = run(chars, start + 1, |c| c != quote && !matches!(c, '\\' | '\n' | '\r'));
    let triple = end == start + 1 && chars.get(end + 1) == Some(&quote);
    if chars.get(end) == Some(&quote) && !triple { Ok(end + 1) } else { Err((start, Problem::Quotes)) }
}

/// The end of the characters from `at` of which `belongs` is true.
fn run(chars: &[char], at: usize, belongs: impl Fn(char) -> bool) -> usize {
    at + chars[at..].iter().take_while(|c| belongs(**c)).count()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}
