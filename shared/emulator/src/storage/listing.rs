//! Lists objects.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Value, json};

use super::object::Object;
use super::{Storage, no_bucket};
use crate::status::Status;

/// Most items of a page, as at Google.
const PAGE: usize = 1000;
/// Parameters that would change the list, but are not supported.
const UNSUPPORTED: [&str; 3] = ["filter", "matchGlob", "softDeleted"];

/// Parameters of a list request.
struct ListRequest<'a> {
    prefix: &'a str,
    delimiter: &'a str,
    /// Last name of the page before.
    after: &'a str,
    start: &'a str,
    end: &'a str,
    size: usize,
    includes_trailing_delimiter: bool,
}

impl<'a> ListRequest<'a> {
    fn read(query: &'a HashMap<String, String>) -> Result<Self, Status> {
        let parameter = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
        let is_set = |name: &&&str| !["", "false"].contains(&parameter(name));
        if let Some(unsupported) = UNSUPPORTED.iter().find(is_set) {
            let text = format!("the parameter {unsupported} of storage.objects.list");
            return Err(Status::unimplemented(&text));
        }
        Ok(Self {
            prefix: parameter("prefix"),
            delimiter: parameter("delimiter"),
            after: parameter("pageToken"),
            start: parameter("startOffset"),
            end: parameter("endOffset"),
            size: parameter("maxResults").parse().unwrap_or(PAGE).clamp(1, PAGE),
            includes_trailing_delimiter: parameter("includeTrailingDelimiter")
                .eq_ignore_ascii_case("true"),
        })
    }

    /// Returns the common prefix that a name is grouped under.
    fn folded<'n>(&self, name: &'n str) -> Option<&'n str> {
        let rest = name.strip_prefix(self.prefix)?;
        let at = if self.delimiter.is_empty() { None } else { rest.find(self.delimiter) };
        at.map(|at| &name[..self.prefix.len() + at + self.delimiter.len()])
    }

    fn is_wanted(&self, name: &str) -> bool {
        name.starts_with(self.prefix)
            && name >= self.start
            && (self.end.is_empty() || name < self.end)
    }
}

impl Storage {
    /// Lists objects by prefix. With a delimiter, deeper objects are grouped into common prefixes.
    pub(super) fn list(
        &self,
        bucket: &str,
        query: &HashMap<String, String>,
        base: &str,
    ) -> Result<Value, Status> {
        let asked = ListRequest::read(query)?;
        let buckets = self.buckets();
        let objects = &buckets.get(bucket).ok_or_else(no_bucket)?.objects;
        let (mut items, mut prefixes) = (Vec::<&Object>::new(), BTreeSet::new());
        let (mut last, mut next) = (String::new(), None);
        for (name, object) in objects.range(asked.after.to_owned()..) {
            if !asked.is_wanted(name) {
                continue;
            }
            let folded = asked.folded(name);
            let after = asked.after;
            let is_done =
                name.as_str() <= after || folded.is_some_and(|folded| after.starts_with(folded));
            if !after.is_empty() && is_done {
                continue;
            }
            let is_item = folded
                .is_none_or(|folded| asked.includes_trailing_delimiter && folded == name.as_str());
            if folded.is_some_and(|folded| prefixes.contains(folded)) && !is_item {
                continue;
            }
            if items.len() + prefixes.len() >= asked.size {
                next = Some(last);
                break;
            }
            last.clone_from(name);
            if let Some(folded) = folded {
                prefixes.insert(folded.to_owned());
            }
            if is_item {
                items.push(object);
            }
        }
        let items: Vec<_> = items.into_iter().map(|object| object.to_json(base)).collect();
        let mut listed = json!({ "kind": "storage#objects", "items": items });
        if !prefixes.is_empty() {
            listed["prefixes"] = json!(prefixes);
        }
        if let Some(next) = next {
            listed["nextPageToken"] = next.into();
        }
        Ok(listed)
    }
}
