//! Turns a panic over one message into a dead letter of that message.
//!
//! Otherwise a panic would end the process. The message would be redelivered and panic again, so
//! one message could stop every replica. The caller discards any state that a panicking call may
//! leave half changed.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use futures::FutureExt as _;

use crate::reasons::PANICKED;
use crate::{Error, Recovery};

/// Calls a stage. A panic rejects the message.
pub(crate) fn catch<T>(action: &'static str, call: impl FnOnce() -> T) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| rejection(action, panic))
}

/// Waits for a stage. A panic rejects the message.
///
/// # Errors
/// Errors of the call, or `Reject` with the text of the panic.
pub async fn catch_async<T>(
    action: &'static str,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let called = AssertUnwindSafe(call).catch_unwind().await;
    called.unwrap_or_else(|panic| Err(rejection(action, panic)))
}

fn rejection(action: &'static str, panic: Box<dyn Any + Send>) -> Error {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a text".to_owned());
    Recovery::Reject(PANICKED).because(action, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_rejects_with_its_text() {
        let plain = catch("join", || panic!("index out of bounds")).unwrap_err();
        let formatted = catch("join", || panic!("index {} out of bounds", 7)).unwrap_err();
        let other = catch("join", || std::panic::panic_any(7)).unwrap_err();

        assert_eq!(plain.recovery(), Recovery::Reject(PANICKED));
        assert_eq!(format!("{plain:#}"), "join: index out of bounds");
        assert_eq!(formatted.detail(), "index 7 out of bounds");
        assert_eq!(other.detail(), "a panic without a text");
    }

    #[tokio::test]
    async fn a_panic_after_a_wait_rejects_too() {
        let late = catch_async("apply", async {
            tokio::task::yield_now().await;
            if true {
                panic!("late");
            }
            Ok(1)
        });

        assert_eq!(late.await.unwrap_err().detail(), "late");
        assert_eq!(catch_async("apply", async { Ok(1) }).await.unwrap(), 1);
    }
}
