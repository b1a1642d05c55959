//! `isocenter records replay-log`: what was, as the simulator replays it.

use std::{collections::BTreeMap, process::ExitCode};

use anyhow::Result;
use clap::Args;
use isocenter_domain::Time;
use isocenter_simulate::day::{
    replay::{self, Line, MAX_DAYS, MAX_READING_MIN},
    scenario::DAY,
};
use isocenter_wire::{
    std_duration, time, timestamp,
    v1::{Arrival, ListArrivalsRequest, archive_client::ArchiveClient},
};

use super::connect;
use crate::{
    cli::Client,
    output::{self, REFUSED, Usage},
};

/// Studies asked for at once.
const PAGE: i32 = 1000;

/// Which studies.
#[derive(Args, Debug)]
pub(super) struct ReplayLogArgs {
    /// Studies that were complete from then on: a date, which begins at midnight UTC, or an instant as
    /// 2026-11-21T00:00:00+03:00.
    #[arg(long, value_name = "TIME", value_parser = instant)]
    from: i64,
    /// Studies that were complete before; where absent, a day after --from.
    #[arg(long, value_name = "TIME", value_parser = instant)]
    to: Option<i64>,
}

fn instant(text: &str) -> Result<i64, String> {
    let date = (!text.contains('T')).then(|| format!("{text}T00:00:00Z"));
    replay::instant(date.as_deref().unwrap_or(text))
        .ok_or_else(|| "write a date as 2026-11-21 or an instant as 2026-11-21T00:00:00+03:00".to_owned())
}

impl ReplayLogArgs {
    /// From, to.
    fn range(&self) -> Result<[i64; 2]> {
        let (from, to) = (self.from, self.to.unwrap_or(self.from + DAY));
        let days = (to - 1).div_euclid(DAY) - from.div_euclid(DAY) + 1;
        if from >= to {
            return Err(Usage("--to must be later than --from".to_owned()).into());
        }
        if days > MAX_DAYS {
            let why = format!("--from and --to span {days} days (UTC); at most {MAX_DAYS} can be replayed");
            return Err(Usage(why).into());
        }
        Ok([from, to])
    }
}

/// What is known of a log beside its lines.
#[derive(Debug, Default, PartialEq, Eq)]
struct Account {
    lines: u64,
    unsigned: u64,
    forgotten: u64,
    unanswered: u64,
    left_out: BTreeMap<String, u64>,
}

impl Account {
    /// The line of an arrival; `None`, and counted, where it cannot be replayed.
    fn line(&mut self, arrival: Arrival) -> Result<Option<Line>> {
        let Some(modality) = replay::read_as(&arrival.modalities, &arrival.body_part) else {
            *self.left_out.entry("reads of no modality that the queue knows".to_owned()).or_default() += 1;
            return Ok(None);
        };
        let complete_at = time(&arrival.complete_at.unwrap_or_default(), "complete_at")?;
        let reading = arrival.reading.as_ref().map(|reading| std_duration(reading, "reading")).transpose()?;
        // A thousandth of a minute is finer than anybody works.
        let minutes = reading.map(|reading| (reading.as_secs_f64() / 60.0 * 1000.0).round() / 1000.0);
        let known = minutes.filter(|minutes| *minutes <= MAX_READING_MIN);
        self.lines += 1;
        self.unsigned += u64::from(minutes.is_none());
        self.forgotten += u64::from(minutes.is_some() && known.is_none());
        self.unanswered += u64::from(arrival.abnormal_probability.is_none());
        Ok(Some(Line {
            // Whole seconds: an instant to the microsecond would find the study in the records again.
            complete_at: replay::rfc3339(complete_at.0),
            site: arrival.site_id,
            class: arrival.class,
            modality,
            body_part: arrival.body_part,
            probability: arrival.abnormal_probability,
            critical: None,
            reading_min: known,
        }))
    }

    /// For people.
    fn told(&self) -> Vec<String> {
        let mut told = vec![format!("{} first reads", self.lines)];
        let left_out = self.left_out.iter().map(|(what, count)| format!("left out: {count} {what}"));
        told.extend(left_out);
        let unknown = [
            (self.unsigned, "without `reading_min`: not signed"),
            (self.forgotten, "without `reading_min`: open for more than a day"),
            (self.unanswered, "without `probability`: AI gave none in time"),
        ];
        let unknown = unknown.iter().filter(|(count, _)| *count > 0);
        told.extend(unknown.map(|(count, what)| format!("{count} {what}")));
        if self.lines > 0 {
            told.push("none has `critical`: no report says so in a form that can be counted".to_owned());
        }
        told
    }
}

/// Writes the log to stdout, a page at a time, and to stderr what is not in it.
pub(super) async fn run(client: &Client, args: &ReplayLogArgs) -> Result<ExitCode> {
    let [from, to] = args.range()?.map(|at| Some(timestamp(Time(at))));
    let mut archive = ArchiveClient::new(connect(client).await?);
    let mut account = Account::default();
    let mut page_token = String::new();
    loop {
        let request = ListArrivalsRequest { from, to, page_size: PAGE, page_token };
        let page = archive.list_arrivals(request).await?.into_inner();
        let mut lines = String::new();
        for arrival in page.arrivals {
            if let Some(line) = account.line(arrival)? {
                lines.push_str(&line.json());
                lines.push('\n');
            }
        }
        output::text(&lines)?;
        for left in page.left_out {
            *account.left_out.entry(left.what).or_default() += left.count;
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    account.told().iter().for_each(|line| output::note(line));
    // A log without a line cannot be replayed.
    Ok(if account.lines == 0 { ExitCode::from(REFUSED) } else { ExitCode::SUCCESS })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn arrival(minutes: Option<u64>) -> Arrival {
        Arrival {
            complete_at: Some(timestamp(Time(1_709_164_800_999_999))),
            site_id: "north".to_owned(),
            class: "STAT".to_owned(),
            modalities: vec!["CT".to_owned(), "SR".to_owned()],
            body_part: "HEAD".to_owned(),
            abnormal_probability: minutes.map(|_| 0.25),
            reading: minutes.map(|minutes| isocenter_wire::duration(Duration::from_secs(60 * minutes))),
        }
    }

    #[test]
    fn a_line_has_what_is_known_and_the_account_what_is_not() {
        let mut account = Account::default();
        let mut line = |arrival| account.line(arrival).unwrap().map(|line| line.json());
        assert_eq!(
            line(arrival(Some(7))).as_deref(),
            Some(
                r#"{"complete_at":"2024-02-29T00:00:00Z","site":"north","class":"STAT","modality":"CT","body_part":"HEAD","probability":0.25,"reading_min":7.0}"#
            )
        );
        assert!(line(arrival(None)).is_some_and(|line| line.ends_with(r#""body_part":"HEAD"}"#)));
        assert!(line(arrival(Some(1441))).is_some_and(|line| line.ends_with(r#""probability":0.25}"#)));
        let report = Arrival { modalities: vec!["SR".to_owned()], ..arrival(Some(7)) };
        assert_eq!(line(report), None);
        let Account { lines, unsigned, forgotten, unanswered, .. } = account;
        assert_eq!([lines, unsigned, forgotten, unanswered], [3, 1, 1, 1]);
        let told = account.told().join("\n");
        assert!(told.starts_with("3 first reads\nleft out: 1 reads of no modality"), "{told}");
    }

    #[test]
    fn times_are_dates_or_instants_within_what_can_be_replayed() {
        assert_eq!(instant("2024-02-29"), Ok(1_709_164_800_000_000));
        assert_eq!(instant("2024-02-29T03:00:00+03:00"), Ok(1_709_164_800_000_000));
        for wrong in ["yesterday", "2024-02-30", "2024-02-30T00:00", "2024-13-01", ""] {
            assert!(instant(wrong).is_err(), "{wrong}");
        }
        let range = |from, to| ReplayLogArgs { from, to }.range().ok();
        assert_eq!(range(0, None), Some([0, DAY]));
        assert_eq!(range(5, Some(60 * DAY)), Some([5, 60 * DAY]));
        assert_eq!(range(5, Some(60 * DAY + 1)), None);
        assert_eq!(range(5, Some(5)), None);
    }
}
