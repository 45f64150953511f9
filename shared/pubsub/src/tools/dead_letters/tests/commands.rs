//! Tests of the command line and of what each command prints.

use super::*;

#[test]
fn the_command_line_holds_together() {
    command(REASONS.refused()).debug_assert();
}

#[test]
fn a_misspelt_reason_is_refused_with_the_nearest_one() {
    let given = ["dead-letters", "replay", "--reason", "row_tpye"];

    let error = command(REASONS.refused()).try_get_matches_from(given).unwrap_err();

    let text = error.to_string();
    assert_eq!(error.exit_code(), 2);
    assert!(text.contains("[possible values: row_type_mismatch, no_route]"), "{text}");
    let given = ["dead-letters", "list", "--reason", "row_tpye_mismatch"];
    let text = command(REASONS.refused()).try_get_matches_from(given).unwrap_err().to_string();
    assert!(text.contains("a similar value exists: 'row_type_mismatch'"), "{text}");
}

#[test]
fn times_are_given_in_three_forms_and_others_are_refused_with_examples() {
    let parse = |time: &str| {
        command(REASONS.refused()).try_get_matches_from(["dead-letters", "list", "--since", time])
    };

    for time in ["1h", "2026-11-20", "2026-11-20T10:00:00Z"] {
        assert!(parse(time).is_ok(), "{time}");
    }
    let text = parse("soon").unwrap_err().to_string();
    assert!(text.contains("--since") && text.contains("2026-11-20"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_command_prints_its_own_result() {
    let env = ToolEnv::with_letters(0).await;
    env.add(refused("a").with_attribute("ingest_id", "i-a")).await;
    env.add(refused("b").with_attribute("dl_service", "enrich")).await;

    let (listed, list) = env.run(&["list"]).await;
    let (counted, count) = env.run(&["count"]).await;
    let (shown, show) = env.run(&["show", "i-a", "--json"]).await;

    listed.unwrap();
    counted.unwrap();
    shown.unwrap();
    let expected = [
        "-  row_type_mismatch  i-a  -  x is text",
        "row_type_mismatch: 1",
        "1 letter matches, of 2 read; no more letters came",
    ];
    assert_eq!(list.lines, expected, "of this service");
    let expected = [
        "       1  bigqueries  row_type_mismatch",
        "       1  enrich      row_type_mismatch",
        "2 letters match, of 2 read; no more letters came",
    ];
    assert_eq!(count.lines, expected, "of all services");
    assert_eq!(show.json()[0]["id"], "i-a");
    assert_eq!(env.read().await.len(), 2, "all stay where they are");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_no_letter_has_is_an_error() {
    let env = ToolEnv::with_letters(2).await;

    let (outcome, printed) = env.run(&["show", "7x"]).await;

    let error = outcome.unwrap_err().to_string();
    assert_eq!(error, "no letter has the id 7x; 2 were read, which is all");
    assert_eq!(printed.lines, [""; 0]);
}
