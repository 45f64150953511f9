//! Contract tests of queries, aggregations and listings.

use googleapis_tonic_google_firestore_v1::google::r#type::LatLng;
use proto::structured_aggregation_query::{self as aggregation_api, Aggregation, aggregation};
use proto::structured_query::{
    self as api, composite_filter, field_filter::Operator as Op, filter::FilterType,
    unary_filter::Operator as Unary,
};

use super::*;

fn field(path: &str) -> Option<api::FieldReference> {
    Some(api::FieldReference { field_path: path.into() })
}

fn filter(kind: FilterType) -> api::Filter {
    api::Filter { filter_type: Some(kind) }
}

fn compare(path: &str, op: Op, value: proto::Value) -> api::Filter {
    let (field, op, value) = (field(path), op.into(), Some(value));
    filter(FilterType::FieldFilter(api::FieldFilter { field, op, value }))
}

fn unary(path: &str, op: Unary) -> api::Filter {
    let operand_type = field(path).map(api::unary_filter::OperandType::Field);
    filter(FilterType::UnaryFilter(api::UnaryFilter { op: op.into(), operand_type }))
}

fn composite(op: composite_filter::Operator, filters: &[api::Filter]) -> api::Filter {
    let (op, filters) = (op.into(), filters.to_vec());
    filter(FilterType::CompositeFilter(api::CompositeFilter { op, filters }))
}

fn and(filters: &[api::Filter]) -> api::Filter {
    composite(composite_filter::Operator::And, filters)
}

fn or(filters: &[api::Filter]) -> api::Filter {
    composite(composite_filter::Operator::Or, filters)
}

/// Builds a query of all devices.
pub(crate) fn devices() -> proto::StructuredQuery {
    let from = api::CollectionSelector { collection_id: "devices".into(), all_descendants: false };
    proto::StructuredQuery { from: vec![from], ..<_>::default() }
}

pub(crate) fn filtered(filter: api::Filter) -> proto::StructuredQuery {
    proto::StructuredQuery { r#where: Some(filter), ..devices() }
}

pub(crate) fn above(path: &str, number: i64) -> proto::StructuredQuery {
    filtered(compare(path, Op::GreaterThan, integer(number)))
}

fn by(path: &str, direction: api::Direction) -> api::Order {
    api::Order { field: field(path), direction: direction.into() }
}

fn ordered(path: &str) -> proto::StructuredQuery {
    let order_by = vec![by(path, api::Direction::Ascending)];
    proto::StructuredQuery { order_by, ..devices() }
}

fn cursor(values: &[proto::Value], before: bool) -> Option<proto::Cursor> {
    Some(proto::Cursor { values: values.to_vec(), before })
}

/// Builds a query of the documents below a document or the root.
pub(crate) fn run(parent: String, query: proto::StructuredQuery) -> proto::RunQueryRequest {
    let query_type = Some(proto::run_query_request::QueryType::StructuredQuery(query));
    proto::RunQueryRequest { parent, query_type, ..<_>::default() }
}

impl Cloud {
    pub(crate) async fn responses(
        &self,
        request: proto::RunQueryRequest,
    ) -> Result<Vec<proto::RunQueryResponse>, Status> {
        self.client.clone().run_query(request).await?.into_inner().try_collect().await
    }

    /// Returns the ids that a query finds, in its order.
    async fn ids(&self, query: proto::StructuredQuery) -> Result<Vec<String>, Status> {
        let responses = self.responses(run(self.root(), query)).await?;
        let found = responses.into_iter().filter_map(|response| response.document);
        Ok(found.map(|found| found.name.rsplit('/').next().unwrap().to_owned()).collect())
    }

    async fn aggregate(
        &self,
        query: proto::StructuredQuery,
        aggregations: Vec<Aggregation>,
    ) -> Result<HashMap<String, proto::Value>, Status> {
        let query_type = Some(aggregation_api::QueryType::StructuredQuery(query));
        let query = proto::StructuredAggregationQuery { aggregations, query_type };
        let request = proto::RunAggregationQueryRequest {
            parent: self.root(),
            query_type: Some(
                proto::run_aggregation_query_request::QueryType::StructuredAggregationQuery(query),
            ),
            ..<_>::default()
        };
        let answers = self.client.clone().run_aggregation_query(request).await?.into_inner();
        let mut answers: Vec<_> = answers.try_collect().await?;
        assert_eq!(answers.len(), 1);
        Ok(answers.remove(0).result.unwrap().aggregate_fields)
    }

    /// Writes a document with a value of each type, and one without the field.
    async fn put_each_type(&self) {
        let time = prost_types::Timestamp { seconds: 1_600_000_000, nanos: 0 };
        let point = LatLng { latitude: 1.0, longitude: 2.0 };
        let vector = [("__type__", text("__vector__")), ("value", array(&[double(1.0)]))];
        let values = [
            ("nothing", null()),
            ("false", value(ValueType::BooleanValue(false))),
            ("true", value(ValueType::BooleanValue(true))),
            ("nan", double(f64::NAN)),
            ("double-3", double(3.0)),
            ("double-5", double(5.5)),
            ("integer-3", integer(3)),
            ("negative", double(-1.0)),
            ("time", value(ValueType::TimestampValue(time))),
            ("text", text("a")),
            ("bytes", value(ValueType::BytesValue("a".into()))),
            ("reference", value(ValueType::ReferenceValue(self.name("x")))),
            ("point", value(ValueType::GeoPointValue(point))),
            ("array", array(&[integer(3), text("b")])),
            ("vector", map(&vector)),
            ("map", map(&[("k", integer(1))])),
        ];
        let mut writes: Vec<_> =
            values.map(|(id, value)| put(self.name(id), &[("v", value)])).into();
        writes.push(put(self.name("without"), &[("w", integer(1))]));
        self.commit(writes).await.unwrap();
    }

    /// Writes five documents whose field `n` is 1 to 5. The field `odd` marks the odd ones.
    pub(crate) async fn put_numbers(&self) {
        let writes = (1..=5).map(|number| {
            let odd = value(ValueType::BooleanValue(number % 2 == 1));
            put(self.name(&format!("d{number}")), &[("n", integer(number)), ("odd", odd)])
        });
        self.commit(writes.collect()).await.unwrap();
    }
}

/// Ids of all documents with the field `v`, in the order of their types.
const ALL: [&str; 16] = [
    "nothing",
    "false",
    "true",
    "nan",
    "negative",
    "double-3",
    "integer-3",
    "double-5",
    "time",
    "text",
    "bytes",
    "reference",
    "point",
    "array",
    "vector",
    "map",
];

fn all_but(unwanted: &[&str]) -> Vec<&'static str> {
    ALL.into_iter().filter(|id| !unwanted.contains(id)).collect()
}

async fn results_are_ordered_by_type_and_value(cloud: &Cloud) {
    cloud.put_each_type().await;

    assert_eq!(cloud.ids(ordered("v")).await.unwrap(), ALL);

    let order_by = vec![by("v", api::Direction::Descending)];
    let found = cloud.ids(proto::StructuredQuery { order_by, ..devices() }).await.unwrap();
    let mut reversed = ALL.to_vec();
    reversed.reverse();
    // Equal values are ordered by name, and that order is reversed, too.
    assert_eq!(found, reversed);
}

async fn each_operator_finds_its_values(cloud: &Cloud) {
    cloud.put_each_type().await;
    let nan = || double(f64::NAN);
    let threes = ["double-3", "integer-3"];
    let cases: Vec<(Op, proto::Value, Vec<&str>)> = vec![
        (Op::Equal, double(3.0), threes.into()),
        (Op::Equal, null(), vec![]),
        (Op::Equal, nan(), vec![]),
        (Op::LessThan, integer(3), vec!["negative"]),
        (Op::LessThanOrEqual, integer(3), vec!["negative", "double-3", "integer-3"]),
        (Op::GreaterThan, integer(3), vec!["double-5"]),
        (Op::GreaterThanOrEqual, integer(3), vec!["double-3", "integer-3", "double-5"]),
        (Op::GreaterThanOrEqual, null(), vec![]),
        (Op::LessThanOrEqual, nan(), vec![]),
        (Op::NotEqual, integer(3), all_but(&["nothing", "double-3", "integer-3"])),
        (Op::NotEqual, null(), vec![]),
        (Op::NotEqual, nan(), all_but(&["nothing"])),
        (Op::In, array(&[integer(3), text("a")]), vec!["double-3", "integer-3", "text"]),
        (Op::In, array(&[null(), nan()]), vec![]),
        (
            Op::NotIn,
            array(&[integer(3), text("a")]),
            all_but(&["nothing", "double-3", "integer-3", "text"]),
        ),
        (Op::NotIn, array(&[null(), integer(3)]), vec![]),
        (Op::ArrayContains, double(3.0), vec!["array"]),
        (Op::ArrayContainsAny, array(&[text("b"), text("c")]), vec!["array"]),
        (Op::ArrayContainsAny, array(&[text("c")]), vec![]),
    ];

    for (op, value, expected) in cases {
        let mut query = filtered(compare("v", op, value.clone()));
        query.order_by = vec![by("v", api::Direction::Ascending)];
        assert_eq!(cloud.ids(query).await.unwrap(), expected, "{op:?} {value:?}");
    }
    for (op, expected) in [
        (Unary::IsNull, vec!["nothing"]),
        (Unary::IsNan, vec!["nan"]),
        (Unary::IsNotNull, all_but(&["nothing"])),
        (Unary::IsNotNan, all_but(&["nothing", "nan"])),
    ] {
        assert_eq!(cloud.ids(filtered(unary("v", op))).await.unwrap(), expected, "{op:?}");
    }
}

async fn conditions_are_combined(cloud: &Cloud) {
    cloud.put_numbers().await;
    let is_odd = || compare("odd", Op::Equal, value(ValueType::BooleanValue(true)));
    let n = |op, number| compare("n", op, integer(number));
    let reference = |id: &str| value(ValueType::ReferenceValue(cloud.name(id)));

    let cases = [
        (and(&[is_odd(), n(Op::GreaterThan, 2)]), vec!["d3", "d5"]),
        (or(&[n(Op::Equal, 2), n(Op::Equal, 5)]), vec!["d2", "d5"]),
        (and(&[is_odd(), or(&[n(Op::Equal, 1), n(Op::Equal, 2)])]), vec!["d1"]),
        (and(&[]), vec!["d1", "d2", "d3", "d4", "d5"]),
        (compare("__name__", Op::GreaterThanOrEqual, reference("d4")), vec!["d4", "d5"]),
        (compare("__name__", Op::In, array(&[reference("d2"), reference("x")])), vec!["d2"]),
    ];

    for (filter, expected) in cases {
        assert_eq!(cloud.ids(filtered(filter.clone())).await.unwrap(), expected, "{filter:?}");
    }
}

async fn results_come_in_pages(cloud: &Cloud) {
    cloud.put_numbers().await;
    let page = |start_at, end_at, offset, limit| proto::StructuredQuery {
        start_at,
        end_at,
        offset,
        limit,
        ..ordered("n")
    };
    let three = || [integer(3)];

    let cases = [
        (page(cursor(&three(), true), None, 0, None), vec!["d3", "d4", "d5"]),
        (page(cursor(&three(), false), None, 0, None), vec!["d4", "d5"]),
        (page(None, cursor(&three(), true), 0, None), vec!["d1", "d2"]),
        (page(None, cursor(&three(), false), 0, None), vec!["d1", "d2", "d3"]),
        (page(None, None, 1, Some(2)), vec!["d2", "d3"]),
        (page(None, None, 9, None), vec![]),
        (page(None, None, 0, Some(0)), vec![]),
    ];

    for (query, expected) in cases {
        assert_eq!(cloud.ids(query.clone()).await.unwrap(), expected, "{query:?}");
    }
}

async fn an_offset_says_what_it_left_out(cloud: &Cloud) {
    cloud.put_numbers().await;
    for (offset, skipped) in [(4, 4), (9, 5)] {
        let query = proto::StructuredQuery { offset, ..ordered("n") };

        let responses = cloud.responses(run(cloud.root(), query)).await.unwrap();

        assert_eq!(responses[0].skipped_results, skipped);
        assert!(responses.iter().all(|response| response.read_time.is_some()));
    }
}

async fn a_query_without_results_tells_its_time(cloud: &Cloud) {
    let responses = cloud.responses(run(cloud.root(), devices())).await.unwrap();

    assert_eq!(responses.len(), 1);
    assert_eq!(responses[0].document, None);
    assert!(responses[0].read_time.is_some());
}

async fn only_the_fields_that_are_asked_for_come(cloud: &Cloud) {
    let deep = map(&[("a", integer(1)), ("b", integer(2))]);
    cloud.commit(vec![put(cloud.name("d"), &[("x.y", integer(1)), ("deep", deep)])]).await.unwrap();
    let fields = async |paths: &[&str]| {
        let fields = paths.iter().filter_map(|path| field(path)).collect();
        let select = Some(api::Projection { fields });
        let query = proto::StructuredQuery { select, ..devices() };
        let mut found = cloud.responses(run(cloud.root(), query)).await.unwrap();
        found.remove(0).document.unwrap().fields
    };

    assert_eq!(fields(&["__name__"]).await, all(&[]));
    assert_eq!(fields(&[]).await, all(&[]));
    let expected = [("x.y", integer(1)), ("deep", map(&[("b", integer(2))]))];
    assert_eq!(fields(&["`x.y`", "deep.b"]).await, all(&expected));
}

async fn collections_below_are_found_by_groups_alone(cloud: &Cloud) {
    let nested = |path: &str| put(format!("{}/{path}", cloud.root()), &[]);
    let paths = ["devices/a-b", "devices/a/devices/x", "devices/b", "rooms/r/devices/y"];
    cloud.commit(paths.map(nested).into()).await.unwrap();
    let group = |collection_id: &str| proto::StructuredQuery {
        from: vec![api::CollectionSelector {
            collection_id: collection_id.into(),
            all_descendants: true,
        }],
        ..<_>::default()
    };

    assert_eq!(cloud.ids(devices()).await.unwrap(), ["a-b", "b"]);
    // Names are ordered by their ids, not by their characters.
    assert_eq!(cloud.ids(group("devices")).await.unwrap(), ["x", "a-b", "b", "y"]);
    assert_eq!(cloud.ids(group("")).await.unwrap(), ["x", "a-b", "b", "y"]);
    let below = cloud.responses(run(cloud.name("a"), devices())).await.unwrap();
    assert_eq!(below[0].document.as_ref().unwrap().name, cloud.name("a/devices/x"));
}

async fn queries_that_cannot_be_are_refused(cloud: &Cloud) {
    let one = || array(&[integer(1)]);
    let many = |count| array(&(0..count).map(integer).collect::<Vec<_>>());
    let not_equal = |path| compare(path, Op::NotEqual, integer(1));
    let filters = [
        compare("v", Op::In, array(&[])),
        compare("v", Op::In, integer(1)),
        compare("v", Op::In, many(31)),
        compare("v", Op::NotIn, many(11)),
        compare("v", Op::Unspecified, integer(1)),
        compare("a..b", Op::Equal, integer(1)),
        compare("__name__", Op::Equal, text("d")),
        and(&[not_equal("v"), not_equal("w")]),
        and(&[not_equal("v"), compare("v", Op::NotIn, one())]),
        or(&[compare("v", Op::NotIn, one()), compare("v", Op::Equal, integer(1))]),
        and(&[
            compare("v", Op::ArrayContains, integer(1)),
            compare("v", Op::ArrayContainsAny, one()),
        ]),
    ];
    let mut refused: Vec<_> = filters.into_iter().map(filtered).collect();
    refused.push(proto::StructuredQuery { limit: Some(-1), ..devices() });
    refused.push(proto::StructuredQuery { offset: -1, ..devices() });
    let start_at = cursor(&[integer(1), text("a"), text("b")], true);
    refused.push(proto::StructuredQuery { start_at, ..ordered("v") });
    let start_at = cursor(&[integer(1)], true);
    refused.push(proto::StructuredQuery { start_at, ..devices() });

    for query in refused {
        assert_eq!(code(cloud.ids(query.clone()).await), Code::InvalidArgument, "{query:?}");
    }
}

fn aggregation(alias: &str, operator: aggregation::Operator) -> Aggregation {
    Aggregation { alias: alias.into(), operator: Some(operator) }
}

fn count(alias: &str, up_to: Option<i64>) -> Aggregation {
    aggregation(alias, aggregation::Operator::Count(aggregation::Count { up_to }))
}

fn sum(path: &str) -> Aggregation {
    aggregation("sum", aggregation::Operator::Sum(aggregation::Sum { field: field(path) }))
}

fn average(path: &str) -> Aggregation {
    aggregation("average", aggregation::Operator::Avg(aggregation::Avg { field: field(path) }))
}

async fn aggregations_count_sum_and_average(cloud: &Cloud) {
    cloud.put_numbers().await;
    let odd = put(cloud.name("other"), &[("n", text("no number")), ("half", double(0.5))]);
    cloud.commit(vec![odd]).await.unwrap();
    let of = async |query, aggregations| cloud.aggregate(query, aggregations).await.unwrap();

    let counts = of(devices(), vec![count("all", None), count("three", Some(3))]).await;
    assert_eq!(counts, all(&[("all", integer(6)), ("three", integer(3))]));
    // A document counts only if it has the fields of all aggregations.
    let both = of(devices(), vec![count("all", None), sum("half")]).await;
    assert_eq!(both, all(&[("all", integer(1)), ("sum", double(0.5))]));
    // Without an order of its own, a query takes the smallest numbers, and not the first names.
    let first_two = proto::StructuredQuery { limit: Some(2), ..devices() };
    let descending = [("m1", 9), ("m2", 7), ("m3", 5), ("m4", 3)];
    let puts = descending.map(|(id, m)| put(cloud.name(id), &[("m", integer(m))]));
    cloud.commit(puts.to_vec()).await.unwrap();
    let smallest = of(first_two, vec![sum("m"), count("all", None)]).await;
    assert_eq!(smallest, all(&[("sum", integer(8)), ("all", integer(2))]));
    let numbers = of(above("n", 3), vec![sum("n"), average("n")]).await;
    assert_eq!(numbers, all(&[("sum", integer(9)), ("average", double(4.5))]));
    let none = of(above("n", 9), vec![sum("n"), average("n"), count("", None)]).await;
    let expected = [("sum", integer(0)), ("average", null()), ("field_1", integer(0))];
    assert_eq!(none, all(&expected));
    let most = put(cloud.name("most"), &[("n", integer(i64::MAX))]);
    cloud.commit(vec![most]).await.unwrap();
    let overflown = of(above("n", 4), vec![sum("n")]).await;
    assert_eq!(overflown, all(&[("sum", double(9_223_372_036_854_775_808.0))]));
}

async fn aggregations_that_cannot_be_are_refused(cloud: &Cloud) {
    for aggregations in [vec![], vec![count("a", None), count("a", None)], vec![sum("a..b")]] {
        let outcome = cloud.aggregate(devices(), aggregations).await;
        assert_eq!(code(outcome), Code::InvalidArgument);
    }
}

async fn a_listing_can_be_ordered_and_show_missing_documents(cloud: &Cloud) {
    cloud.put_numbers().await;
    cloud.commit(vec![put(cloud.name("missing/sub/d"), &[])]).await.unwrap();
    let list = async |order_by: &str, show_missing| {
        let request = proto::ListDocumentsRequest {
            parent: cloud.root(),
            collection_id: "devices".into(),
            order_by: order_by.into(),
            show_missing,
            ..<_>::default()
        };
        let listed = cloud.client.clone().list_documents(request).await?.into_inner().documents;
        let ids = listed.into_iter().map(|found| found.name.rsplit('/').next().unwrap().to_owned());
        Ok::<_, Status>(ids.collect::<Vec<_>>())
    };

    assert_eq!(list("odd, n desc", false).await.unwrap(), ["d4", "d2", "d5", "d3", "d1"]);
    assert_eq!(list("", true).await.unwrap(), ["d1", "d2", "d3", "d4", "d5", "missing"]);
    assert_eq!(code(list("n", true).await), Code::InvalidArgument);
}

async fn collections_are_listed(cloud: &Cloud) {
    let nested = |path: &str| put(format!("{}/{path}", cloud.root()), &[]);
    let paths = ["a/d", "b/missing/c/d", "b/missing/e/f"];
    cloud.commit(paths.map(nested).into()).await.unwrap();
    let list = async |parent: String| {
        let request = proto::ListCollectionIdsRequest { parent, ..<_>::default() };
        cloud.client.clone().list_collection_ids(request).await.unwrap().into_inner().collection_ids
    };

    assert_eq!(list(cloud.root()).await, ["a", "b"]);
    assert_eq!(list(format!("{}/b/missing", cloud.root())).await, ["c", "e"]);
}

async fn a_group_is_partitioned_evenly(cloud: &Cloud) {
    let writes = (0..10).map(|number| put(cloud.name(&number.to_string()), &[]));
    cloud.commit(writes.collect()).await.unwrap();
    let mut query = devices();
    query.from[0].all_descendants = true;
    let request = proto::PartitionQueryRequest {
        parent: cloud.root(),
        partition_count: 4,
        query_type: Some(proto::partition_query_request::QueryType::StructuredQuery(query)),
        ..<_>::default()
    };

    let found = cloud.client.clone().partition_query(request).await.unwrap().into_inner();

    let expected = ["2", "4", "6", "8"].map(|id| value(ValueType::ReferenceValue(cloud.name(id))));
    let starts: Vec<_> = found.partitions.into_iter().flat_map(|cursor| cursor.values).collect();
    assert_eq!(starts, expected);
}

async fn what_is_not_supported_names_itself(cloud: &Cloud) {
    let explain_options = Some(proto::ExplainOptions { analyze: true });
    let explained = proto::RunQueryRequest { explain_options, ..run(cloud.root(), devices()) };
    let refused = cloud.responses(explained).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    assert!(refused.message().contains("explain_options"), "{refused}");

    let find_nearest = Some(api::FindNearest::default());
    let nearest = proto::StructuredQuery { find_nearest, ..devices() };
    let refused = cloud.ids(nearest).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    assert!(refused.message().contains("find_nearest"), "{refused}");
}

contracts!(
    both: results_are_ordered_by_type_and_value,
    each_operator_finds_its_values,
    conditions_are_combined,
    results_come_in_pages,
    a_query_without_results_tells_its_time,
    only_the_fields_that_are_asked_for_come,
    collections_below_are_found_by_groups_alone,
    queries_that_cannot_be_are_refused,
    aggregations_count_sum_and_average,
    aggregations_that_cannot_be_are_refused,
    a_listing_can_be_ordered_and_show_missing_documents,
    collections_are_listed;
    ours: an_offset_says_what_it_left_out,
    a_group_is_partitioned_evenly,
    what_is_not_supported_names_itself,
);
