//! The keys that there are, as the schema of the settings names them.

use serde_json::Value;

use super::Settings;
use crate::schema;

/// The keys of a service's settings.
pub(super) struct Keys(Value);

/// One key in a list of keys; all that the schema allows there.
type Nodes<'a> = Vec<&'a Value>;

impl Keys {
    /// Those of these settings.
    pub(super) fn of<T: Settings>() -> Self {
        Self(schema::of::<T>())
    }

    /// The keys in `values` that are unknown, in their order.
    pub(super) fn unknown_in(&self, values: &Value) -> Vec<String> {
        let mut unknown = Vec::new();
        self.collect_unknown(&self.resolve(&self.0), values, "", &mut unknown);
        unknown
    }

    /// Whether there is a key with this path, parts apart by dots.
    pub(super) fn has(&self, path: &str) -> bool {
        let mut nodes = self.resolve(&self.0);
        for part in path.split('.') {
            nodes = self.below(&nodes, part);
        }
        !nodes.is_empty()
    }

    /// The list that a path leads into, if it does.
    pub(super) fn list_on<'a>(&self, path: &'a str) -> Option<&'a str> {
        let mut nodes = self.resolve(&self.0);
        for (at, _) in path.match_indices('.') {
            let part = path[..at].rsplit('.').next().unwrap_or_default();
            nodes = self.below(&nodes, part);
            if nodes.iter().any(|node| node["type"] == "array") {
                return Some(&path[..at]);
            }
        }
        None
    }

    /// The key whose parts, joined by `_`, make this name.
    pub(super) fn joined_as(&self, name: &str) -> Option<String> {
        let mut all = Vec::new();
        self.collect(&self.resolve(&self.0), "", &mut all);
        all.into_iter().find(|key| key.replace('.', "_") == name)
    }

    /// The known key that is most like this unknown one: one whose parts are apart by dots where this one
    /// has `_`, else one with a name that is spelt much alike.
    pub(super) fn nearest(&self, path: &str) -> Option<String> {
        let joined = self.joined(&self.resolve(&self.0), path);
        joined.or_else(|| self.spelt_like(path)).or_else(|| self.nearest_by_part(path))
    }

    /// The key below that these parts make, whether dots or `_` are between them.
    fn joined(&self, nodes: &Nodes<'_>, path: &str) -> Option<String> {
        for name in self.names(nodes) {
            let Some(rest) = path.strip_prefix(name) else { continue };
            if rest.is_empty() {
                return Some(name.to_owned());
            }
            let rest = rest.strip_prefix(['.', '_']);
            let below = rest.and_then(|rest| self.joined(&self.below(nodes, name), rest));
            if let Some(below) = below {
                return Some(join(name, &below));
            }
        }
        // A section whose names are free.
        if !nodes.iter().any(|node| node["additionalProperties"].is_object()) || path.is_empty() {
            return None;
        }
        let split = path.match_indices(['.', '_']).find_map(|(at, _)| {
            let (name, rest) = (&path[..at], &path[at + 1..]);
            let below = self.joined(&self.below(nodes, name), rest)?;
            Some(join(name, &below))
        });
        split.or_else(|| (!path.contains('.')).then(|| path.to_owned()))
    }

    /// The key whose parts, joined by `_`, are spelt almost so.
    fn spelt_like(&self, path: &str) -> Option<String> {
        let (name, mut all) = (path.replace('.', "_"), Vec::new());
        self.collect(&self.resolve(&self.0), "", &mut all);
        let distance = |key: &String| strsim::osa_distance(&name, &key.replace('.', "_"));
        let (distance, key) = all.into_iter().map(|key| (distance(&key), key)).min()?;
        (distance <= 1.max(name.len() / 6)).then_some(key)
    }

    /// The key that is most like this one, part by part.
    fn nearest_by_part(&self, path: &str) -> Option<String> {
        let mut nodes = self.resolve(&self.0);
        let mut nearest = String::new();
        for part in path.split('.') {
            let (name, _) = part.split_once('[').unwrap_or((part, ""));
            let mut known = self.below(&nodes, name);
            let mut taken = part.to_owned();
            if known.is_empty() {
                let like = most_like(name, self.names(&nodes))?;
                known = self.below(&nodes, like);
                taken = part.replacen(name, like, 1);
            }
            if part != name {
                known = self.below(&known, "0");
            }
            nearest = join(&nearest, &taken);
            nodes = known;
        }
        Some(nearest)
    }

    fn collect_unknown(
        &self,
        nodes: &Nodes<'_>,
        value: &Value,
        at: &str,
        unknown: &mut Vec<String>,
    ) {
        let is_open = nodes.iter().any(|node| node.as_bool() == Some(true) || is_free(node));
        match value {
            Value::Object(children) if !is_open => {
                for (name, child) in children {
                    let (key, below) = (join(at, name), self.below(nodes, name));
                    if below.is_empty() {
                        unknown.push(key);
                    } else {
                        self.collect_unknown(&below, child, &key, unknown);
                    }
                }
            }
            Value::Array(children) => {
                let below = self.below(nodes, "0");
                for (index, child) in children.iter().enumerate() {
                    self.collect_unknown(&below, child, &format!("{at}[{index}]"), unknown);
                }
            }
            _ => {}
        }
    }

    fn collect(&self, nodes: &Nodes<'_>, at: &str, all: &mut Vec<String>) {
        for name in self.names(nodes) {
            let key = join(at, name);
            self.collect(&self.below(nodes, name), &key, all);
            all.push(key);
        }
    }

    /// The names of the keys directly below.
    fn names<'a>(&self, nodes: &Nodes<'a>) -> Vec<&'a str> {
        let properties = nodes.iter().filter_map(|node| node["properties"].as_object());
        properties.flatten().map(|(name, _)| name.as_str()).collect()
    }

    /// What is allowed at a key, or at any place of a list.
    fn below<'a>(&'a self, nodes: &Nodes<'a>, name: &str) -> Nodes<'a> {
        let mut found = Vec::new();
        for node in nodes {
            let named = &node["properties"][name];
            let is_place = name.bytes().all(|byte| byte.is_ascii_digit());
            let at_place = if is_place { &node["items"] } else { &Value::Null };
            for below in [named, at_place, &node["additionalProperties"]] {
                if !below.is_null() && below.as_bool() != Some(false) {
                    found.extend(self.resolve(below));
                }
            }
        }
        found
    }

    /// All alternatives of a part of the schema.
    fn resolve<'a>(&'a self, node: &'a Value) -> Nodes<'a> {
        let mut nodes = vec![node];
        if let Some(name) = node["$ref"].as_str() {
            let pointer = name.strip_prefix('#').and_then(|pointer| self.0.pointer(pointer));
            nodes.extend(pointer.into_iter().flat_map(|node| self.resolve(node)));
        }
        for way in ["allOf", "anyOf", "oneOf"] {
            let ways = node[way].as_array().into_iter().flatten();
            nodes.extend(ways.flat_map(|node| self.resolve(node)));
        }
        nodes
    }
}

/// Whether a schema says nothing about what is there, so that anything may be.
fn is_free(node: &Value) -> bool {
    const SAYING: [&str; 7] = ["type", "properties", "$ref", "allOf", "anyOf", "oneOf", "enum"];
    node.is_object() && SAYING.iter().all(|key| node.get(key).is_none())
}

fn join(at: &str, name: &str) -> String {
    if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") }
}

/// The name that is most like this one, unless none is.
fn most_like<'a>(name: &str, known: Vec<&'a str>) -> Option<&'a str> {
    let distance = |known: &str| {
        // A section's name is no key for what is joined to it.
        let is_start = name.len() > 2
            && (known.starts_with(name)
                || name.starts_with(known) && known.len() * 2 >= name.len());
        if is_start { 1 } else { strsim::osa_distance(name, known) }
    };
    let nearest = known.into_iter().map(|known| (distance(known), known)).min()?;
    (nearest.0 <= 1.max(name.len() / 3)).then_some(nearest.1)
}
