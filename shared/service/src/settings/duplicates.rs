//! Finds a key that a YAML file sets twice, and its line. The parser of the settings does not
//! report the line.

use std::collections::HashSet;
use std::fmt;

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess, Visitor,
};

/// Start of the error text for a duplicate key.
const TWICE: &str = "is set twice: ";

/// Finds the first key that is set twice in its section. Returns its line, from 1, and its name.
pub(super) fn find(yaml: &str) -> Option<(usize, String)> {
    let error = Any.deserialize(serde_yaml::Deserializer::from_str(yaml)).err()?;
    let line = error.location()?.line();
    let text = error.to_string();
    let (_, key) = text.split_once(TWICE)?;
    // The location follows the key.
    let (key, _) = key.rsplit_once(" at line ")?;
    Some((line, key.to_owned()))
}

/// Any value. Nothing of it is kept.
struct Any;

impl<'de> DeserializeSeed<'de> for Any {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Any {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Any)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut section: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while section.next_key_seed(Key(&mut seen))?.is_some() {
            section.next_value_seed(Any)?;
        }
        Ok(())
    }

    /// Visits a value with a tag.
    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<(), A::Error> {
        let ((), value) = tagged.variant_seed(Any)?;
        value.newtype_variant_seed(Any)
    }
}

/// Key, checked against the earlier keys of its section. The error is created here, so that it
/// carries the key's line.
struct Key<'a>(&'a mut HashSet<String>);

impl Key<'_> {
    fn take<E: Error>(self, key: &str) -> Result<(), E> {
        match self.0.insert(key.to_owned()) {
            true => Ok(()),
            false => Err(E::custom(format_args!("{TWICE}{key}"))),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_bool<E: Error>(self, key: bool) -> Result<(), E> {
        self.take(&key.to_string())
    }

    fn visit_i64<E: Error>(self, key: i64) -> Result<(), E> {
        self.take(&key.to_string())
    }

    fn visit_u64<E: Error>(self, key: u64) -> Result<(), E> {
        self.take(&key.to_string())
    }

    fn visit_f64<E: Error>(self, key: f64) -> Result<(), E> {
        self.take(&key.to_string())
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<(), E> {
        self.take(key)
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.take("")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_the_second_is_told() {
        let nested = "a: 1\nb:\n  - x: 1\n    y: 2\n  - x: 1\n    y: { z: 1 }\n    x: 3\nc: 1\n";

        for (yaml, line, key) in [
            ("project: a\n# words\nproject: b\n", 3, "project"),
            (nested, 7, "x"),
            ("a: { b: 1,\n  b: 2 }\n", 2, "b"),
            ("'a': 1\na: 2\n", 2, "a"),
            ("a: !tag { b: 1 }\nc:\n  1: x\n  1: y\n", 4, "1"),
        ] {
            assert_eq!(find(yaml), Some((line, key.to_owned())), "{yaml}");
        }
    }

    #[test]
    fn what_is_there_once_is_not_told() {
        for yaml in [
            "",
            "a: 1\nb: { a: 1 }\n",
            "- a: 1\n- a: 2\n",
            "a: [\n",
            "x: &x { a: 1 }\ny: { <<: *x, a: 2 }\n",
        ] {
            assert_eq!(find(yaml), None, "{yaml}");
        }
    }
}
