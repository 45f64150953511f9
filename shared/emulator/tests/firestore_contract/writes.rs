//! Contract tests of transforms, masks and batches.

use proto::document_transform::FieldTransform;
use proto::document_transform::field_transform::TransformType;

use super::*;

fn transform(field_path: &str, kind: TransformType) -> FieldTransform {
    FieldTransform { field_path: field_path.into(), transform_type: Some(kind) }
}

/// Builds an update that changes fields only by transforms.
fn transforming(name: String, transforms: &[(&str, TransformType)]) -> proto::Write {
    let update_transforms =
        transforms.iter().map(|(path, kind)| transform(path, kind.clone())).collect();
    let update_mask = Some(proto::DocumentMask::default());
    proto::Write { update_transforms, update_mask, ..put(name, &[]) }
}

fn values(values: &[proto::Value]) -> proto::ArrayValue {
    proto::ArrayValue { values: values.to_vec() }
}

impl Cloud {
    /// Transforms fields of a document. Returns the results, and the fields afterwards.
    async fn transform(
        &self,
        before: &[(&str, proto::Value)],
        transforms: &[(&str, TransformType)],
    ) -> (Vec<proto::Value>, HashMap<String, proto::Value>) {
        self.commit(vec![put(self.name("d"), before)]).await.unwrap();
        let write = transforming(self.name("d"), transforms);
        let mut committed = self.commit(vec![write]).await.unwrap();
        let results = committed.write_results.remove(0).transform_results;
        (results, self.get(self.name("d")).await.unwrap().fields)
    }

    async fn batch(&self, writes: Vec<proto::Write>) -> Result<proto::BatchWriteResponse, Status> {
        let database = self.database();
        let request = proto::BatchWriteRequest { database, writes, ..<_>::default() };
        Ok(self.client.clone().batch_write(request).await?.into_inner())
    }
}

async fn numbers_are_transformed(cloud: &Cloud) {
    use TransformType::{Increment, Maximum, Minimum};
    let before = [
        ("high", integer(i64::MAX)),
        ("text", text("a")),
        ("double", double(3.0)),
        ("low", integer(5)),
    ];

    let (results, after) = cloud
        .transform(
            &before,
            &[
                ("high", Increment(integer(3))),
                ("deep.new", Increment(double(0.5))),
                ("text", Increment(integer(2))),
                // The same number of another type changes nothing.
                ("double", Maximum(integer(3))),
                ("low", Minimum(double(4.5))),
                ("low", Maximum(integer(4))),
            ],
        )
        .await;

    let expected =
        [integer(i64::MAX), double(0.5), integer(2), double(3.0), double(4.5), double(4.5)];
    assert_eq!(results, expected);
    let expected = [
        ("high", integer(i64::MAX)),
        ("deep", map(&[("new", double(0.5))])),
        ("text", integer(2)),
        ("double", double(3.0)),
        ("low", double(4.5)),
    ];
    assert_eq!(after, all(&expected));
}

async fn arrays_are_transformed(cloud: &Cloud) {
    use TransformType::{AppendMissingElements, RemoveAllFromArray};
    let before = [("list", array(&[integer(1), null(), integer(2)])), ("text", text("a"))];

    let (results, after) = cloud
        .transform(
            &before,
            &[
                (
                    "list",
                    AppendMissingElements(values(&[double(2.0), null(), text("b"), text("b")])),
                ),
                ("list", RemoveAllFromArray(values(&[double(1.0), null()]))),
                ("text", AppendMissingElements(values(&[integer(3), double(3.0)]))),
                ("none", RemoveAllFromArray(values(&[integer(1)]))),
            ],
        )
        .await;

    assert_eq!(results, vec![null(); 4]);
    let expected = [
        ("list", array(&[integer(2), text("b")])),
        ("text", array(&[integer(3)])),
        ("none", array(&[])),
    ];
    assert_eq!(after, all(&expected));
}

async fn a_server_timestamp_is_the_time_of_the_request_in_milliseconds(cloud: &Cloud) {
    let (results, after) =
        cloud.transform(&[], &[("at", TransformType::SetToServerValue(1))]).await;

    assert_eq!(results, [after["at"].clone()]);
    let Some(ValueType::TimestampValue(time)) = &after["at"].value_type else {
        panic!("a time was expected, not {after:?}");
    };
    assert_eq!(time.nanos % 1_000_000, 0);
}

async fn a_transform_can_be_a_write_of_its_own(cloud: &Cloud) {
    let write = |id: &str| proto::Write {
        operation: Some(Operation::Transform(proto::DocumentTransform {
            document: cloud.name(id),
            field_transforms: vec![transform("a", TransformType::Increment(integer(1)))],
        })),
        ..<_>::default()
    };

    cloud.commit(vec![write("d"), write("d")]).await.unwrap();
    let refused = only_if(write("none"), ConditionType::Exists(true));

    assert_eq!(cloud.get(cloud.name("d")).await.unwrap().fields["a"], integer(2));
    assert_eq!(code(cloud.commit(vec![refused]).await), Code::NotFound);
}

async fn transforms_that_cannot_be_are_refused(cloud: &Cloud) {
    let no_number = transforming(cloud.name("d"), &[("a", TransformType::Increment(text("a")))]);
    let no_server_value =
        transforming(cloud.name("d"), &[("a", TransformType::SetToServerValue(0))]);
    let mut nothing = transforming(cloud.name("d"), &[]);
    nothing.update_transforms.push(FieldTransform { field_path: "a".into(), transform_type: None });

    for write in [no_number, no_server_value, nothing] {
        let outcome = cloud.commit(vec![write.clone()]).await;
        assert_eq!(code(outcome), Code::InvalidArgument, "{write:?}");
    }
    assert_eq!(code(cloud.get(cloud.name("d")).await), Code::NotFound);
}

async fn masks_name_nested_and_quoted_fields(cloud: &Cloud) {
    let deep = map(&[("x", integer(1)), ("y", integer(2))]);
    let before = [("a.b", integer(1)), ("c", deep), ("kept", integer(1))];
    cloud.commit(vec![put(cloud.name("d"), &before)]).await.unwrap();

    let given = [("a.b", integer(2)), ("c", map(&[("x", integer(3))])), ("ignored", integer(1))];
    let mut write = put(cloud.name("d"), &given);
    let field_paths = ["`a.b`", "c.x", "c.y", "none"].map(String::from).to_vec();
    write.update_mask = Some(proto::DocumentMask { field_paths });
    cloud.commit(vec![write]).await.unwrap();

    let expected = [("a.b", integer(2)), ("c", map(&[("x", integer(3))])), ("kept", integer(1))];
    assert_eq!(cloud.get(cloud.name("d")).await.unwrap().fields, all(&expected));
}

async fn paths_that_cannot_be_are_refused(cloud: &Cloud) {
    for path in ["", "a..b", "a-b", "1a", "`a"] {
        let write = merge(cloud.document("d", &[]), &[path]);
        assert_eq!(code(cloud.commit(vec![write]).await), Code::InvalidArgument, "{path}");
    }
}

async fn fields_that_cannot_be_are_refused(cloud: &Cloud) {
    let nested = array(&[array(&[integer(1)])]);
    for (name, value) in [("a", nested), ("__a__", integer(1)), ("", integer(1))] {
        let write = put(cloud.name("d"), &[(name, value)]);
        assert_eq!(code(cloud.commit(vec![write]).await), Code::InvalidArgument, "{name}");
    }
}

async fn times_are_kept_in_microseconds(cloud: &Cloud) {
    let time = |nanos| {
        let time = prost_types::Timestamp { seconds: 1_600_000_000, nanos };
        value(ValueType::TimestampValue(time))
    };
    cloud.commit(vec![put(cloud.name("d"), &[("a", time(123_456_789))])]).await.unwrap();

    let read = cloud.get(cloud.name("d")).await.unwrap();

    assert_eq!(read.fields["a"], time(123_456_000));
    assert_eq!(read.update_time.unwrap().nanos % 1000, 0);
}

async fn a_write_that_changes_nothing_keeps_the_time(cloud: &Cloud) {
    let write = put(cloud.name("d"), &[("a", integer(1))]);
    let first = cloud.commit(vec![write.clone()]).await.unwrap();

    let second = cloud.commit(vec![write]).await.unwrap();

    assert_eq!(first.write_results, second.write_results);
    assert!(second.commit_time.unwrap().seconds >= first.commit_time.unwrap().seconds);
}

async fn a_batch_says_of_each_write_what_became_of_it(cloud: &Cloud) {
    let there = put(cloud.name("there"), &[("a", integer(1))]);
    let refused = only_if(put(cloud.name("none"), &[]), ConditionType::Exists(true));

    let response = cloud.batch(vec![there, refused, put(cloud.name("last"), &[])]).await.unwrap();

    let codes: Vec<_> = response.status.iter().map(|status| Code::from(status.code)).collect();
    assert_eq!(codes, [Code::Ok, Code::NotFound, Code::Ok]);
    let times = response.write_results.iter().map(|result| result.update_time.is_some());
    assert_eq!(times.collect::<Vec<_>>(), [true, false, true]);
    assert!(cloud.get(cloud.name("there")).await.is_ok());
    assert!(cloud.get(cloud.name("last")).await.is_ok());
}

async fn a_batch_with_a_document_twice_or_a_bad_name_is_refused(cloud: &Cloud) {
    let good = || put(cloud.name("good"), &[]);

    for writes in [vec![good(), good()], vec![good(), put(cloud.name("__x__"), &[])]] {
        assert_eq!(code(cloud.batch(writes).await), Code::InvalidArgument);
    }
    assert_eq!(code(cloud.get(cloud.name("good")).await), Code::NotFound);
}

async fn a_request_above_ten_mebibytes_is_refused(cloud: &Cloud) {
    let large = text(&"x".repeat(1_000_000));
    let writes = |count: usize| {
        let write = |number: usize| put(cloud.name(&number.to_string()), &[("a", large.clone())]);
        (0..count).map(write).collect()
    };

    assert!(cloud.commit(writes(10)).await.is_ok());
    assert_eq!(code(cloud.commit(writes(11)).await), Code::InvalidArgument);
}

contracts!(
    both: numbers_are_transformed,
    arrays_are_transformed,
    a_server_timestamp_is_the_time_of_the_request_in_milliseconds,
    a_transform_can_be_a_write_of_its_own,
    transforms_that_cannot_be_are_refused,
    masks_name_nested_and_quoted_fields,
    paths_that_cannot_be_are_refused,
    fields_that_cannot_be_are_refused,
    times_are_kept_in_microseconds,
    a_write_that_changes_nothing_keeps_the_time,
    a_batch_says_of_each_write_what_became_of_it,
    a_batch_with_a_document_twice_or_a_bad_name_is_refused;
    // Google's emulator accepts larger requests, and its service does not:
    // https://cloud.google.com/firestore/quotas#writes_and_transactions
    ours: a_request_above_ten_mebibytes_is_refused,
);
