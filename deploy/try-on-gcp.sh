#!/usr/bin/env bash
# Runs the tests that need the real Google Cloud, and removes everything that they created.
#
#   gcloud auth application-default login
#   PROJECT=my-project deploy/try-on-gcp.sh           # all checks, about 40 minutes
#   PROJECT=my-project deploy/try-on-gcp.sh quiet     # one of them
#   deploy/try-on-gcp.sh --list                       # names them
#
# It needs Rust, mosquitto, redis-server and gcloud on this machine, and a Firestore database (default) in the project.
# The account needs the roles Pub/Sub Editor, Storage Admin, BigQuery Data Editor, BigQuery Job User and Cloud Datastore
# User. With YES=1, the script starts without a question.
set -euo pipefail
cd "$(dirname "$0")/.."

# Each check: its name, the number of times that about a thousand messages flow, its question, and the tests.
checks() {
    cat <<'TEXT'
flows    20 Do all flows of the embedded cloud pass: formats, names, limits, rights, errors, removal?|chain:: flows:: metadata:: readiness:: tools::
caches    8 Do look-ups in Firestore, with and without Redis, behave as on the embedded one?|caches::
quiet     4 Does a quiet spell of 11 minutes, in which Google ends idle streams, cost no failed attempt?|real_cloud::a_quiet_spell_costs_no_failed_attempt
columns   4 How long is a new column unknown to the Storage Write API, and is no row refused meanwhile?|real_cloud::rows_wait_for_a_new_column
TEXT
}

if [ "${1:-}" = --list ]; then
    checks | sed 's/^\([a-z]*\) *[0-9]* \([^|]*\)|.*/\1: \2/'
    exit 0
fi
: "${PROJECT:?the project to work in; --list names the checks}"
if [ $# -gt 0 ] && ! checks | grep -q "^$1 "; then
    echo "no check is called $1; --list names them" >&2
    exit 2
fi
for tool in cargo gcloud bq mosquitto redis-server; do
    PATH="$PATH:/usr/sbin" command -v "$tool" >/dev/null || { echo "$tool is missing on this machine" >&2; exit 2; }
done

echo "It makes topics, subscriptions, buckets, datasets and documents in $PROJECT, and removes them."
if [ "${YES:-}" != 1 ]; then
    read -r -p "Go on? [y/N] " answer
    [ "$answer" = y ] || exit 1
fi

export DATAFLOW_E2E_PROJECT=$PROJECT DATAFLOW_E2E_QUIET_SECONDS=660
thousands=0
failed=()
while IFS='|' read -r head tests; do
    read -r name count question <<<"$head"
    [ $# -eq 0 ] || [ "$name" = "$1" ] || continue
    echo "== $name: $question"
    thousands=$((thousands + count))
    # The tests run one after the other, because quotas apply to a project.
    # shellcheck disable=SC2086 # a list of tests
    cargo test --package e2e --test e2e -- --nocapture --test-threads 1 $tests </dev/null || failed+=("$name")
done < <(checks)

# Removes what failed tests left behind. Names end in the twelve hexadecimal digits of a run.
run='[0-9a-f]\{12\}$'
cloud() { gcloud --project "$PROJECT" --quiet "$@"; }
for kind in subscriptions topics; do
    cloud pubsub "$kind" list --format 'value(name)' | { grep "/[a-z-]*-$run" || true; } | while read -r name; do
        cloud pubsub "$kind" delete "$name"
    done
done
cloud storage buckets list --format 'value(name)' | { grep "^bucket-$run" || true; } | while read -r name; do
    cloud storage rm --recursive "gs://$name"
done
bq --project_id "$PROJECT" ls --max_results 1000 | tr -d ' ' | { grep "^dataset_$run" || true; } | while read -r name; do
    bq --project_id "$PROJECT" rm --recursive --force --dataset "$PROJECT:$name"
done

# Prices of 2026-11 in the multi-region US, without the free tiers:
# Pub/Sub 40 USD a TiB, four times for each message of 2 KB;
# Storage Write 0.025 USD a GB;
# an object 0.000005 USD, one for each ten messages;
# Firestore 0.0000006 USD a read.
awk -v thousands="$thousands" 'BEGIN {
    messages = thousands * 1000
    cost = messages * (8192 / 1024 ^ 4 * 40 + 2048 / 1e9 * 0.025 + 0.000005 / 10 + 0.0000006)
    printf "About %d messages: at most about %.2f USD.\n", messages, cost + 0.01
}'
if [ ${#failed[@]} -gt 0 ]; then
    echo "failed: ${failed[*]}" >&2
    exit 1
fi
echo "All checks passed."
