//! From text to scenario: everything that can be wrong is found here, with its place.

use std::collections::BTreeSet;

use isocenter_domain::id::{ClassId, SiteId};

use super::{
    scenario::{
        Ai, Category, Class, DAY, HOUR, MINUTE, Readers, Reading, SHIPPED, Scenario, Site, Surge, Visits,
    },
    text::{
        AiText, At, CategoryText, ClassText, DaysText, DropOutText, FlagText, FlappingText, OutageText,
        ReadersText, ReadingText, ScenarioError, ScenarioText, ShiftText, SiteText, SurgeText, VisitsText,
        WindowText,
    },
};

/// The longest scenario text, in bytes.
const MAX_TEXT: usize = 256 * 1024;
/// The most entries of each list but that of sites: a category is a bit of a reader's skills.
pub(super) const MAX_ENTRIES: usize = 32;
/// The most sites.
const MAX_SITES: usize = 255;

/// Reads a scenario; what it leaves out is as in `base`.
pub(super) fn scenario(yaml: &str) -> Result<Scenario, ScenarioError> {
    if yaml.len() > MAX_TEXT {
        let problem = format!("the scenario has {} bytes; shorten it to at most {MAX_TEXT}", yaml.len());
        return Err(ScenarioError { line: 1, column: 1, problem });
    }
    let (text, base) = (read(yaml)?, read(SHIPPED[0].1)?);
    if text.schema.value != 1 {
        let problem = format!("schema {} is not known; write `schema: 1`", text.schema.value);
        return Err(ScenarioError::at(&text.schema, problem));
    }
    checked(text, base)
}

fn checked(text: ScenarioText, base: ScenarioText) -> Result<Scenario, ScenarioError> {
    let days = days(text.days, base.days.expect("base has all"))?;
    let categories = categories(text.categories.or(base.categories).expect("base has all"))?;
    let classes = classes(text.classes.or(base.classes).expect("base has all"), &categories)?;
    let sites = sites(text.sites.or(base.sites).expect("base has all"))?;
    let hourly = text.hourly.or(base.hourly).expect("base has all");
    if hourly.value.len() != 24 || !hourly.value.iter().all(|weight| (0.0..1e6).contains(weight)) {
        return Err(ScenarioError::at(&hourly, "`hourly` needs 24 weights from 0, one for each hour"));
    }
    if hourly.value.iter().sum::<f64>() <= 0.0 {
        return Err(ScenarioError::at(&hourly, "`hourly` is all zero: nothing would ever arrive"));
    }
    let per_day = text.studies_per_day.or(base.studies_per_day).expect("base has all");
    let name = text.name.value.clone();
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        return Err(ScenarioError::at(&text.name, "`name` needs lower-case letters, digits and `-`"));
    }
    Ok(Scenario {
        name,
        about: text.about.value,
        days,
        studies_per_day: number(&per_day, "studies_per_day", 1.0, 1e6)?,
        hourly: hourly.value,
        night: window(&text.night.or(base.night).expect("base has all"))?,
        surges: text.surges.unwrap_or_default().iter().map(surge).collect::<Result<_, _>>()?,
        classes,
        categories,
        reading: reading(text.reading, base.reading.expect("base has all"))?,
        sites,
        readers: readers(text.readers, base.readers.expect("base has all"))?,
        ai: ai(text.ai, base.ai.expect("base has all"))?,
        drop_out: text.drop_out.as_ref().map(drop_out).transpose()?,
        flapping: text.flapping.as_ref().map(flapping).transpose()?,
        waiting_at_start: text
            .waiting_at_start
            .map_or(Ok(0), |waiting| whole(&waiting, "waiting_at_start", 0, 1_000_000))?,
        visits: text.visits.as_ref().map(visits).transpose()?,
    })
}

fn read(yaml: &str) -> Result<ScenarioText, ScenarioError> {
    serde_saphyr::from_str(yaml).map_err(|error: serde_saphyr::Error| {
        let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
        let whole = error.without_snippet().to_string();
        let first = whole.lines().next().unwrap_or_default();
        // The place is told apart, once.
        let said = first.split(" at line ").next().unwrap_or_default();
        ScenarioError { line, column, problem: format!("{said}; docs/simulator.md shows the form") }
    })
}

fn number(value: &At<f64>, field: &str, least: f64, most: f64) -> Result<f64, ScenarioError> {
    if (least..=most).contains(&value.value) {
        return Ok(value.value);
    }
    let problem = format!("`{field}` is {}; it must be from {least} to {most}", value.value);
    Err(ScenarioError::at(value, problem))
}

/// A share that is written in percent.
fn share(value: &At<f64>, field: &str) -> Result<f64, ScenarioError> {
    number(value, field, 0.0, 100.0).map(|percent| percent / 100.0)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked")]
fn whole(value: &At<f64>, field: &str, least: u32, most: u32) -> Result<u32, ScenarioError> {
    let number = number(value, field, f64::from(least), f64::from(most))?;
    if number.fract() == 0.0 {
        return Ok(number as u32);
    }
    Err(ScenarioError::at(value, format!("`{field}` is {number}; it must be a whole number")))
}

/// `07:30` as microseconds since midnight; `24:00` is the end of the day.
fn time_of_day(text: &At<String>, field: &str) -> Result<i64, ScenarioError> {
    let parts = text.value.split_once(':').filter(|(h, m)| h.len() == 2 && m.len() == 2);
    let time = parts.and_then(|(h, m)| Some((h.parse::<u8>().ok()?, m.parse::<u8>().ok()?)));
    match time {
        Some((hour, minute)) if (hour < 24 && minute < 60) || (hour, minute) == (24, 0) => {
            Ok(i64::from(hour) * HOUR + i64::from(minute) * MINUTE)
        }
        Some(_) | None => {
            let problem = format!("`{field}` is `{}`; write a time of day like \"07:30\"", text.value);
            Err(ScenarioError::at(text, problem))
        }
    }
}

/// `90s`, `20m`, `4h`, also negative, as microseconds.
fn duration(text: &At<String>, field: &str, least: i64, most: i64) -> Result<i64, ScenarioError> {
    let unit = match text.value.chars().last() {
        Some('s') => Some(MINUTE / 60),
        Some('m') => Some(MINUTE),
        Some('h') => Some(HOUR),
        Some(_) | None => None,
    };
    let number = text.value.get(..text.value.len().saturating_sub(1)).and_then(|n| n.parse::<i32>().ok());
    let value = unit.zip(number).map(|(unit, number)| unit * i64::from(number));
    value.filter(|value| (least..=most).contains(value)).ok_or_else(|| {
        let (least, most) = (least / MINUTE, most / MINUTE);
        let problem = format!(
            "`{field}` is `{}`; write a duration like 90s, 20m or 4h, from {least}m to {most}m",
            text.value
        );
        ScenarioError::at(text, problem)
    })
}

fn list<T>(entries: &At<Vec<T>>, field: &str, most: usize) -> Result<(), ScenarioError> {
    match entries.value.len() {
        0 => Err(ScenarioError::at(entries, format!("`{field}` is empty; name at least one"))),
        n if n > most => {
            Err(ScenarioError::at(entries, format!("`{field}` has {n} entries; at most {most} are allowed")))
        }
        _ => Ok(()),
    }
}

fn unique<'a>(names: impl Iterator<Item = &'a At<String>>, what: &str) -> Result<(), ScenarioError> {
    let mut seen = BTreeSet::new();
    for name in names {
        if name.value.is_empty() || !seen.insert(&name.value) {
            let problem =
                format!("{what} `{}` is empty or here twice; give each a name of its own", name.value);
            return Err(ScenarioError::at(name, problem));
        }
    }
    Ok(())
}

fn some_share<T>(
    entries: &At<Vec<T>>,
    shares: impl Iterator<Item = f64>,
    field: &str,
) -> Result<(), ScenarioError> {
    if shares.sum::<f64>() > 0.0 {
        return Ok(());
    }
    Err(ScenarioError::at(entries, format!("`{field}` are all zero; give at least one more than 0")))
}

fn days(text: Option<DaysText>, base: DaysText) -> Result<[u32; 3], ScenarioError> {
    let text = text.unwrap_or(DaysText { warm_up: None, measured: None, drain: None });
    let field = |value: Option<At<f64>>, base: Option<At<f64>>, name, least| {
        whole(&value.or(base).expect("base has all"), name, least, 60)
    };
    Ok([
        field(text.warm_up, base.warm_up, "days.warm_up", 0)?,
        field(text.measured, base.measured, "days.measured", 1)?,
        field(text.drain, base.drain, "days.drain", 0)?,
    ])
}

fn window(text: &WindowText) -> Result<(i64, i64), ScenarioError> {
    Ok((time_of_day(&text.from, "from")?, time_of_day(&text.to, "to")?))
}

fn ordered(from: i64, to: &At<String>, until: i64) -> Result<(), ScenarioError> {
    if from < until { Ok(()) } else { Err(ScenarioError::at(to, "`to` must be later than `from`")) }
}

fn surge(text: &SurgeText) -> Result<Surge, ScenarioError> {
    let day = i64::from(whole(&text.day, "surges.day", 0, 60)?) * DAY;
    let (from, to) = (time_of_day(&text.from, "surges.from")?, time_of_day(&text.to, "surges.to")?);
    ordered(from, &text.to, to)?;
    let factor = number(&text.factor, "surges.factor", 0.0, 100.0)?;
    Ok(Surge { from: day + from, to: day + to, factor })
}

fn categories(texts: At<Vec<CategoryText>>) -> Result<Vec<Category>, ScenarioError> {
    list(&texts, "categories", MAX_ENTRIES)?;
    unique(texts.value.iter().map(|text| &text.name), "category")?;
    some_share(&texts, texts.value.iter().map(|text| text.share.value), "shares of categories")?;
    let category = |text: &CategoryText| {
        let readers = share(&text.readers, "categories.readers")?;
        if readers == 0.0 {
            let problem = format!("nobody reads `{}`; give `readers` more than 0", text.name.value);
            return Err(ScenarioError::at(&text.readers, problem));
        }
        Ok(Category {
            name: text.name.value.clone(),
            modality: text.modality.value.clone(),
            body_part: text.body_part.clone().unwrap_or_default(),
            paediatric: text.paediatric.unwrap_or(false),
            share: share(&text.share, "categories.share")?,
            minutes: number(&text.minutes, "categories.minutes", 0.1, 600.0)?,
            readers,
        })
    };
    texts.value.iter().map(category).collect()
}

fn classes(texts: At<Vec<ClassText>>, categories: &[Category]) -> Result<Vec<Class>, ScenarioError> {
    list(&texts, "classes", MAX_ENTRIES)?;
    unique(texts.value.iter().map(|text| &text.name), "class")?;
    some_share(&texts, texts.value.iter().map(|text| text.day.value), "shares of classes by day")?;
    some_share(&texts, texts.value.iter().map(|text| text.night.value), "shares of classes by night")?;
    let class = |text: &ClassText| {
        ClassId::new(&text.name.value)
            .map_err(|error| ScenarioError::at(&text.name, format!("`name`: {error}")))?;
        Ok(Class {
            name: text.name.value.clone(),
            deadline: duration(&text.deadline, "classes.deadline", MINUTE, 1000 * HOUR)?,
            share: [share(&text.day, "classes.day")?, share(&text.night, "classes.night")?],
            critical: share(&text.critical, "classes.critical")?,
            priority: whole(&text.priority, "classes.priority", 1, 9)?,
            immediate: text.immediate.unwrap_or(false),
            weight: whole(&text.weight, "classes.weight", 0, 1_000_000)?,
            kappa: whole(&text.kappa, "classes.kappa", 0, 1_000_000)?,
            cost: number(&text.cost, "classes.cost", 0.0, 1e6)?,
            only: only(text, &texts.value, categories)?,
        })
    };
    texts.value.iter().map(class).collect()
}

fn only(
    text: &ClassText,
    all: &[ClassText],
    categories: &[Category],
) -> Result<Option<(u32, usize)>, ScenarioError> {
    let (names, other) = match (&text.only, &text.instead) {
        (None, None) => return Ok(None),
        (Some(names), Some(other)) => (names, other),
        (Some(_), None) | (None, Some(_)) => {
            let problem = format!("class `{}` needs both `only` and `else`, or neither", text.name.value);
            return Err(ScenarioError::at(&text.name, problem));
        }
    };
    let mut bits = 0;
    for name in names {
        let index = categories.iter().position(|category| category.name == name.value);
        let index = index.ok_or_else(|| {
            let problem = format!("`only` names `{}`, which is no category", name.value);
            ScenarioError::at(name, problem)
        })?;
        bits |= 1 << index;
    }
    let index = all.iter().position(|class| class.name.value == other.value && class.only.is_none());
    let index = index.ok_or_else(|| {
        let problem = format!("`else` names `{}`, which is no class that has all categories", other.value);
        ScenarioError::at(other, problem)
    })?;
    Ok(Some((bits, index)))
}

fn sites(texts: At<Vec<SiteText>>) -> Result<Vec<Site>, ScenarioError> {
    list(&texts, "sites", MAX_SITES)?;
    unique(texts.value.iter().map(|text| &text.name), "site")?;
    some_share(&texts, texts.value.iter().map(|text| text.share.value), "shares of sites")?;
    some_share(&texts, texts.value.iter().map(|text| text.readers.value), "readers of sites")?;
    let site = |text: &SiteText| {
        SiteId::new(&text.name.value)
            .map_err(|error| ScenarioError::at(&text.name, format!("`name`: {error}")))?;
        Ok(Site {
            name: text.name.value.clone(),
            share: share(&text.share, "sites.share")?,
            readers: share(&text.readers, "sites.readers")?,
            zone: text
                .zone
                .as_ref()
                .map_or(Ok(0), |zone| duration(zone, "sites.zone", -12 * HOUR, 14 * HOUR))?,
        })
    };
    texts.value.iter().map(site).collect()
}

fn reading(text: Option<ReadingText>, base: ReadingText) -> Result<Reading, ScenarioError> {
    let none = ReadingText {
        sigma: None,
        pace_sigma: None,
        reader_sigma: None,
        estimate_sigma: None,
        points_per_minute: None,
    };
    let text = text.unwrap_or(none);
    let field = |value: Option<At<f64>>, base: Option<At<f64>>, name, most| {
        number(&value.or(base).expect("base has all"), name, 0.0, most)
    };
    Ok(Reading {
        sigma: field(text.sigma, base.sigma, "reading.sigma", 3.0)?,
        pace_sigma: field(text.pace_sigma, base.pace_sigma, "reading.pace_sigma", 2.0)?,
        reader_sigma: field(text.reader_sigma, base.reader_sigma, "reading.reader_sigma", 2.0)?,
        estimate_sigma: field(text.estimate_sigma, base.estimate_sigma, "reading.estimate_sigma", 3.0)?,
        points_per_minute: field(
            text.points_per_minute,
            base.points_per_minute,
            "reading.points_per_minute",
            10.0,
        )?,
    })
}

fn readers(text: Option<ReadersText>, base: ReadersText) -> Result<Readers, ScenarioError> {
    let text = text.unwrap_or(ReadersText { count: None, hours: None, shifts: None });
    let shifts = text.shifts.or(base.shifts).expect("base has all");
    list(&shifts, "readers.shifts", MAX_ENTRIES)?;
    some_share(&shifts, shifts.value.iter().map(|shift| shift.share.value), "shares of shifts")?;
    let hours =
        duration(&text.hours.or(base.hours).expect("base has all"), "readers.hours", HOUR, 16 * HOUR)?;
    let shift = |shift: &ShiftText| {
        Ok((time_of_day(&shift.start, "readers.shifts.start")?, share(&shift.share, "readers.shifts.share")?))
    };
    Ok(Readers {
        count: whole(&text.count.or(base.count).expect("base has all"), "readers.count", 1, 20_000)?,
        hours,
        shifts: shifts.value.iter().map(shift).collect::<Result<_, _>>()?,
    })
}

fn ai(text: Option<AiText>, base: AiText) -> Result<Ai, ScenarioError> {
    let none = AiText {
        d_prime: None,
        answers: None,
        delay: None,
        outages: None,
        logit_scale: None,
        logit_shift: None,
        flag: None,
    };
    let text = text.unwrap_or(none);
    let outage = |text: &OutageText| {
        let (from, to) =
            (time_of_day(&text.from, "ai.outages.from")?, time_of_day(&text.to, "ai.outages.to")?);
        ordered(from, &text.to, to)?;
        Ok((from, to))
    };
    let flag = |flag: &FlagText| {
        Ok((share(&flag.sensitivity, "ai.flag.sensitivity")?, share(&flag.flagged, "ai.flag.flagged")?))
    };
    Ok(Ai {
        d_prime: number(&text.d_prime.or(base.d_prime).expect("base has all"), "ai.d_prime", 0.0, 10.0)?,
        answers: share(&text.answers.or(base.answers).expect("base has all"), "ai.answers")?,
        delay: duration(&text.delay.or(base.delay).expect("base has all"), "ai.delay", 0, 24 * HOUR)?,
        outages: text.outages.unwrap_or_default().iter().map(outage).collect::<Result<_, _>>()?,
        distortion: (
            text.logit_scale.map_or(Ok(1.0), |scale| number(&scale, "ai.logit_scale", 0.0, 100.0))?,
            text.logit_shift.map_or(Ok(0.0), |shift| number(&shift, "ai.logit_shift", -50.0, 50.0))?,
        ),
        flag: text.flag.as_ref().map(flag).transpose()?,
    })
}

fn drop_out(text: &DropOutText) -> Result<(i64, f64), ScenarioError> {
    let day = i64::from(whole(&text.day, "drop_out.day", 0, 60)?) * DAY;
    Ok((day + time_of_day(&text.at, "drop_out.at")?, share(&text.share, "drop_out.share")?))
}

fn flapping(text: &FlappingText) -> Result<(f64, i64, i64), ScenarioError> {
    let every = duration(&text.every, "flapping.every", MINUTE, 24 * HOUR)?;
    let away = duration(&text.away, "flapping.away", MINUTE / 60, every)?;
    Ok((share(&text.share, "flapping.share")?, every, away))
}

fn visits(text: &VisitsText) -> Result<Visits, ScenarioError> {
    Ok(Visits {
        share: share(&text.share, "visits.share")?,
        studies: whole(&text.studies, "visits.studies", 2, 8)?,
        saves: share(&text.saves, "visits.saves")?,
    })
}
