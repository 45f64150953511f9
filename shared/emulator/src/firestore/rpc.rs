//! The gRPC methods of Firestore.

use axum::extract::Request;
use axum::response::Response;
use prost::Message;

use super::{Firestore, proto};
use crate::grpc::{self, server_streaming, streaming, unary};
use crate::status::Status;

/// Largest request, from <https://cloud.google.com/firestore/quotas#writes_and_transactions>.
pub(super) const MAX_REQUEST_BYTES: usize = 10 * 1024 * 1024;

/// Answers the gRPC method at `path`.
pub(crate) async fn answer(firestore: Firestore, path: &str, request: Request) -> Response {
    match path.trim_start_matches("/google.firestore.v1.Firestore/") {
        "GetDocument" => call(firestore, "GetDocument", request, Firestore::get).await,
        "BatchGetDocuments" => {
            stream(firestore, "BatchGetDocuments", request, Firestore::batch_get).await
        }
        "ListDocuments" => call(firestore, "ListDocuments", request, Firestore::list).await,
        "ListCollectionIds" => {
            call(firestore, "ListCollectionIds", request, Firestore::list_collection_ids).await
        }
        "CreateDocument" => call(firestore, "CreateDocument", request, Firestore::create).await,
        "UpdateDocument" => call(firestore, "UpdateDocument", request, Firestore::update).await,
        "DeleteDocument" => call(firestore, "DeleteDocument", request, Firestore::delete).await,
        "RunQuery" => stream(firestore, "RunQuery", request, Firestore::run_query).await,
        "RunAggregationQuery" => {
            type In = proto::RunAggregationQueryRequest;
            let run = |store: &Firestore, r: In| Ok(vec![store.run_aggregation_query(r)?]);
            stream(firestore, "RunAggregationQuery", request, run).await
        }
        "PartitionQuery" => {
            call(firestore, "PartitionQuery", request, Firestore::partition_query).await
        }
        _ => answer_writes(firestore, path, request).await,
    }
}

async fn answer_writes(firestore: Firestore, path: &str, request: Request) -> Response {
    match path.trim_start_matches("/google.firestore.v1.Firestore/") {
        "Commit" => call(firestore, "Commit", request, Firestore::commit).await,
        "BatchWrite" => call(firestore, "BatchWrite", request, Firestore::batch_write).await,
        "BeginTransaction" => {
            call(firestore, "BeginTransaction", request, Firestore::begin_transaction).await
        }
        "Rollback" => call(firestore, "Rollback", request, Firestore::rollback).await,
        "Listen" => streaming(request, move |requests| firestore.listen(requests)).await,
        "Write" => streaming(request, move |requests| firestore.write_stream(requests)).await,
        _ => grpc::unimplemented(path).unwrap_or_else(|never| match never {}),
    }
}

async fn stream<In, Out>(
    firestore: Firestore,
    method: &'static str,
    request: Request,
    act: fn(&Firestore, In) -> Result<Vec<Out>, Status>,
) -> Response
where
    In: Message + Default + 'static,
    Out: Message + Default + 'static,
{
    server_streaming(request, move |message: In| {
        let store = firestore.clone();
        async move {
            let act = async {
                grpc::check_size(&message, MAX_REQUEST_BYTES)?;
                act(&store, message)
            };
            let found = store.faults.around(method, act).await?;
            Ok(futures::stream::iter(found.into_iter().map(Ok)))
        }
    })
    .await
}

async fn call<In, Out>(
    firestore: Firestore,
    method: &'static str,
    request: Request,
    act: fn(&Firestore, In) -> Result<Out, Status>,
) -> Response
where
    In: Message + Default + 'static,
    Out: Message + Default + 'static,
{
    unary(request, move |message: In| {
        let store = firestore.clone();
        async move {
            let act = async {
                grpc::check_size(&message, MAX_REQUEST_BYTES)?;
                act(&store, message)
            };
            Ok(store.faults.around(method, act).await?)
        }
    })
    .await
}
