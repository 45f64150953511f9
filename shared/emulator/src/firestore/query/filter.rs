//! Filters of queries.

use proto::structured_query::{
    self as api, composite_filter, field_filter, filter::FilterType, unary_filter,
};
use proto::value::ValueType;

use super::QueryField;
use crate::firestore::order::{self, Rank};
use crate::firestore::{names, proto};
use crate::status::Status;

/// Most values of IN, ARRAY_CONTAINS_ANY and NOT_IN, from
/// <https://cloud.google.com/firestore/native/docs/query-data/queries#query_limitations>.
const MAX_ANY: usize = 30;
const MAX_NOT_IN: usize = 10;
/// Most disjunctions of a filter in disjunctive normal form, from the same list.
const MAX_DISJUNCTIONS: usize = 30;

/// A condition on documents.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Filter {
    And(Vec<Self>),
    Or(Vec<Self>),
    Compare(QueryField, field_filter::Operator, proto::Value),
    Unary(QueryField, unary_filter::Operator),
}

impl Filter {
    /// Parses a filter; `None` if it has no condition.
    pub(super) fn read(filter: api::Filter) -> Result<Option<Self>, Status> {
        match filter.filter_type {
            None => Ok(None),
            Some(FilterType::CompositeFilter(filter)) => {
                let op = composite_filter::Operator::try_from(filter.op);
                let filters = filter.filters.into_iter().filter_map(|f| Self::read(f).transpose());
                let mut filters = filters.collect::<Result<Vec<_>, _>>()?;
                if filters.len() < 2 {
                    return Ok(filters.pop());
                }
                match op {
                    Ok(composite_filter::Operator::And) => Ok(Some(Self::And(filters))),
                    Ok(composite_filter::Operator::Or) => Ok(Some(Self::Or(filters))),
                    Ok(composite_filter::Operator::Unspecified) | Err(_) => {
                        Err(Status::invalid("Unknown CompositeFilter operator."))
                    }
                }
            }
            Some(FilterType::FieldFilter(filter)) => compare(filter).map(Some),
            Some(FilterType::UnaryFilter(filter)) => {
                let Some(unary_filter::OperandType::Field(field)) = filter.operand_type else {
                    return Err(Status::invalid("A filter must have a field."));
                };
                let op = unary_filter::Operator::try_from(filter.op)
                    .ok()
                    .filter(|op| *op != unary_filter::Operator::Unspecified)
                    .ok_or_else(|| Status::invalid("Unknown UnaryFilter operator."))?;
                Ok(Some(Self::Unary(QueryField::read(&field.field_path)?, op)))
            }
        }
    }

    /// Returns true for documents that meet the condition.
    pub(super) fn matches(&self, document: &proto::Document) -> bool {
        match self {
            Self::And(filters) => filters.iter().all(|filter| filter.matches(document)),
            Self::Or(filters) => filters.iter().any(|filter| filter.matches(document)),
            Self::Compare(field, op, wanted) => {
                field.of(document).is_some_and(|value| compares(&value, *op, wanted))
            }
            Self::Unary(field, op) => field.of(document).is_some_and(|value| {
                let rank = order::rank(&value);
                match op {
                    unary_filter::Operator::IsNull => rank == Rank::Null,
                    unary_filter::Operator::IsNotNull => rank != Rank::Null,
                    unary_filter::Operator::IsNan => rank == Rank::Nan,
                    unary_filter::Operator::IsNotNan => !matches!(rank, Rank::Nan | Rank::Null),
                    unary_filter::Operator::Unspecified => false,
                }
            }),
        }
    }

    /// Returns the fields with inequality conditions, which also order the results.
    pub(super) fn inequalities(&self) -> Vec<QueryField> {
        let conditions = self.conditions().into_iter();
        let unequal = conditions.filter(|condition| condition.is_inequality());
        unequal.filter_map(|condition| condition.field().cloned()).collect()
    }

    /// Refuses combinations that Firestore refuses.
    pub(super) fn check(&self) -> Result<(), Status> {
        use field_filter::Operator as Op;
        let conditions = self.conditions();
        let count = |is_wanted: &dyn Fn(&Self) -> bool| {
            conditions.iter().filter(|condition| is_wanted(condition)).count()
        };
        let has = |wanted: Op| {
            count(&|filter| matches!(filter, Self::Compare(_, op, _) if *op == wanted)) > 0
        };
        if count(&Self::is_negation) > 1 {
            let text = "Only a single 'NOT_EQUAL', 'NOT_IN', 'IS_NOT_NAN', or 'IS_NOT_NULL' filter allowed per query.";
            return Err(Status::invalid(text));
        }
        let has_disjunction = has(Op::In) || has(Op::ArrayContainsAny) || self.has_or();
        if has(Op::NotIn) && has_disjunction {
            let text = "'NOT_IN' cannot be used in the same query with 'IN', 'ARRAY_CONTAINS_ANY' or 'OR'.";
            return Err(Status::invalid(text));
        }
        let disjunctions = self.disjunctions();
        if disjunctions > MAX_DISJUNCTIONS {
            let text = format!(
                "A query has at most {MAX_DISJUNCTIONS} disjunctions in its disjunctive normal form: {disjunctions}."
            );
            return Err(Status::invalid(text));
        }
        self.check_arrays()
    }

    /// Returns the number of alternatives in the disjunctive normal form.
    fn disjunctions(&self) -> usize {
        use field_filter::Operator as Op;
        match self {
            Self::And(filters) => {
                filters.iter().map(Self::disjunctions).fold(1, usize::saturating_mul)
            }
            Self::Or(filters) => {
                filters.iter().map(Self::disjunctions).fold(0, usize::saturating_add)
            }
            Self::Compare(_, Op::In | Op::ArrayContainsAny, wanted) => elements(wanted).len(),
            Self::Compare(..) | Self::Unary(..) => 1,
        }
    }

    /// Refuses two conditions on array elements that must both hold.
    fn check_arrays(&self) -> Result<(), Status> {
        use field_filter::Operator as Op;
        let filters = match self {
            Self::And(filters) | Self::Or(filters) => filters,
            Self::Compare(..) | Self::Unary(..) => return Ok(()),
        };
        filters.iter().try_for_each(Self::check_arrays)?;
        let is_array = |filter: &&Self| {
            matches!(filter, Self::Compare(_, Op::ArrayContains | Op::ArrayContainsAny, _))
        };
        let mut of_arrays = filters.iter().filter(is_array);
        let first = of_arrays.next();
        if matches!(self, Self::And(_)) && of_arrays.any(|other| Some(other) != first) {
            let text = "A maximum of 1 'ARRAY_CONTAINS' filter is allowed per disjunction.";
            return Err(Status::invalid(text));
        }
        Ok(())
    }

    /// Returns the conditions without AND and OR.
    fn conditions(&self) -> Vec<&Self> {
        match self {
            Self::And(filters) | Self::Or(filters) => {
                filters.iter().flat_map(Self::conditions).collect()
            }
            Self::Compare(..) | Self::Unary(..) => vec![self],
        }
    }

    fn has_or(&self) -> bool {
        match self {
            Self::Or(_) => true,
            Self::And(filters) => filters.iter().any(Self::has_or),
            Self::Compare(..) | Self::Unary(..) => false,
        }
    }

    fn field(&self) -> Option<&QueryField> {
        match self {
            Self::Compare(field, ..) | Self::Unary(field, _) => Some(field),
            Self::And(_) | Self::Or(_) => None,
        }
    }

    fn is_negation(&self) -> bool {
        use field_filter::Operator as Op;
        use unary_filter::Operator as Unary;
        matches!(
            self,
            Self::Compare(_, Op::NotEqual | Op::NotIn, _)
                | Self::Unary(_, Unary::IsNotNan | Unary::IsNotNull)
        )
    }

    fn is_inequality(&self) -> bool {
        use field_filter::Operator as Op;
        let is_range = matches!(
            self,
            Self::Compare(
                _,
                Op::LessThan | Op::LessThanOrEqual | Op::GreaterThan | Op::GreaterThanOrEqual,
                _
            )
        );
        is_range || self.is_negation()
    }
}

fn compare(filter: api::FieldFilter) -> Result<Filter, Status> {
    use field_filter::Operator as Op;
    let field = filter.field.ok_or_else(|| Status::invalid("A filter must have a field."))?;
    let field = QueryField::read(&field.field_path)?;
    let value = filter.value.ok_or_else(|| Status::invalid("A filter must have a value."))?;
    let op = Op::try_from(filter.op).unwrap_or(Op::Unspecified);
    let most = match op {
        Op::Unspecified => return Err(Status::invalid("Unknown FieldFilter operator.")),
        Op::In | Op::ArrayContainsAny => Some(MAX_ANY),
        Op::NotIn => Some(MAX_NOT_IN),
        Op::LessThan
        | Op::LessThanOrEqual
        | Op::GreaterThan
        | Op::GreaterThanOrEqual
        | Op::Equal
        | Op::NotEqual
        | Op::ArrayContains => None,
    };
    let operands = match (most, &value.value_type) {
        (None, _) => std::slice::from_ref(&value),
        (Some(most), Some(ValueType::ArrayValue(array))) => {
            check_count(op, array.values.len(), most)?;
            array.values.as_slice()
        }
        (Some(_), _) => {
            let text = format!("'{}' requires an ArrayValue.", op.as_str_name());
            return Err(Status::invalid(text));
        }
    };
    if field == QueryField::Name {
        operands.iter().try_for_each(check_name)?;
    }
    Ok(Filter::Compare(field, op, value))
}

fn check_count(op: field_filter::Operator, count: usize, most: usize) -> Result<(), Status> {
    let op = op.as_str_name();
    match count {
        0 => Err(Status::invalid(format!("'{op}' requires an non-empty ArrayValue."))),
        count if count > most => {
            Err(Status::invalid(format!("'{op}' supports up to {most} comparison values.")))
        }
        _ => Ok(()),
    }
}

fn check_name(value: &proto::Value) -> Result<(), Status> {
    match &value.value_type {
        Some(ValueType::ReferenceValue(name)) => names::check_document(name),
        _ => Err(Status::invalid("__key__ filter value must be a Key")),
    }
}

/// Applies an operator. Range operators compare values of the same type only, and never null or
/// NaN.
fn compares(value: &proto::Value, op: field_filter::Operator, wanted: &proto::Value) -> bool {
    use field_filter::Operator as Op;
    let rank = order::rank(value);
    let is_comparable = rank == order::rank(wanted) && !matches!(rank, Rank::Null | Rank::Nan);
    let found = || order::compare(value, wanted);
    match op {
        Op::Unspecified => false,
        Op::LessThan => is_comparable && found().is_lt(),
        Op::LessThanOrEqual => is_comparable && found().is_le(),
        Op::GreaterThan => is_comparable && found().is_gt(),
        Op::GreaterThanOrEqual => is_comparable && found().is_ge(),
        Op::Equal => order::equal(value, wanted),
        Op::NotEqual => {
            let has_null = rank == Rank::Null || order::rank(wanted) == Rank::Null;
            !has_null && !order::equal(value, wanted)
        }
        Op::In => elements(wanted).iter().any(|wanted| order::equal(value, wanted)),
        Op::NotIn => {
            let wanted = elements(wanted);
            let mut all = wanted.iter().chain([value]);
            all.all(|value| order::rank(value) != Rank::Null)
                && !wanted.iter().any(|wanted| order::equal(value, wanted))
        }
        Op::ArrayContains => elements(value).iter().any(|value| order::equal(value, wanted)),
        Op::ArrayContainsAny => elements(value)
            .iter()
            .any(|value| elements(wanted).iter().any(|wanted| order::equal(value, wanted))),
    }
}

/// Returns the values of an array; empty for other values.
fn elements(value: &proto::Value) -> &[proto::Value] {
    match &value.value_type {
        Some(ValueType::ArrayValue(array)) => &array.values,
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_in(count: usize) -> Filter {
        let value = proto::Value { value_type: Some(ValueType::BooleanValue(true)) };
        let values = proto::ArrayValue { values: vec![value; count] };
        let values = proto::Value { value_type: Some(ValueType::ArrayValue(values)) };
        Filter::Compare(QueryField::Name, field_filter::Operator::In, values)
    }

    #[test]
    fn a_filter_has_at_most_thirty_disjunctions() {
        assert!(Filter::And(vec![is_in(6), is_in(5)]).check().is_ok());
        assert!(Filter::And(vec![is_in(6), is_in(6)]).check().is_err());
        assert!(Filter::Or(vec![is_in(15), is_in(15)]).check().is_ok());
        assert!(Filter::Or(vec![is_in(15), is_in(16)]).check().is_err());
        assert!(Filter::And(vec![is_in(30); 40]).check().is_err());
    }
}
