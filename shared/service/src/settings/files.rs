//! Files of settings: one with all sections, and others with one section each.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use figment::providers::{Format as _, YamlExtended};
use figment::value::{Dict, Map, Value};
use figment::{Error, Figment, Metadata, Profile, Provider};

use super::Faults;

/// Section of settings that may be in a file of its own. That file has the section as its only key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SectionFile {
    /// Name of the section. The option that names the file is called the same: `--routes FILE`.
    pub section: &'static str,
    /// Variable that stands for the option.
    pub variable: &'static str,
    /// Help for the option.
    pub help: &'static str,
}

/// Files that settings are read from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// File with all settings.
    pub settings: Option<PathBuf>,
    /// Files with one section each, by the name of the section.
    pub sections: BTreeMap<&'static str, PathBuf>,
}

impl Files {
    /// Creates the files of settings that are in one file at most.
    pub(super) fn of(settings: Option<&Path>) -> Self {
        Self { settings: settings.map(Path::to_owned), sections: BTreeMap::new() }
    }

    /// Adds all files to earlier layers. Reports a section that is in two files, and whatever the file
    /// of a section has beside it.
    pub(super) fn merge_into(&self, mut figment: Figment, faults: &mut Faults) -> Figment {
        if let Some(file) = &self.settings {
            figment = figment.merge(YamlExtended::file_exact(file));
        }
        for (section, file) in &self.sections {
            let only = Only { section, file };
            only.check(faults);
            if let Some(first) = self.settings.as_deref().filter(|file| has(file, section)) {
                let (first, second) = (first.display(), file.display());
                let right = format!("is in {first} and in {second}: leave it out of one of them");
                faults.add_unreadable(section, right);
            }
            figment = figment.merge(only);
        }
        figment
    }
}

/// Section of a file. Other sections of that file are left out.
struct Only<'a> {
    section: &'a str,
    file: &'a Path,
}

impl Only<'_> {
    /// Reports a missing section, and others. A file that cannot be read is reported later.
    fn check(&self, faults: &mut Faults) {
        let (section, file) = (self.section, self.file.display());
        let Ok(found) = sections(self.file) else { return };
        for other in found.keys().filter(|name| *name != section) {
            faults.add_line(format!("{other}: must not be here, only `{section}` (from {file})"));
        }
        if !found.contains_key(section) {
            faults.add_unreadable(section, format!("is missing in {file}"));
        }
    }
}

impl Provider for Only<'_> {
    fn metadata(&self) -> Metadata {
        YamlExtended::file_exact(self.file).metadata()
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        let mut sections = sections(self.file)?;
        sections.retain(|name, _| name == self.section);
        Ok(Profile::Default.collect(sections))
    }
}

/// Returns the sections of a file.
#[expect(clippy::result_large_err, reason = "figment has large errors, and reads few files")]
fn sections(file: &Path) -> Result<Dict, Error> {
    let mut data = YamlExtended::file_exact(file).data()?;
    Ok(data.remove(&Profile::Default).unwrap_or_default())
}

/// Returns whether a file has a section that is not empty.
fn has(file: &Path, section: &str) -> bool {
    let is_set = |value: &Value| value.to_empty().is_none();
    sections(file).is_ok_and(|sections| sections.get(section).is_some_and(is_set))
}
