//! Paths of objects.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// Folder of files that are not objects yet. No object has it in its name.
pub(super) const DRAFTS: &str = ".drafts";
/// Maximum bytes of a level of a path, on all usual file systems.
const MAX_LEVEL_BYTES: usize = 255;
/// Bytes of the hash in a shortened level.
const HASH_BYTES: usize = 8;

/// Returns the path of an object. Levels that are too long for a file system are cut. They end in a
/// hash of the whole level then.
pub(super) fn path(root: &Path, name: &str) -> io::Result<PathBuf> {
    let mut path = root.to_owned();
    for (depth, level) in name.split('/').enumerate() {
        let is_wrong = matches!(level, "" | "." | "..")
            || level.contains('\0')
            || (depth == 0 && level == DRAFTS);
        if is_wrong {
            let why = format!("`{name}` is no name of an object in a folder");
            return Err(io::Error::new(ErrorKind::InvalidInput, why));
        }
        path.push(shortened(level));
    }
    Ok(path)
}

fn shortened(level: &str) -> String {
    if level.len() <= MAX_LEVEL_BYTES {
        return level.to_owned();
    }
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
        for name in ["", "/a", "a/", "a//b", "../a", "a/../b", ".", "a/.", "a\0", ".drafts/a"] {
            assert!(path(Path::new("/r"), name).is_err(), "{name}");
        }
        assert_eq!(path(Path::new("/r"), "a/.drafts/..b").unwrap(), Path::new("/r/a/.drafts/..b"));
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
