//! Known keys, taken from the schema of the settings.

use serde_json::Value;

use super::{Password, Settings};
use crate::tools::schema;

/// Known keys of a service's settings.
pub(super) struct Keys(Value);

/// All parts of the schema that apply to one key.
type Nodes<'a> = Vec<&'a Value>;

impl Keys {
    /// Returns the keys of these settings.
    pub(super) fn of<T: Settings>() -> Self {
        Self(schema::of::<T>())
    }

    /// Returns the unknown keys in `values`, in their order.
    pub(super) fn unknown_in(&self, values: &Value) -> Vec<String> {
        let mut unknown = Vec::new();
        self.collect_unknown(&self.resolve(&self.0), values, "", &mut unknown);
        unknown
    }

    /// Returns whether a key with this path exists. Dots separate its parts.
    pub(super) fn has(&self, path: &str) -> bool {
        let mut nodes = self.resolve(&self.0);
        for part in path.split('.') {
            nodes = self.below(&nodes, part);
        }
        !nodes.is_empty()
    }

    /// Returns whether the key with this path is a password.
    pub(super) fn is_password(&self, path: &str) -> bool {
        let mut nodes = self.resolve(&self.0);
        for part in path.split('.') {
            nodes = self.below(&nodes, part);
        }
        nodes.iter().any(|node| node["format"] == Password::FORMAT)
    }

    /// Returns the path of the list that this path leads into, if any.
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

    /// Returns the key whose parts, joined by `_`, give this name.
    pub(super) fn joined_as(&self, name: &str) -> Option<String> {
        let mut all = Vec::new();
        self.collect(&self.resolve(&self.0), "", &mut all);
        all.into_iter().find(|key| key.replace('.', "_") == name)
    }

    /// Returns the known key that is most similar to this unknown one. It first tries dots in place
    /// of `_`, then keys with a similar spelling.
    pub(super) fn nearest(&self, path: &str) -> Option<String> {
        let joined = self.joined(&self.resolve(&self.0), path);
        joined.or_else(|| self.spelt_like(path)).or_else(|| self.nearest_by_part(path))
    }

    /// Returns the key below `nodes` that these parts give, with dots or `_` between them.
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
        // The names in this section are free.
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

    /// Returns the key that, with its parts joined by `_`, has almost this spelling.
    fn spelt_like(&self, path: &str) -> Option<String> {
        let (name, mut all) = (path.replace('.', "_"), Vec::new());
        self.collect(&self.resolve(&self.0), "", &mut all);
        let distance = |key: &String| strsim::osa_distance(&name, &key.replace('.', "_"));
        let (distance, key) = all.into_iter().map(|key| (distance(&key), key)).min()?;
        (distance <= 1.max(name.len() / 6)).then_some(key)
    }

    /// Returns the key that is most similar to this one, compared part by part.
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

    /// Returns the names of the keys directly below.
    fn names<'a>(&self, nodes: &Nodes<'a>) -> Vec<&'a str> {
        let properties = nodes.iter().filter_map(|node| node["properties"].as_object());
        properties.flatten().map(|(name, _)| name.as_str()).collect()
    }

    /// Returns everything that the schema allows at a key, or at any index of a list.
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

    /// Returns all alternatives of a part of the schema.
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

/// Returns whether a part of the schema sets no rule, so that any value is allowed.
fn is_free(node: &Value) -> bool {
    const SAYING: [&str; 7] = ["type", "properties", "$ref", "allOf", "anyOf", "oneOf", "enum"];
    node.is_object() && SAYING.iter().all(|key| node.get(key).is_none())
}

fn join(at: &str, name: &str) -> String {
    if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") }
}

/// Returns the name that is most similar to this one, if any is similar enough.
fn most_like<'a>(name: &str, known: Vec<&'a str>) -> Option<&'a str> {
    let distance = |known: &str| {
        // A section's name is no suggestion for a much longer name that starts with it, because
        // that may be a joined key.
        let is_start = name.len() > 2
            && (known.starts_with(name)
                || name.starts_with(known) && known.len() * 2 >= name.len());
        if is_start { 1 } else { strsim::osa_distance(name, known) }
    };
    let nearest = known.into_iter().map(|known| (distance(known), known)).min()?;
    (nearest.0 <= 1.max(name.len() / 3)).then_some(nearest.1)
}
