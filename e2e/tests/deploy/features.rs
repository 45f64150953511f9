//! Compares the page of features with the settings, the code and the pages that it names.

use std::collections::HashSet;
use std::path::Path;

use crate::{SERVICES, read, root, slug};

/// Row of the page.
struct Row {
    place: String,
    names: Vec<String>,
    links: Vec<String>,
}

/// Returns the rows of all tables.
fn rows() -> Vec<Row> {
    let page = read("docs/features.md");
    let rows = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| where"));
    rows.map(|line| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 6, "{line}");
        let every_second = |text: &str, mark| {
            text.split(mark).skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()
        };
        let links = cells[4].split("](").skip(1).filter_map(|link| link.split_once(')'));
        let links = links.map(|(link, _)| link.to_owned()).collect();
        Row { place: cells[1].to_owned(), names: every_second(cells[3], '`'), links }
    })
    .collect()
}

/// Returns the lines of an example without their marks, each with the column of its text.
fn lines_of(example: &str) -> Vec<(usize, &str)> {
    let lines = example.lines().map(|line| {
        let text = line.trim_start_matches([' ', '#', '-']);
        (line.len() - text.len(), text)
    });
    lines.collect()
}

/// Returns whether lines have a key, in comments or not. The rest of a key must stand deeper than its
/// first part, or on the same line.
fn has_key(lines: &[(usize, &str)], key: &[&str]) -> bool {
    let [first, rest @ ..] = key else { return true };
    let name = format!("{first}:");
    lines.iter().enumerate().any(|(index, (column, text))| {
        let Some(value) = text.strip_prefix(&name) else { return false };
        let below = &lines[index + 1..];
        let end = below.iter().position(|(deeper, text)| !text.is_empty() && deeper <= column);
        let names = value.split(['{', ',']).map(|text| (column + 1, text.trim()));
        let inside = [names.collect(), below[..end.unwrap_or(below.len())].to_vec()].concat();
        has_key(&inside, rest)
    })
}

#[test]
fn the_settings_on_the_page_of_features_are_in_the_examples() {
    for Row { place, names, .. } in rows() {
        let services = match &*place {
            "shared" => [&SERVICES[..], &["postgres"]].concat(),
            "code" | "files" | "local" => continue,
            service => vec![service],
        };
        let is_key = |name: &&String| {
            name.contains('.')
                && !name.starts_with('.')
                && name.chars().all(|c| c.is_ascii_lowercase() || "_.*".contains(c))
        };
        for name in names.iter().filter(is_key) {
            for service in &services {
                let example = read(format!("services/{service}/example.yaml"));
                let key: Vec<_> = name.split('.').filter(|part| *part != "*").collect();
                assert!(has_key(&lines_of(&example), &key), "{service} has no {name}");
            }
        }
    }
}

/// Adds the words of all Rust code in a folder.
fn add_words(folder: &Path, words: &mut HashSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            add_words(&path, words);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = read(&path);
            let split = text.split(|c: char| !c.is_alphanumeric() && c != '_');
            words.extend(split.map(str::to_owned));
        }
    }
}

#[test]
fn the_code_on_the_page_of_features_is_there() {
    let mut words = HashSet::new();
    for folder in ["shared", "services"] {
        add_words(&root().join(folder), &mut words);
    }
    for Row { names, .. } in rows() {
        for name in names.iter().filter(|name| name.contains("::")) {
            for word in name.split("::") {
                let is_crate = root().join("shared").join(word).is_dir();
                assert!(is_crate || words.contains(word), "there is no {name}");
            }
        }
    }
}

#[test]
fn the_page_of_features_leads_to_sections_that_are_there() {
    for link in rows().into_iter().flat_map(|row| row.links) {
        let (file, section) = link.split_once('#').unwrap_or((&link, ""));
        let page = read(Path::new("docs").join(file));
        let mut headings = page.lines().filter(|line| line.starts_with('#'));
        assert!(section.is_empty() || headings.any(|line| slug(line) == section), "{link}");
    }
}
