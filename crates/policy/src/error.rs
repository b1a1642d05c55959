//! Why a policy text is refused: where, what is wrong, and what to do.

use isocenter_domain::{Kind, Kinded};

use crate::{
    parse::{MAX_ENTRIES, MAX_EXPRESSION_BYTES, MAX_RULES, MAX_TEXT_BYTES},
    shape::{MAX_CHAIN, MAX_DEPTH},
};

/// A policy text that cannot be loaded. Only the first problem is reported, at the place where it stands in the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {problem}")]
pub struct PolicyError {
    /// Line in the text, from 1.
    pub line: u64,
    /// Column in that line, in characters, from 1.
    pub column: u64,
    /// What is wrong there.
    pub problem: Problem,
}

impl Kinded for PolicyError {
    fn kind(&self) -> Kind {
        if self.problem == Problem::NoThread { Kind::Exhausted } else { Kind::Invalid }
    }
}

/// What is wrong with a policy text. Each says what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The text is too long.
    #[error("the policy has {0} bytes; shorten it to at most {MAX_TEXT_BYTES}")]
    TextSize(usize),
    /// The system gave no thread to parse on; nothing is wrong with the text.
    #[error("there is no thread to read the policy on; free memory or threads and apply it again")]
    NoThread,
    /// Too many rules.
    #[error("the policy has {0} rules; merge some, at most {MAX_RULES} are allowed")]
    RuleCount(usize),
    /// Not YAML, or YAML of another shape: an unknown, repeated or mistyped field.
    #[error("{0}; docs/policy.md shows the form")]
    Yaml(String),
    /// A schema this program does not know.
    #[error("schema {0} is not known; write `schema: 1`")]
    Schema(u64),
    /// A required field is absent.
    #[error("{at} has no `{field}`; add `{example}`")]
    Missing {
        /// Where the field belongs.
        at: &'static str,
        /// The field.
        field: &'static str,
        /// A line that would do.
        example: &'static str,
    },
    /// A name that is not a valid identifier of its kind.
    #[error("`{text}`: the {what} {why}; correct the name")]
    Name {
        /// The kind of name.
        what: &'static str,
        /// The name as written.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// `{` or `}` other than in `site:{site}`.
    #[error("`{0}` has a brace; the only template is \"site:{{site}}\", in quotes")]
    Template(String),
    /// A class that the policy does not define.
    #[error("class `{name}` is not defined under `classes`; define it or use one of {known}")]
    UnknownClass {
        /// The class as written.
        name: String,
        /// The classes that are defined, separated by commas.
        known: String,
    },
    /// Two rules of one name.
    #[error("rule `{name}` exists already in line {first}; give each rule a name of its own")]
    DuplicateRule {
        /// The name.
        name: String,
        /// The line of the first rule of that name.
        first: u64,
    },
    /// Text that is not a duration in range.
    #[error("`{text}` is not {range}; write it like 90s, 20m or 4h")]
    Duration {
        /// The text.
        text: String,
        /// What is allowed.
        range: &'static str,
    },
    /// A number out of range.
    #[error("`{field}` is {value}; write a whole number from {least} to {most}")]
    Number {
        /// The field.
        field: &'static str,
        /// The number as written.
        value: i64,
        /// The least allowed.
        least: u32,
        /// The most allowed.
        most: u32,
    },
    /// Text that is not a share of the whole.
    #[error("`{0}` is not a share from 0% to 100%; write it like 5% or 1.5%")]
    Percent(String),
    /// A rule that sets no field.
    #[error(
        "rule `{0}` sets nothing; give it class, read, ai, pools, destinations, reads, peer_review or jurisdiction, or remove it"
    )]
    EmptyRule(String),
    /// A list that would leave a study without a reader or its report without a receiver.
    #[error("`{0}` is empty; name at least one, or leave the field out of a rule")]
    EmptyList(&'static str),
    /// A list that a stored plan or case could not hold.
    #[error("`{field}` has {count} entries; at most {MAX_ENTRIES} are allowed")]
    ListSize {
        /// The list.
        field: &'static str,
        /// How many entries it has.
        count: usize,
    },
    /// The same entry twice in one list.
    #[error("`{0}` is in this list twice; remove one")]
    DuplicateEntry(String),
    /// A default that reads nothing.
    #[error(
        "`default` must have `read: true`, or studies no rule names would close unread; put `read: false` in a rule"
    )]
    DefaultUnread,
    /// A condition that is too long.
    #[error("the condition has {0} bytes; split the rule, at most {MAX_EXPRESSION_BYTES} are allowed")]
    ExpressionSize(usize),
    /// A condition whose parsing could exhaust the stack.
    #[error(
        "the condition nests more than {MAX_DEPTH} deep or chains more than {MAX_CHAIN} operators; split it into rules"
    )]
    Nesting,
    /// Text in quotes that CEL could end elsewhere.
    #[error(
        "text in quotes has no backslash or line break, no triple quotes, and ends with the quote it began with"
    )]
    Quotes,
    /// A condition that is not CEL.
    #[error("the condition is not valid CEL: {0}; docs/policy.md has examples")]
    Syntax(String),
    /// A name in a condition that nothing bears.
    #[error("`{name}` is not a known name; use one of {known}")]
    UnknownName {
        /// The name as written.
        name: String,
        /// The names that are known, separated by commas.
        known: String,
    },
    /// A function or operator that conditions do not have.
    #[error("`{name}` is not offered in conditions; use {instead}")]
    UnknownFunction {
        /// The function or operator as written.
        name: String,
        /// What to use instead.
        instead: &'static str,
    },
    /// Operands of types that do not fit; CEL would fail or never match.
    #[error("{what} needs {needs}, but this is {found}; correct the condition")]
    Type {
        /// The operator or function.
        what: String,
        /// What it accepts.
        needs: &'static str,
        /// What stands there.
        found: String,
    },
}
