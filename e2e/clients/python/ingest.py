"""Sends items over gRPC with a client that was generated from the file of the API.

Arguments: the folder of the generated modules, and the address of the port.
Prints PASS or FAIL and the name of each point. The port has a route for sources of one level.
"""

import json
import sys
import threading
import urllib.error
import urllib.request

sys.path.insert(0, sys.argv[1])

import grpc
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

from dataflow.ingest.v1 import ingest_pb2 as pb
from dataflow.ingest.v1 import ingest_pb2_grpc

ADDRESS = sys.argv[2]
CHANNEL = grpc.insecure_channel(ADDRESS)
STUB = ingest_pb2_grpc.IngestStub(CHANNEL)
SECONDS = 30
FAILED = []


def point(check):
    """Runs a check, and prints its outcome."""
    try:
        check()
        print("PASS", check.__name__, flush=True)
    except Exception as error:
        FAILED.append(check.__name__)
        print("FAIL", check.__name__, repr(error)[:500], flush=True)


def item(source="sensor-1", payload=b'{"t": 1.50}', **others):
    return pb.Item(source_id=source, payload=payload, **others)


def publish(*items, **others):
    return STUB.Publish(pb.PublishRequest(items=items, **others), timeout=SECONDS)


def refused(call):
    """Returns the error of a call, and its fields and its wait."""
    try:
        call()
    except grpc.RpcError as error:
        fields, wait = [], None
        status = rpc_status.from_call(error)
        for detail in status.details if status else []:
            request, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
            if detail.Unpack(request):
                fields += [violation.field for violation in request.field_violations]
            if detail.Unpack(retry):
                wait = retry.retry_delay.seconds
        return error.code(), fields, wait
    raise AssertionError("the call was accepted")


def over_http(body, **headers):
    """Posts the same item over HTTP, and returns the status and the answer."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    headers["content-type"] = "application/json"
    request = urllib.request.Request(f"http://{ADDRESS}/ingest", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def one_item():
    results = publish(item()).results
    assert len(results) == 1 and results[0].accepted.id, results
    assert over_http({"sourceId": "sensor-1", "payload": 1})[0] == 202


def the_same_id_as_over_http():
    body = {"sourceId": "sensor-1", "payload": 1}
    assert publish(item(id="7")).results[0].accepted.id == over_http({**body, "id": "7"})[1]["id"]
    keyed = publish(item(), idempotency_key="k").results[0].accepted.id
    assert keyed == over_http(body, idempotency_key="k")[1]["id"]


def a_thousand_items_and_a_wrong_one():
    items = [item(payload=b"%d" % number) for number in range(1000)]
    items[500].ClearField("payload")
    answer = publish(*items)
    wrong = [index for index, one in enumerate(answer.results) if one.HasField("refused")]
    assert wrong == [500] and answer.refused_count == 1, wrong
    refusal = answer.results[500].refused
    assert (refusal.code, refusal.field) == (grpc.StatusCode.INVALID_ARGUMENT.value[0], "payload"), refusal
    assert not refusal.HasField("retry_after")


def a_key_that_is_sent_twice():
    first, again = (publish(item(), item(), idempotency_key="batch-7") for _ in range(2))
    assert first == again
    assert first.results[0].accepted.id != first.results[1].accepted.id


def wrong_items_name_their_field():
    argument = grpc.StatusCode.INVALID_ARGUMENT
    assert refused(lambda: publish(item(source=""))) == (argument, ["items[0].source_id"], None)
    assert refused(lambda: publish(item(id=""))) == (argument, ["items[0].id"], None)
    assert refused(lambda: publish()) == (argument, ["items"], None)
    assert refused(lambda: publish(item("a/b"))) == (grpc.StatusCode.NOT_FOUND, [], None)
    assert refused(lambda: publish(item(payload=b"x" * 2_000_000)))[0] == argument
    assert over_http({"payload": 1})[0] == 400 and over_http({"sourceId": "a/b", "payload": 1})[0] == 404


def a_stream_with_a_wrong_item():
    sources = {number: "a/b" if number == 50 else "sensor-1" for number in range(1, 101)}
    requests = (pb.PublishStreamRequest(sequence=number, item=item(source)) for number, source in sources.items())
    acks = {}
    for answer in STUB.PublishStream(requests, timeout=SECONDS):
        acks.update((ack.sequence, ack.result) for ack in answer.acks)
    assert sorted(acks) == sorted(sources)
    assert [number for number, one in acks.items() if one.HasField("refused")] == [50]
    assert acks[50].refused.reason == "no_route"


def a_stream_that_stays_open():
    may_end = threading.Event()

    def requests():
        yield pb.PublishStreamRequest(sequence=9, item=item())
        may_end.wait(SECONDS)

    answers = STUB.PublishStream(requests(), timeout=SECONDS)
    assert [ack.sequence for ack in next(answers).acks] == [9]
    may_end.set()
    assert list(answers) == []


def a_stream_with_a_wrong_number():
    requests = [pb.PublishStreamRequest(sequence=number, item=item()) for number in (5, 5)]
    code, fields, _ = refused(lambda: list(STUB.PublishStream(iter(requests), timeout=SECONDS)))
    assert (code, fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["sequence"])


def compression_is_not_supported():
    compressed = grpc.insecure_channel(ADDRESS, compression=grpc.Compression.Gzip)
    request = pb.PublishRequest(items=[item(payload=b" " * 1000)])
    call = lambda: ingest_pb2_grpc.IngestStub(compressed).Publish(request, timeout=SECONDS)
    assert refused(call)[0] == grpc.StatusCode.UNIMPLEMENTED


def health_is_serving():
    stub = health_pb2_grpc.HealthStub(CHANNEL)
    for name in ("", "dataflow.ingest.v1.Ingest"):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=SECONDS)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING, answer


def reflection_lists_the_service():
    database = ProtoReflectionDescriptorDatabase(CHANNEL)
    assert "dataflow.ingest.v1.Ingest" in database.get_services()
    file = database.FindFileContainingSymbol("dataflow.ingest.v1.Ingest")
    assert file.name == "dataflow/ingest/v1/ingest.proto"


for check in (
    one_item,
    the_same_id_as_over_http,
    a_thousand_items_and_a_wrong_one,
    a_key_that_is_sent_twice,
    wrong_items_name_their_field,
    a_stream_with_a_wrong_item,
    a_stream_that_stays_open,
    a_stream_with_a_wrong_number,
    compression_is_not_supported,
    health_is_serving,
    reflection_lists_the_service,
):
    point(check)
sys.exit(1 if FAILED else 0)
