//! Estimate of what settings cost in a month, for `plan --rate`.
//!
//! Each service adds an [`Item`] for everything that it is billed for. An item is a product of
//! [`Factor`]s at a price, so the calculation that people read is the one that was made.

mod load;
mod prices;
mod text;

use serde::Serialize;
use serde::ser::{SerializeStruct as _, Serializer};

pub use load::Load;
pub use prices::Prices;

/// Seconds of a month of 730 hours, as Google's price calculator counts them.
pub const SECONDS_A_MONTH: f64 = 730.0 * 3600.0;

/// Sentences that limit what the estimate says.
const LIMITS: [&str; 2] = [
    "this is an estimate and not a bill: free amounts and discounts are not subtracted",
    "not in it: other services of the chain, machines, network, logs, Redis, dead letters and queries",
];

/// Number with its unit, as a part of a product.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Factor {
    /// Number.
    pub value: f64,
    /// Unit, such as `messages/s`.
    pub unit: &'static str,
}

impl Factor {
    /// Seconds of a month.
    pub const MONTH: Self = Self { value: SECONDS_A_MONTH, unit: "s" };

    /// Creates a factor.
    #[must_use]
    pub const fn new(value: f64, unit: &'static str) -> Self {
        Self { value, unit }
    }
}

/// Amount that a price is for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Per {
    /// 2^40 bytes.
    Tib,
    /// 2^30 bytes.
    Gib,
    /// 2^30 bytes that are kept for a month.
    GibMonth,
    /// 1,000 operations.
    ThousandOperations,
    /// 100,000 reads.
    HundredThousandReads,
}

impl Per {
    /// Returns the size of the amount, in units of the product.
    #[must_use]
    pub fn size(self) -> f64 {
        match self {
            Self::Tib => (1_u64 << 40) as f64,
            Self::Gib | Self::GibMonth => (1_u64 << 30) as f64,
            Self::ThousandOperations => 1_000.0,
            Self::HundredThousandReads => 100_000.0,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Tib => "TiB",
            Self::Gib => "GiB",
            Self::GibMonth => "GiB for a month",
            Self::ThousandOperations => "thousand operations",
            Self::HundredThousandReads => "hundred thousand reads",
        }
    }
}

/// Part of an item in the sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It is in the sum.
    Cost,
    /// Another choice, or an amount that is saved. It is shown for comparison only.
    Comparison,
}

/// One line of the estimate.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Name of it, such as `Pub/Sub: delivery`.
    pub name: &'static str,
    /// Factors whose product is the amount.
    pub factors: Vec<Factor>,
    /// Price of each `per`.
    pub price: f64,
    /// Amount that the price is for.
    pub per: Per,
    /// Part in the sum.
    pub role: Role,
    /// Assumptions about the factors.
    pub note: String,
}

impl Item {
    /// Returns the amount, in units of the price.
    #[must_use]
    pub fn amount(&self) -> f64 {
        self.factors.iter().map(|factor| factor.value).product::<f64>() / self.per.size()
    }

    /// Returns the cost of a month.
    #[must_use]
    pub fn cost(&self) -> f64 {
        self.amount() * self.price
    }
}

impl Serialize for Item {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut item = serializer.serialize_struct("Item", 8)?;
        item.serialize_field("name", self.name)?;
        item.serialize_field("role", &self.role)?;
        item.serialize_field("factors", &self.factors)?;
        item.serialize_field("amount", &self.amount())?;
        item.serialize_field("unit", self.per.name())?;
        item.serialize_field("price", &self.price)?;
        item.serialize_field("cost", &self.cost())?;
        item.serialize_field("note", &self.note)?;
        item.end()
    }
}

/// Estimate of a month.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Estimate {
    /// Sentences that limit what it says.
    limits: [&'static str; 2],
    /// Messages that it is for.
    load: Load,
    /// Origin of the prices.
    prices: prices::PriceOrigin,
    /// Lines, also those for comparison.
    items: Vec<Item>,
    /// Sum of the costs of a month.
    total: f64,
}

impl Estimate {
    /// Estimates what `items` cost, at the prices of `prices`.
    pub(crate) fn of(load: Load, prices: &Prices, items: Vec<Item>) -> Self {
        let total = sum(&items);
        Self { limits: LIMITS, load, prices: prices.origin(), items, total }
    }
}

/// Returns the sum of the items that are in it.
#[must_use]
pub fn sum(items: &[Item]) -> f64 {
    items.iter().filter(|item| item.role == Role::Cost).map(Item::cost).sum()
}

#[cfg(test)]
mod tests;
