"""Prints the table of results: one line for each file of tests."""

import collections
import json
import pathlib
import re
import sys

out = pathlib.Path(sys.argv[1]) / "out"
RUNS = {"storage": "Cloud Storage, unchanged", "storage-unversioned": "Cloud Storage",
        "pubsub": "Pub/Sub", "firestore": "Firestore", "firestore-no-excuses": "Firestore, without the skips for emulators",
        "bigquery": "BigQuery"}
REFUSED = re.compile(r"-> 501 |UNIMPLEMENTED|MethodNotImplemented|NotImplemented: 501|does not support|status code', 501")


def results(run):
    path = out / f"{run}.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    found = {}
    for line in lines:
        one = json.loads(line)
        found[one["test"]] = one  # The last try counts.
    return list(found.values())


def unsupported(one):
    return bool(REFUSED.search(one["text"]) or any(REFUSED.search(call) for call in one.get("refused", [])))


def main():
    print("| service | test file | passed | failed | of these: answered 501 | not applicable |")
    print("|---|---|---|---|---|---|")
    for run, service in RUNS.items():
        files = collections.defaultdict(collections.Counter)
        for one in results(run):
            counts = files[one["test"].split("::")[0]]
            counts[one["outcome"]] += 1
            counts["501"] += one["outcome"] == "failed" and unsupported(one)
        for name, counts in sorted(files.items()):
            short = name.removeprefix("tests/")
            print(f"| {service} | `{short}` | {counts['passed']} | {counts['failed']} | {counts['501']} | {counts['skipped']} |")
        total = sum(files.values(), collections.Counter())
        if files:
            print(f"| **{service}** | **all** | **{total['passed']}** | **{total['failed']}** | **{total['501']}** | **{total['skipped']}** |")


main()
