//! Contracts that hold on this emulator and, where they are installed, on Google's own.

mod emulators;

pub(crate) use emulators::*;

/// Each contract becomes a test against this emulator and, unless only Google's service itself keeps
/// it, one against Google's emulator.
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
