//! Who comes and who reads: everything that no policy decides, drawn before any of them begins.

use super::scenario::{Ai, DAY, HOUR, MINUTE, Scenario};
use crate::random::Random;

/// The score beyond which the AI's operating point flags: specificity 0.9.
const OPERATING_POINT: f64 = 1.281_551_6;

/// A study as every policy sees it.
#[derive(Clone, Debug)]
pub struct Study {
    /// When it was complete.
    pub arrived: i64,
    /// Its class, by index.
    pub class: u8,
    /// Its category, by index.
    pub category: u8,
    /// Its site, by index.
    pub site: u8,
    /// The first study of its visit, if it is a later one.
    pub visit: Option<u32>,
    /// What reading it is expected to take, microseconds.
    pub expected: i64,
    /// Thousandths of a relative value unit.
    pub points: u32,
}

/// What no policy sees before it happens.
#[derive(Clone, Debug)]
pub(crate) struct Truth {
    pub critical: bool,
    /// What reading it takes a reader of even pace, microseconds.
    pub reading: i64,
    pub answer: Option<Answer>,
}

/// What AI says of a study, and when.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Answer {
    pub at: i64,
    /// The posterior, as said.
    pub probability: f64,
    /// Whether it is beyond the operating point.
    pub flagged: bool,
}

/// A reader.
#[derive(Clone, Debug)]
pub struct Reader {
    /// Their site, by index.
    pub site: u8,
    /// The categories they read, as bits.
    pub skills: u32,
    /// When their shift begins, in microseconds since midnight of the center's clock; daily.
    pub start: i64,
    /// Length of the shift.
    pub hours: i64,
    /// The time they take beside what a reader of even pace takes, by category.
    pub(crate) paces: Vec<f64>,
    /// Whether they leave when readers drop out, and whether their line flaps.
    pub(crate) drops_out: bool,
    pub(crate) flaps: bool,
}

/// Everything of one seed.
#[derive(Clone, Debug)]
pub struct Workload {
    /// The scenario it was drawn from.
    pub scenario: Scenario,
    /// Studies by arrival.
    pub studies: Vec<Study>,
    pub(crate) truths: Vec<Truth>,
    /// Readers.
    pub readers: Vec<Reader>,
}

/// An arrival of which only the most is known; the rest is drawn. What a replayed log gives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub at: i64,
    pub site: u8,
    pub class: Option<u8>,
    pub category: Option<u8>,
    pub critical: Option<bool>,
    pub probability: Option<f64>,
    pub reading: Option<i64>,
}

impl Workload {
    /// Draws everything of `seed`.
    #[must_use]
    pub fn draw(scenario: &Scenario, seed: u64) -> Self {
        let arrivals = arrivals(scenario, &mut Random::new(seed, "arrivals"));
        Self::of(scenario, seed, &arrivals)
    }

    /// The same for arrivals that are given, in order of time.
    pub(crate) fn of(scenario: &Scenario, seed: u64, arrivals: &[Arrival]) -> Self {
        let mut random = Random::new(seed, "studies");
        let errors = estimate_errors(scenario, &mut Random::new(seed, "estimates"));
        let mut drawn: Vec<(Study, Truth)> = Vec::with_capacity(arrivals.len());
        for arrival in arrivals {
            let (study, truth) = draw_study(scenario, arrival, &errors, &mut random);
            drawn.push((study, truth));
        }
        if let Some(visits) = scenario.visits {
            add_visits(scenario, visits, &errors, &mut drawn, &mut Random::new(seed, "visits"));
        }
        let readers = draw_readers(scenario, &mut Random::new(seed, "readers"));
        let (studies, truths) = drawn.into_iter().unzip();
        Self { scenario: scenario.clone(), studies, truths, readers }
    }

    /// The same with the first `n` studies only.
    #[must_use]
    pub fn first(mut self, n: usize) -> Self {
        self.studies.truncate(n);
        self.truths.truncate(n);
        self
    }

    /// Whether `reader` may read `study` by skill.
    pub(crate) fn reads(&self, reader: usize, study: usize) -> bool {
        self.readers[reader].skills >> self.studies[study].category & 1 == 1
    }

    /// Whether the study is of the reader's own site.
    pub(crate) fn is_local(&self, reader: usize, study: usize) -> bool {
        self.readers[reader].site == self.studies[study].site
    }
}

fn index(position: usize) -> u8 {
    u8::try_from(position).expect("lists have at most 255 entries")
}

#[expect(clippy::cast_possible_truncation, reason = "times of a few weeks")]
fn micros(value: f64) -> i64 {
    value as i64
}

#[expect(clippy::cast_precision_loss, reason = "times of a few weeks")]
fn float(value: i64) -> f64 {
    value as f64
}

/// The hour of the day, 0 to 23, at `at` by a clock that is `zone` ahead.
fn local(at: i64, zone: i64) -> i64 {
    (at + zone).rem_euclid(DAY)
}

fn arrivals(scenario: &Scenario, random: &mut Random) -> Vec<Arrival> {
    let shares: f64 = scenario.sites.iter().map(|site| site.share).sum();
    let total: f64 = scenario.hourly.iter().sum();
    let drawn = |at, site| Arrival {
        at,
        site: index(site),
        class: None,
        category: None,
        critical: None,
        probability: None,
        reading: None,
    };
    let mut found: Vec<Arrival> = Vec::new();
    for _ in 0..scenario.waiting_at_start {
        let weights: Vec<f64> = scenario.sites.iter().map(|site| site.share).collect();
        found.push(drawn(0, random.weighted(&weights)));
    }
    for (number, site) in scenario.sites.iter().enumerate() {
        let daily = scenario.studies_per_day * site.share / shares;
        for hour in 0..scenario.horizon() / HOUR {
            let from = hour * HOUR;
            let clock = usize::try_from(local(from, site.zone) / HOUR).expect("an hour of a day");
            let mut rate = daily * scenario.hourly[clock] / total;
            // A surge is of whole hours or of parts of them: its share of this hour counts.
            for surge in &scenario.surges {
                let part = (surge.to.min(from + HOUR) - surge.from.max(from)).max(0);
                rate *= 1.0 + (surge.factor - 1.0) * float(part) / float(HOUR);
            }
            let mut at = random.exponential() / rate;
            while at < 1.0 {
                found.push(drawn(from + micros(at * float(HOUR)), number));
                at += random.exponential() / rate;
            }
        }
    }
    found.sort_by_key(|arrival| arrival.at);
    found
}

/// What the minutes that policies are told are wrong by, by category.
fn estimate_errors(scenario: &Scenario, random: &mut Random) -> Vec<f64> {
    let sigma = scenario.reading.estimate_sigma;
    scenario.categories.iter().map(|_| (sigma * random.normal()).exp()).collect()
}

fn draw_study(scenario: &Scenario, arrival: &Arrival, errors: &[f64], random: &mut Random) -> (Study, Truth) {
    let clock = local(arrival.at, scenario.sites[usize::from(arrival.site)].zone);
    let (from, to) = scenario.night;
    let night = if from <= to { (from..to).contains(&clock) } else { clock >= from || clock < to };
    let shares: Vec<f64> = scenario.categories.iter().map(|category| category.share).collect();
    let category = arrival.category.map_or_else(|| random.weighted(&shares), usize::from);
    let class = arrival.class.map_or_else(
        || {
            let shares: Vec<f64> =
                scenario.classes.iter().map(|class| class.share[usize::from(night)]).collect();
            let class = random.weighted(&shares);
            match scenario.classes[class].only {
                Some((bits, instead)) if bits >> category & 1 == 0 => instead,
                Some(_) | None => class,
            }
        },
        usize::from,
    );
    // What AI said is the posterior: where nobody knows better, so many of those of whom it said that are critical.
    let critical = random.chance(arrival.probability.unwrap_or(scenario.classes[class].critical));
    let critical = arrival.critical.unwrap_or(critical);
    let minutes = scenario.categories[category].minutes * float(MINUTE);
    let reading = micros(minutes * random.lognormal(scenario.reading.sigma)).max(1);
    let mut answer = draw_answer(&scenario.ai, scenario.classes[class].critical, critical, arrival, random);
    if let (Some(probability), Some(answer)) = (arrival.probability, &mut answer) {
        answer.probability = probability;
        answer.flagged = probability >= 0.5;
    }
    let study = Study {
        arrived: arrival.at,
        class: index(class),
        category: index(category),
        site: arrival.site,
        visit: None,
        expected: micros(minutes * errors[category]).max(MINUTE / 60),
        points: points(scenario, category),
    };
    (study, Truth { critical, reading: arrival.reading.unwrap_or(reading), answer })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "at most 600 minutes of 10 points"
)]
fn points(scenario: &Scenario, category: usize) -> u32 {
    (scenario.categories[category].minutes * scenario.reading.points_per_minute * 1000.0).round() as u32
}

/// What AI says of a study of a class with `prior`. The draws are the same whether it answers or not, so that an outage
/// changes nothing else. Where it is known to have answered only an outage keeps it from that.
fn draw_answer(
    ai: &Ai,
    prior: f64,
    critical: bool,
    arrival: &Arrival,
    random: &mut Random,
) -> Option<Answer> {
    let at = arrival.at;
    let score = random.normal() + if critical { ai.d_prime } else { 0.0 };
    let (draw, delay, answers) = (random.unit(), random.exponential(), random.chance(ai.answers));
    let clock = local(at, 0);
    let answers = answers || arrival.probability.is_some();
    if !answers || ai.outages.iter().any(|(from, to)| (*from..*to).contains(&clock)) {
        return None;
    }
    let at = at + micros(delay * float(ai.delay));
    let prior = prior.clamp(1e-6, 1.0 - 1e-6);
    let (odds, flagged) = match ai.flag {
        Some((sensitivity, all)) => {
            let others = ((all - prior * sensitivity) / (1.0 - prior)).clamp(1e-6, 1.0 - 1e-6);
            let flagged = draw < if critical { sensitivity } else { others };
            let ratio = if flagged { sensitivity / others } else { (1.0 - sensitivity) / (1.0 - others) };
            (ratio.max(1e-9).ln(), flagged)
        }
        None => (ai.d_prime * score - ai.d_prime * ai.d_prime / 2.0, score >= OPERATING_POINT),
    };
    let logit = (prior / (1.0 - prior)).ln() + odds;
    let said = logit.mul_add(ai.distortion.0, ai.distortion.1);
    Some(Answer { at, probability: 1.0 / (1.0 + (-said).exp()), flagged })
}

/// Gives some studies companions: the same site and class, a minute apart, each of a category of its own.
fn add_visits(
    scenario: &Scenario,
    visits: super::scenario::Visits,
    errors: &[f64],
    drawn: &mut Vec<(Study, Truth)>,
    random: &mut Random,
) {
    let mut all: Vec<(i64, Option<usize>, (Study, Truth))> = Vec::new();
    for (first, (study, truth)) in drawn.drain(..).enumerate() {
        let begins = random.chance(visits.share);
        let (site, class, at) = (study.site, study.class, study.arrived);
        all.push((at, None, (study, truth)));
        for later in (1..visits.studies).take_while(|_| begins) {
            let at = at + i64::from(later) * MINUTE;
            let (category, critical, probability, reading) = (None, None, None, None);
            let arrival = Arrival { at, site, class: Some(class), category, critical, probability, reading };
            all.push((at, Some(first), draw_study(scenario, &arrival, errors, random)));
        }
    }
    // The first study of each visit, by its number before sorting.
    let firsts: Vec<usize> = (0..all.len()).filter(|place| all[*place].1.is_none()).collect();
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_by_key(|place| all[*place].0);
    let mut places = vec![0; all.len()];
    for (new, old) in order.iter().enumerate() {
        places[*old] = new;
    }
    let number = |first: usize| u32::try_from(places[firsts[first]]).expect("fewer studies than 2^32");
    let sorted = order.iter().map(|old| {
        let (_, first, (study, truth)) = &all[*old];
        (Study { visit: first.map(number), ..study.clone() }, truth.clone())
    });
    *drawn = sorted.collect();
}

fn draw_readers(scenario: &Scenario, random: &mut Random) -> Vec<Reader> {
    let count = usize::try_from(scenario.readers.count).expect("checked to be small");
    let mut sites = apportion(count, scenario.sites.iter().map(|site| site.readers));
    random.shuffle(&mut sites);
    let shifts = apportion(count, scenario.readers.shifts.iter().map(|(_, share)| *share));
    let mut readers: Vec<Reader> = shifts
        .iter()
        .zip(&sites)
        .map(|(shift, site)| Reader {
            site: index(*site),
            skills: 0,
            start: scenario.readers.shifts[*shift].0 - scenario.sites[*site].zone,
            hours: scenario.readers.hours,
            paces: paces(scenario, random),
            drops_out: false,
            flaps: false,
        })
        .collect();
    // Readers lie by shift, so that every shift gets its part of each skill.
    for (bit, category) in scenario.categories.iter().enumerate() {
        spread(&mut readers, category.readers, random, |reader| reader.skills |= 1 << bit);
    }
    if let Some((_, share)) = scenario.drop_out {
        spread(&mut readers, share, random, |reader| reader.drops_out = true);
    }
    if let Some((share, ..)) = scenario.flapping {
        spread(&mut readers, share, random, |reader| reader.flaps = true);
    }
    readers
}

/// Speeds, not paces, have the mean 1: the capacity of all readers is what the roster says.
fn paces(scenario: &Scenario, random: &mut Random) -> Vec<f64> {
    let reading = &scenario.reading;
    let common = random.lognormal(reading.reader_sigma);
    scenario.categories.iter().map(|_| 1.0 / (common * random.lognormal(reading.pace_sigma))).collect()
}

/// Marks `share` of the readers, evenly over their order, at random within each stretch.
fn spread(readers: &mut [Reader], share: f64, random: &mut Random, mark: impl Fn(&mut Reader)) {
    let mut due = random.unit();
    for reader in readers.iter_mut() {
        // A step of its own for each, so that two skills of the same share are not the same readers.
        due += share * (0.5 + random.unit());
        if share >= 1.0 || due >= 1.0 {
            due -= 1.0;
            mark(reader);
        }
    }
}

/// `count` places over `shares`, by the largest remainder, in order.
fn apportion(count: usize, shares: impl Iterator<Item = f64>) -> Vec<usize> {
    let shares: Vec<f64> = shares.collect();
    let total: f64 = shares.iter().sum();
    let mut due = 0.0;
    let mut places = Vec::with_capacity(count);
    #[expect(clippy::cast_precision_loss, reason = "at most 20,000 readers")]
    let all = count as f64;
    for (place, share) in shares.iter().enumerate() {
        due += share / total * all;
        #[expect(clippy::cast_precision_loss, reason = "at most 20,000 readers")]
        while (places.len() as f64) + 0.5 <= due && places.len() < count {
            places.push(place);
        }
    }
    places.resize(count, shares.len() - 1);
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workload_is_what_the_scenario_says() {
        let scenario = Scenario::shipped("tight").expect("shipped");
        let workload = Workload::draw(&scenario, 1);
        let studies = &workload.studies;
        let daily = studies.len() as f64 / 4.0;
        assert!((daily / 26_500.0 - 1.0).abs() < 0.02, "{daily} a day");
        assert!(studies.is_sorted_by_key(|study| study.arrived));
        let minutes: f64 = workload.truths.iter().map(|truth| float(truth.reading)).sum::<f64>()
            / studies.len() as f64
            / float(MINUTE);
        assert!((6.0..6.4).contains(&minutes), "{minutes} minutes a study");
        let hours: f64 = workload.readers.iter().map(|reader| float(reader.hours) / float(HOUR)).sum();
        let load = daily * minutes / 60.0 / hours;
        assert!((0.90..0.96).contains(&load), "load {load}");
        let center = workload.readers.iter().filter(|reader| reader.site == 0).count();
        assert!((255..=263).contains(&center), "{center} of 370 readers at the center");
        let critical = |class: &str| {
            let class = scenario.classes.iter().position(|c| c.name == class).expect("a class");
            let of = |s: &(&Study, &Truth)| usize::from(s.0.class) == class;
            let all: Vec<_> = studies.iter().zip(&workload.truths).filter(of).collect();
            all.iter().filter(|(_, truth)| truth.critical).count() as f64 / all.len() as f64
        };
        assert!((critical("STAT") - 0.2).abs() < 0.02 && (critical("ROUTINE") - 0.015).abs() < 0.003);
    }

    #[test]
    fn probabilities_are_calibrated_and_the_operating_point_is_as_said() {
        let workload = Workload::draw(&Scenario::shipped("base").expect("shipped"), 2);
        let said = |from: f64, to: f64| {
            let within = |t: &&Truth| t.answer.is_some_and(|a| (from..to).contains(&a.probability));
            let all: Vec<_> = workload.truths.iter().filter(within).collect();
            let mean: f64 =
                all.iter().filter_map(|t| t.answer).map(|a| a.probability).sum::<f64>() / all.len() as f64;
            (mean, all.iter().filter(|t| t.critical).count() as f64 / all.len() as f64)
        };
        for (from, to) in [(0.0, 0.01), (0.01, 0.1), (0.1, 0.5), (0.5, 1.0)] {
            let (mean, share) = said(from, to);
            assert!((mean - share).abs() < 0.15 * share + 0.001, "said {mean}, found {share}");
        }
        let flagged = |critical: bool| {
            let all: Vec<_> = workload.truths.iter().filter(|t| t.critical == critical).collect();
            all.iter().filter(|t| t.answer.is_some_and(|a| a.flagged)).count() as f64 / all.len() as f64
        };
        assert!((flagged(true) - 0.9).abs() < 0.02 && (flagged(false) - 0.1).abs() < 0.01);
    }

    #[test]
    fn an_outage_changes_nothing_but_the_answers() {
        let with = Workload::draw(&Scenario::shipped("tight").expect("shipped"), 3);
        let without = Workload::draw(&Scenario::shipped("ai-outage").expect("shipped"), 3);
        assert!(without.truths.iter().all(|truth| truth.answer.is_none()));
        let readings =
            |workload: &Workload| workload.truths.iter().map(|t| (t.reading, t.critical)).collect::<Vec<_>>();
        assert_eq!(readings(&with), readings(&without));
    }

    #[test]
    fn later_studies_of_a_visit_name_the_first() {
        let workload = Workload::draw(&Scenario::shipped("multi-study-visit").expect("shipped"), 4);
        let later: Vec<&Study> = workload.studies.iter().filter(|study| study.visit.is_some()).collect();
        assert!(later.len() > 1000);
        for study in later {
            let first = &workload.studies[study.visit.expect("filtered") as usize];
            assert!(first.visit.is_none() && first.site == study.site && first.class == study.class);
            assert!((MINUTE..=2 * MINUTE).contains(&(study.arrived - first.arrived)));
        }
    }
}
