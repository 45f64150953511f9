//! Reads the metrics of a service, as Prometheus would.

/// Counter of messages that a service has written.
pub const SENT: &str = "dataflow_pipeline_sent_messages_total";
/// Counter of messages that a service has received.
pub const RECEIVED: &str = "dataflow_pipeline_received_messages_total";

/// Histogram of the ages of messages at the time at which they are durable.
const AGE: &str = "dataflow_pipeline_age_seconds";

/// Metrics of a service at one time.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    samples: Vec<MetricSample>,
}

/// Value of a metric with one set of labels.
#[derive(Debug, Clone)]
struct MetricSample {
    name: String,
    /// Labels in the text format, such as `layer="redis"`. No value has a comma.
    labels: Vec<String>,
    value: f64,
}

/// Bucket of a histogram.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    upper_bound: f64,
    /// Number of values up to the bound.
    count: f64,
}

impl Metrics {
    /// Parses the text format.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let sample = |line: &str| {
            let (name, value) = line.trim_end().rsplit_once(' ')?;
            let (name, labels) = name_and_labels(name);
            Some(MetricSample { name: name.to_owned(), labels, value: value.parse().ok()? })
        };
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Self { samples: lines.filter_map(sample).collect() }
    }

    /// Returns the sum of a metric over all its labels, or 0 if it does not exist yet. The name may
    /// end with labels, such as `failures_total{layer="redis"}`. Only samples with all of them count
    /// then, whatever other labels they have.
    #[must_use]
    pub fn value(&self, name: &str) -> f64 {
        let (name, labels) = name_and_labels(name);
        let is_meant = |sample: &&MetricSample| {
            sample.name == name && labels.iter().all(|label| sample.labels.contains(label))
        };
        self.samples.iter().filter(is_meant).map(|sample| sample.value).sum()
    }

    /// Returns the sum of a counter, as [`Metrics::value`] does.
    #[must_use]
    pub fn count(&self, name: &str) -> u64 {
        self.value(name) as u64
    }

    /// Returns a counter or gauge of the service's pipelines, such as `sent_messages_total`.
    #[must_use]
    pub fn pipeline(&self, name: &str) -> u64 {
        self.count(&format!("dataflow_pipeline_{name}"))
    }

    /// Returns the upper bound of the age that this share of the messages did not exceed, in
    /// seconds. It is the bound of a bucket.
    #[must_use]
    pub fn age_bound(&self, share: f64) -> Option<f64> {
        let buckets = self.ages();
        let all = buckets.last().map(|last| last.count).filter(|all| *all > 0.0)?;
        let bucket = buckets.iter().find(|bucket| bucket.count >= all * share);
        bucket.map(|bucket| bucket.upper_bound)
    }

    /// Returns the age that this share of the messages did not exceed, in seconds. Ages count as
    /// evenly spread within a bucket, as in Prometheus.
    #[must_use]
    pub fn age(&self, share: f64) -> f64 {
        let buckets = self.ages();
        let rank = buckets.last().map_or(0.0, |last| last.count) * share;
        let mut below = Bucket { upper_bound: 0.0, count: 0.0 };
        for bucket in buckets {
            let Bucket { upper_bound, count } = bucket;
            if count >= rank && count > below.count && upper_bound.is_finite() {
                let part = (rank - below.count) / (count - below.count);
                return below.upper_bound + (upper_bound - below.upper_bound) * part;
            }
            below = bucket;
        }
        below.upper_bound
    }

    /// Returns the buckets of the ages, each with the count of all pipelines.
    fn ages(&self) -> Vec<Bucket> {
        let mut buckets: Vec<Bucket> = Vec::new();
        let of_age = self.samples.iter().filter(|sample| sample.name == format!("{AGE}_bucket"));
        for sample in of_age {
            let bound = sample.labels.iter().find_map(|label| label.strip_prefix("le=\""));
            // Rust also reads `+Inf`.
            let bound = bound.and_then(|bound| bound.trim_end_matches('"').parse().ok());
            let Some(upper_bound) = bound else { continue };
            match buckets.iter_mut().find(|bucket| bucket.upper_bound == upper_bound) {
                Some(bucket) => bucket.count += sample.value,
                None => buckets.push(Bucket { upper_bound, count: sample.value }),
            }
        }
        buckets
    }
}

/// Divides a sample's name in the text format into the name of the metric and the labels.
fn name_and_labels(text: &str) -> (&str, Vec<String>) {
    let Some((name, labels)) = text.split_once('{') else { return (text, Vec::new()) };
    let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty());
    (name, labels.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_summed_over_labels_and_ages_are_found() {
        let metrics = Metrics::parse(
            "# TYPE x counter\n\
             dataflow_pipeline_dead_lettered_messages_total{pipeline=\"p\",reason=\"a\"} 2\n\
             dataflow_pipeline_dead_lettered_messages_total{pipeline=\"p\",reason=\"b\"} 3\n\
             dataflow_pipeline_age_seconds_bucket{le=\"0.001\",pipeline=\"p\"} 10\n\
             dataflow_pipeline_age_seconds_bucket{le=\"0.002\",pipeline=\"p\"} 99\n\
             dataflow_pipeline_age_seconds_bucket{le=\"+Inf\",pipeline=\"p\"} 100\n",
        );

        let name = "dataflow_pipeline_dead_lettered_messages_total";
        assert_eq!(metrics.count(name), 5);
        assert_eq!(metrics.pipeline("dead_lettered_messages_total"), 5);
        assert_eq!(metrics.count(&format!("{name}{{reason=\"b\"}}")), 3);
        assert_eq!(metrics.count(&format!("{name}{{reason=\"b\",pipeline=\"q\"}}")), 0);
        assert_eq!(metrics.count("dataflow_pipeline_dead"), 0, "this is the start of a name");
        assert_eq!(metrics.age_bound(0.5), Some(0.002));
        assert_eq!(metrics.age_bound(1.0), Some(f64::INFINITY));
        assert_eq!(Metrics::default().age_bound(0.5), None);
    }

    #[test]
    fn ages_are_those_of_all_pipelines() {
        let metrics = Metrics::parse(
            "dataflow_pipeline_age_seconds_bucket{le=\"0.001\",pipeline=\"one\"} 0\n\
             dataflow_pipeline_age_seconds_bucket{le=\"+Inf\",pipeline=\"one\"} 5\n\
             dataflow_pipeline_age_seconds_bucket{le=\"0.001\",pipeline=\"two\"} 5\n\
             dataflow_pipeline_age_seconds_bucket{le=\"+Inf\",pipeline=\"two\"} 5\n",
        );

        assert_eq!(metrics.age_bound(0.5), Some(0.001));
        assert_eq!(metrics.age_bound(0.6), Some(f64::INFINITY));
    }

    #[test]
    fn ages_are_even_within_a_bucket() {
        let metrics = Metrics::parse(
            "dataflow_pipeline_age_seconds_bucket{le=\"0.001\"} 0\n\
             dataflow_pipeline_age_seconds_bucket{le=\"0.002\"} 50\n\
             dataflow_pipeline_age_seconds_bucket{le=\"0.004\"} 100\n\
             dataflow_pipeline_age_seconds_bucket{le=\"+Inf\"} 100\n",
        );

        assert!((metrics.age(0.5) - 0.002).abs() < 1e-12);
        assert!((metrics.age(0.99) - 0.00396).abs() < 1e-12);
        assert_eq!(Metrics::default().age(0.5), 0.0);
    }
}
