//! Short test of each target. `make fuzz` runs a long one.

use fuzz::TARGETS;

/// Inputs for each target. They take seconds in a debug build.
const INPUTS: u64 = 2_000;

#[test]
fn no_input_breaks_a_promise() {
    for target in TARGETS {
        let inputs = INPUTS / target.weight;
        let report = fuzz::run(target, inputs, 1);

        if let Some(finding) = report.finding {
            panic!("{}: {}\n{}", target.name, finding.why, finding.input.escape_ascii());
        }
        assert_eq!(report.inputs, inputs);
    }
}
