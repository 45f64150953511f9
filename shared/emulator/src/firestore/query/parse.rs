//! Parses queries from the form of the API, and checks Firestore's rules for them.

use proto::structured_query as api;

use super::filter::Filter;
use super::{Collection, Cursor, Order, Query, QueryField};
use crate::firestore::{names, proto};
use crate::status::Status;

impl Query {
    /// Parses a query below a parent.
    ///
    /// # Errors
    /// Fails when Firestore would refuse the query.
    pub(in crate::firestore) fn read(
        parent: &str,
        query: proto::StructuredQuery,
    ) -> Result<Self, Status> {
        names::check_parent(parent)?;
        if query.find_nearest.is_some() {
            return Err(Status::unimplemented("find_nearest of queries"));
        }
        let filter = query.r#where.map(Filter::read).transpose()?.flatten();
        if let Some(filter) = &filter {
            filter.check()?;
        }
        let given = query.order_by.into_iter().map(order).collect::<Result<Vec<_>, _>>()?;
        let given_count = given.len();
        let orders = complete(given, filter.as_ref());
        // Without a given order, cursors may use the fields of inequalities but not the name.
        let most = if given_count == 0 { orders.len() - 1 } else { orders.len() };
        Ok(Self {
            parent: parent.to_owned(),
            collections: collections(query.from),
            filter,
            start: cursor(query.start_at, most)?,
            end: cursor(query.end_at, most)?,
            orders,
            offset: usize::try_from(query.offset)
                .map_err(|_| Status::invalid("offset is negative"))?,
            limit: query
                .limit
                .map(usize::try_from)
                .transpose()
                .map_err(|_| Status::invalid("limit is negative"))?,
            select: query.select.map(select).transpose()?,
        })
    }

    /// Parses the order of a listing, such as `name, age desc`, for the documents of a collection.
    ///
    /// # Errors
    /// Fails if the parent or the order is invalid.
    pub(in crate::firestore) fn listing(
        parent: &str,
        collection_id: &str,
        order_by: &str,
    ) -> Result<Self, Status> {
        let words = order_by.split(',').map(|part| part.split_whitespace().collect::<Vec<_>>());
        let words = words.filter(|words| !words.is_empty());
        let orders = words.map(|words| {
            let (field, direction) = match words.as_slice() {
                [field] => (field, api::Direction::Ascending),
                [field, word] if word.eq_ignore_ascii_case("asc") => {
                    (field, api::Direction::Ascending)
                }
                [field, word] if word.eq_ignore_ascii_case("desc") => {
                    (field, api::Direction::Descending)
                }
                _ => return Err(Status::invalid(format!("Invalid order_by \"{order_by}\"."))),
            };
            let field = Some(api::FieldReference { field_path: (*field).to_owned() });
            Ok(api::Order { field, direction: direction.into() })
        });
        let query = proto::StructuredQuery {
            from: vec![api::CollectionSelector {
                collection_id: collection_id.to_owned(),
                all_descendants: false,
            }],
            order_by: orders.collect::<Result<_, _>>()?,
            ..<_>::default()
        };
        Self::read(parent, query)
    }
}

/// Returns the collections of a query. Without any, it covers all documents below its parent.
fn collections(from: Vec<api::CollectionSelector>) -> Vec<Collection> {
    if from.is_empty() {
        return vec![Collection { id: String::new(), all_descendants: true }];
    }
    let collection = |from: api::CollectionSelector| Collection {
        id: from.collection_id,
        all_descendants: from.all_descendants,
    };
    from.into_iter().map(collection).collect()
}

fn order(order: api::Order) -> Result<Order, Status> {
    let field = order.field.ok_or_else(|| Status::invalid("An order must have a field."))?;
    let is_descending = api::Direction::try_from(order.direction) == Ok(api::Direction::Descending);
    Ok(Order { field: QueryField::read(&field.field_path)?, is_descending })
}

/// Adds the fields of inequalities, sorted by name, and the name of the document. They get the
/// direction of the last given order.
fn complete(mut orders: Vec<Order>, filter: Option<&Filter>) -> Vec<Order> {
    let is_descending = orders.last().is_some_and(|order| order.is_descending);
    let mut unequal = filter.map(Filter::inequalities).unwrap_or_default();
    unequal.sort();
    // The enum sorts the document name first, but it must order last.
    unequal.retain(|field| *field != QueryField::Name);
    unequal.push(QueryField::Name);
    for field in unequal {
        if !orders.iter().any(|order| order.field == field) {
            orders.push(Order { field, is_descending });
        }
    }
    orders
}

fn cursor(cursor: Option<proto::Cursor>, most: usize) -> Result<Option<Cursor>, Status> {
    match cursor {
        None => Ok(None),
        Some(cursor) if cursor.values.len() > most => {
            Err(Status::invalid("Cursor has too many values."))
        }
        Some(proto::Cursor { values, before }) => Ok(Some(Cursor { values, is_before: before })),
    }
}

/// Parses the selected fields. A client that wants only the name selects no fields.
fn select(projection: api::Projection) -> Result<Vec<QueryField>, Status> {
    projection.fields.iter().map(|field| QueryField::read(&field.field_path)).collect()
}
