//! Names of objects.

use std::fmt::Display;

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::format::Format;

/// Maximum bytes of an object's name: <https://cloud.google.com/storage/docs/objects#naming>.
const MAX_NAME_BYTES: usize = 1024;
/// Bytes of the hash in a shortened name.
const HASH_BYTES: usize = 8;

/// Returns a unique name in the folder of a batch key. A folder with a name that is too long is
/// cut, and then ends in a hash of the whole name.
pub(crate) fn name(prefix: &str, key: &str, format: Format) -> String {
    with_stem(prefix, key, format, &Uuid::now_v7())
}

/// Returns the name of an object in the folder of a batch key, with this text in place of the unique
/// part.
pub(crate) fn with_stem(prefix: &str, key: &str, format: Format, stem: &dyn Display) -> String {
    format!("{}{stem}{}", folder(prefix, key, format), format.suffix())
}

/// Returns the folder for the objects of a batch key, with a slash at its end.
fn folder(prefix: &str, key: &str, format: Format) -> String {
    let folder = format!("{}{}", root(prefix), key.trim_matches('/'));
    let folder = shortened(folder.trim_end_matches('/').to_owned(), max_folder_bytes(format));
    if folder.is_empty() { folder } else { format!("{folder}/") }
}

/// Returns the common beginning of all objects' names: the prefix of the settings, as a folder.
pub(crate) fn root(prefix: &str) -> String {
    let prefix = prefix.trim_matches('/');
    if prefix.is_empty() { String::new() } else { format!("{prefix}/") }
}

/// Returns the maximum bytes of a folder. A slash, a UUID and the suffix follow it.
const fn max_folder_bytes(format: Format) -> usize {
    MAX_NAME_BYTES - 1 - uuid::fmt::Hyphenated::LENGTH - format.suffix().len()
}

fn shortened(mut folder: String, max_bytes: usize) -> String {
    if folder.len() <= max_bytes {
        return folder;
    }
    let hash = Sha256::digest(&folder);
    let hash: String = hash.iter().take(HASH_BYTES).map(|byte| format!("{byte:02x}")).collect();
    folder.truncate(folder.floor_char_boundary(max_bytes - 1 - hash.len()));
    format!("{}~{hash}", folder.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_lies_in_the_folder_of_its_key() {
        for (prefix, key, folder) in [
            ("archive", "2025/06/15/a", "archive/2025/06/15/a/"),
            ("/a/b/", "/key/", "a/b/key/"),
            ("", "key", "key/"),
            ("a", "", "a/"),
        ] {
            for format in Format::ALL {
                let name = name(prefix, key, format);

                let id = name.strip_prefix(folder);
                let id = id.and_then(|id| id.strip_suffix(format.suffix()));
                assert!(id.is_some_and(|id| Uuid::parse_str(id).is_ok()), "{name}");
            }
        }
    }

    #[test]
    fn names_of_the_most_bytes_are_kept_and_longer_ones_are_cut() {
        Format::ALL.into_iter().for_each(assert_cut);
    }

    fn assert_cut(format: Format) {
        let name = |prefix, key: &str| super::name(prefix, key, format);
        let longest = "k".repeat(max_folder_bytes(format) - "p/".len());
        assert_eq!(name("p", &longest).len(), MAX_NAME_BYTES);
        assert!(name("p", &longest).contains(&longest));

        // Letters of two bytes, so that the cut falls into one of them.
        for key in [format!("{longest}x"), "ä".repeat(600), format!("x{}", "ä".repeat(600))] {
            let cut = name("p", &key);
            assert!(cut.len() <= MAX_NAME_BYTES && cut.len() > MAX_NAME_BYTES - 4, "{}", cut.len());
            let folder = |name: &str| name.rsplit_once('/').unwrap().0.to_owned();
            assert_eq!(folder(&cut), folder(&name("p", &key)), "one key, one folder");
            assert_ne!(folder(&cut), folder(&name("p", &format!("{key}y"))));
        }
    }

    #[test]
    fn a_prefix_is_a_whole_folder() {
        assert_eq!(root("archive"), "archive/");
        assert_eq!(root("/a/b/"), "a/b/");
        assert_eq!(root(""), "");
    }
}
