//! Runs the fault test for two minutes, always with the same faults at the same times. Faults that
//! last a minute or more need a longer run.

use std::time::Duration;

use e2e::faults::{Plan, run};
use e2e::strictness::Strictness;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_confirmed_is_lost_under_any_fault() -> anyhow::Result<()> {
    let plan = Plan {
        length: Duration::from_secs(120),
        seed: 7,
        only: Vec::new(),
        has_faults: true,
        rate: 200,
        strictness: Strictness::from_environment(),
    };

    let report = run(&plan).await?;

    println!("{report}");
    assert!(report.is_clean(), "{report}");
    assert!(report.total.obligations > 10_000, "{report}");
    assert!(report.total.duplicates > 0, "the faults must have bitten: {report}");
    Ok(())
}
