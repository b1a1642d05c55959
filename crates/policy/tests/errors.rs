//! Every way a policy text can be wrong is found at load, at its line and column, with what to do.

use isocenter_domain::{Kind, Kinded};
use isocenter_policy::{DEFAULT_TEXT, MAX_EXPRESSION_BYTES, MAX_RULES, MAX_TEXT_BYTES, Policy};

const HEAD: &str = "name: p\nschema: 1\nclasses:\n  ROUTINE: {deadline: 24h}\n";
const TAIL: &str =
    "default: {class: ROUTINE, read: true, pools: [general], destinations: [\"site:{site}\"]}\n";

fn error(text: &str) -> String {
    let error = Policy::parse(text).expect_err(text);
    assert_eq!(error.kind(), Kind::Invalid);
    error.to_string()
}

/// The error of a policy with these rules, the first of which stands in line 6.
fn rules_error(rules: &str) -> String {
    error(&format!("{HEAD}rules:\n{rules}{TAIL}"))
}

/// The error of a policy whose one rule has this condition from line 7, column 11.
fn when_error(when: &str) -> String {
    rules_error(&format!("  - name: a\n    when: {when}\n    read: false\n"))
}

fn assert_starts(found: &str, wanted: &str, of: &str) {
    assert!(found.starts_with(wanted), "{of}\n  gives {found}\n  not   {wanted}");
}

#[test]
fn rules_are_refused_where_they_are_wrong() {
    let cases = [
        (
            "class: STAT",
            "line 6, column 46: class `STAT` is not defined under `classes`; define it or use one of ROUTINE",
        ),
        (
            "raed: false",
            "line 6, column 39: unknown field `raed`, expected one of name, when, class, read, ai, pools",
        ),
        ("read: perhaps", "line 6, column 45: invalid boolean; docs/policy.md shows the form"),
        ("name: b", "line 6, column 39: `name` stands here a second time; remove one"),
        ("ai: [{service: x}]", "line 6, column 44: the AI entry has no `timeout`; add `timeout: 5m`"),
        ("ai: [{timeout: 1m}]", "line 6, column 44: the AI entry has no `service`; add"),
        (
            "ai: [{service: x, timeout: 0s}]",
            "line 6, column 66: `0s` is not a duration from 1s to 24h; write it like",
        ),
        (
            "ai: [{service: x, timeout: 5}]",
            "line 6, column 66: `5` is not a duration from 1s to 24h; write it like",
        ),
        ("ai: [{service: x, timeout: -5m}]", "line 6, column 66: `-5m` is not a duration"),
        (
            "ai: [{service: X, timeout: 5m}]",
            "line 6, column 54: `X`: the AI service id has a character other than",
        ),
        (
            "ai: [{service: x, timeout: 5m}, {service: x, timeout: 6m}]",
            "line 6, column 81: `x` is in this list twice; remove one",
        ),
        (
            "pools: []",
            "line 6, column 46: `pools` is empty; name at least one, or leave the field out of a rule",
        ),
        ("destinations: []", "line 6, column 53: `destinations` is empty"),
        (
            "pools: [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q]",
            "line 6, column 95: `pools` has 17 entries; at most 16 are allowed",
        ),
        ("pools: [x, x]", "line 6, column 50: `x` is in this list twice; remove one"),
        (
            "pools: [a b]",
            "line 6, column 47: `a b`: the pool id has a character other than a-z, 0-9, '-' and '.'",
        ),
        ("pools: [\"pool:{site}\"]", "line 6, column 47: `pool:{site}` has a brace; the only template is"),
        ("destinations: [a/b]", "line 6, column 54: `a/b`: the destination id has a character other than"),
        ("destinations: [\"{site}\"]", "line 6, column 54: `{site}` has a brace; the only template is"),
    ];
    for (set, wanted) in cases {
        let rule = format!("  - {{name: a, when: image_count == 0, {set}}}\n");
        assert_starts(&rules_error(&rule), wanted, &rule);
    }
}

#[test]
fn rules_that_lack_something_are_refused() {
    let cases = [
        ("  - {name: a, when: doubt}\n", "line 6, column 12: rule `a` sets nothing; give it class"),
        ("  - {when: doubt, read: false}\n", "line 6, column 5: the rule has no `name`"),
        ("  - {name: a, read: false}\n", "line 6, column 5: the rule has no `when`"),
        (
            "  - {name: A b, when: doubt, read: false}\n",
            "line 6, column 12: `A b`: the rule name has a character",
        ),
        (
            "  - {name: a, when: doubt, read: false}\n  - {name: a, when: doubt, read: true}\n",
            "line 7, column 12: rule `a` exists already in line 6; give each rule a name of its own",
        ),
        ("  - a\n", "line 6, column 5: expected mapping start; docs/policy.md shows the form"),
    ];
    for (rules, wanted) in cases {
        assert_starts(&rules_error(rules), wanted, rules);
    }
}

#[test]
fn conditions_are_refused_where_they_are_wrong() {
    let cases = [
        (
            "\"'CT' in modalitys\"",
            "line 7, column 20: `modalitys` is not a known name; use one of modalities, body",
        ),
        ("lower(site) == 'a'", "line 7, column 16: `lower` is not offered in conditions; use ==, !=,"),
        ("image_count = 0", "line 7, column 23: the condition is not valid CEL: Syntax error"),
        ("site == 'a", "line 7, column 19: text in quotes has no backslash or line break"),
        ("site == 'a\\n'", "line 7, column 19: text in quotes has no backslash"),
        (
            "''",
            "line 7, column 12: the condition is not valid CEL: it is empty; write `true` to match every study",
        ),
        (
            "image_count == '0'",
            "line 7, column 26: `==` or `!=` with this on its left needs a number, but this is text",
        ),
        (
            "\"modalities == 'CT'\"",
            "line 7, column 26: `==` or `!=` with this on its left needs a list of texts",
        ),
        ("\"'CT' in body_part\"", "line 7, column 20: `in` needs a list on its right, but this is text"),
        ("\"1 in modalities\"", "line 7, column 12: `in` such a list needs text, but this is a number"),
        ("doubt < true", "line 7, column 11: an order needs numbers or texts, but this is true or false"),
        ("site", "line 7, column 11: a condition needs true or false, but this is text"),
        ("site && doubt", "line 7, column 11: `&&` or `||` needs true or false, but this is text"),
        ("\"true ? 1 : 'a'\"", "line 7, column 23: `:` with this before it needs a number, but this is text"),
        ("\"[1, 'a'] == [1]\"", "line 7, column 16: a list whose first element is this needs a number"),
        ("site[0] == 'a'", "line 7, column 11: `[]` needs a list, but this is text"),
        ("size(1) == 1", "line 7, column 16: size() needs text or a list, but this is a number"),
        ("site.contains(1)", "line 7, column 25: contains needs text, but this is a number"),
        (
            "study_description.matches('a*')",
            "line 7, column 36: `matches()` is not offered in conditions; use startsWith",
        ),
        ("image_count + 1 == 2", "line 7, column 23: `+` is not offered in conditions"),
        ("image_count == 0.5", "line 7, column 26: `a decimal number` is not offered in conditions"),
        ("image_count == null", "line 7, column 26: `null` is not offered in conditions"),
        (
            "study.modality == 'CT'",
            "line 7, column 16: `.modality` is not offered in conditions; use the flat names",
        ),
        ("has(site.x)", "line 7, column 14: `.x` is not offered in conditions; use the flat names"),
        ("\"{'a': 1}\"", "line 7, column 12: `{}` is not offered in conditions; use lists"),
        ("\"modalities.exists(m, m == x)\"", "line 7, column 38: `x` is not a known name"),
        (
            "\"modalities.exists(m, m == 1)\"",
            "line 7, column 38: `==` or `!=` with this on its left needs text",
        ),
        ("\"modalities.exists(m, true) && m == 'CT'\"", "line 7, column 42: `m` is not a known name"),
        ("\"modalities.exists(site, true)\"", "line 7, column 29: `site as a variable` is not offered"),
        (
            "\"size(modalities.filter(m, true)) == 0\"",
            "line 7, column 34: `map() or filter()` is not offered",
        ),
        (
            "\"modalities.exists(m, sop_classes.all(s, s == m))\"",
            "line 7, column 48: `a loop inside a loop` is not offered in conditions; use a rule of its own",
        ),
    ];
    for (when, wanted) in cases {
        assert_starts(&when_error(when), wanted, when);
    }
}

#[test]
fn places_inside_conditions_follow_the_yaml() {
    let cases = [
        ("|\n      site == 'x' &&\n      ghost", "line 9, column 7: `ghost`"),
        (">-\n      site == 'x' &&\n      ghost", "line 9, column 7: `ghost`"),
        ("site == 'x'\n      && ghost", "line 8, column 10: `ghost`"),
        ("'site == ''x'' && ghost'", "line 7, column 29: `ghost`"),
        ("\"site == \\\"x\\\" && ghost\"", "line 7, column 29: `ghost`"),
        ("\"'é' == site && ghost\"", "line 7, column 27: `ghost`"),
        ("\"'é' == site && image_count = 0\"", "line 7, column 39: the condition is not valid CEL"),
        ("image_count ==", "line 7, column 25: the condition is not valid CEL"),
    ];
    for (when, wanted) in cases {
        assert_starts(&when_error(when), wanted, when);
    }
}

#[test]
fn what_stands_above_and_below_the_rules_is_checked() {
    let classes = |body: &str| format!("name: p\nschema: 1\nclasses:\n  {body}\n{TAIL}");
    let default = |body: &str| format!("{HEAD}default: {{{body}}}\n");
    let cases = [
        (HEAD.to_owned(), "line 1, column 1: the policy has no `default`; add `default: {class: ROUTINE"),
        (format!("schema: 1\n{TAIL}"), "line 1, column 1: the policy has no `name`; add `name: default`"),
        (format!("name: p\n{TAIL}"), "line 1, column 1: the policy has no `schema`; add `schema: 1`"),
        (format!("name: p\nschema: 1\n{TAIL}"), "line 1, column 1: the policy has no `classes`"),
        (format!("name: p\nschema: 2\n{TAIL}"), "line 2, column 9: schema 2 is not known; write `schema: 1`"),
        (
            format!("{HEAD}rule: []\n{TAIL}"),
            "line 5, column 1: unknown field `rule`, expected one of name, schema",
        ),
        (
            classes("stat: {deadline: 1h}"),
            "line 4, column 3: `stat`: the clinical class has a character other than",
        ),
        (classes("A: {weight: 3}"), "line 4, column 6: the class has no `deadline`; add `deadline: 24h`"),
        (classes("A: {deadline: 24}"), "line 4, column 17: `24` is not a duration from 1m to 720h"),
        (classes("A: {deadline: 0m}"), "line 4, column 17: `0m` is not a duration from 1m to 720h"),
        (
            classes("A: {deadline: 1h, ai_credit: 2h}"),
            "line 4, column 21: unknown field `ai_credit`, expected one of deadline, weight, ai_weight, prior",
        ),
        (
            classes("A: {deadline: 1h, weight: 0}"),
            "line 4, column 29: `weight` is 0; write a whole number from 1 to",
        ),
        (
            classes("A: {deadline: 1h, ai_weight: -1}"),
            "line 4, column 32: `ai_weight` is -1; write a whole number",
        ),
        (
            classes("A: {deadline: 1h, prior: 101%}"),
            "line 4, column 28: `101%` is not a share from 0% to 100%",
        ),
        (
            classes("A: {deadline: 1h, prior: .nan}"),
            "line 4, column 28: `.nan` is not a share from 0% to 100%",
        ),
        (
            classes("A: {deadline: 1h, peer_review: 5}"),
            "line 4, column 34: `5` is not a share from 0% to 100%",
        ),
        (classes("A: {deadline: 1h, reads: triple}"), "line 4, column 28: unknown variant `triple`"),
        (classes("A: {deadline: 1h, orphan: 2h}"), "line 4, column 21: unknown field `orphan`"),
        (
            classes("A: {deadline: 1h}\n  A: {deadline: 2h}"),
            "line 5, column 3: `A` stands here a second time",
        ),
        (default("class: ROUTINE"), "line 5, column 10: `default` has no `read`; add `read: true`"),
        (
            default("class: ROUTINE, read: true, destinations: [x]"),
            "line 5, column 10: `default` has no `pools`; add `pools: [general]`",
        ),
        (
            default("class: ROUTINE, read: true, pools: [], destinations: [x]"),
            "line 5, column 46: `pools` is empty; name at least one",
        ),
        (
            default("class: ROUTIN, read: true, pools: [x], destinations: [x]"),
            "line 5, column 18: class `ROUTIN` is not defined under `classes`",
        ),
        (
            default("class: ROUTINE, read: false, pools: [x], destinations: [x]"),
            "line 5, column 33: `default` must have `read: true`, or studies no rule names would close unread",
        ),
    ];
    for (text, wanted) in cases {
        assert_starts(&error(&text), wanted, &text);
    }
}

#[test]
fn what_is_not_yaml_of_this_shape_is_refused() {
    for text in ["", "- a\n", "a: [\n", "name: [p]\n", "\u{0}", "name: &a [*a]\n"] {
        error(text);
    }
    error(&"[".repeat(MAX_TEXT_BYTES));
    error(&"a: {".repeat(1000));
}

#[test]
fn sizes_are_bounded() {
    let long = format!("{DEFAULT_TEXT}{}", "#".repeat(MAX_TEXT_BYTES));
    assert_starts(&error(&long), "line 1, column 1: the policy has ", "a long text");

    let rules: String =
        (0..=MAX_RULES).map(|n| format!("  - {{name: r{n}, when: doubt, read: true}}\n")).collect();
    let wanted =
        format!("line {}, column 5: the policy has {} rules; merge some", 6 + MAX_RULES, MAX_RULES + 1);
    assert_starts(&rules_error(&rules), &wanted, "many rules");

    let long = format!("site == '{}'", "x".repeat(MAX_EXPRESSION_BYTES));
    assert_starts(
        &when_error(&long),
        "line 7, column 11: the condition has 4106 bytes; split the rule",
        "a long one",
    );
}

/// The parser of CEL ends the process when the stack is used up; each of these did.
#[test]
fn deep_conditions_are_refused_and_the_process_lives() {
    let forms = [
        format!("{}true{}", "(".repeat(1500), ")".repeat(1500)),
        format!("{}{}", "[".repeat(1500), "]".repeat(1500)),
        format!("{}1{}", "f(".repeat(1000), ")".repeat(1000)),
        "(".repeat(4000),
        "{a:".repeat(1000),
        format!("site{} == 1", "[0]".repeat(1300)),
        format!("x{} == 1", ".a".repeat(2000)),
        format!("1{}", " == 1".repeat(800)),
        format!("1{}", "<1".repeat(2000)),
        format!("1{}", "-1".repeat(2000)),
        format!("1{}", " in 1".repeat(800)),
        format!("{}true", "true ? true : ".repeat(280)),
    ];
    for form in forms {
        let found = when_error(&format!("\"{form}\""));
        assert!(found.contains("nests more than 8 deep or chains more than 6 operators"), "{form}: {found}");
    }
    // Nesting that hides behind quotes is not parsed either.
    let hidden = format!("\"'''a' || {}'''\"", "(".repeat(1500));
    assert!(when_error(&hidden).contains("triple quotes"), "{}", when_error(&hidden));
}
