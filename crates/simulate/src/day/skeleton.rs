//! A scenario of the network that a log is from: what the log knows is as it has it, and what it cannot know is assumed, and
//! says so.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    Scenario,
    check::MAX_ENTRIES,
    replay::{self, Line, LogError},
    scenario::{Category, Class, DAY, HOUR, MINUTE},
};

/// What reading takes where neither the log nor the scenario `base` knows, minutes.
const OTHERWISE_MIN: f64 = 10.0;
/// The load that the assumed number of readers bears.
const LOAD: f64 = 0.85;

/// What a policy says of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// From complete to signed.
    pub deadline: Duration,
    /// The cost of a delay of one whole deadline.
    pub weight: u32,
    /// The weight of the probability that a study is critical.
    pub critical: u32,
    /// That probability in parts per million where AI says nothing.
    pub prior_ppm: u32,
    /// Whether its reads may be leased ahead.
    pub next_up: bool,
}

/// Work of one kind.
#[derive(Clone, Copy, Debug, Default)]
struct Work {
    studies: u32,
    /// Of those whose time is known, how many and how long.
    timed: u32,
    minutes: f64,
}

impl Work {
    fn add(&mut self, other: Self) {
        self.studies += other.studies;
        self.timed += other.timed;
        self.minutes += other.minutes;
    }

    fn mean(self) -> Option<f64> {
        (self.timed > 0).then(|| self.minutes / f64::from(self.timed))
    }
}

/// What a log has of each.
#[derive(Debug, Default)]
struct Seen {
    studies: u32,
    sites: BTreeMap<String, u32>,
    classes: BTreeMap<String, u32>,
    /// By modality and body part.
    work: BTreeMap<(String, String), Work>,
    /// By hour of the day, UTC.
    hours: [u32; 24],
    days: BTreeSet<i64>,
}

impl Seen {
    fn add(&mut self, at: i64, line: Line) {
        self.studies += 1;
        *self.sites.entry(line.site).or_default() += 1;
        *self.classes.entry(line.class).or_default() += 1;
        let minutes = line.reading_min.unwrap_or(0.0);
        let work = Work { studies: 1, timed: u32::from(line.reading_min.is_some()), minutes };
        self.work.entry((line.modality, line.body_part)).or_default().add(work);
        let hour = usize::try_from(at.rem_euclid(DAY) / HOUR).expect("an hour of a day");
        self.hours[hour] += 1;
        self.days.insert(at.div_euclid(DAY));
    }

    /// At most so many kinds of work as a scenario may have: the rarest of each modality are one, of no body part.
    fn categories(&self) -> BTreeMap<(String, String), Work> {
        let general: BTreeSet<&String> = self.work.keys().map(|(modality, _)| modality).collect();
        let room = if self.work.len() <= MAX_ENTRIES {
            MAX_ENTRIES
        } else {
            MAX_ENTRIES.saturating_sub(general.len())
        };
        let mut own: Vec<_> = self.work.iter().filter(|((_, body_part), _)| !body_part.is_empty()).collect();
        own.sort_by_key(|(_, work)| std::cmp::Reverse(work.studies));
        let own: BTreeSet<_> = own.into_iter().take(room).map(|(kind, _)| kind).collect();
        let mut categories: BTreeMap<(String, String), Work> = BTreeMap::new();
        for (kind, work) in &self.work {
            let kind = if own.contains(kind) { kind.clone() } else { (kind.0.clone(), String::new()) };
            categories.entry(kind).or_default().add(*work);
        }
        categories
    }
}

/// The text of a scenario that has every site, class and modality of a log: their shares and minutes from the log, what the
/// classes promise from the policy as far as `promises` has them, and everything else as in the scenario `base`, or assumed.
///
/// # Errors
/// The first line that is wrong; a log of more than a scenario may have.
pub fn skeleton(log: &str, promises: &BTreeMap<String, Promise>) -> Result<String, LogError> {
    let mut seen = Seen::default();
    for read in replay::lines(log) {
        let replay::Read { at, line } = read?;
        seen.add(at, line);
    }
    let first = seen.days.first().ok_or_else(replay::empty)? * DAY;
    let base = Scenario::shipped("base").expect("shipped");
    let mut text = head(&seen, first);
    classes(&mut text, &seen, &base, promises);
    let daily = categories(&mut text, &seen, &base) / count(seen.days.len());
    sites(&mut text, &seen);
    readers(&mut text, daily, &base);
    text.push_str(
        "\n# What AI said is in the log. More than 0 lets an AI as in `base` answer for that share of the other studies as well.\n\
         ai: {answers: 0}\n",
    );
    Scenario::parse(&text).map_err(|error| LogError::Line {
        line: 1,
        problem: format!("no scenario can be made of the log: {}", error.problem),
    })?;
    Ok(text)
}

fn head(seen: &Seen, first: i64) -> String {
    let (studies, days) = (seen.studies, seen.days.len());
    let on_days = if days == 1 { "on" } else { "from" };
    let date = replay::rfc3339(first);
    let date = date.split('T').next().unwrap_or_default();
    let daily = f64::from(studies) / count(days);
    let hours: Vec<String> = seen.hours.iter().map(u32::to_string).collect();
    format!(
        "# The network of a log of {studies} studies. Shares and minutes are the log's; what says `assumed` is yours to set.\n\
         # docs/simulator.md explains every field.\n\
         schema: 1\nname: network\nabout: As in a log of {studies} studies {on_days} {date}\n\
         studies_per_day: {}\n# By hour, UTC.\nhourly: [{}]\n",
        short(daily.max(1.0)),
        hours.join(", "),
    )
}

fn classes(text: &mut String, seen: &Seen, base: &Scenario, promises: &BTreeMap<String, Promise>) {
    text.push_str(
        "\n# A log does not say what a class promises and weighs; the policy does. `critical` is the share that truly is.\nclasses:\n",
    );
    for (name, studies) in &seen.classes {
        let promise = promises.get(name);
        let like = like(name, promise, base);
        let (deadline, critical, immediate, weight, kappa) = match promise {
            Some(Promise { deadline, prior_ppm, next_up, weight, critical }) => {
                (deadline.as_secs(), f64::from(*prior_ppm) / 1e6, !next_up, *weight, *critical)
            }
            None => {
                let seconds =
                    u64::try_from(like.deadline / (MINUTE / 60)).expect("a deadline is not negative");
                (seconds, like.critical, like.immediate, like.weight, like.kappa)
            }
        };
        let deadline =
            if deadline % 60 == 0 { format!("{}m", deadline / 60) } else { format!("{deadline}s") };
        let share = percent(*studies, seen.studies);
        let assumed = if promise.is_some() { "priority and cost assumed" } else { "assumed" };
        text.push_str(&format!(
            "  - {{name: {}, deadline: {deadline}, day: {share}, night: {share}, critical: {}, priority: {}, \
             {}weight: {weight}, kappa: {kappa}, cost: {}}}  # {assumed}: as {} in base\n",
            quoted(name),
            short(critical * 100.0),
            like.priority,
            if immediate { "immediate: true, " } else { "" },
            short(like.cost),
            like.name,
        ));
    }
}

/// The class of `base` that says what nobody else does: the one of the same name, else of the closest deadline.
fn like<'a>(name: &str, promise: Option<&Promise>, base: &'a Scenario) -> &'a Class {
    let of = |name: &str| base.classes.iter().find(|class| class.name == name);
    let closest = |promise: &Promise| {
        let deadline = i64::try_from(promise.deadline.as_micros()).unwrap_or(i64::MAX);
        base.classes.iter().min_by_key(|class| (class.deadline - deadline).abs())
    };
    let found = of(name).or_else(|| promise.and_then(closest)).or_else(|| of("ROUTINE"));
    found.expect("base has it")
}

/// Writes the categories; answers the minutes of all studies together.
fn categories(text: &mut String, seen: &Seen, base: &Scenario) -> f64 {
    text.push_str("\n# `readers`, the share of all readers who read it, is assumed.\ncategories:\n");
    let mut total = 0.0;
    for ((modality, body_part), work) in &seen.categories() {
        let assumed = || {
            let same = |c: &&Category| c.modality == *modality && c.body_part == *body_part;
            let of_modality = |c: &&Category| c.modality == *modality;
            let found =
                base.categories.iter().find(same).or_else(|| base.categories.iter().find(of_modality));
            found.map_or(OTHERWISE_MIN, |category| category.minutes)
        };
        let minutes = work.mean().unwrap_or_else(assumed).clamp(0.1, 600.0);
        total += minutes * f64::from(work.studies);
        let name = if body_part.is_empty() { modality.clone() } else { format!("{modality} {body_part}") };
        let part =
            if body_part.is_empty() { String::new() } else { format!("body_part: {}, ", quoted(body_part)) };
        let note = if work.timed == 0 { "  # minutes assumed: the log has none" } else { "" };
        text.push_str(&format!(
            "  - {{name: {}, modality: {}, {part}share: {}, minutes: {}, readers: 100}}{note}\n",
            quoted(&name),
            quoted(modality),
            percent(work.studies, seen.studies),
            short(minutes),
        ));
    }
    total
}

fn sites(text: &mut String, seen: &Seen) {
    text.push_str(
        "\n# A log's times are UTC: `zone` is how far a site's clock is before UTC, assumed to be 0; readers work by it. How many\n\
         # of the readers sit where is assumed to go by the studies. A reading center that sends nothing: add it.\nsites:\n",
    );
    let mut sites: Vec<_> = seen.sites.iter().collect();
    sites.sort_by_key(|(_, studies)| std::cmp::Reverse(**studies));
    for (name, studies) in sites {
        let share = percent(*studies, seen.studies);
        text.push_str(&format!(
            "  - {{name: {}, share: {share}, readers: {share}, zone: 0h}}\n",
            quoted(name)
        ));
    }
}

#[expect(clippy::cast_precision_loss, reason = "hours of a shift")]
fn readers(text: &mut String, daily: f64, base: &Scenario) {
    let shift = base.readers.hours as f64 / MINUTE as f64;
    // Fewer would leave a shift without anybody.
    let least = count(base.readers.shifts.len());
    let readers = (daily / LOAD / shift).ceil().clamp(least, 20_000.0);
    text.push_str(&format!(
        "\n# Assumed: as many as bear the log's work at {} % load, in the shifts of base.\nreaders: {{count: {readers}}}\n",
        short(LOAD * 100.0)
    ));
}

/// A text as YAML and JSON both have it: what a device wrote must not become a number or a comment.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn percent(part: u32, of: u32) -> String {
    short(100.0 * f64::from(part) / f64::from(of.max(1)))
}

/// With three digits after the point at most, and never 0 for what is more.
fn short(number: f64) -> String {
    let text = format!("{:.3}", if number > 0.0 { number.max(0.001) } else { number });
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[expect(clippy::cast_precision_loss, reason = "days and shifts")]
fn count(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::day::replay::Log;

    fn line(site: &str, class: &str, kind: [&str; 2], reading_min: Option<f64>) -> String {
        let [modality, body_part] = kind.map(str::to_owned);
        let complete_at = "2026-03-01T08:00:00Z".to_owned();
        let (site, class) = (site.to_owned(), class.to_owned());
        Line { complete_at, site, class, modality, body_part, probability: None, critical: None, reading_min }
            .json()
    }

    #[test]
    fn a_log_fits_the_scenario_that_is_written_from_it() {
        let lines = [
            line("tver", "STAT", ["CT", "HEAD"], Some(8.0)),
            line("tver", "ONCOLOGY", ["CT", "HEAD"], Some(12.0)),
            line("no", "ONCOLOGY", ["NM", ""], None),
            line("tver", "ONCOLOGY", ["1e3", "# \"x\": {"], Some(3.0)),
        ]
        .join("\n");
        let text = skeleton(&lines, &BTreeMap::new()).expect("valid");
        let mut scenario = Scenario::parse(&text).expect("checked");
        assert_eq!(Log::parse(&lines, &mut scenario).expect("of this network").studies(), 4, "{text}");
        let minutes: Vec<_> = scenario.categories.iter().map(|c| (c.name.as_str(), c.minutes)).collect();
        assert_eq!(minutes, [("1e3 # \"x\": {", 3.0), ("CT HEAD", 10.0), ("NM", OTHERWISE_MIN)]);
        let sites: Vec<_> = scenario.sites.iter().map(|site| (site.name.as_str(), site.share)).collect();
        assert_eq!(sites, [("tver", 0.75), ("no", 0.25)]);
        let deadlines: Vec<_> = scenario.classes.iter().map(|c| (c.name.as_str(), c.deadline)).collect();
        assert_eq!(deadlines, [("ONCOLOGY", 24 * HOUR), ("STAT", HOUR)]);
        assert!(scenario.readers.count == 6 && scenario.ai.answers == 0.0, "{text}");
    }

    #[test]
    fn what_classes_promise_is_the_policys() {
        let lines = [
            line("tver", "STAT", ["CT", ""], None),
            line("tver", "MINE", ["CT", ""], None),
            line("tver", "OTHER", ["CT", ""], None),
        ];
        let promise = |deadline| Promise {
            deadline: Duration::from_secs(deadline),
            weight: 77,
            critical: 5,
            prior_ppm: 35_000,
            next_up: true,
        };
        let stat = Promise { next_up: false, ..promise(5400) };
        let promises = [("STAT".to_owned(), stat), ("MINE".to_owned(), promise(14_000))].into();
        let scenario =
            Scenario::parse(&skeleton(&lines.join("\n"), &promises).expect("valid")).expect("checked");
        let told: Vec<_> = scenario
            .classes
            .iter()
            .map(|c| (c.name.as_str(), c.deadline / (MINUTE / 60), c.weight, c.immediate, c.priority))
            .collect();
        let expected =
            [("MINE", 14_000, 77, false, 2), ("OTHER", 86_400, 2, false, 3), ("STAT", 5400, 77, true, 1)];
        assert_eq!(told, expected);
        let mine = &scenario.classes[0];
        assert!(mine.kappa == 5 && (mine.critical - 0.035).abs() < 1e-9, "{mine:?}");
    }

    #[test]
    fn rare_body_parts_share_a_category() {
        let mut lines = Vec::new();
        for part in 0..40 {
            for _ in 0..=part {
                lines.push(line("tver", "STAT", ["CT", &format!("P{part}")], Some(5.0)));
            }
        }
        lines.push(line("tver", "STAT", ["MR", "KNEE"], Some(9.0)));
        let log = lines.join("\n");
        let mut scenario =
            Scenario::parse(&skeleton(&log, &BTreeMap::new()).expect("valid")).expect("checked");
        let names: Vec<&str> = scenario.categories.iter().map(|category| category.name.as_str()).collect();
        assert_eq!(names.len(), MAX_ENTRIES);
        assert!(names.contains(&"CT") && names.contains(&"CT P10") && !names.contains(&"CT P9"), "{names:?}");
        assert!(names.contains(&"MR") && !names.contains(&"MR KNEE"));
        assert_eq!(Log::parse(&log, &mut scenario).expect("of this network").studies(), lines.len());
    }

    #[test]
    fn what_no_scenario_can_have_is_refused() {
        let sites: Vec<_> = (0..300).map(|n| line(&format!("s{n}"), "STAT", ["CT", ""], None)).collect();
        let refused =
            skeleton(&sites.join("\n"), &BTreeMap::new()).expect_err("more sites than there may be");
        assert!(refused.to_string().contains("`sites` has 300 entries"), "{refused}");
        assert!(skeleton(&sites[..255].join("\n"), &BTreeMap::new()).is_ok());
        assert_eq!(skeleton("", &BTreeMap::new()).expect_err("no study"), replay::empty());
    }
}
