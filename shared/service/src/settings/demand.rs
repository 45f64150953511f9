//! Demand on the guarantee of settings.

/// Guarantee that settings must give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Demand {
    /// The one that the settings ask for. Some settings lose messages on purpose.
    #[default]
    AsSet,
    /// At least once for every message. Settings that may lose one are faults.
    AtLeastOnce,
}
