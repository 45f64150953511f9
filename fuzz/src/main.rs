//! `fuzz --target NAME --inputs N --seed S` tries mutated inputs, and prints the result.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "for measuring: nobody reads a part of it"
)]

use std::process::ExitCode;

use clap::Parser;
use fuzz::TARGETS;

/// Feeds decoders with mutated inputs.
#[derive(Parser)]
struct Args {
    /// Only this target; all targets by default.
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// Number of inputs for each target; settings take longer and get a thirtieth of it.
    #[arg(long, value_name = "N", default_value_t = 10_000_000)]
    inputs: u64,
    /// Seed of the mutations.
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    // A panic is a finding, and is reported as one.
    std::panic::set_hook(Box::new(|_| {}));
    let is_meant = |name: &str| args.target.as_deref().is_none_or(|wanted| wanted == name);
    let meant: Vec<_> = TARGETS.iter().filter(|target| is_meant(target.name)).collect();
    if meant.is_empty() {
        let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        eprintln!("--target must be one of {}", names.join(", "));
        return ExitCode::from(2);
    }
    let mut is_clean = true;
    for target in meant {
        let report = fuzz::run(target, args.inputs / target.weight, args.seed);
        let (inputs, seconds) = (report.inputs, report.took.as_secs_f64());
        println!("{}: {inputs} inputs in {seconds:.1} s, seed {}", target.name, args.seed);
        if let Some(finding) = report.finding {
            is_clean = false;
            println!("    {}\n    input: {}", finding.why, finding.input.escape_ascii());
        }
    }
    if is_clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
