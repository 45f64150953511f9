"""Tests Pub/Sub with Google's Python client."""

import datetime
import http.server
import json
import queue
import threading
import time

from google.api_core.exceptions import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from google.cloud import pubsub_v1
from google.pubsub_v1 import types
from google.pubsub_v1.services.schema_service import SchemaServiceClient
from google.pubsub_v1.services.schema_service.transports import SchemaServiceGrpcTransport
import grpc
import os
from points import absent, point, run

PROJECT = "project"
# Longest wait for an expected event, in seconds.
PATIENCE = 60
publisher = pubsub_v1.PublisherClient()
subscriber = pubsub_v1.SubscriberClient()
topic = publisher.topic_path(PROJECT, "python")


def equal(found, expected):
    assert found == expected, f"{found!r} is not {expected!r}"


def subscription(name, **settings):
    """Creates a subscription to the topic and returns its path."""
    path = subscriber.subscription_path(PROJECT, name)
    subscriber.create_subscription(request={"name": path, "topic": topic, **settings})
    return path


def publish(*texts, **attributes):
    futures = [publisher.publish(topic, text.encode(), **attributes) for text in texts]
    return [future.result(timeout=PATIENCE) for future in futures]


def pull(path, count=1):
    """Pulls until `count` messages have arrived, and acknowledges them."""
    received, end = [], time.monotonic() + PATIENCE
    while len(received) < count and time.monotonic() < end:
        request = {"subscription": path, "max_messages": count}
        pulled = subscriber.pull(request=request, timeout=PATIENCE).received_messages
        received.extend(pulled)
        if pulled:
            ids = [one.ack_id for one in pulled]
            subscriber.acknowledge(request={"subscription": path, "ack_ids": ids})
    return [one.message.data.decode() for one in received]


def left(path):
    """Pulls the messages that are available now, without acknowledgement."""
    request = {"subscription": path, "max_messages": 10, "return_immediately": True}
    pulled = subscriber.pull(request=request).received_messages
    return [one.message.data.decode() for one in pulled]


@point("create, list and update topics")
def _():
    publisher.create_topic(request={"name": topic, "labels": {"a": "b"}})
    try:
        publisher.create_topic(request={"name": topic})
        raise AssertionError("created twice")
    except AlreadyExists:
        pass
    assert topic in [one.name for one in publisher.list_topics(request={"project": f"projects/{PROJECT}"})]
    update = {"topic": {"name": topic, "labels": {"c": "d"}}, "update_mask": {"paths": ["labels"]}}
    equal(dict(publisher.update_topic(request=update).labels), {"c": "d"})


@point("publish and receive by a stream")
def _():
    path = subscription("stream")
    ids = publish("one", "two", key="value")
    received = queue.Queue()

    def callback(message):
        received.put((message.message_id, dict(message.attributes)))
        message.ack()

    with pubsub_v1.SubscriberClient() as own:
        streaming = own.subscribe(path, callback=callback)
        found = [received.get(timeout=PATIENCE) for _ in ids]
        streaming.cancel()
        streaming.result(timeout=PATIENCE)
    equal(sorted(found), sorted((one, {"key": "value"}) for one in ids))


@point("publish and pull")
def _():
    path = subscription("pull")
    publish("one", "two")
    equal(sorted(pull(path, 2)), ["one", "two"])


@point("a nacked message comes again")
def _():
    path = subscription("nack")
    publish("again")
    pulled = subscriber.pull(request={"subscription": path, "max_messages": 1}).received_messages
    ids = [pulled[0].ack_id]
    request = {"subscription": path, "ack_ids": ids, "ack_deadline_seconds": 0}
    subscriber.modify_ack_deadline(request=request)
    equal(pull(path), ["again"])


@point("ordering keys")
def _():
    path = subscription("ordered", enable_message_ordering=True)
    options = pubsub_v1.types.PublisherOptions(enable_message_ordering=True)
    ordered = pubsub_v1.PublisherClient(publisher_options=options)
    texts = [str(index) for index in range(20)]
    for future in [ordered.publish(topic, one.encode(), ordering_key="k") for one in texts]:
        future.result(timeout=PATIENCE)
    equal(pull(path, 20), texts)


@point("exactly-once acknowledgements")
def _():
    path = subscription("exactly", enable_exactly_once_delivery=True)
    publish("once")
    acknowledged = queue.Queue()
    with pubsub_v1.SubscriberClient() as own:

        def callback(message):
            acknowledged.put(message.ack_with_response())

        streaming = own.subscribe(path, callback=callback)
        result = acknowledged.get(timeout=PATIENCE).result(timeout=PATIENCE)
        equal(result, pubsub_v1.subscriber.exceptions.AcknowledgeStatus.SUCCESS)
        streaming.cancel()
        streaming.result(timeout=PATIENCE)


@point("filters")
def _():
    path = subscription("filtered", filter='attributes.kind = "a" OR attributes:other')
    publish("yes", kind="a")
    publish("no", kind="b")
    publish("too", other="")
    equal(pull(path, 2), ["yes", "too"])
    equal(left(path), [])
    try:
        subscription("wrong", filter="kind = a")
        raise AssertionError("a wrong filter was taken")
    except InvalidArgument:
        pass


@point("seek to a time")
def _():
    path = subscription("seek", retain_acked_messages=True)
    before = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(minutes=1)
    publish("kept")
    equal(pull(path), ["kept"])
    subscriber.seek(request={"subscription": path, "time": before})
    equal(pull(path), ["kept"])
    publish("dropped")
    subscriber.seek(request={"subscription": path, "time": before + datetime.timedelta(minutes=9)})
    equal(left(path), [])


@point("snapshots")
def _():
    path = subscription("snapped")
    snapshot = subscriber.snapshot_path(PROJECT, "snapshot")
    publish("open")
    subscriber.create_snapshot(request={"name": snapshot, "subscription": path})
    equal(pull(path), ["open"])
    subscriber.seek(request={"subscription": path, "snapshot": snapshot})
    equal(pull(path), ["open"])
    project = {"project": f"projects/{PROJECT}"}
    equal([one.name for one in subscriber.list_snapshots(request=project)], [snapshot])
    subscriber.delete_snapshot(request={"snapshot": snapshot})
    try:
        subscriber.get_snapshot(request={"snapshot": snapshot})
        raise AssertionError("a deleted snapshot is there")
    except NotFound:
        pass


class Endpoint(http.server.BaseHTTPRequestHandler):
    """Refuses the first request and accepts all others."""

    received = queue.Queue()
    refusals = 1

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        refused, Endpoint.refusals = Endpoint.refusals > 0, Endpoint.refusals - 1
        self.send_response(503 if refused else 204)
        self.end_headers()
        if not refused:
            Endpoint.received.put(body)

    def log_message(self, *_):
        pass


@point("push to an endpoint of this machine")
def _():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/push"
    path = subscription("push", push_config={"push_endpoint": url})
    publish("pushed", key="value")
    body = Endpoint.received.get(timeout=PATIENCE)
    equal((body["subscription"], body["message"]["attributes"]), (path, {"key": "value"}))
    subscriber.modify_push_config(request={"subscription": path, "push_config": {}})
    server.shutdown()
    try:
        subscription("elsewhere", push_config={"push_endpoint": "https://example.com/push"})
        raise AssertionError("another machine was taken for an endpoint")
    except InvalidArgument as error:
        assert "this machine" in str(error), error


@point("dead letters")
def _():
    dead = publisher.topic_path(PROJECT, "python-dead")
    publisher.create_topic(request={"name": dead})
    buried = subscriber.subscription_path(PROJECT, "buried")
    subscriber.create_subscription(request={"name": buried, "topic": dead})
    policy = {"dead_letter_topic": dead, "max_delivery_attempts": 5}
    path = subscription("dying", dead_letter_policy=policy)
    publish("dead")
    for _ in range(5):
        request = {"subscription": path, "max_messages": 1}
        pulled = subscriber.pull(request=request, timeout=PATIENCE).received_messages
        request = {"subscription": path, "ack_ids": [pulled[0].ack_id], "ack_deadline_seconds": 0}
        subscriber.modify_ack_deadline(request=request)
    equal(pull(buried), ["dead"])


@point("detach")
def _():
    path = subscription("detached")
    publisher.detach_subscription(request={"subscription": path})
    equal(subscriber.get_subscription(request={"subscription": path}).detached, True)
    try:
        left(path)
        raise AssertionError("a detached subscription was pulled from")
    except FailedPrecondition:
        pass


@point("update a subscription")
def _():
    path = subscription("updated")
    changed = types.Subscription(name=path, ack_deadline_seconds=42)
    request = {"subscription": changed, "update_mask": {"paths": ["ack_deadline_seconds"]}}
    equal(subscriber.update_subscription(request=request).ack_deadline_seconds, 42)


@point("permissions")
def _():
    request = {"resource": topic, "permissions": ["pubsub.topics.publish"]}
    equal(list(publisher.test_iam_permissions(request=request).permissions), ["pubsub.topics.publish"])


@point("delete")
def _():
    path = subscription("deleted")
    subscriber.delete_subscription(request={"subscription": path})
    gone = publisher.topic_path(PROJECT, "python-gone")
    publisher.create_topic(request={"name": gone})
    publisher.delete_topic(request={"topic": gone})
    try:
        publisher.get_topic(request={"topic": gone})
        raise AssertionError("a deleted topic is there")
    except NotFound:
        pass


@absent("IAM policies", "IAMPolicy/GetIamPolicy")
def _():
    publisher.get_iam_policy(request={"resource": topic})


@absent("schemas", "SchemaService/ListSchemas")
def _():
    channel = grpc.insecure_channel(os.environ["PUBSUB_EMULATOR_HOST"])
    schemas = SchemaServiceClient(transport=SchemaServiceGrpcTransport(channel=channel))
    list(schemas.list_schemas(request={"parent": f"projects/{PROJECT}"}))


@absent("tokens of pushes", "oidc_token")
def _():
    token = {"service_account_email": "a@example.com"}
    push = {"push_endpoint": "http://127.0.0.1:1/", "oidc_token": token}
    subscription("token", push_config=push)


@absent("subscriptions that write to BigQuery", "bigquery_config")
def _():
    subscription("table", bigquery_config={"table": "p.d.t"})


@absent("subscriptions that write to Cloud Storage", "cloud_storage_config")
def _():
    subscription("bucket", cloud_storage_config={"bucket": "b"})


run()
