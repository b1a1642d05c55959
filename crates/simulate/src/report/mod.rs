//! A comparison as one HTML file that needs nothing else: for whoever plans the shifts.

mod svg;

use std::fmt::Write as _;

use crate::{
    day::{Charts, Comparison, Plan, PolicyResult},
    stats::Estimate,
};

const STYLE: &str = include_str!("style.css");
/// One colour for each policy, the baseline's first; they repeat after the last.
const POLICIES: [&str; 7] = ["#8b93a1", "#0f766e", "#b45309", "#6d28d9", "#be185d", "#1d4ed8", "#4d7c0f"];
/// One colour for each class, the most urgent first; they repeat after the last.
const CLASSES: [&str; 6] = ["#7f1d4e", "#d1435b", "#e08e2b", "#5a9e6f", "#2a6f97", "#8a94a6"];

/// The report of `comparison`, which `plan` asked for.
#[must_use]
pub fn html(plan: &Plan, comparison: &Comparison) -> String {
    let policies = ordered(comparison);
    let mut page = String::with_capacity(256 * 1024);
    let title = escape(&comparison.scenario);
    let _infallible = write!(
        page,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>{title} – Isocenter</title>\
         <style>{STYLE}</style></head><body><main>"
    );
    page.push_str(&head(plan, comparison));
    page.push_str(&glance(comparison, &policies));
    page.push_str(&waits(plan, &policies));
    page.push_str(&waiting(&policies));
    page.push_str(&breaches(plan, &policies));
    page.push_str(&loads(plan, &policies));
    page.push_str(&every_figure(&policies));
    page.push_str(&method(plan, comparison));
    page.push_str("</main></body></html>\n");
    page
}

/// What is, first; then what could be.
fn ordered(comparison: &Comparison) -> Vec<&PolicyResult> {
    let (mut first, rest): (Vec<_>, Vec<_>) =
        comparison.policies.iter().partition(|policy| policy.policy == comparison.baseline);
    first.extend(rest);
    first
}

fn colour(palette: &'static [&'static str], place: usize) -> &'static str {
    palette[place % palette.len()]
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn section(id: &str, title: &str, lead: &str, body: &str) -> String {
    format!("<section id=\"{id}\"><h2>{title}</h2><p class=\"lead\">{lead}</p>{body}</section>")
}

/// Minutes as people say them.
fn duration(minutes: f64) -> String {
    if minutes < 1.0 {
        format!("{:.0} s", minutes * 60.0)
    } else if minutes < 10.0 {
        format!("{minutes:.1} min")
    } else if minutes < 120.0 {
        format!("{minutes:.0} min")
    } else {
        format!("{:.1} h", minutes / 60.0)
    }
}

fn head(plan: &Plan, comparison: &Comparison) -> String {
    let scenario = &plan.scenario;
    let [first, last] = comparison.seeds;
    let studies =
        comparison.policies.iter().flat_map(|policy| &policy.runs).map(|run| run.studies).max().unwrap_or(0);
    format!(
        "<header><p class=\"brand\">Isocenter · simulation</p><h1>{}</h1><p class=\"about\">{}</p>\
         <ul class=\"facts\"><li><b>{studies}</b> studies measured over {} days</li><li><b>{}</b> readers at {} sites</li>\
         <li>seeds <b>{first}–{last}</b>, the same studies for every policy</li></ul></header>",
        escape(&comparison.scenario),
        escape(&comparison.about),
        scenario.days[1],
        scenario.readers.count,
        scenario.sites.len()
    )
}

/// A figure of the first table: name, what to say of it, how to print it, and whether less is better.
type Row = (String, &'static str, fn(f64) -> String, bool);

fn glance_rows(policies: &[&PolicyResult]) -> Vec<Row> {
    let mut rows: Vec<Row> = vec![(
        "critical-other.wait.p95".to_owned(),
        "Critical finding in a study nobody ordered as an emergency: 95 of 100 are opened within",
        duration,
        true,
    )];
    let classes = policies.iter().flat_map(|policy| policy.runs.first()).flat_map(|run| &run.classes);
    let mut names: Vec<&str> = Vec::new();
    for class in classes.filter(|class| class.studies > 0) {
        if !names.contains(&class.class.as_str()) {
            names.push(&class.class);
        }
    }
    for name in names {
        rows.push((format!("{name}.wait.p95"), "95 of 100 are opened within", duration, true));
        rows.push((
            format!("{name}.breach-percent"),
            "signed after the deadline",
            |v| format!("{v:.2} %"),
            true,
        ));
    }
    rows.push(("ROUTINE.wait.max".to_owned(), "the longest wait of all", duration, true));
    rows.push((
        "local-percent".to_owned(),
        "Read by a reader of the study's own site",
        |v| format!("{v:.0} %"),
        false,
    ));
    rows.push((
        "gini".to_owned(),
        "Inequality of work per hour on shift (0: all equal)",
        |v| format!("{v:.3}"),
        true,
    ));
    rows.push((
        "churn-percent".to_owned(),
        "Reassigned before they were signed",
        |v| format!("{v:.1} %"),
        true,
    ));
    rows.push((
        "prefetched-percent".to_owned(),
        "Images were there before the reader",
        |v| format!("{v:.0} %"),
        false,
    ));
    rows
}

fn glance(comparison: &Comparison, policies: &[&PolicyResult]) -> String {
    let mut table = String::from("<div class=\"scroll\"><table class=\"glance\"><thead><tr><th></th>");
    for (place, policy) in policies.iter().enumerate() {
        let role = if place == 0 { "what is" } else { "what if" };
        let colour = colour(&POLICIES, place);
        let _infallible = write!(
            table,
            "<th><i style=\"background:{colour}\"></i>{}<small>{role}</small></th>",
            policy.policy
        );
    }
    table.push_str("</tr></thead><tbody>");
    for (figure, say, print, less) in glance_rows(policies) {
        let name =
            figure.split('.').next().filter(|name| name.chars().all(|c| c.is_ascii_uppercase() || c == '_'));
        let said = name.map_or_else(|| say.to_owned(), |name| format!("<b>{name}</b> {say}"));
        if policies.iter().all(|policy| !policy.figures.contains_key(&figure)) {
            continue;
        }
        let _infallible = write!(table, "<tr><th>{said}</th>");
        for policy in policies {
            table.push_str(&glance_cell(policy, &figure, print, less));
        }
        table.push_str("</tr>");
    }
    table.push_str("</tbody></table></div>");
    let lead = format!(
        "Every policy met the same studies, the same readers and the same reading times. Green and red tell what is surely \
         better or worse than <b>{}</b>: the 95 % interval of the paired difference does not contain zero.",
        comparison.baseline
    );
    section("glance", "At a glance", &lead, &table)
}

fn glance_cell(policy: &PolicyResult, figure: &str, print: fn(f64) -> String, less: bool) -> String {
    let Some(Estimate { mean, .. }) = policy.figures.get(figure) else { return "<td></td>".to_owned() };
    let difference = policy.difference.as_ref().and_then(|all| all.get(figure));
    let sure = difference.filter(|d| d.half_width.is_some_and(|half| d.mean.abs() > half));
    let class = match sure {
        Some(difference) if (difference.mean < 0.0) == less => "better",
        Some(_) => "worse",
        None => "same",
    };
    let ratio = difference.and_then(|d| d.ratio).map(|ratio| format!("<small>× {ratio:.2}</small>"));
    format!("<td class=\"{class}\">{}{}</td>", print(*mean), ratio.unwrap_or_default())
}

/// The mean over seeds and days by hour of the day: minutes, and whether any study came.
fn by_hour(policy: &PolicyResult, class: usize) -> Vec<Option<f64>> {
    let mut sums = vec![(0.0, 0_u32); 24];
    for charts in policy.runs.iter().map(|run| &run.charts) {
        for (hour, (mean, count)) in charts.hours.get(class).into_iter().flatten().enumerate() {
            sums[hour % 24].0 += mean * f64::from(*count);
            sums[hour % 24].1 += count;
        }
    }
    sums.into_iter().map(|(sum, count)| (count > 0).then(|| sum / f64::from(count))).collect()
}

fn waits(plan: &Plan, policies: &[&PolicyResult]) -> String {
    let classes = &plan.scenario.classes;
    let mut panels =
        svg::legend(classes.iter().enumerate().map(|(n, c)| (colour(&CLASSES, n), c.name.as_str())));
    panels.push_str("<div class=\"panels\">");
    let all: Vec<Vec<Vec<Option<f64>>>> = policies
        .iter()
        .map(|policy| (0..classes.len()).map(|class| by_hour(policy, class)).collect())
        .collect();
    let most = all.iter().flatten().flatten().flatten().copied().fold(1.0, f64::max);
    for (policy, lines) in policies.iter().zip(&all) {
        let drawn = lines.iter().enumerate().map(|(n, line)| svg::Line {
            colour: colour(&CLASSES, n),
            name: &classes[n].name,
            values: line.clone(),
        });
        let chart = svg::hours(&drawn.collect::<Vec<_>>(), &svg::Scale::minutes(most), (430.0, 260.0));
        let _infallible =
            write!(panels, "<figure><figcaption>{}</figcaption>{chart}</figure>", policy.policy);
    }
    panels.push_str("</div>");
    let lead = "Mean wait from complete to opened, by the hour in which the study arrived. The scale is the same in every \
                panel, and each step of it is a multiple of the one below.";
    section("waits", "Waits over the day", lead, &panels)
}

fn mean_of(policy: &PolicyResult, of: impl Fn(&Charts) -> &[u32]) -> Vec<Option<f64>> {
    let mut sums = vec![(0.0, 0_u32); 24];
    for charts in policy.runs.iter().map(|run| &run.charts) {
        for (hour, value) in of(charts).iter().enumerate() {
            sums[hour % 24].0 += f64::from(*value);
            sums[hour % 24].1 += 1;
        }
    }
    sums.into_iter().map(|(sum, count)| (count > 0).then(|| sum / f64::from(count))).collect()
}

fn waiting(policies: &[&PolicyResult]) -> String {
    let lines: Vec<svg::Line> = policies
        .iter()
        .enumerate()
        .map(|(n, policy)| svg::Line {
            colour: colour(&POLICIES, n),
            name: policy.policy,
            values: mean_of(policy, |charts| &charts.waiting),
        })
        .collect();
    let most = lines.iter().flat_map(|line| &line.values).flatten().copied().fold(10.0, f64::max);
    let mut body = svg::legend(lines.iter().map(|line| (line.colour, line.name)));
    body.push_str(&svg::hours(&lines, &svg::Scale::count(most), (900.0, 280.0)));
    let on_shift = "Where the line climbs, more studies come than the readers on shift can read: that is where a shift is \
                    missing. Where it lies at zero, readers wait for work.";
    section("waiting", "Studies waiting", on_shift, &body)
}

fn breaches(plan: &Plan, policies: &[&PolicyResult]) -> String {
    let value = |policy: &PolicyResult, class: &str, figure: &str| {
        policy.figures.get(&format!("{class}.{figure}")).map_or(0.0, |estimate| estimate.mean)
    };
    let most = plan
        .scenario
        .classes
        .iter()
        .flat_map(|class| policies.iter().map(|p| value(p, &class.name, "breach-percent")));
    let most = most.fold(0.5, f64::max);
    let mut body = svg::legend(policies.iter().enumerate().map(|(n, p)| (colour(&POLICIES, n), p.policy)));
    body.push_str("<div class=\"bars\">");
    for class in &plan.scenario.classes {
        let deadline = duration((class.deadline / crate::day::scenario::MINUTE) as f64);
        let _infallible = write!(
            body,
            "<div class=\"bar\"><h3>{} <small>within {deadline}</small></h3>",
            escape(&class.name)
        );
        for (n, policy) in policies.iter().enumerate() {
            let (all, avoidable) = (
                value(policy, &class.name, "breach-percent"),
                value(policy, &class.name, "avoidable-breach-percent"),
            );
            body.push_str(&svg::bar((all, avoidable), most, colour(&POLICIES, n), policy.policy));
        }
        body.push_str("</div>");
    }
    body.push_str("</div>");
    let lead = "Percent of the studies that were signed after their deadline, or not at all by the end. The pale part could not \
                be helped: the reading alone took longer than the deadline.";
    section("breaches", "Breaches", lead, &body)
}

fn loads(plan: &Plan, policies: &[&PolicyResult]) -> String {
    let mut body = svg::legend([("#475569", "center"), ("#38bdf8", "regional sites")].into_iter());
    body.push_str("<div class=\"panels\">");
    let first =
        |policy: &&PolicyResult| policy.runs.first().map(|run| run.charts.loads.clone()).unwrap_or_default();
    let most = policies.iter().flat_map(first).map(|(_, rate)| rate).fold(1.0, f64::max);
    for policy in policies {
        let gini = policy.figures.get("gini").map_or(0.0, |gini| gini.mean);
        let chart = svg::readers(&first(policy), most, (430.0, 200.0));
        let _infallible = write!(
            body,
            "<figure><figcaption>{} <small>Gini {gini:.3}</small></figcaption>{chart}</figure>",
            policy.policy
        );
    }
    body.push_str("</div>");
    let lead = format!(
        "Relative value units for each hour on shift: one bar for each of the {} readers, the busiest of the center and of the \
         sites first (seed {}).",
        plan.scenario.readers.count,
        plan.seeds.start()
    );
    section("loads", "Load of each reader", &lead, &body)
}

fn every_figure(policies: &[&PolicyResult]) -> String {
    let mut table = String::from(
        "<details><summary>All figures, with their 95 % intervals</summary><div class=\"scroll\"><table><thead><tr><th></th>",
    );
    for policy in policies {
        let _infallible = write!(table, "<th>{}</th>", policy.policy);
    }
    table.push_str("</tr></thead><tbody>");
    let names: Vec<&String> =
        policies.first().map(|policy| policy.figures.keys().collect()).unwrap_or_default();
    for name in names {
        let _infallible = write!(table, "<tr><th>{}</th>", escape(name));
        for estimate in policies.iter().map(|policy| policy.figures.get(name)) {
            let Some(Estimate { mean, half_width }) = estimate else { continue };
            let half = half_width.map(|half| format!(" <small>± {half:.3}</small>")).unwrap_or_default();
            let _infallible = write!(table, "<td>{mean:.3}{half}</td>");
        }
        table.push_str("</tr>");
    }
    table.push_str("</tbody></table></div></details>");
    section("figures", "Every figure", "Waits and turnaround are in minutes.", &table)
}

fn method(plan: &Plan, comparison: &Comparison) -> String {
    let weights = comparison.weights.iter().map(|(class, w)| {
        format!(
            "<tr><th>{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(class),
            duration(w.deadline_min as f64),
            w.weight,
            w.kappa,
            w.cost
        )
    });
    let [warm_up, measured, drain] = plan.scenario.days;
    let body = format!(
        "<ul><li>Days of warm-up, not measured: {warm_up}. Days whose arrivals are measured: {measured}. Days after them, in \
         which they can still be read: {drain}. What is unread then counts as a breach, with the wait it had by then.</li>\
         <li>No policy sees how long a study will really take or whether it is really critical: only the expected minutes \
         and what AI says.</li>\
         <li>Intervals are over seeds, never over single studies, whose waits depend on one another.</li>\
         <li>The engine is the code of the live service.</li></ul>\
         <div class=\"scroll\"><table><thead><tr><th>class</th><th>deadline</th><th>weight</th><th>weight of the AI's \
         probability</th><th>cost in the weighted wait</th></tr></thead><tbody>{}</tbody></table></div>",
        weights.collect::<String>()
    );
    section("method", "How it was simulated", "", &body)
}

#[cfg(test)]
mod tests;
