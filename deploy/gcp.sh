#!/usr/bin/env bash
# Makes in Google Cloud what the example settings need, with the least roles. It can be run again and
# again: what exists stays as it is. `<service> plan` shows what is there and what differs.
#
#   PROJECT=my-project REGION=europe-west1 BUCKET=my-archive deploy/gcp.sh
#
# For Workload Identity, CLUSTER_PROJECT (by default PROJECT) is the project of the GKE cluster, and
# NAMESPACE (by default dataflow) the services' namespace in it.
set -euo pipefail

: "${PROJECT:?the project to work in}"
: "${REGION:?where data is kept, such as europe-west1}"
: "${BUCKET:?the bucket of the archive}"
CLUSTER_PROJECT=${CLUSTER_PROJECT:-$PROJECT}
NAMESPACE=${NAMESPACE:-dataflow}

run() { echo "+ $*" >&2; "$@"; }
cloud() { run gcloud --project "$PROJECT" --quiet "$@"; }
# Whether something is there; gcloud's own complaint is of no interest.
exists() { gcloud --project "$PROJECT" --quiet "$@" >/dev/null 2>&1; }

cloud services enable pubsub.googleapis.com bigquery.googleapis.com storage.googleapis.com \
    firestore.googleapis.com iamcredentials.googleapis.com

# Topics. Dead letters are kept for a month, so that somebody can come and look.
topic() {
    exists pubsub topics describe "$1" || cloud pubsub topics create "$@"
}
topic raw --message-storage-policy-allowed-regions "$REGION"
topic enriched --message-storage-policy-allowed-regions "$REGION"
topic dead-letters --message-storage-policy-allowed-regions "$REGION" --message-retention-duration 30d

# Subscriptions: a week of messages; no expiration; what fails comes again after 1 s, and later.
subscription() {
    local name=$1 topic=$2
    shift 2
    exists pubsub subscriptions describe "$name" || cloud pubsub subscriptions create "$name" \
        --topic "$topic" --ack-deadline 60 --message-retention-duration 7d --expiration-period never "$@"
}
for pair in enrich:raw bigqueries:enriched archive:enriched; do
    subscription "${pair%:*}" "${pair#*:}" --min-retry-delay 1s --max-retry-delay 60s
done
subscription dead-letters dead-letters

# The bucket: nobody from outside, and objects cannot be replaced or removed by the service.
exists storage buckets describe "gs://$BUCKET" || cloud storage buckets create "gs://$BUCKET" \
    --location "$REGION" --uniform-bucket-level-access --public-access-prevention

# The dataset; the service makes its table and its view.
if ! bq --project_id "$PROJECT" show --dataset "$PROJECT:dataflow" >/dev/null 2>&1; then
    run bq --project_id "$PROJECT" --location "$REGION" mk --dataset "$PROJECT:dataflow"
fi

# The database of devices.
exists firestore databases describe --database "(default)" \
    || cloud firestore databases create --database "(default)" --location "$REGION"

# An account for each service, and what Kubernetes' account of the same name may do with it.
account() { echo "dataflow-$1@$PROJECT.iam.gserviceaccount.com"; }
for service in ingestion enrich bigqueries icestore; do
    exists iam service-accounts describe "$(account "$service")" \
        || cloud iam service-accounts create "dataflow-$service" --display-name "dataflow $service"
    cloud iam service-accounts add-iam-policy-binding "$(account "$service")" \
        --role roles/iam.workloadIdentityUser --condition None \
        --member "serviceAccount:$CLUSTER_PROJECT.svc.id.goog[$NAMESPACE/$service]" >/dev/null
done

# The least roles, each on the one resource that it is for. The viewer's role lets a service see
# whether somebody listens to its topic; without it the guarantee says "unchecked".
on_topic() {
    cloud pubsub topics add-iam-policy-binding "$2" --member "serviceAccount:$(account "$1")" --role "$3" >/dev/null
}
on_subscription() {
    for role in roles/pubsub.subscriber roles/pubsub.viewer; do
        cloud pubsub subscriptions add-iam-policy-binding "$2" \
            --member "serviceAccount:$(account "$1")" --role "$role" >/dev/null
    done
}
for role in roles/pubsub.publisher roles/pubsub.viewer; do
    on_topic ingestion raw "$role"
    on_topic enrich enriched "$role"
    for service in ingestion enrich bigqueries icestore; do
        on_topic "$service" dead-letters "$role"
    done
done
on_subscription enrich enrich
on_subscription bigqueries bigqueries
on_subscription icestore archive
cloud storage buckets add-iam-policy-binding "gs://$BUCKET" \
    --member "serviceAccount:$(account icestore)" --role roles/storage.objectCreator >/dev/null
# Firestore has roles for a whole project alone; so has the right to run BigQuery's jobs, which no
# service needs.
cloud projects add-iam-policy-binding "$PROJECT" --condition None \
    --member "serviceAccount:$(account enrich)" --role roles/datastore.viewer >/dev/null
run bq --project_id "$PROJECT" query --use_legacy_sql=false --location "$REGION" \
    "GRANT \`roles/bigquery.dataEditor\` ON SCHEMA \`$PROJECT.dataflow\`
     TO 'serviceAccount:$(account bigqueries)'" >/dev/null

echo "done; what the services find now: <service> plan --config FILE"
