//! Names of the objects in a folder, in order.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use super::names::DRAFTS;

/// Returns up to `most` names that begin with `prefix` and come after `after`.
pub(super) fn list(
    root: &Path,
    prefix: &str,
    after: Option<&str>,
    most: usize,
) -> io::Result<Vec<String>> {
    let mut walk = Walk { prefix, after: after.unwrap_or_default(), most, names: Vec::new() };
    walk.enter(root, "")?;
    Ok(walk.names)
}

struct Walk<'a> {
    prefix: &'a str,
    after: &'a str,
    most: usize,
    names: Vec<String>,
}

impl Walk<'_> {
    /// Adds the names below a folder. `above` is its own name, with a slash at its end.
    fn enter(&mut self, folder: &Path, above: &str) -> io::Result<()> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            // Names of objects are UTF-8, so other files are not objects.
            let Ok(name) = entry.file_name().into_string() else { continue };
            let is_draft = above.is_empty() && name == DRAFTS;
            // The slash gives a folder the place of the names below it.
            if kind.is_dir() && !is_draft {
                found.push(format!("{above}{name}/"));
            } else if kind.is_file() {
                found.push(format!("{above}{name}"));
            }
        }
        found.retain(|name| self.is_wanted(name));
        found.sort_unstable();
        for name in found {
            if self.names.len() == self.most {
                break;
            }
            match name.strip_prefix(above).and_then(|name| name.strip_suffix('/')) {
                None => self.names.push(name),
                Some(level) => match self.enter(&folder.join(level), &name) {
                    // It was removed a moment ago.
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    entered => entered?,
                },
            }
        }
        Ok(())
    }

    /// Returns true if the name is wanted, or may have wanted names below it.
    fn is_wanted(&self, name: &str) -> bool {
        let is_folder = name.ends_with('/');
        let is_in = |text: &str| is_folder && text.starts_with(name);
        (name.starts_with(self.prefix) || is_in(self.prefix))
            && (name > self.after || is_in(self.after))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_in_order_page_by_page() {
        let root = tempfile::tempdir().unwrap();
        let all = ["a.b", "a/b/1", "a/b/2", "a/b-c/1", "a/c", "b"];
        for name in all.iter().chain(&[".drafts/draft"]) {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let mut sorted = all.map(str::to_owned).to_vec();
        sorted.sort();

        let list =
            |prefix, after: Option<&str>, most| list(root.path(), prefix, after, most).unwrap();

        assert_eq!(list("", None, 9), sorted);
        let mut paged: Vec<String> = Vec::new();
        loop {
            let page = list("", paged.last().cloned().as_deref(), 2);
            if page.is_empty() {
                break;
            }
            paged.extend(page);
        }
        assert_eq!(paged, sorted);
        assert_eq!(list("a/b", None, 9), ["a/b-c/1", "a/b/1", "a/b/2"]);
        assert_eq!(list("a/b/", Some("a/b/1"), 9), ["a/b/2"]);
        assert!(list("c", None, 9).is_empty());
    }
}
