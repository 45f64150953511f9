//! Feeds decoders of untrusted bytes with mutated inputs, and checks their promises.
//!
//! Each target is a decoder with a corpus, a dictionary and properties. [`run`] mutates the corpus
//! with a random generator that has a given seed, so every finding can be repeated. Coverage does
//! not guide the mutations. Instead, they know the formats: tokens, numbers, times and nesting.

pub mod mutate;
pub mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use mutate::Mutator;
pub use targets::{TARGETS, Target};

/// Input that breaks a promise.
#[derive(Debug)]
pub struct Finding {
    /// The input itself.
    pub input: Vec<u8>,
    /// The broken promise, or the message of the panic.
    pub why: String,
}

/// Result of a run.
#[derive(Debug)]
pub struct Report {
    /// Number of inputs that were tried.
    pub inputs: u64,
    /// Duration of the run.
    pub took: Duration,
    /// First finding. It ends the run.
    pub finding: Option<Finding>,
}

/// Tries the corpus itself, then mutations of it. Ends at the first finding.
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
/// Text of the broken promise, or the message of a panic.
pub fn try_input(target: &Target, input: &[u8]) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| (target.check)(input))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("panic: {}", text.unwrap_or("without a text")))
    })
}
