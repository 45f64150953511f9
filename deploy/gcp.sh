#!/usr/bin/env bash
# Creates the resources in Google Cloud that the example settings need, with the least roles. You can run it
# again at any time: it does not change existing resources. `<service> plan` shows which resources exist and which
# differ.
#
#   PROJECT=my-project REGION=europe-west1 BUCKET=my-archive deploy/gcp.sh
#
# Optional variables:
#
#   CLUSTER_PROJECT     project of the GKE cluster, for Workload Identity (default: PROJECT)
#   NAMESPACE           namespace of the services in the cluster (default: dataflow)
#   REGISTRY_LOCATION   location of the images, such as europe (default: REGION)
#   NODE_ACCOUNT        account of the cluster's nodes, which gets the right to read the images
#   DEAD_LETTER_BUCKET  bucket for dead letters that are too big for Pub/Sub (dead_letters.bucket of the settings)
#   DEAD_LETTER_DAYS    days until its objects are deleted (default: 30, like the messages of the topic)
#   WITH_POSTGRES       1 for deploy/kubernetes/components/engine: also the subscription and the account of postgres
set -euo pipefail

: "${PROJECT:?the project to work in}"
: "${REGION:?where data is kept, such as europe-west1}"
: "${BUCKET:?the bucket of the archive}"
CLUSTER_PROJECT=${CLUSTER_PROJECT:-$PROJECT}
NAMESPACE=${NAMESPACE:-dataflow}
REGISTRY_LOCATION=${REGISTRY_LOCATION:-$REGION}
NODE_ACCOUNT=${NODE_ACCOUNT:-}
DEAD_LETTER_BUCKET=${DEAD_LETTER_BUCKET:-}
DEAD_LETTER_DAYS=${DEAD_LETTER_DAYS:-30}
WITH_POSTGRES=${WITH_POSTGRES:-}
case $WITH_POSTGRES in
    "" | 0 | 1) ;;
    *) echo "WITH_POSTGRES must be 1 or 0, is $WITH_POSTGRES" >&2; exit 2 ;;
esac

# Services, and what each of them reads: service:subscription:topic. Nothing is created for postgres if it does not run,
# because a subscription without a reader keeps a week of messages.
services=(ingestion enrich bigqueries icestore)
readers=(enrich:enrich:raw bigqueries:bigqueries:enriched icestore:archive:enriched)
if [ "$WITH_POSTGRES" = 1 ]; then
    services+=(postgres)
    readers+=(postgres:postgres:enriched)
fi

run() { echo "+ $*" >&2; "$@"; }
cloud() { run gcloud --project "$PROJECT" --quiet "$@"; }
# Succeeds if a resource exists. The error text of gcloud is hidden.
exists() { gcloud --project "$PROJECT" --quiet "$@" >/dev/null 2>&1; }
# Google's services know a new account within about a minute, and refuse to bind it until then. So a command that
# names an account is tried 8 times in about two minutes.
patiently() {
    echo "+ $*" >&2
    local attempt
    for attempt in 1 2 3 4 5 6 7; do
        if "$@" >/dev/null; then return; fi
        echo "  a new account may not be known yet: trying again in $((attempt * 4)) s" >&2
        sleep $((attempt * 4))
    done
    "$@" >/dev/null
}
grant() { patiently gcloud --project "$PROJECT" --quiet "$@"; }

cloud services enable pubsub.googleapis.com bigquery.googleapis.com storage.googleapis.com \
    firestore.googleapis.com iamcredentials.googleapis.com artifactregistry.googleapis.com

# Topics. Dead letters are kept for a month, so that somebody has time to look at them.
topic() {
    exists pubsub topics describe "$1" || cloud pubsub topics create "$@"
}
topic raw --message-storage-policy-allowed-regions "$REGION"
topic enriched --message-storage-policy-allowed-regions "$REGION"
topic dead-letters --message-storage-policy-allowed-regions "$REGION" --message-retention-duration 30d

# Subscriptions. They keep messages for a week and never expire. A failed message is delivered again after 1 s, and
# later after longer waits.
subscription() {
    local name=$1 topic=$2
    shift 2
    exists pubsub subscriptions describe "$name" || cloud pubsub subscriptions create "$name" \
        --topic "$topic" --ack-deadline 60 --message-retention-duration 7d --expiration-period never "$@"
}
for reader in "${readers[@]}"; do
    read=${reader#*:}
    subscription "${read%:*}" "${read#*:}" --min-retry-delay 1s --max-retry-delay 60s
done
subscription dead-letters dead-letters

# Buckets. There is no public access, and the services cannot replace or remove objects.
bucket() {
    exists storage buckets describe "gs://$1" || cloud storage buckets create "gs://$1" \
        --location "$REGION" --uniform-bucket-level-access --public-access-prevention
}
bucket "$BUCKET"
if [ -n "$DEAD_LETTER_BUCKET" ]; then
    bucket "$DEAD_LETTER_BUCKET"
    # An existing rule is somebody's choice, so it stays.
    rules=$(gcloud --project "$PROJECT" --quiet storage buckets describe "gs://$DEAD_LETTER_BUCKET" \
        --format "value(lifecycle_config)")
    if [ -z "$rules" ]; then
        lifecycle=$(mktemp)
        trap 'rm -f "$lifecycle"' EXIT
        printf '{"rule":[{"action":{"type":"Delete"},"condition":{"age":%d}}]}\n' "$DEAD_LETTER_DAYS" >"$lifecycle"
        cloud storage buckets update "gs://$DEAD_LETTER_BUCKET" --lifecycle-file "$lifecycle"
    fi
fi

# Repository of the images. To push them:
# make images push REGISTRY=$REGISTRY_LOCATION-docker.pkg.dev/$PROJECT/dataflow TAG=0.1.0
exists artifacts repositories describe dataflow --location "$REGISTRY_LOCATION" \
    || cloud artifacts repositories create dataflow --location "$REGISTRY_LOCATION" --repository-format docker
if [ -n "$NODE_ACCOUNT" ]; then
    grant artifacts repositories add-iam-policy-binding dataflow --location "$REGISTRY_LOCATION" \
        --member "serviceAccount:$NODE_ACCOUNT" --role roles/artifactregistry.reader
fi

# The dataset. The service creates its table and its view.
if ! bq --project_id "$PROJECT" show --dataset "$PROJECT:dataflow" >/dev/null 2>&1; then
    run bq --project_id "$PROJECT" --location "$REGION" mk --dataset "$PROJECT:dataflow"
fi

# The database of devices.
exists firestore databases describe --database "(default)" \
    || cloud firestore databases create --database "(default)" --location "$REGION"

# An account for each service, which the Kubernetes account of the same name may use.
account() { echo "dataflow-$1@$PROJECT.iam.gserviceaccount.com"; }
for service in "${services[@]}"; do
    exists iam service-accounts describe "$(account "$service")" \
        || cloud iam service-accounts create "dataflow-$service" --display-name "dataflow $service"
    grant iam service-accounts add-iam-policy-binding "$(account "$service")" \
        --role roles/iam.workloadIdentityUser --condition None \
        --member "serviceAccount:$CLUSTER_PROJECT.svc.id.goog[$NAMESPACE/$service]"
done

# The least roles, each on one resource only. The viewer role lets a service check two things: whether its topic has
# a subscription, and whether a filter drops messages there. Without this role, the guarantee says "unchecked".
on_topic() {
    grant pubsub topics add-iam-policy-binding "$2" --member "serviceAccount:$(account "$1")" --role "$3"
}
on_subscription() {
    grant pubsub subscriptions add-iam-policy-binding "$2" --member "serviceAccount:$(account "$1")" --role "$3"
}
for role in roles/pubsub.publisher roles/pubsub.viewer; do
    on_topic ingestion raw "$role"
    on_topic enrich enriched "$role"
    for service in "${services[@]}"; do
        on_topic "$service" dead-letters "$role"
    done
done
for reader in "${readers[@]}"; do
    service=${reader%%:*} read=${reader#*:}
    for role in roles/pubsub.subscriber roles/pubsub.viewer; do
        on_subscription "$service" "${read%:*}" "$role"
    done
    # The service that publishes to the topic.
    case ${read#*:} in
        raw) on_subscription ingestion "${read%:*}" roles/pubsub.viewer ;;
        enriched) on_subscription enrich "${read%:*}" roles/pubsub.viewer ;;
    esac
done
for service in "${services[@]}"; do
    on_subscription "$service" dead-letters roles/pubsub.viewer
done
on_bucket() {
    grant storage buckets add-iam-policy-binding "gs://$2" \
        --member "serviceAccount:$(account "$1")" --role roles/storage.objectCreator
}
on_bucket icestore "$BUCKET"
if [ -n "$DEAD_LETTER_BUCKET" ]; then
    for service in "${services[@]}"; do
        on_bucket "$service" "$DEAD_LETTER_BUCKET"
    done
fi
# Firestore has roles only for a whole project. The right to run BigQuery jobs is also for a whole project, but no
# service needs it.
grant projects add-iam-policy-binding "$PROJECT" --condition None \
    --member "serviceAccount:$(account enrich)" --role roles/datastore.viewer
patiently bq --project_id "$PROJECT" query --use_legacy_sql=false --location "$REGION" \
    "GRANT \`roles/bigquery.dataEditor\` ON SCHEMA \`$PROJECT.dataflow\`
     TO 'serviceAccount:$(account bigqueries)'"

echo "done; what the services find now: <service> plan --config FILE"
