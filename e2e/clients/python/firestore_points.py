"""Tests Firestore with Google's Python client: each function is a point that must pass.

FIRESTORE_EMULATOR_HOST is the address of the emulator. The program prints a line for each point.
Its exit code is 1 if a point fails.
"""

import asyncio
import datetime
import os
import queue
import sys
import threading
import traceback

from google.api_core import exceptions
from google.cloud import firestore
from google.cloud.firestore_v1.base_query import FieldFilter, Or

PATIENCE = 30
"""Longest wait for the result of a listener, in seconds."""

TIME = datetime.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=datetime.timezone.utc)


def client(point):
    """Returns a client with a separate project."""
    return firestore.Client(project="python-" + point.replace("_", "-"))


def ids(query):
    return [found.id for found in query.stream()]


def cities(db):
    """Writes the cities of Google's guide, and returns their collection."""
    cities = db.collection("cities")
    for id, name, state, country, capital, population, regions in [
        ("SF", "San Francisco", "CA", "USA", False, 860000, ["west_coast", "norcal"]),
        ("LA", "Los Angeles", "CA", "USA", False, 3900000, ["west_coast", "socal"]),
        ("DC", "Washington D.C.", None, "USA", True, 680000, ["east_coast"]),
        ("TOK", "Tokyo", None, "Japan", True, 9000000, ["kanto", "honshu"]),
        ("BJ", "Beijing", None, "China", True, 21500000, ["jingjinji", "hebei"]),
    ]:
        cities.document(id).set(
            {
                "name": name,
                "state": state,
                "country": country,
                "capital": capital,
                "population": population,
                "regions": regions,
            }
        )
    return cities


def quick_start(db):
    db.collection("users").document("alovelace").set(
        {"first": "Ada", "last": "Lovelace", "born": 1815}
    )
    db.collection("users").document("aturing").set(
        {"first": "Alan", "middle": "Mathison", "last": "Turing", "born": 1912}
    )
    found = {doc.id: doc.to_dict() for doc in db.collection("users").stream()}
    assert found["alovelace"] == {"first": "Ada", "last": "Lovelace", "born": 1815}, found
    assert len(found) == 2, found


def all_types_come_back(db):
    value = {
        "null": None,
        "bool": True,
        "int": 2**62,
        "double": 1.5,
        "time": TIME,
        "text": "ü",
        "bytes": b"\x00\xff",
        "point": firestore.GeoPoint(1.5, -2.5),
        "list": [1, "a", {"b": 2}],
        "map": {"a": {"b": [1]}},
    }
    document = db.document("c/d")
    document.set(value | {"reference": document})
    assert document.get().to_dict() == value | {"reference": document}


def fields_are_set_merged_and_deleted(db):
    document = db.document("c/d")
    document.set({"a": {"b": 1, "c": 2}, "e": 1, "with-dash": 1})
    document.update({"a.b": 9, "e": firestore.DELETE_FIELD, "`with-dash`": 2})
    assert document.get().to_dict() == {"a": {"b": 9, "c": 2}, "with-dash": 2}
    document.set({"a": {"d": 3}}, merge=True)
    assert document.get(["a.d", "a.c"]).to_dict() == {"a": {"c": 2, "d": 3}}
    document.set({"new": 1})
    assert document.get().to_dict() == {"new": 1}
    document.delete()
    assert not document.get().exists


def preconditions_hold(db):
    document = db.document("c/d")
    document.create({"a": 1})
    for refused, act in [
        (exceptions.AlreadyExists, lambda: document.create({})),
        (exceptions.NotFound, lambda: db.document("c/none").update({"a": 1})),
        (
            exceptions.FailedPrecondition,
            lambda: document.update({"a": 2}, db.write_option(last_update_time=TIME)),
        ),
    ]:
        try:
            act()
        except refused:
            continue
        raise AssertionError(f"{refused} expected")
    time = document.get().update_time
    document.update({"a": 3}, db.write_option(last_update_time=time))
    assert document.get().get("a") == 3


def transforms_have_their_effect(db):
    document = db.document("c/d")
    document.set({"count": 1, "list": [1, 2], "high": 5, "low": 5})
    document.update(
        {
            "count": firestore.Increment(2),
            "half": firestore.Increment(0.5),
            "list": firestore.ArrayUnion([2, 3]),
            "other": firestore.ArrayRemove([1]),
            "high": firestore.Maximum(7),
            "low": firestore.Minimum(7),
            "at": firestore.SERVER_TIMESTAMP,
        }
    )
    found = document.get().to_dict()
    assert isinstance(found.pop("at"), datetime.datetime)
    expected = {"count": 3, "half": 0.5, "list": [1, 2, 3], "other": [], "high": 7, "low": 5}
    assert found == expected, found
    document.update({"list": firestore.ArrayRemove([1, 3])})
    assert document.get().get("list") == [2]


def queries_filter(db):
    c = cities(db)
    for filter, expected in [
        (("capital", "==", True), ["BJ", "DC", "TOK"]),
        (("population", "<", 860000), ["DC"]),
        (("population", ">=", 3900000), ["LA", "TOK", "BJ"]),
        (("country", "!=", "USA"), ["BJ", "TOK"]),
        (("country", "in", ["China", "Japan"]), ["BJ", "TOK"]),
        (("country", "not-in", ["USA", "Japan"]), ["BJ"]),
        (("regions", "array_contains", "west_coast"), ["LA", "SF"]),
        (("regions", "array_contains_any", ["socal", "hebei"]), ["BJ", "LA"]),
        (("state", "==", None), ["BJ", "DC", "TOK"]),
        (("state", "!=", None), ["LA", "SF"]),
    ]:
        found = ids(c.where(filter=FieldFilter(*filter)))
        assert found == expected, (filter, found)
    both = c.where(filter=FieldFilter("state", "==", "CA"))
    both = both.where(filter=FieldFilter("population", ">", 1000000))
    assert ids(both) == ["LA"]
    either = Or([FieldFilter("capital", "==", False), FieldFilter("country", "==", "Japan")])
    assert ids(c.where(filter=either)) == ["LA", "SF", "TOK"]
    by_name = c.where(filter=FieldFilter("__name__", ">", c.document("LA")))
    assert ids(by_name) == ["SF", "TOK"]


def queries_order_page_and_project(db):
    c = cities(db)
    by_size = c.order_by("population")
    assert ids(by_size.limit(2)) == ["DC", "SF"]
    assert ids(by_size.offset(3)) == ["TOK", "BJ"]
    down = firestore.Query.DESCENDING
    assert ids(c.order_by("country").order_by("population", direction=down)) == [
        "BJ",
        "TOK",
        "LA",
        "SF",
        "DC",
    ]
    # This reverses the order of its base query, so it needs a separate one.
    last = c.order_by("population").limit_to_last(2)
    assert [found.id for found in last.get()] == ["TOK", "BJ"]
    assert ids(by_size.start_at({"population": 3900000})) == ["LA", "TOK", "BJ"]
    assert ids(by_size.start_after(c.document("LA").get())) == ["TOK", "BJ"]
    assert ids(by_size.end_before({"population": 3900000})) == ["DC", "SF"]
    assert ids(by_size.end_at({"population": 860000})) == ["DC", "SF"]
    shown = c.select(["name"]).limit(1).get()[0]
    assert shown.to_dict() == {"name": "Beijing"}, shown.to_dict()


def queries_look_into_collection_groups(db):
    for city, landmark in [("SF", "bridge"), ("LA", "sign"), ("LA", "museum")]:
        db.document(f"cities/{city}/landmarks/{landmark}").set({"kind": landmark})
    group = db.collection_group("landmarks")
    assert ids(group) == ["museum", "sign", "bridge"], ids(group)
    assert ids(group.where(filter=FieldFilter("kind", "==", "sign"))) == ["sign"]
    assert ids(db.collection("cities/LA/landmarks")) == ["museum", "sign"]


def aggregations_count_and_sum(db):
    c = cities(db)
    query = c.where(filter=FieldFilter("country", "==", "USA"))
    assert query.count(alias="all").get()[0][0].value == 3
    assert query.sum("population", alias="sum").get()[0][0].value == 5440000
    average = query.avg("population", alias="avg").get()[0][0].value
    assert abs(average - 5440000 / 3) < 1e-6, average


def transactions_read_and_write(db):
    document = db.document("c/counter")
    document.set({"count": 0})

    @firestore.transactional
    def increase(transaction):
        count = document.get(transaction=transaction).get("count")
        transaction.update(document, {"count": count + 1})
        return count + 1

    assert increase(db.transaction()) == 1
    threads = [
        threading.Thread(target=lambda: increase(db.transaction(max_attempts=30)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert document.get().get("count") == 4


def transactions_query_and_roll_back(db):
    c = cities(db)

    @firestore.transactional
    def fail(transaction):
        query = c.where(filter=FieldFilter("country", "==", "USA"))
        for found in query.stream(transaction=transaction):
            transaction.delete(found.reference)
        raise KeyError("wanted")

    try:
        fail(db.transaction())
    except KeyError:
        pass
    assert len(ids(c)) == 5

    @firestore.transactional
    def read(transaction):
        return len(list(c.stream(transaction=transaction)))

    assert read(db.transaction(read_only=True)) == 5


def batches_write_all(db):
    batch = db.batch()
    for number in range(3):
        batch.set(db.document(f"c/{number}"), {"number": number})
    batch.delete(db.document("c/0"))
    batch.update(db.document("c/1"), {"number": 9})
    batch.commit()
    assert [found.get("number") for found in db.collection("c").stream()] == [9, 2]


def bulk_writer_writes_all(db):
    errors = []
    writer = db.bulk_writer()
    writer.on_write_error(lambda error, _: errors.append(error) and False)
    for number in range(50):
        writer.create(db.document(f"c/{number:02}"), {"number": number})
    writer.close()
    assert not errors, errors
    assert db.collection("c").count().get()[0][0].value == 50


def documents_are_read_together(db):
    db.document("c/a").set({"a": 1})
    found = {doc.id: doc.exists for doc in db.get_all([db.document("c/a"), db.document("c/b")])}
    assert found == {"a": True, "b": False}


def collections_and_documents_are_listed(db):
    db.document("c/a").set({})
    db.document("c/b/sub/d").set({})
    db.document("e/f").set({})
    assert [found.id for found in db.collections()] == ["c", "e"]
    assert [found.id for found in db.document("c/b").collections()] == ["sub"]
    assert [found.id for found in db.collection("c").list_documents()] == ["a", "b"]
    assert [found.id for found in db.collection("c").list_documents(page_size=1)] == ["a", "b"]


def recursive_delete_deletes_all(db):
    db.document("c/a/sub/d").set({})
    db.document("c/a").set({})
    db.document("other/a").set({})
    db.recursive_delete(db.collection("c"))
    assert ids(db.collection("c")) == [] and ids(db.collection("c/a/sub")) == []
    assert ids(db.collection("other")) == ["a"]


def a_document_is_listened_to(db):
    document = db.document("c/d")
    seen = queue.Queue()
    watch = document.on_snapshot(
        lambda docs, changes, time: seen.put([doc.to_dict() for doc in docs if doc.exists])
    )
    try:
        assert seen.get(timeout=PATIENCE) == []
        document.set({"a": 1})
        assert seen.get(timeout=PATIENCE) == [{"a": 1}]
        document.update({"a": 2})
        assert seen.get(timeout=PATIENCE) == [{"a": 2}]
        document.delete()
        assert seen.get(timeout=PATIENCE) == []
    finally:
        watch.unsubscribe()


def a_query_is_listened_to(db):
    c = db.collection("c")
    c.document("old").set({"a": 1})
    seen = queue.Queue()
    query = c.where(filter=FieldFilter("a", ">", 0)).order_by("a").limit(2)
    watch = query.on_snapshot(
        lambda docs, changes, time: seen.put(
            ([doc.id for doc in docs], sorted((c.type.name, c.document.id) for c in changes))
        )
    )
    try:
        assert seen.get(timeout=PATIENCE) == (["old"], [("ADDED", "old")])
        c.document("new").set({"a": 2})
        assert seen.get(timeout=PATIENCE) == (["old", "new"], [("ADDED", "new")])
        c.document("old").update({"a": 3})
        assert seen.get(timeout=PATIENCE) == (["new", "old"], [("MODIFIED", "old")])
        c.document("first").set({"a": 1})
        assert seen.get(timeout=PATIENCE) == (
            ["first", "new"],
            [("ADDED", "first"), ("REMOVED", "old")],
        )
        c.document("new").update({"a": 0})
        assert seen.get(timeout=PATIENCE) == (
            ["first", "old"],
            [("ADDED", "old"), ("REMOVED", "new")],
        )
    finally:
        watch.unsubscribe()


def the_async_client_works(db):
    async def run():
        db = firestore.AsyncClient(project="python-async")
        await db.document("c/d").set({"a": 1})

        @firestore.async_transactional
        async def increase(transaction):
            found = await db.document("c/d").get(transaction=transaction)
            transaction.update(db.document("c/d"), {"a": found.get("a") + 1})

        await increase(db.transaction())
        query = db.collection("c").where(filter=FieldFilter("a", "==", 2))
        assert [found.id async for found in query.stream()] == ["d"]

    asyncio.run(run())


# Google's emulator does not support partitions.
def collection_groups_are_partitioned(db):
    for number in range(10):
        db.document(f"p/a/c/{number}").set({})
    parts = list(db.collection_group("c").get_partitions(3))
    # Three split points give four partitions.
    assert len(parts) == 4, parts
    assert [found.id for part in parts for found in part.query().stream()] == [
        str(number) for number in range(10)
    ]


POINTS = [
    quick_start,
    all_types_come_back,
    fields_are_set_merged_and_deleted,
    preconditions_hold,
    transforms_have_their_effect,
    queries_filter,
    queries_order_page_and_project,
    queries_look_into_collection_groups,
    aggregations_count_and_sum,
    transactions_read_and_write,
    transactions_query_and_roll_back,
    batches_write_all,
    bulk_writer_writes_all,
    documents_are_read_together,
    collections_and_documents_are_listed,
    recursive_delete_deletes_all,
    a_document_is_listened_to,
    a_query_is_listened_to,
    the_async_client_works,
]


def main():
    points = POINTS if "common" in sys.argv else POINTS + [collection_groups_are_partitioned]
    failed = 0
    for point in points:
        try:
            point(client(point.__name__))
            print("PASS", point.__name__, flush=True)
        except Exception:
            failed += 1
            print("FAIL", point.__name__, traceback.format_exc(), flush=True)
    print(len(points) - failed, "of", len(points), "points pass", flush=True)
    # Threads of a listener must not delay the exit.
    os._exit(1 if failed else 0)


main()
