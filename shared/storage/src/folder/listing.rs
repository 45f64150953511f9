//! Names of the objects in a folder, in order.

use std::fs::{self, DirEntry, FileType};
use std::io::{self, ErrorKind};
use std::path::Path;

use super::FolderId;
use super::names::DRAFTS;

/// Returns up to `most` names that begin with `prefix` and come after `after`.
///
/// Links are followed, so a day can be on another disk.
pub(super) fn list(
    root: &Path,
    prefix: &str,
    after: Option<&str>,
    most: usize,
) -> io::Result<Vec<String>> {
    let after = after.unwrap_or_default();
    let mut walk = Walk { prefix, after, most, names: Vec::new(), entered: Vec::new() };
    walk.enter(root, "")?;
    Ok(walk.names)
}

struct Walk<'a> {
    prefix: &'a str,
    after: &'a str,
    most: usize,
    names: Vec<String>,
    /// Folders from the root down to the one that is being read.
    entered: Vec<FolderId>,
}

impl Walk<'_> {
    /// Adds the names below a folder, unless a link leads back to it. `above` is its own name, with a
    /// slash at its end.
    fn enter(&mut self, folder: &Path, above: &str) -> io::Result<()> {
        let id = FolderId::of(&fs::metadata(folder)?);
        if self.entered.contains(&id) {
            return Ok(());
        }
        self.entered.push(id);
        let added = self.add(folder, above);
        self.entered.pop();
        added
    }

    fn add(&mut self, folder: &Path, above: &str) -> io::Result<()> {
        for name in self.wanted(folder, above)? {
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

    /// Returns the names in a folder that are wanted, in order. Those of folders end with a slash.
    fn wanted(&self, folder: &Path, above: &str) -> io::Result<Vec<String>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            // Names of objects are UTF-8, so other files are not objects.
            let Ok(level) = entry.file_name().into_string() else { continue };
            let file = format!("{above}{level}");
            // The slash gives a folder the place of the names below it.
            let folder = format!("{file}/");
            let (is_file_wanted, is_folder_wanted) =
                (self.is_wanted(&file), self.is_wanted(&folder));
            let is_drafts = above.is_empty() && level == DRAFTS;
            if is_drafts || !(is_file_wanted || is_folder_wanted) {
                continue;
            }
            let Some(kind) = kind(&entry)? else { continue };
            if kind.is_dir() && is_folder_wanted {
                found.push(folder);
            } else if kind.is_file() && is_file_wanted {
                found.push(file);
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Returns true if the name is wanted, or may have wanted names below it.
    fn is_wanted(&self, name: &str) -> bool {
        let is_folder = name.ends_with('/');
        let is_in = |text: &str| is_folder && text.starts_with(name);
        (name.starts_with(self.prefix) || is_in(self.prefix))
            && (name > self.after || is_in(self.after))
    }
}

/// Returns the type of an entry, or of what a link leads to. Returns `None` for a link that was
/// removed a moment ago.
///
/// A link that leads nowhere is an error, because its objects may be on a disk that is not mounted.
fn kind(entry: &DirEntry) -> io::Result<Option<FileType>> {
    let kind = entry.file_type()?;
    if !kind.is_symlink() {
        return Ok(Some(kind));
    }
    let path = entry.path();
    match fs::metadata(&path) {
        Ok(found) => Ok(Some(found.file_type())),
        Err(_) if !path.is_symlink() => Ok(None),
        Err(error) => {
            let why = format!("the link {} cannot be followed: {error}", path.display());
            Err(io::Error::other(why))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

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

    #[test]
    fn a_day_on_another_disk_is_listed_through_its_link() {
        let (root, disk) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir_all(root.path().join("2025/15")).unwrap();
        fs::write(root.path().join("2025/15/b"), "").unwrap();
        fs::create_dir_all(disk.path().join("14/hall")).unwrap();
        fs::write(disk.path().join("14/hall/a"), "").unwrap();
        symlink(disk.path().join("14"), root.path().join("2025/14")).unwrap();
        symlink(root.path().join("2025/15/b"), root.path().join("2025/15/c")).unwrap();
        // Links to folders above themselves. Following them would have no end.
        symlink(root.path(), root.path().join("2025/13")).unwrap();
        symlink(".", disk.path().join("14/hall/again")).unwrap();
        symlink(disk.path().join("14"), disk.path().join("14/hall/up")).unwrap();

        let list = |prefix: &str, after| list(root.path(), prefix, after, 9);

        let all = ["2025/14/hall/a", "2025/15/b", "2025/15/c"];
        assert_eq!(list("", None).unwrap(), all);
        assert_eq!(list("2025/14/", None).unwrap(), all[..1]);
        assert_eq!(list("", Some(all[0])).unwrap(), all[1..]);
    }

    #[test]
    fn a_link_that_leads_nowhere_is_named() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("15")).unwrap();
        fs::write(root.path().join("15/a"), "").unwrap();
        symlink("/nowhere/14", root.path().join("14")).unwrap();

        let error = list(root.path(), "", None, 9).unwrap_err();

        assert!(error.to_string().contains("/14 cannot be followed"), "{error}");
        assert_eq!(list(root.path(), "15/", None, 9).unwrap(), ["15/a"], "nobody asked for it");
    }
}
