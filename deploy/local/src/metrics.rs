//! Reads the metrics of the services, as Prometheus would.

use std::collections::BTreeMap;

/// Metrics of a service at one time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scrape {
    /// Value of each counter and gauge, summed over its labels.
    values: BTreeMap<String, f64>,
    /// Upper bound and cumulative count of each bucket of the ages.
    ages: Vec<(f64, f64)>,
}

impl Scrape {
    /// Parses the text format.
    pub(crate) fn parse(text: &str) -> Self {
        const AGE: &str = "dataflow_pipeline_age_seconds_bucket{le=\"";
        let mut scrape = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            if let Some((bound, _)) = name.strip_prefix(AGE).and_then(|rest| rest.split_once('"')) {
                let bound = bound.parse().unwrap_or(f64::INFINITY);
                scrape.ages.push((bound, value));
            }
            let name = name.split_once('{').map_or(name, |(name, _)| name);
            *scrape.values.entry(name.to_owned()).or_default() += value;
        }
        scrape
    }

    /// Returns a value of the pipeline, such as `sent_messages_total`, or 0 if it does not exist
    /// yet.
    pub(crate) fn pipeline(&self, name: &str) -> u64 {
        let value = self.values.get(&format!("dataflow_pipeline_{name}"));
        value.map_or(0, |value| *value as u64)
    }

    /// Returns the age that this share of the messages did not exceed, in seconds. It is the upper
    /// bound of a bucket.
    pub(crate) fn age(&self, share: f64) -> Option<f64> {
        let all = self.ages.last().map(|(_, count)| *count).filter(|all| *all > 0.0)?;
        let bucket = self.ages.iter().find(|(_, count)| *count >= all * share);
        bucket.map(|(bound, _)| *bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_summed_and_ages_found() {
        let scrape = Scrape::parse(
            "# TYPE x counter\n\
             dataflow_pipeline_dead_lettered_messages_total{reason=\"a\"} 2\n\
             dataflow_pipeline_dead_lettered_messages_total{reason=\"b\"} 3\n\
             dataflow_pipeline_age_seconds_bucket{le=\"0.001\"} 10\n\
             dataflow_pipeline_age_seconds_bucket{le=\"0.002\"} 99\n\
             dataflow_pipeline_age_seconds_bucket{le=\"+Inf\"} 100\n",
        );

        assert_eq!(scrape.pipeline("dead_lettered_messages_total"), 5);
        assert_eq!(scrape.pipeline("other"), 0);
        assert_eq!(scrape.age(0.5), Some(0.002));
        assert_eq!(scrape.age(1.0), Some(f64::INFINITY));
    }
}
