//! Aggregation queries: count, sum and average.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use proto::structured_aggregation_query::{self as api, Aggregation, aggregation::Operator};
use proto::value::ValueType;

use super::{Found, Query, QueryField};
use crate::firestore::order::{self, Rank};
use crate::firestore::transform::{as_double, null, of};
use crate::firestore::{Firestore, proto};
use crate::status::Status;

/// Most aggregations of a query, from
/// <https://cloud.google.com/firestore/native/docs/query-data/aggregation-queries#limitations>.
const MAX_AGGREGATIONS: usize = 5;

/// A computation; the caller keeps its name in the result.
enum Aggregate {
    Count { up_to: Option<usize> },
    Sum(QueryField),
    Average(QueryField),
}

impl Firestore {
    pub(in crate::firestore) fn run_aggregation_query(
        &self,
        request: proto::RunAggregationQueryRequest,
    ) -> Result<proto::RunAggregationQueryResponse, Status> {
        use proto::run_aggregation_query_request::QueryType;
        super::refuse_explain(request.explain_options.as_ref())?;
        let Some(QueryType::StructuredAggregationQuery(query)) = request.query_type else {
            return Err(Status::invalid("A query is required."));
        };
        let aggregates = read(query.aggregations)?;
        let Some(api::QueryType::StructuredQuery(query)) = query.query_type else {
            return Err(Status::invalid("A query is required."));
        };
        let query = Query::read(&request.parent, query)?.ordered_also_by(fields_of(&aggregates));
        let answer = self.read(request.consistency_selector.into(), |view, reads| {
            let Found { found, .. } = query.run(view);
            if let Some(reads) = reads {
                reads.note_query(query.clone(), &found);
            }
            Ok(compute(&aggregates, &found))
        })?;
        Ok(proto::RunAggregationQueryResponse {
            result: Some(proto::AggregationResult { aggregate_fields: answer.found }),
            transaction: answer.transaction,
            read_time: Some(answer.read_time),
            explain_metrics: None,
        })
    }
}

fn read(aggregations: Vec<Aggregation>) -> Result<HashMap<String, Aggregate>, Status> {
    if aggregations.is_empty() {
        return Err(Status::invalid("Aggregations can not be empty."));
    }
    if aggregations.len() > MAX_AGGREGATIONS {
        let text = format!("A query has at most {MAX_AGGREGATIONS} aggregations.");
        return Err(Status::invalid(text));
    }
    let mut read = HashMap::new();
    let mut unnamed = 0;
    for aggregation in aggregations {
        let mut alias = aggregation.alias;
        if alias.is_empty() {
            unnamed += 1;
            alias = format!("field_{unnamed}");
        }
        let aggregate = aggregate(aggregation.operator)?;
        match read.entry(alias) {
            Entry::Vacant(entry) => drop(entry.insert(aggregate)),
            Entry::Occupied(entry) => {
                let alias = entry.key();
                let text = format!("Aggregation aliases contain duplicate alias: {alias}.");
                return Err(Status::invalid(text));
            }
        }
    }
    Ok(read)
}

fn aggregate(operator: Option<Operator>) -> Result<Aggregate, Status> {
    let field = |field: Option<proto::structured_query::FieldReference>| {
        let field = field.ok_or_else(|| Status::invalid("An aggregation must have a field."))?;
        QueryField::read(&field.field_path)
    };
    match operator {
        Some(Operator::Count(count)) => {
            let up_to = count.up_to.map(usize::try_from).transpose();
            let up_to = up_to.ok().filter(|up_to| *up_to != Some(0));
            let up_to = up_to.ok_or_else(|| Status::invalid("up_to must be positive."))?;
            Ok(Aggregate::Count { up_to })
        }
        Some(Operator::Sum(sum)) => field(sum.field).map(Aggregate::Sum),
        Some(Operator::Avg(average)) => field(average.field).map(Aggregate::Average),
        None => Err(Status::invalid("An aggregation must have an operator.")),
    }
}

/// Returns the fields that are summed, in the order of their names.
fn fields_of(aggregates: &HashMap<String, Aggregate>) -> impl Iterator<Item = &QueryField> {
    let fields = aggregates.values().filter_map(|aggregate| match aggregate {
        Aggregate::Count { .. } => None,
        Aggregate::Sum(field) | Aggregate::Average(field) => Some(field),
    });
    fields.collect::<std::collections::BTreeSet<_>>().into_iter()
}

/// Computes all aggregations over the documents that have all their fields.
fn compute(
    aggregates: &HashMap<String, Aggregate>,
    found: &[&proto::Document],
) -> HashMap<String, proto::Value> {
    let fields: Vec<_> = fields_of(aggregates).collect();
    let has_all =
        |document: &&&proto::Document| fields.iter().all(|field| field.of(document).is_some());
    let found: Vec<_> = found.iter().filter(has_all).copied().collect();
    let values = aggregates.iter().map(|(alias, aggregate)| {
        let value = match aggregate {
            Aggregate::Count { up_to } => {
                let count = found.len().min(up_to.unwrap_or(usize::MAX));
                of(ValueType::IntegerValue(i64::try_from(count).unwrap_or(i64::MAX)))
            }
            Aggregate::Sum(field) => sum(&numbers(field, &found)),
            Aggregate::Average(field) => {
                let numbers = numbers(field, &found);
                if numbers.is_empty() {
                    null()
                } else {
                    let sum = as_double(&sum(&numbers));
                    of(ValueType::DoubleValue(sum / numbers.len() as f64))
                }
            }
        };
        (alias.clone(), value)
    });
    values.collect()
}

fn numbers(field: &QueryField, found: &[&proto::Document]) -> Vec<proto::Value> {
    let values = found.iter().filter_map(|document| field.of(document));
    let numbers = values.filter(|value| matches!(order::rank(value), Rank::Number | Rank::Nan));
    numbers.map(std::borrow::Cow::into_owned).collect()
}

/// Returns the sum: an integer as long as all numbers are integers and the sum fits.
fn sum(numbers: &[proto::Value]) -> proto::Value {
    let mut integers = numbers.iter().map(|number| match number.value_type {
        Some(ValueType::IntegerValue(number)) => Some(number),
        _ => None,
    });
    let whole = integers.try_fold(0_i64, |sum, number| sum.checked_add(number?));
    match whole {
        Some(whole) => of(ValueType::IntegerValue(whole)),
        None => of(ValueType::DoubleValue(numbers.iter().map(as_double).sum())),
    }
}
