//! Paths of objects.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// Folder of files that are not objects yet. The path of no object leads to it.
pub(super) const DRAFTS: &str = ".drafts";
/// Maximum bytes of a level of a path, on all usual file systems.
const MAX_LEVEL_BYTES: usize = 255;
/// Bytes of the hash in a shortened level.
const HASH_BYTES: usize = 8;

/// Returns the path of an object. A level that is too long for a file system is cut, and ends in a
/// hash of the whole level. A first level with the name of the drafts gets such a hash, too.
pub(super) fn path(root: &Path, name: &str) -> io::Result<PathBuf> {
    let mut path = root.to_owned();
    for (depth, level) in name.split('/').enumerate() {
        if matches!(level, "" | "." | "..") || level.contains('\0') {
            let why = format!("`{name}` is no name of an object in a folder");
            return Err(io::Error::new(ErrorKind::InvalidInput, why));
        }
        let is_drafts = depth == 0 && level == DRAFTS;
        let is_kept = level.len() <= MAX_LEVEL_BYTES && !is_drafts;
        path.push(if is_kept { level.to_owned() } else { hashed(level) });
    }
    Ok(path)
}

/// Returns a level that is cut if it is too long, with a hash of the whole level at its end.
fn hashed(level: &str) -> String {
    let hash = Sha256::digest(level);
    let hash: String = hash.iter().take(HASH_BYTES).map(|byte| format!("{byte:02x}")).collect();
    let end = level.floor_char_boundary(MAX_LEVEL_BYTES - 1 - hash.len());
    format!("{}~{hash}", &level[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leaves_the_folder() {
        for name in ["", "/a", "a/", "a//b", "../a", "a/../b", ".", "a/.", "a\0"] {
            assert!(path(Path::new("/r"), name).is_err(), "{name}");
        }
        assert_eq!(path(Path::new("/r"), "a/.drafts/..b").unwrap(), Path::new("/r/a/.drafts/..b"));
    }

    #[test]
    fn no_object_is_among_the_drafts() {
        let path = |name: &str| path(Path::new("/r"), name).unwrap();

        for name in [".drafts/a", ".drafts"] {
            let first = path(name).iter().nth(2).unwrap().to_str().unwrap().to_owned();
            assert!(first.starts_with(".drafts~"), "{first}");
            assert_eq!(path(&first), Path::new("/r").join(&first), "a listed name stays");
        }
        assert!(path(".drafts/a").ends_with("a"));
    }

    #[test]
    fn long_levels_are_cut_and_stay_different() {
        let longest = "l".repeat(MAX_LEVEL_BYTES);
        // Letters of two bytes, so that the cut falls into one of them.
        let long = format!("x{}", "ä".repeat(200));
        let level = |name: &str| {
            let path = path(Path::new("/r"), &format!("{name}/file")).unwrap();
            path.parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned()
        };

        assert_eq!(level(&longest), longest);
        assert!(level(&long).len() <= MAX_LEVEL_BYTES);
        assert_ne!(level(&long), level(&format!("{long}y")));
        assert_eq!(level(&level(&long)), level(&long), "a listed name leads to the same file");
    }
}
