//! All timings as one table.

use std::fmt;

use super::{PHASES, Record};

/// Table of timings, with a line for each test. Durations are in seconds.
#[derive(Debug)]
pub struct Table<'a>(pub &'a [Record]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |record: &Record| {
            let failed = if record.has_passed { "" } else { " (failed)" };
            format!("{} {}{failed}", record.program, record.test)
        };
        let width = self.0.iter().map(|record| name(record).chars().count()).max().unwrap_or(0);
        write!(f, "{:<width$} {:>9}", "seconds", "total")?;
        for phase in PHASES.iter().chain(&["other"]) {
            write!(f, " {phase:>9}")?;
        }
        for record in self.0 {
            write!(f, "\n{:<width$} {:>9.3}", name(record), record.seconds)?;
            let mut other = record.seconds;
            for phase in PHASES {
                let same = record.phases.iter().filter(|one| one.name == phase);
                // `sum` of nothing is -0.
                let seconds = same.fold(0.0, |sum, one| sum + one.seconds);
                other -= seconds;
                write!(f, " {seconds:>9.3}")?;
            }
            write!(f, " {:>9.3}", other.max(0.0))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timings::{Phase, SEND};

    #[test]
    fn each_test_has_a_line_with_all_phases() {
        let phase = |name: &str, seconds| Phase { name: name.into(), seconds };
        let record = Record {
            program: "e2e".into(),
            test: "flows::a".into(),
            ended_at: "2026-11-30T10:00:00Z".into(),
            has_passed: false,
            seconds: 3.5,
            phases: vec![phase(SEND, 1.25), phase("restart", 2.25)],
        };

        let table = Table(&[record]).to_string();

        let [head, line] = &*table.lines().collect::<Vec<_>>() else { panic!("{table}") };
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let expected = [
            "seconds",
            "total",
            "resources",
            "services",
            "send",
            "settle",
            "verify",
            "teardown",
            "other",
        ];
        assert_eq!(words(head), expected);
        let expected =
            "e2e flows::a (failed) 3.500 0.000 0.000 1.250 0.000 0.000 0.000 2.250".split(' ');
        assert_eq!(words(line), expected.collect::<Vec<_>>());
    }
}
