//! The shape of the YAML text, with the place of every value that is checked later.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_saphyr::Spanned;

use crate::model::GroupBy;

/// A value with its place in the text.
pub(crate) type At<T> = Spanned<T>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PolicyText {
    pub name: Option<At<String>>,
    pub schema: Option<At<u64>>,
    pub classes: Option<Classes>,
    #[serde(default)]
    pub rules: Vec<At<RuleText>>,
    pub default: Option<At<DefaultText>>,
    pub paediatric_under: Option<At<i64>>,
    pub group_by: Option<GroupBy>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClassText {
    pub deadline: Option<At<String>>,
    pub weight: Option<At<i64>>,
    pub ai_weight: Option<At<i64>>,
    pub prior: Option<At<String>>,
    pub next_up: Option<bool>,
    pub reads: Option<Reads>,
    pub peer_review: Option<At<String>>,
    pub orphan_after: Option<At<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RuleText {
    pub name: Option<At<String>>,
    pub when: Option<At<String>>,
    pub class: Option<At<String>>,
    pub read: Option<bool>,
    pub ai: Option<Vec<At<AiText>>>,
    pub pools: Option<At<Vec<At<String>>>>,
    pub destinations: Option<At<Vec<At<String>>>>,
    pub reads: Option<Reads>,
    pub peer_review: Option<At<String>>,
    pub jurisdiction: Option<At<String>>,
}

/// How many read a study.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Reads {
    Single,
    Double,
}

impl Reads {
    pub(crate) const fn is_double(self) -> bool {
        match self {
            Self::Single => false,
            Self::Double => true,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DefaultText {
    pub class: Option<At<String>>,
    pub read: Option<At<bool>>,
    pub ai: Option<Vec<At<AiText>>>,
    pub pools: Option<At<Vec<At<String>>>>,
    pub destinations: Option<At<Vec<At<String>>>>,
    pub jurisdiction: Option<At<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AiText {
    pub service: Option<At<String>>,
    pub timeout: Option<At<String>>,
}

/// The classes in the order of the text, each key with its place, which no map type of serde keeps.
pub(crate) struct Classes(pub Vec<(At<String>, At<ClassText>)>);

impl<'de> Deserialize<'de> for Classes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ClassesVisitor)
    }
}

struct ClassesVisitor;

impl<'de> Visitor<'de> for ClassesVisitor {
    type Value = Classes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map from class to {deadline, weight, …}")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Classes, A::Error> {
        let mut classes = Vec::new();
        while let Some(entry) = map.next_entry()? {
            classes.push(entry);
        }
        Ok(Classes(classes))
    }
}
