use super::*;

fn item(rate: f64, bytes: f64, role: Role) -> Item {
    let factors = vec![Factor::new(rate, "messages/s"), Factor::new(bytes, "bytes"), Factor::MONTH];
    let note = "as they are".to_owned();
    Item { name: "Pub/Sub: delivery", factors, price: 40.0, per: Per::Tib, role, note }
}

fn estimate() -> Estimate {
    let items = vec![item(1_000.0, 1_000.0, Role::Cost), item(1.0, 500.0, Role::Comparison)];
    Estimate::of(Load::new(1_000.0, 300.0), &Prices::built_in(), items)
}

#[test]
fn a_line_is_the_product_of_its_factors_at_its_price() {
    let line = item(1_000.0, 1_000.0, Role::Cost);

    // 1000 x 1000 x 730 x 3600 = 2.628e12 bytes, and a TiB has 1.099511627776e12.
    assert!((line.amount() - 2.390_1).abs() < 1e-4, "{}", line.amount());
    assert!((line.cost() - 95.61).abs() < 1e-2, "{}", line.cost());
    let text =
        "Pub/Sub: delivery: 1000 messages/s x 1000 bytes x 2628000 s = 2.39 TiB, at 40 = 95.61";
    assert_eq!(line.to_string(), text);
}

#[test]
fn the_text_shows_the_calculation_line_by_line_and_says_that_it_is_an_estimate() {
    let text = estimate().to_string();

    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        lines[..6],
        [
            "estimate     a month of 1000 messages/s with 300 bytes each, at list prices of us-central1 in \
             USD of 2026-11-30",
            "cost         Pub/Sub: delivery: 1000 messages/s x 1000 bytes x 2628000 s = 2.39 TiB, at 40 = \
             95.61 USD",
            "               as they are",
            "(compare)    Pub/Sub: delivery: 1 messages/s x 500 bytes x 2628000 s = 0.001195 TiB, at 40 = \
             0.05 USD",
            "               as they are",
            "total        95.61 USD a month",
        ]
    );
    assert!(text.contains("this is an estimate and not a bill"), "{text}");
    assert!(text.contains("https://cloud.google.com/pubsub/pricing"), "{text}");
}

#[test]
fn programs_read_the_same_numbers() {
    let json = serde_json::to_value(estimate()).unwrap();

    assert_eq!(json["prices"]["date"], "2026-11-30");
    assert_eq!(json["load"]["rate"], 1_000.0);
    let line = &json["items"][0];
    assert_eq!(line["factors"][1], serde_json::json!({ "value": 1_000.0, "unit": "bytes" }));
    assert_eq!(
        (&line["unit"], &line["price"], &line["role"]),
        (&"TiB".into(), &40.0.into(), &"cost".into())
    );
    assert_eq!(json["items"][1]["role"], "comparison");
    assert_eq!(json["total"], line["cost"], "what is compared is not in the sum");
    assert!(json["limits"][0].as_str().unwrap().contains("estimate"));
}
