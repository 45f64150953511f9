//! Reasons why a message leaves the stream without a record.

use std::fmt;

/// Reason why a message leaves the stream without a record, as a short and stable code.
///
/// Only the macro [`reasons!`](crate::reasons!) makes reasons. It puts each one into a list. The
/// service passes its lists to [`Families::of`](crate::metrics::Families::of), so that the metrics
/// have each reason from the start. A reason that is not declared does not compile:
///
/// ```compile_fail
/// let error = pipeline::Recovery::Reject("no_route").because("route", "nothing matches");
/// ```
///
/// ```compile_fail
/// let step = pipeline::Step::<()>::Skip(pipeline::Reason { code: "too_small", about: "" });
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reason {
    code: &'static str,
    about: &'static str,
}

impl Reason {
    /// Makes a reason for the macro, with its documentation. Others have no use for it, because no list would have the
    /// reason.
    ///
    /// # Panics
    /// In a constant, and so at compile time, if the code has other characters than `a-z`, `0-9`
    /// and `_`.
    #[doc(hidden)]
    #[must_use]
    pub const fn declared(code: &'static str, about: &'static str) -> Self {
        let bytes = code.as_bytes();
        assert!(!bytes.is_empty(), "the code of a reason is empty");
        let mut at = 0;
        while at < bytes.len() {
            let is_allowed = matches!(bytes[at], b'a'..=b'z' | b'0'..=b'9' | b'_');
            assert!(is_allowed, "the code of a reason has other characters than a-z, 0-9 and _");
            at += 1;
        }
        Self { code, about }
    }

    /// Returns the code, such as `no_route`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.code
    }

    /// Returns a sentence about the reason, for people.
    #[must_use]
    pub const fn about(self) -> &'static str {
        self.about.trim_ascii()
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code)
    }
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.code, f)
    }
}

/// Reasons why a service settles messages without a record.
///
/// A service puts together the lists of the crates that it uses:
///
/// ```
/// mod reasons {
///     pipeline::reasons! {
///         /// Reasons of dead letters.
///         REFUSED {
///             /// The data is not UTF-8.
///             NOT_TEXT = "not_text";
///         }
///     }
/// }
///
/// const REASONS: pipeline::Reasons = pipeline::Reasons {
///     refused: &[reasons::REFUSED, pipeline::reasons::EVERY_SERVICE],
///     skipped: &[],
/// };
///
/// let metrics = pipeline::Metrics::new("lines", &REASONS);
/// let error = pipeline::Recovery::Reject(reasons::NOT_TEXT).because("read text", "no UTF-8");
/// # assert_eq!(error.recovery(), pipeline::Recovery::Reject(reasons::NOT_TEXT));
/// # assert_eq!(REASONS.refused().map(pipeline::Reason::as_str).next(), Some("not_text"));
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Reasons {
    /// Lists of the reasons of dead letters, and of messages dropped instead of them.
    pub refused: &'static [&'static [Reason]],
    /// Lists of the reasons of messages that are only acknowledged.
    pub skipped: &'static [&'static [Reason]],
}

impl Reasons {
    /// Returns the reasons of dead letters.
    pub fn refused(&self) -> impl Iterator<Item = Reason> + use<> {
        self.refused.iter().copied().flatten().copied()
    }

    /// Returns the reasons of messages that are only acknowledged.
    pub fn skipped(&self) -> impl Iterator<Item = Reason> + use<> {
        self.skipped.iter().copied().flatten().copied()
    }
}

/// Declares the reasons of a crate: a constant for each reason, a constant for each list, and `ALL`
/// with all lists.
///
/// A crate that rejects or skips messages calls this once, in its module `reasons`.
///
/// ```
/// pipeline::reasons! {
///     /// Reasons of dead letters.
///     REFUSED {
///         /// No route matches the topic.
///         NO_ROUTE = "no_route";
///     }
///     /// Reasons of messages that are only acknowledged.
///     SKIPPED {
///         /// The payload is smaller than the settings allow.
///         TOO_SMALL = "too_small";
///     }
/// }
///
/// assert_eq!(NO_ROUTE.as_str(), "no_route");
/// assert_eq!(NO_ROUTE.about(), "No route matches the topic.");
/// assert_eq!(REFUSED, [NO_ROUTE]);
/// assert_eq!(ALL, [REFUSED, SKIPPED]);
/// ```
///
/// A code is for labels and attributes, so it has lowercase letters, digits and `_`:
///
/// ```compile_fail
/// pipeline::reasons! {
///     /// Reasons of dead letters.
///     REFUSED {
///         /// No route matches the topic.
///         NO_ROUTE = "No route";
///     }
/// }
/// ```
#[macro_export]
macro_rules! reasons {
    ($(
        $(#[$list_doc:meta])*
        $list:ident { $($(#[doc = $doc:literal])+ $name:ident = $code:literal;)* }
    )*) => {
        $($($(#[doc = $doc])+ pub const $name: $crate::Reason =
            $crate::Reason::declared($code, concat!($($doc),+));)*)*

        $($(#[$list_doc])* #[allow(dead_code)] pub const $list: &[$crate::Reason] = &[$($name),*];)*

        /// All reasons of this crate, by list.
        #[allow(dead_code)]
        pub const ALL: &[&[$crate::Reason]] = &[$($list),*];
    };
}
