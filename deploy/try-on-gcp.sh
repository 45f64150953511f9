#!/usr/bin/env bash
# Runs the tests that need the real Google Cloud, and removes what they created, also after Ctrl-C.
#
#   gcloud auth login                                       # for gcloud and bq
#   gcloud auth application-default login                   # for the tests
#   PROJECT=my-project deploy/try-on-gcp.sh                 # all checks, perhaps two hours
#   PROJECT=my-project deploy/try-on-gcp.sh quiet           # one of them
#   PROJECT=my-project deploy/try-on-gcp.sh --remove RUN    # only removes what a run has left
#   deploy/try-on-gcp.sh --list                             # names the checks
#
# It needs Rust, mosquitto, redis-server, gcloud and bq on this machine, and a Firestore database (default) in the
# project. Both logins need the roles Pub/Sub Editor, Storage Admin, BigQuery Data Editor, BigQuery Job User and Cloud
# Datastore User. Each run has an identifier. All names that it creates contain it, and it removes no other names.
# With YES=1, the script starts without a question. With KEEP_RESOURCES=1, it removes nothing.
#
# Exit codes: 0 if tests passed, none failed, and nothing is left; 1 if not; 2 if nothing was started; 129, 130
# or 143 after a signal.
set -euo pipefail
cd "$(dirname "$0")/.."

# Each check: its name, the number of thousands of messages at most, its question, the tests, and those left out
# because nothing of Google's takes part in them.
checks() {
    cat <<'TEXT'
flows   300 Do the flows of the embedded cloud pass on Google's?|binaries::every_binary_answers chain:: flows:: metadata:: mqtt::an_ordering_key_keeps_each_devices_order readiness:: trace::|flows::an_outage_holds_the_broker_back_and_loses_nothing readiness::services_wait_for_a_cloud_that_comes_later
caches   20 Do look-ups in Firestore, with and without Redis, behave as on the embedded one?|caches::|caches::while_firestore_is_down_known_devices_flow_and_unknown_ones_wait caches::two_sources_do_not_read_each_others_documents_from_one_redis
types     1 Does the Storage Write API take every column type and literal default in Arrow?|real_cloud::types::the_storage_write_api_takes_every_type_and_literal_default|
view      1 Does the view prune partitions, satisfy require_filter, and have the labels?|real_cloud::the_view_reads_only_the_partitions_of_its_filter|
archive   1 Does BigQuery read the three formats of the archive as docs/archive.md says?|real_cloud::bigquery_loads_the_archive_as_its_page_says|
keys      1 How long do objects under 300 keys take, and how many attempts fail?|real_cloud::many_keys_become_as_many_objects_and_nothing_is_lost|
columns   4 How long is a new column unknown to the Storage Write API, and is no row refused meanwhile?|real_cloud::rows_wait_for_a_new_column|
quiet     4 Does a quiet spell of 11 minutes, in which Google ends idle streams, cost no failed attempt?|real_cloud::a_quiet_spell_costs_no_failed_attempt|
TEXT
}

if [ "${1:-}" = --list ]; then
    checks | sed 's/^\([a-z]*\) *[0-9]* \([^|]*\)|.*/\1: \2/'
    exit 0
fi
refuse() {
    echo "$1" >&2
    exit 2
}
[ -n "${PROJECT:-}" ] || refuse "PROJECT must name the project to work in; --list names the checks"
run=$(od -An -N6 -tx1 /dev/urandom | tr -d ' \n')
if [ "${1:-}" = --remove ]; then
    run=${2:-}
    [[ $run =~ ^[0-9a-f]{12}$ ]] || refuse "--remove needs the 12 hexadecimal digits that the run printed"
elif [ $# -gt 0 ] && ! checks | grep -q "^$1 "; then
    refuse "no check is called $1; --list names them"
fi
for tool in cargo gcloud bq mosquitto redis-server; do
    PATH="$PATH:/usr/sbin" command -v "$tool" >/dev/null || refuse "$tool is missing on this machine"
done

# Everything below means Google's own cloud.
unset {PUBSUB,FIRESTORE,BIGQUERY,STORAGE}_EMULATOR_HOST
gcloud=(gcloud --project "$PROJECT" --quiet)
bq=(bq --headless --project_id "$PROJECT")
documents=(cargo run --quiet --package e2e --bin documents --)
left=()

# Runs a command that removes something. One that fails is listed at the end.
try() {
    "$@" >/dev/null </dev/null || left+=("$(printf '%q ' "$@")")
}

# Runs the command after -- for each name of this run that the command before it lists.
each() {
    local list=() names name
    while [ "$1" != -- ]; do
        list+=("$1")
        shift
    done
    shift
    if ! names=$("${list[@]}" </dev/null); then
        left+=("names with $run, which this lists: $(printf '%q ' "${list[@]}")")
        return
    fi
    for name in $(tr -d ' ' <<<"$names" | grep -E "[a-z0-9_][-_]${run}[-_][0-9a-f]{12}$"); do
        try "${@//NAME/$name}"
    done
}

remove() {
    local kind
    echo "== Removing what run $run has left. Please wait."
    for kind in subscriptions topics; do
        each "${gcloud[@]}" pubsub "$kind" list --format 'value(name)' -- "${gcloud[@]}" pubsub "$kind" delete NAME
    done
    each "${gcloud[@]}" storage buckets list --format 'value(name)' -- "${gcloud[@]}" storage rm --recursive gs://NAME
    each "${bq[@]}" ls --max_results 100000 -- "${bq[@]}" rm --recursive --force --dataset "$PROJECT:NAME"
    try "${documents[@]}" "$PROJECT" "$run"
    [ ${#left[@]} -gt 0 ] || return 0
    printf 'left: %s\n' "${left[@]}" >&2
    echo "These commands failed. All of it again: PROJECT=$PROJECT deploy/try-on-gcp.sh --remove $run" >&2
}

if [ "${1:-}" = --remove ]; then
    unset KEEP_RESOURCES
    set +e
    remove
    [ ${#left[@]} -eq 0 ]
    exit
fi

echo "Run $run makes topics, subscriptions, buckets, datasets and documents in $PROJECT, and removes them."
if [ "${YES:-}" != 1 ]; then
    read -r -p "Go on? [y/N] " answer || answer=n
    [ "$answer" = y ] || refuse "Nothing was created."
fi

# Each kind of call once, so that a missing login or role is known before anything is created.
needs() {
    local what=$1
    shift
    "$@" >/dev/null </dev/null || refuse "That failed, so nothing was created. It needs: $what."
}
needs "gcloud auth login, and the role Pub/Sub Editor" "${gcloud[@]}" pubsub topics list --limit 1
needs "gcloud auth login, and the role Storage Admin" "${gcloud[@]}" storage buckets list --limit 1
needs "gcloud auth login, and the role BigQuery Data Editor" "${bq[@]}" ls --max_results 1
needs "gcloud auth application-default login" gcloud auth application-default print-access-token
# The tests start the binaries of the services.
needs "a build without errors" cargo build --workspace --bins
needs "a build without errors" cargo test --package e2e --test e2e --no-run
needs "gcloud auth application-default login, a Firestore database (default), and the role Cloud Datastore User" \
    "${documents[@]}" --list "$PROJECT" "$run"

logs=$(mktemp -d)
is_testing=
thousands=0 passed=0 failed=0 skipped=0
unfinished=()

# Ends the running tests with all processes that they started, so that they create nothing any more.
stop() {
    [ -n "$is_testing" ] || return 0
    local root=$! family
    family=$(ps -A -o pid=,ppid= | awk -v root="$root" '
        { parent[$1] = $2 }
        END {
            for (pid in parent) {
                above = pid
                while (above != root && above in parent) above = parent[above]
                if (above == root) print pid
            }
        }')
    # shellcheck disable=SC2086 # a list of processes
    kill -TERM $family 2>/dev/null
    for _ in {1..50}; do
        # shellcheck disable=SC2086
        kill -0 $family 2>/dev/null || break
        sleep 0.1
    done
    # shellcheck disable=SC2086
    kill -KILL $family 2>/dev/null
    wait "$root" 2>/dev/null
}

# Adds up the tests of a log. A test that printed SKIPPED has not tested what it is for.
count() {
    local tests
    tests=$(awk '
        /^test [^ ]+ \.\.\. / { test = $2 }
        /SKIPPED:/ { skips[test] = 1 }
        /^test result:/ { passed += $4; failed += $6; ended = 1 }
        END {
            for (test in skips) skipped++
            if (!ended || !(passed + failed)) failed++
            print passed - skipped, failed + 0, skipped + 0
        }' "$logs/$1")
    read -r p f s <<<"$tests"
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    # A test process may fail although no test does.
    if [ "$2" != 0 ] && [ "$f" = 0 ]; then failed=$((failed + 1)); fi
}

# Prices of 2026-11 in the multi-region US, without the free tiers: Pub/Sub 40 USD a TiB, four times for each message of
# 2 KB; Storage Write 0.025 USD a GB; an object 0.000005 USD, one for each ten messages; Firestore 0.0000006 USD a read.
tell_cost() {
    awk -v thousands="$thousands" 'BEGIN {
        messages = thousands * 1000
        cost = messages * (8192 / 1024 ^ 4 * 40 + 2048 / 1e9 * 0.025 + 0.000005 / 10 + 0.0000006)
        printf "Estimate for the checks that were started, at most %d messages: %.2f USD.\n", messages, cost + 0.01
    }'
    echo "It is computed from list prices, not measured. It has what Pub/Sub, the Storage Write API, new objects and"
    echo "reads of Firestore cost. It does not have storage, queries, network, taxes, or what is left above."
}

finish() {
    local code=$?
    trap - EXIT
    trap '' INT TERM HUP
    set +e
    stop
    if [ "${KEEP_RESOURCES-0}" = 0 ]; then
        remove
    else
        echo "Everything is kept. To remove it: PROJECT=$PROJECT deploy/try-on-gcp.sh --remove $run"
    fi
    cat "$logs"/* 2>/dev/null | grep -oE '(FOUND|SKIPPED): .*' | awk '!seen[$0]++'
    rm -r "$logs"
    tell_cost
    [ ${#unfinished[@]} -eq 0 ] || echo "not finished: ${unfinished[*]}"
    echo "$passed passed, $failed failed, $skipped skipped; ${#left[@]} commands of the removal failed"
    if [ "$code" = 0 ] && { [ "$failed" -gt 0 ] || [ "$passed" = 0 ] || [ ${#left[@]} -gt 0 ]; }; then code=1; fi
    exit "$code"
}
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
trap finish EXIT

export DATAFLOW_E2E_PROJECT=$PROJECT DATAFLOW_E2E_RUN=$run DATAFLOW_E2E_QUIET_SECONDS=660
while read -r line; do
    name=${line%% *}
    [ $# -eq 0 ] || [ "$name" = "$1" ] || continue
    unfinished+=("$name")
done < <(checks)
while IFS='|' read -r head tests without; do
    read -r name messages question <<<"$head"
    [ "$name" = "${unfinished[0]:-}" ] || continue
    echo "== $name: $question"
    thousands=$((thousands + messages))
    is_testing=1
    # shellcheck disable=SC2086 # lists of tests
    {
        # The tests run one after the other, because quotas apply to a project.
        cargo test --package e2e --test e2e -- --nocapture --test-threads 1 $tests ${without:+--skip ${without// / --skip }} \
            </dev/null 2>&1 | tee "$logs/$name"
    } &
    code=0
    wait $! || code=$?
    is_testing=
    count "$name" "$code"
    unfinished=("${unfinished[@]:1}")
done < <(checks)
