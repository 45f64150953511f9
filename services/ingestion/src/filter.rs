//! Topic filter with named captures.

use std::str::FromStr;

/// Maximum number of levels in a filter, as in mosquitto. The look-up of a route recurses once for
/// each level.
const MAX_LEVELS: usize = 200;

/// Topic filter such as `devices/{device_id}/up`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    subscribed: String,
    /// Level and name of each capture.
    captures: Vec<(usize, String)>,
}

impl FromStr for Filter {
    type Err = String;

    /// Parses a filter. The error says what is wrong with it, and what would be right.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("required, as devices/+/up or devices/{device_id}/up".into());
        }
        if text.len() > 65_535 || text.contains('\0') {
            return Err("must have at most 65535 bytes and no null character".into());
        }
        if text.starts_with("$share/") {
            return Err("a shared subscription is a shared_group of the route".into());
        }
        let levels: Vec<_> = text.split('/').collect();
        if levels.len() > MAX_LEVELS {
            return Err(format!("must have at most {MAX_LEVELS} levels, has {}", levels.len()));
        }
        let mut captures: Vec<(usize, String)> = Vec::new();
        let mut subscribed = Vec::new();
        for (index, level) in levels.iter().enumerate() {
            let capture = level.strip_prefix('{').and_then(|level| level.strip_suffix('}'));
            if let Some(name) = capture {
                let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
                if name.is_empty() || !name.chars().all(is_name) {
                    return Err(format!("`{{{name}}}` must be letters, digits and `_`"));
                }
                if captures.iter().any(|(_, known)| known == name) {
                    return Err(format!("`{{{name}}}` stands twice"));
                }
                captures.push((index, name.to_owned()));
                subscribed.push("+");
            } else if *level == "#" && index + 1 != levels.len() {
                return Err("`#` must be the last level".into());
            } else if level.len() > 1 && level.contains(['+', '#', '{', '}']) {
                return Err(format!("`{level}`: a wildcard or capture must be a whole level"));
            } else {
                subscribed.push(level);
            }
        }
        Ok(Self { subscribed: subscribed.join("/"), captures })
    }
}

impl Filter {
    /// Returns the filter as the broker sees it.
    #[must_use]
    pub fn as_subscribed(&self) -> &str {
        &self.subscribed
    }

    /// Returns the levels, with captures as `+`.
    pub fn levels(&self) -> impl Iterator<Item = &str> {
        self.subscribed.split('/')
    }

    /// Returns the values of the captures, by name.
    pub fn captured<'a>(&'a self, topic: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let level = |index| topic.split('/').nth(index);
        self.captures.iter().filter_map(move |(index, name)| Some((name.as_str(), level(*index)?)))
    }

    /// Returns the value of the capture `device_id`, else of the first `+`.
    #[must_use]
    pub fn device_id<'a>(&self, topic: &'a str) -> Option<&'a str> {
        let first = || self.levels().position(|level| level == "+");
        self.captured_device(topic).or_else(|| topic.split('/').nth(first()?))
    }

    /// Returns the value of the capture `device_id`.
    #[must_use]
    pub fn captured_device<'a>(&self, topic: &'a str) -> Option<&'a str> {
        let (index, _) = self.captures.iter().find(|(_, name)| name == "device_id")?;
        topic.split('/').nth(*index)
    }

    /// Reads a template, in which captures of this filter replace each `{name}`. Other braces are
    /// text.
    #[must_use]
    pub fn template(&self, text: &str) -> Template {
        let (mut pieces, mut rest) = (Vec::new(), text);
        while let Some((before, after)) = rest.split_once('{') {
            pieces.push(Piece::Text(before.to_owned()));
            let capture = after.split_once('}').and_then(|(name, behind)| {
                let (level, _) = self.captures.iter().find(|(_, known)| known == name)?;
                Some((Piece::Level(*level), behind))
            });
            let (piece, behind) = capture.unwrap_or_else(|| (Piece::Text("{".into()), after));
            pieces.push(piece);
            rest = behind;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        Template(pieces)
    }

    /// Returns a `{name}` in a template that this filter does not capture.
    #[must_use]
    pub fn missing_capture<'a>(&self, template: &'a str) -> Option<&'a str> {
        let names = template.split('{').skip(1).filter_map(|rest| Some(rest.split_once('}')?.0));
        names.into_iter().find(|name| !self.captures.iter().any(|(_, known)| known == name))
    }

    /// Returns whether any topic matches both filters.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let (mut ours, mut theirs) = (self.levels(), other.levels());
        loop {
            match (ours.next(), theirs.next()) {
                (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
                (Some("+"), Some(_)) | (Some(_), Some("+")) => {}
                (Some(our), Some(their)) if our == their => {}
                _ => return false,
            }
        }
    }
}

/// Template with captures of one filter, such as `{device_id}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

/// Part of a template: text, or the number of a topic's level.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Level(usize),
}

impl Template {
    /// Returns the text for a topic that the filter matches. Braces in a level stay unchanged.
    #[must_use]
    pub fn fill(&self, topic: &str) -> String {
        let mut filled = String::new();
        for piece in &self.0 {
            filled.push_str(match piece {
                Piece::Text(text) => text,
                // A topic that matches has all levels of the captures.
                Piece::Level(index) => topic.split('/').nth(*index).unwrap_or_default(),
            });
        }
        filled
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn captures_are_levels_by_name() {
        let filter = Filter::from_str("sites/{site}/devices/{device_id}/#").unwrap();
        let topic = "sites/s1/devices/d1/up/x";

        assert_eq!(filter.as_subscribed(), "sites/+/devices/+/#");
        assert_eq!(filter.device_id(topic), Some("d1"));
        assert_eq!(filter.template("{site}:{device_id}").fill(topic), "s1:d1");
        assert_eq!(filter.missing_capture("{site}{tenant}"), Some("tenant"));
        assert_eq!(Filter::from_str("a/+/+").unwrap().device_id("a/x/y"), Some("x"));
        assert_eq!(Filter::from_str("a/#").unwrap().device_id("a/x"), None);
    }

    #[test]
    fn braces_of_a_topic_are_no_captures() {
        let filter = Filter::from_str("{a}/{b}").unwrap();

        assert_eq!(filter.template("{a}-{b}").fill("{b}/x"), "{b}-x");
        assert_eq!(filter.template("{{a}}").fill("{a}/x"), "{{a}}");
        assert_eq!(filter.template("{a}{b").fill("{/}"), "{{b");
        assert_eq!(filter.template("}{none}{b}").fill("a/b"), "}{none}b");
    }

    #[test]
    fn wrong_filters_say_what_would_be_right() {
        for wrong in ["", "a/#/b", "a/b+", "a/{x", "a/{}", "a/{x}/{x}", "a#", "$share/g/a", "a\0"] {
            assert!(Filter::from_str(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_filter_has_as_many_levels_as_a_broker_takes() {
        let levels = |count| vec!["a"; count].join("/");

        assert!(Filter::from_str(&levels(200)).is_ok());
        let why = Filter::from_str(&levels(30_000)).unwrap_err();
        assert_eq!(why, "must have at most 200 levels, has 30000");
    }

    #[test]
    fn filters_overlap_when_one_topic_matches_both() {
        let overlap =
            |one, other| Filter::from_str(one).unwrap().overlaps(&Filter::from_str(other).unwrap());

        assert!(overlap("a/+/c", "a/b/+"));
        assert!(overlap("a/#", "a"));
        assert!(overlap("#", "x/y"));
        assert!(!overlap("a/+", "a/+/c"));
        assert!(!overlap("a/b", "a/c"));
        assert!(!overlap("devices/+/up", "devices/+/down"));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,60}", other in "[a#+/{}]{0,20}") {
            if let (Ok(filter), Ok(other)) = (Filter::from_str(&text), Filter::from_str(&other)) {
                prop_assert_eq!(filter.overlaps(&other), other.overlaps(&filter));
                prop_assert!(filter.overlaps(&filter));
                let _id = filter.device_id(&text);
            }
        }
    }
}
