//! Variables of a process: those of its environment, and those of the file `.env`.

use std::cell::Cell;
use std::io::{ErrorKind, Read};
use std::path::Path;

/// File with variables, in the working folder.
const FILE: &str = ".env";

/// Variables that libraries read from the environment of the process. They set nothing in a file.
const OF_PROCESS_ONLY: [&str; 10] = [
    "RUST_LOG",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
];

/// Variables that are set. Each name is in it once.
#[derive(Debug, Clone, Default)]
pub struct Environment(Vec<Given>);

/// Variable that is set.
#[derive(Clone)]
pub(super) struct Given {
    pub name: String,
    pub text: String,
    origin: Origin,
}

/// Place where a variable is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Process,
    File,
}

impl std::fmt::Debug for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The text may be a password.
        write!(f, "{} ({:?})", self.name, self.origin)
    }
}

impl Given {
    /// Returns the name of the variable, and its file if it is from one.
    pub(super) fn shown(&self) -> String {
        match self.origin {
            Origin::Process => self.name.clone(),
            Origin::File => format!("{} in {FILE}", self.name),
        }
    }
}

impl Environment {
    /// Reads the file `.env` of the working folder, if there is one, and the variables of this
    /// process. A variable of the process replaces the one of the same name in the file.
    ///
    /// # Errors
    /// The file cannot be read, or a line of it is no variable. The error names file and line. It
    /// never holds the text of a line, which may be a password.
    pub fn of_process() -> Result<Self, String> {
        Self::with_file(FILE.as_ref(), std::env::vars())
    }

    /// Reads a file of variables, and adds the variables of a process.
    pub(super) fn with_file(
        file: &Path,
        process: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, String> {
        let mut environment = Self(read(file)?);
        for (name, text) in process {
            environment.set(Given { name, text, origin: Origin::Process });
        }
        Ok(environment)
    }

    /// Returns the text of a variable.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|given| given.name == name).map(|given| given.text.as_str())
    }

    /// Returns a warning for each variable of the file that has an effect in the environment only.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let is_lost = |given: &&Given| {
            given.origin == Origin::File && OF_PROCESS_ONLY.contains(&given.name.as_str())
        };
        let told = |given: &Given| {
            format!("{} has no effect; set it in the environment of the process", given.shown())
        };
        self.0.iter().filter(is_lost).map(told).collect()
    }

    /// Returns all variables.
    pub(super) fn all(&self) -> &[Given] {
        &self.0
    }

    fn set(&mut self, given: Given) {
        match self.0.iter_mut().find(|known| known.name == given.name) {
            Some(known) => *known = given,
            None => self.0.push(given),
        }
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<T: IntoIterator<Item = (String, String)>>(variables: T) -> Self {
        let given = |(name, text)| Given { name, text, origin: Origin::Process };
        Self(variables.into_iter().map(given).collect())
    }
}

/// Reads a file of variables. A missing file has none. The last one of several with the same name
/// counts.
fn read(file: &Path) -> Result<Vec<Given>, String> {
    let shown = file.display();
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(format!("{shown}: cannot be read: {error}")),
    };
    let line = Cell::new(0);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let lines = CountedLines { rest: text.as_bytes(), number: &line };
    let mut environment = Environment::default();
    for variable in dotenvy::Iter::new(lines) {
        match variable {
            Ok((name, text)) => environment.set(Given { name, text, origin: Origin::File }),
            Err(error) => {
                let line = line.get().saturating_sub(further_lines(&error));
                let right = "must be NAME=value; put a value with spaces, quotes, `#`, `$` or `\\` \
                             in single quotes, as in NAME='a b'";
                return Err(format!("{shown}: line {line}: {right}"));
            }
        }
    }
    Ok(environment.0)
}

/// Returns the number of lines of a wrong variable after its first one. A value in quotes may have
/// several.
fn further_lines(error: &dotenvy::Error) -> usize {
    match error {
        dotenvy::Error::LineParse(text, _) => text.lines().count().saturating_sub(1),
        _ => 0,
    }
}

/// Text that is read line by line. So the number of the line that was read last is known.
struct CountedLines<'a> {
    rest: &'a [u8],
    number: &'a Cell<usize>,
}

impl Read for CountedLines<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let end = self.rest.iter().position(|byte| *byte == b'\n');
        let end = end.map_or(self.rest.len(), |at| at + 1);
        let (mut line, _) = self.rest.split_at(end);
        let count = line.read(into)?;
        if count == end && end > 0 {
            self.number.set(self.number.get() + 1);
        }
        (_, self.rest) = self.rest.split_at(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILE);
        std::fs::write(&file, text).unwrap();
        (folder, file)
    }

    fn fault(text: &str) -> String {
        let (folder, file) = file(text);
        let fault = Environment::with_file(&file, []).unwrap_err();
        fault.replace(&format!("{}/", folder.path().display()), "")
    }

    #[test]
    fn a_file_has_variables_as_shells_write_them() {
        let text = "\u{feff}# comment\r\n\nA=1 # one\r\nexport B = 'a b#$c'\nC=\"x\ny\"\nD=\nA=2";
        let (_folder, file) = file(text);

        let environment = Environment::with_file(&file, []).unwrap();

        let texts = ["A", "B", "C", "D", "E"].map(|name| environment.text(name));
        assert_eq!(texts, [Some("2"), Some("a b#$c"), Some("x\ny"), Some(""), None]);
        assert_eq!(environment.all().len(), 4);
    }

    #[test]
    fn a_variable_of_the_process_replaces_that_of_the_file() {
        let (_folder, file) = file("A=file\nB=file");

        let process = [("A".to_owned(), "process".to_owned())];
        let environment = Environment::with_file(&file, process).unwrap();

        let shown: Vec<_> = environment.all().iter().map(Given::shown).collect();
        assert_eq!(shown, ["A", "B in .env"]);
        assert_eq!(environment.text("A"), Some("process"));
        assert_eq!(format!("{environment:?}"), "Environment([A (Process), B (File)])");
    }

    #[test]
    fn a_variable_of_the_file_without_an_effect_is_told() {
        let (_folder, file) = file("RUST_LOG=debug\nno_proxy=a\nHTTPS_PROXY=hunter2\nPORT=1");

        let process = [("no_proxy", "b"), ("ALL_PROXY", "c")];
        let process = process.map(|(name, text)| (name.to_owned(), text.to_owned()));
        let environment = Environment::with_file(&file, process).unwrap();

        let right = "has no effect; set it in the environment of the process";
        let expected = ["RUST_LOG", "HTTPS_PROXY"].map(|name| format!("{name} in .env {right}"));
        assert_eq!(environment.warnings(), expected);
    }

    #[test]
    fn a_missing_file_has_no_variables() {
        let folder = tempfile::tempdir().unwrap();

        let environment = Environment::with_file(&folder.path().join(FILE), []).unwrap();

        assert!(environment.all().is_empty());
        let is_folder = Environment::with_file(folder.path(), []).unwrap_err();
        assert!(is_folder.contains(": cannot be read: "), "{is_folder}");
    }

    #[test]
    fn a_broken_line_is_named_by_its_number_and_never_shown() {
        let long = "ä".repeat(20_000);
        for (line, text) in [
            (1, "hunter2".to_owned()),
            (3, "A=1\n\nB hunter2\nC=1".to_owned()),
            (2, "# comment\nPASSWORD=hunter2 and more\n".to_owned()),
            (2, "A=1\nPASSWORD='hunter2\nB=1\n".to_owned()),
            (2, "A=1\r\n=hunter2\r\n".to_owned()),
            (4, "A='1\n2'\n\nPASSWORD=hun\\ter2".to_owned()),
            (2, "A=1\nB='1\n2' hunter2\nC=1".to_owned()),
            (2, format!("A='a{long}'\nhunter2")),
        ] {
            let said = fault(&text);

            assert!(said.starts_with(&format!(".env: line {line}: must be NAME=value")), "{said}");
            assert!(!said.contains("hunter2") && !said.contains("ter2"), "{said}");
        }
    }
}
