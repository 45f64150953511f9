//! The gRPC methods of Firestore.

use axum::extract::Request;
use axum::response::Response;
use prost::Message;

use super::{Firestore, proto};
use crate::grpc::{self, server_streaming, unary};
use crate::status::Status;

/// Answers the gRPC method at `path`.
pub(crate) async fn answer(firestore: Firestore, path: &str, request: Request) -> Response {
    match path.trim_start_matches("/google.firestore.v1.Firestore/") {
        "GetDocument" => {
            let get = |store: &Firestore, r: proto::GetDocumentRequest| store.get(&r);
            call(firestore, "GetDocument", request, get).await
        }
        "BatchGetDocuments" => batch_get(firestore, request).await,
        "ListDocuments" => {
            let list = |store: &Firestore, r: proto::ListDocumentsRequest| store.list(&r);
            call(firestore, "ListDocuments", request, list).await
        }
        "CreateDocument" => call(firestore, "CreateDocument", request, Firestore::create).await,
        "UpdateDocument" => call(firestore, "UpdateDocument", request, Firestore::update).await,
        "DeleteDocument" => call(firestore, "DeleteDocument", request, Firestore::delete).await,
        "Commit" => {
            let commit = |store: &Firestore, r: proto::CommitRequest| store.commit(&r);
            call(firestore, "Commit", request, commit).await
        }
        _ => grpc::unimplemented(path).unwrap_or_else(|never| match never {}),
    }
}

async fn batch_get(firestore: Firestore, request: Request) -> Response {
    server_streaming(request, move |message: proto::BatchGetDocumentsRequest| {
        let firestore = firestore.clone();
        async move {
            let get = async { firestore.batch_get(&message) };
            let found = firestore.faults.around("BatchGetDocuments", get).await?;
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
        async move { Ok(store.faults.around(method, async { act(&store, message) }).await?) }
    })
    .await
}
