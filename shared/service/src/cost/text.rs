//! Estimate as text.

use std::fmt;

use super::{Estimate, Item, Load, Role};

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Load { rate, payload_bytes, .. } = &self.load;
        let super::prices::PriceOrigin { date, region, currency, sources } = &self.prices;
        let (rate, bytes) = (number(*rate), number(*payload_bytes));
        writeln!(
            f,
            "estimate     a month of {rate} messages/s with {bytes} bytes each, at list prices of {region} in {currency} of {date}"
        )?;
        for item in &self.items {
            writeln!(f, "{:<12} {item} {currency}", label(item.role))?;
            if !item.note.is_empty() {
                writeln!(f, "{:<12}   {}", "", item.note)?;
            }
        }
        if self.items.is_empty() {
            writeln!(f, "{:<12} nothing that this service uses is priced by messages", "")?;
        }
        writeln!(f, "{:<12} {} {currency} a month", "total", money(self.total))?;
        for limit in self.limits {
            writeln!(f, "{:<12} {limit}", "")?;
        }
        writeln!(f, "{:<12} prices: {}", "", sources.join(", "))
    }
}

fn label(role: Role) -> &'static str {
    match role {
        Role::Cost => "cost",
        Role::Comparison => "(compare)",
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.name)?;
        for (index, factor) in self.factors.iter().enumerate() {
            let times = if index == 0 { "" } else { " x " };
            write!(f, "{times}{} {}", number(factor.value), factor.unit)?;
        }
        let (amount, per, price) = (number(self.amount()), self.per.name(), number(self.price));
        write!(f, " = {amount} {per}, at {price} = {}", money(self.cost()))
    }
}

/// Returns a number with the digits that matter: all of a large one, four of a small one.
fn number(value: f64) -> String {
    let decimals = match value {
        size if size == 0.0 || size >= 1_000.0 => 0,
        size if size >= 1.0 => 3,
        // The first digit that is not zero, and three more.
        size => (3.0 - size.log10().floor()) as usize,
    };
    let text = format!("{value:.decimals$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// Returns an amount of money, with cents.
fn money(value: f64) -> String {
    if value == 0.0 || value >= 0.01 { format!("{value:.2}") } else { number(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_the_digits_that_matter() {
        for (value, text) in [
            (0.0, "0"),
            (40.0, "40"),
            (2.39014, "2.39"),
            (0.025, "0.025"),
            (0.0001234, "0.0001234"),
            (999.5, "999.5"),
            (2_628_000.0, "2628000"),
            (1_234.56, "1235"),
        ] {
            assert_eq!(number(value), text);
        }
        assert_eq!([money(0.0), money(95.606), money(0.00421)], ["0.00", "95.61", "0.00421"]);
    }
}
