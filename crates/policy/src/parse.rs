//! From text to policy: everything that can be wrong is found here, with its place.

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
    sync::Arc,
    thread,
    time::Duration,
};

use cel::Env;
use isocenter_domain::{
    id::{ClassId, DestinationId, Id, IdKind, InvalidId, PoolId},
    record::case::{Reading, Urgency},
};
use serde_saphyr::Location;

use crate::{
    AiRequest, ClassPolicy, Policy, PolicyError, Problem,
    expression::Expression,
    locate::locate,
    model::{self, Defaults, DestinationTarget, PoolTarget, Rule, Settings},
    text::{AiText, At, ClassText, Classes, DefaultText, PolicyText, Reads, RuleText},
};

/// The longest policy text, in bytes.
pub const MAX_TEXT_BYTES: usize = 256 * 1024;
/// The most rules: each is evaluated for each study.
pub const MAX_RULES: usize = 500;
/// The most entries of a list of pools, destinations or AI services.
pub const MAX_ENTRIES: usize = 16;
/// The longest condition, in bytes. CEL has no limit of cost; without nested loops this bounds it.
pub const MAX_EXPRESSION_BYTES: usize = 4096;

/// The stack on which a text is parsed. CEL's generated parser takes up to 200 KiB of it per bracket in a build
/// without optimisation, more than the caller's thread may have left, so parsing has a thread of its own.
const STACK_BYTES: usize = 32 * 1024 * 1024;

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const ORPHAN_AFTER: Duration = Duration::from_secs(30 * 60);
/// Beyond this a weight says no more than that everything else may wait.
const MAX_WEIGHT: u32 = 10_000;
const OWN_SITE: &str = "site:{site}";

impl Policy {
    /// Reads a policy. What it returns can route every study.
    ///
    /// # Errors
    /// The first problem found, with its line and column and what to do about it.
    pub fn parse(yaml: &str) -> Result<Self, PolicyError> {
        if yaml.len() > MAX_TEXT_BYTES {
            return Err(PolicyError { line: 1, column: 1, problem: Problem::TextSize(yaml.len()) });
        }
        let parse = || {
            let text: PolicyText = serde_saphyr::from_str(yaml).map_err(|error| yaml_error(&error))?;
            Parser { yaml, env: Arc::new(Env::stdlib()), classes: BTreeMap::new() }.policy(text)
        };
        thread::scope(|scope| {
            let parser = thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, parse);
            match parser.map(thread::ScopedJoinHandle::join) {
                Ok(Ok(result)) => result,
                Ok(Err(panic)) => std::panic::resume_unwind(panic),
                Err(_) => Err(PolicyError { line: 1, column: 1, problem: Problem::NoThread }),
            }
        })
    }
}

fn yaml_error(error: &serde_saphyr::Error) -> PolicyError {
    let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
    let error = error.without_snippet();
    let message = match error {
        serde_saphyr::Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("`{key}` stands here a second time; remove one")
        }
        _ => {
            let whole = error.to_string();
            let first = whole.lines().next().unwrap_or_default();
            // The place is told apart, once.
            first.split(" at line ").next().unwrap_or_default().to_owned()
        }
    };
    PolicyError { line, column, problem: Problem::Yaml(message) }
}

struct Parser<'a> {
    yaml: &'a str,
    env: Arc<Env>,
    classes: BTreeMap<ClassId, ClassPolicy>,
}

impl Parser<'_> {
    fn policy(mut self, text: PolicyText) -> Result<Policy, PolicyError> {
        let schema = top(text.schema, "schema", "schema: 1")?;
        if schema.value != 1 {
            return Err(at(&schema, Problem::Schema(schema.value)));
        }
        let name = top(text.name, "name", "name: default")?;
        check_name(&name, "policy name")?;
        self.classes(top(text.classes, "classes", "classes: {ROUTINE: {deadline: 24h}}")?)?;
        if text.rules.len() > MAX_RULES {
            return Err(at(&text.rules[MAX_RULES], Problem::RuleCount(text.rules.len())));
        }
        let rules = self.rules(text.rules)?;
        let example =
            "default: {class: ROUTINE, read: true, pools: [general], destinations: [\"site:{site}\"]}";
        let defaults = self.defaults(top(text.default, "default", example)?)?;
        Ok(Policy {
            name: name.value,
            hash: model::hash(self.yaml),
            env: self.env,
            classes: self.classes,
            rules,
            defaults,
            paediatric_under: text
                .paediatric_under
                .as_ref()
                .map_or(Ok(0), |age| number(age, "paediatric_under", 0, 120))?,
            group_by: text.group_by.unwrap_or_default(),
        })
    }

    fn classes(&mut self, Classes(classes): Classes) -> Result<(), PolicyError> {
        for (name, body) in classes {
            let id = parse_id(&name, name.value.parse::<ClassId>())?;
            self.classes.insert(id, class(body)?);
        }
        Ok(())
    }

    fn rules(&self, texts: Vec<At<RuleText>>) -> Result<Vec<Rule>, PolicyError> {
        let mut seen = BTreeMap::new();
        let mut rules = Vec::with_capacity(texts.len());
        for text in texts {
            let place = text.defined;
            let text = text.value;
            let name = within(text.name, place, "the rule", "name", "name: a-name-of-its-own")?;
            check_name(&name, "rule name")?;
            if let Some(first) = seen.insert(name.value.clone(), name.defined.line()) {
                return Err(at(&name, Problem::DuplicateRule { name: name.value.clone(), first }));
            }
            let when = within(text.when, place, "the rule", "when", "when: image_count == 0")?;
            let when = self.condition(&when)?;
            let settings = Settings {
                class: text.class.map(|class| self.class(&class)).transpose()?,
                read: text.read,
                ai: text.ai.map(ai).transpose()?,
                pools: text.pools.map(|list| targets("pools", list, pool)).transpose()?,
                destinations: text
                    .destinations
                    .map(|list| targets("destinations", list, destination))
                    .transpose()?,
                double: text.reads.map(Reads::is_double),
                review_ppm: text.peer_review.as_ref().map(percent).transpose()?,
                jurisdiction: text.jurisdiction.map(|j| parse_id(&j, j.value.parse())).transpose()?,
            };
            if settings.is_empty() {
                return Err(at(&name, Problem::EmptyRule(name.value.clone())));
            }
            rules.push(Rule { name: name.value.into(), when, settings });
        }
        Ok(rules)
    }

    fn defaults(&self, text: At<DefaultText>) -> Result<Defaults, PolicyError> {
        let place = text.defined;
        let text = text.value;
        let of = "`default`";
        let class = within(text.class, place, of, "class", "class: ROUTINE")?;
        let read = within(text.read, place, of, "read", "read: true")?;
        let pools = within(text.pools, place, of, "pools", "pools: [general]")?;
        let destinations =
            within(text.destinations, place, of, "destinations", "destinations: [\"site:{site}\"]")?;
        if !read.value {
            return Err(at(&read, Problem::DefaultUnread));
        }
        Ok(Defaults {
            class: self.class(&class)?,
            ai: text.ai.map(ai).transpose()?.unwrap_or_default(),
            pools: targets("pools", pools, pool)?,
            destinations: targets("destinations", destinations, destination)?,
            jurisdiction: text.jurisdiction.map(|j| parse_id(&j, j.value.parse())).transpose()?,
        })
    }

    fn class(&self, name: &At<String>) -> Result<ClassId, PolicyError> {
        match self.classes.keys().find(|id| id.as_str() == name.value) {
            Some(id) => Ok(id.clone()),
            None => {
                let known = self.classes.keys().map(ClassId::as_str).collect::<Vec<_>>().join(", ");
                Err(at(name, Problem::UnknownClass { name: name.value.clone(), known }))
            }
        }
    }

    /// Compiles a condition. A problem inside it is placed in the policy's text, not in the condition's.
    fn condition(&self, source: &At<String>) -> Result<Expression, PolicyError> {
        Expression::compile(&self.env, &source.value).map_err(|(offset, problem)| {
            let place = source.defined;
            let start = (place.line(), place.column());
            let byte = place.span().byte_offset().and_then(|byte| usize::try_from(byte).ok());
            let tail = byte.and_then(|byte| self.yaml.get(byte..)).unwrap_or_default();
            let (line, column) = locate(tail, start, &source.value, offset);
            PolicyError { line, column, problem }
        })
    }
}

fn class(text: At<ClassText>) -> Result<ClassPolicy, PolicyError> {
    let place = text.defined;
    let text = text.value;
    let deadline = within(text.deadline, place, "the class", "deadline", "deadline: 24h")?;
    let deadline = duration(&deadline, MINUTE, 30 * DAY, "a duration from 1m to 720h")?;
    let usual = model::urgency(deadline);
    let urgency = Urgency {
        weight: text.weight.as_ref().map_or(Ok(usual.weight), |w| number(w, "weight", 1, MAX_WEIGHT))?,
        critical: text
            .ai_weight
            .as_ref()
            .map_or(Ok(usual.critical), |w| number(w, "ai_weight", 0, MAX_WEIGHT))?,
        prior_ppm: text.prior.as_ref().map_or(Ok(usual.prior_ppm), percent)?,
        next_up: text.next_up.unwrap_or(usual.next_up),
    };
    let reading = Reading {
        double: text.reads.is_some_and(Reads::is_double),
        review_ppm: text.peer_review.as_ref().map_or(Ok(0), percent)?,
    };
    let orphan_after = match &text.orphan_after {
        None => ORPHAN_AFTER,
        Some(after) => duration(after, MINUTE, 30 * DAY, "a duration from 1m to 720h")?,
    };
    Ok(ClassPolicy { deadline, urgency, reading, orphan_after })
}

/// A plan and a case hold these lists, and a stored record is small.
fn bounded<T>(entries: &[At<T>], field: &'static str) -> Result<(), PolicyError> {
    let count = entries.len();
    match entries.get(MAX_ENTRIES) {
        Some(beyond) => Err(at(beyond, Problem::ListSize { field, count })),
        None => Ok(()),
    }
}

fn ai(texts: Vec<At<AiText>>) -> Result<Vec<AiRequest>, PolicyError> {
    bounded(&texts, "ai")?;
    let mut seen = BTreeSet::new();
    let mut requests = Vec::with_capacity(texts.len());
    for text in texts {
        let place = text.defined;
        let service =
            within(text.value.service, place, "the AI entry", "service", "service: sample-opacity")?;
        let timeout = within(text.value.timeout, place, "the AI entry", "timeout", "timeout: 5m")?;
        if !seen.insert(service.value.clone()) {
            return Err(at(&service, Problem::DuplicateEntry(service.value.clone())));
        }
        requests.push(AiRequest {
            service: parse_id(&service, service.value.parse())?,
            timeout: duration(&timeout, Duration::from_secs(1), DAY, "a duration from 1s to 24h")?,
        });
    }
    Ok(requests)
}

/// The pools or destinations of a list, none of them twice.
fn targets<T>(
    field: &'static str,
    list: At<Vec<At<String>>>,
    target: impl Fn(&At<String>) -> Result<T, PolicyError>,
) -> Result<Vec<T>, PolicyError> {
    if list.value.is_empty() {
        return Err(at(&list, Problem::EmptyList(field)));
    }
    bounded(&list.value, field)?;
    let mut seen = BTreeSet::new();
    let mut targets = Vec::with_capacity(list.value.len());
    for entry in &list.value {
        if !seen.insert(entry.value.as_str()) {
            return Err(at(entry, Problem::DuplicateEntry(entry.value.clone())));
        }
        if entry.value != OWN_SITE && entry.value.contains(['{', '}']) {
            return Err(at(entry, Problem::Template(entry.value.clone())));
        }
        targets.push(target(entry)?);
    }
    Ok(targets)
}

fn pool(entry: &At<String>) -> Result<PoolTarget, PolicyError> {
    if entry.value == OWN_SITE {
        return Ok(PoolTarget::OwnSite);
    }
    parse_id(entry, entry.value.parse::<PoolId>()).map(PoolTarget::Named)
}

fn destination(entry: &At<String>) -> Result<DestinationTarget, PolicyError> {
    if entry.value == OWN_SITE {
        return Ok(DestinationTarget::OwnSite);
    }
    // `site:north` is the destination `north`: a site's own destination bears the site's id.
    let name = entry.value.strip_prefix("site:").unwrap_or(&entry.value);
    parse_id(entry, name.parse::<DestinationId>()).map(DestinationTarget::Named)
}

fn duration(
    text: &At<String>,
    least: Duration,
    most: Duration,
    range: &'static str,
) -> Result<Duration, PolicyError> {
    jiff::SignedDuration::from_str(text.value.trim())
        .ok()
        .and_then(|value| Duration::try_from(value).ok())
        .filter(|value| (least..=most).contains(value))
        .ok_or_else(|| at(text, Problem::Duration { text: text.value.clone(), range }))
}

/// A whole number in range.
fn number(value: &At<i64>, field: &'static str, least: u32, most: u32) -> Result<u32, PolicyError> {
    let fits = u32::try_from(value.value).ok().filter(|n| (least..=most).contains(n));
    fits.ok_or_else(|| at(value, Problem::Number { field, value: value.value, least, most }))
}

/// A share as parts per million: `5%`, `0.5%`, to four decimals.
fn percent(text: &At<String>) -> Result<u32, PolicyError> {
    let parse = |text: &str| {
        let number = text.trim().strip_suffix('%')?.trim_end();
        let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
        let digits =
            |part: &str, most| (1..=most).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole, 3) || !digits(part, 4) {
            return None;
        }
        let ppm = whole.parse::<u32>().ok()? * 10_000 + format!("{part:0<4}").parse::<u32>().ok()?;
        (ppm <= 1_000_000).then_some(ppm)
    };
    parse(&text.value).ok_or_else(|| at(text, Problem::Percent(text.value.clone())))
}

/// Names of policies and rules obey the rule of the other names that operators choose.
fn check_name(name: &At<String>, what: &'static str) -> Result<(), PolicyError> {
    isocenter_domain::id::kind::Site::check(&name.value)
        .map_err(|why| at(name, Problem::Name { what, text: name.value.clone(), why }))
}

fn parse_id<K>(text: &At<String>, parsed: Result<Id<K>, InvalidId>) -> Result<Id<K>, PolicyError> {
    parsed.map_err(|InvalidId { what, why }| at(text, Problem::Name { what, text: text.value.clone(), why }))
}

fn top<T>(value: Option<T>, field: &'static str, example: &'static str) -> Result<T, PolicyError> {
    let problem = Problem::Missing { at: "the policy", field, example };
    value.ok_or(PolicyError { line: 1, column: 1, problem })
}

fn within<T>(
    value: Option<T>,
    place: Location,
    at: &'static str,
    field: &'static str,
    example: &'static str,
) -> Result<T, PolicyError> {
    let problem = Problem::Missing { at, field, example };
    value.ok_or(PolicyError { line: place.line(), column: place.column(), problem })
}

fn at<T>(value: &At<T>, problem: Problem) -> PolicyError {
    PolicyError { line: value.defined.line(), column: value.defined.column(), problem }
}
