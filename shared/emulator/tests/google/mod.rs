//! Contract tests that run on this emulator and, if they are installed, on Google's emulators.

mod emulators;

pub(crate) use emulators::*;

/// Makes a test against this emulator from each contract, and one against Google's emulator.
/// Contracts that only Google's real service keeps have no test against its emulator.
macro_rules! contracts {
    (both: $($contract:ident),*; ours: $($own:ident),* $(,)?) => {
        mod ours {
            $(#[tokio::test]
            async fn $contract() {
                super::install_crypto();
                super::$contract(&super::ours().await).await;
            })*

            $(#[tokio::test]
            async fn $own() {
                super::install_crypto();
                super::$own(&super::ours().await).await;
            })*
        }

        mod googles {
            $(#[tokio::test]
            async fn $contract() {
                super::install_crypto();
                let Some(cloud) = super::googles(stringify!($contract)).await else { return };
                super::$contract(&cloud).await;
            })*
        }
    };
}
