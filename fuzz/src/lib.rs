//! Feeds decoders of outside bytes with mutated inputs, and checks what they promise.
//!
//! Each target is a decoder with a corpus, a dictionary and properties. [`run`] mutates the corpus
//! with a generator of a given seed, so that every finding can be repeated. No coverage guides it: the
//! mutations know the formats instead (tokens, numbers, times, nesting).

pub mod mutate;
pub mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use mutate::Mutator;
pub use targets::{TARGETS, Target};

/// An input that breaks a promise.
#[derive(Debug)]
pub struct Finding {
    /// The input.
    pub input: Vec<u8>,
    /// The broken promise, or the message of the panic.
    pub why: String,
}

/// Result of a run.
#[derive(Debug)]
pub struct Report {
    /// Number of inputs that were tried.
    pub inputs: u64,
    /// Time that they took.
    pub took: Duration,
    /// The first finding, which ends a run.
    pub finding: Option<Finding>,
}

/// Tries the corpus itself, then mutations of it. Ends with the first finding.
#[must_use]
pub fn run(target: &Target, inputs: u64, seed: u64) -> Report {
    let started = Instant::now();
    let mut mutator = Mutator::new(target.corpus, target.dictionary, StdRng::seed_from_u64(seed));
    let corpus = target.corpus.iter().map(|input| input.to_vec());
    let mut tried = 0;
    let mut finding = None;
    for input in corpus.chain(std::iter::from_fn(|| Some(mutator.next_input()))) {
        if tried == inputs || finding.is_some() {
            break;
        }
        tried += 1;
        finding = try_input(target, &input).err().map(|why| Finding { input, why });
    }
    Report { inputs: tried, took: started.elapsed(), finding }
}

/// Tries one input.
///
/// # Errors
/// The broken promise, or the message of a panic.
pub fn try_input(target: &Target, input: &[u8]) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| (target.check)(input))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("panic: {}", text.unwrap_or("without a text")))
    })
}
