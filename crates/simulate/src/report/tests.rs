use isocenter_assign::Params;

use super::*;
use crate::day::{self, Kind, Scenario};

#[test]
fn the_report_is_one_file_that_asks_for_nothing() {
    let text = "schema: 1\nname: small\nabout: Two <readers> & few studies\nstudies_per_day: 60\n\
                days: {warm_up: 0, measured: 1, drain: 1}\nreaders: {count: 3}\n";
    let plan = Plan {
        scenario: Scenario::parse(text).expect("valid"),
        log: None,
        policies: vec![Kind::Isocenter, Kind::PriorityFifo],
        seeds: 1..=2,
        params: Params::default(),
    };
    let page = html(&plan, &day::run(&plan, &|| ()));
    for outside in ["http:", "https:", "<script", "src=", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.contains("Two &lt;readers&gt; &amp; few studies"));
    for id in ["glance", "waits", "waiting", "breaches", "loads", "figures", "method"] {
        assert!(page.contains(&format!("<section id=\"{id}\">")), "{id}");
    }
    assert_eq!(page.matches("<section").count(), page.matches("</section>").count());
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    assert!(!page.contains("NaN") && !page.contains("inf"));
}
