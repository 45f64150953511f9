"""A pytest plugin that points Google's own system tests at the embedded cloud.

It changes no test. It does four things before the tests are imported:

1. `google.auth.default()` answers with credentials that ask nobody for a token.
2. Channels of gRPC are insecure, and names of Google's hosts lead to the embedded cloud.
3. The same for requests of HTTP.
4. Tests that cannot apply to an emulator are skipped, with the reason in `not_applicable.txt`.

Variables: EMBEDDED_ADDRESS (127.0.0.1:PORT), EMBEDDED_SERVICE (storage, pubsub, firestore, bigquery),
EMBEDDED_UNVERSIONED=1 (the shared bucket of the tests of Cloud Storage is created without versioning),
EMBEDDED_NO_EXCUSES=1 (tests that Google skips on its own emulators run, too).
"""

import json
import os
import pathlib
import re
import urllib.parse

ADDRESS = os.environ["EMBEDDED_ADDRESS"]
SERVICE = os.environ["EMBEDDED_SERVICE"]
PROJECT = os.environ.get("EMBEDDED_PROJECT", "embedded")
HERE = pathlib.Path(__file__).parent
os.environ.update({
    "GOOGLE_CLOUD_PROJECT": PROJECT,
    "GCLOUD_PROJECT": PROJECT,
    "GOOGLE_API_USE_CLIENT_CERTIFICATE": "false",
    "GOOGLE_CLOUD_DISABLE_DIRECT_PATH": "true",
    "NO_GCE_CHECK": "true",
    # conftest.py of Cloud Storage sets it, too, but must do so before the first import.
    "ENABLE_GCS_PYTHON_CLIENT_OTEL_TRACES": "true",
    "STORAGE_EMULATOR_HOST": f"http://{ADDRESS}",
    "BIGQUERY_EMULATOR_HOST": f"http://{ADDRESS}",
    "PUBSUB_EMULATOR_HOST": ADDRESS,
    "FIRESTORE_EMULATOR_HOST": ADDRESS,
})

if SERVICE == "pubsub":
    # With this variable the client cannot use REST. Its own host names lead to the embedded cloud, too.
    del os.environ["PUBSUB_EMULATOR_HOST"]

import google.auth  # noqa: E402
import grpc  # noqa: E402
import pytest  # noqa: E402
import requests.adapters  # noqa: E402
from cryptography.hazmat.primitives import serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: E402
from google.api_core import grpc_helpers, grpc_helpers_async  # noqa: E402
from google.auth import crypt  # noqa: E402
from google.oauth2 import service_account  # noqa: E402


class Account(service_account.Credentials):
    """A service account with a key of its own. Its token is made up."""

    def refresh(self, request):
        self.token, self.expiry = "embedded", None

    @property
    def valid(self):
        return self.token is not None

    def _make_copy(self):
        copy = super()._make_copy()
        copy.token = "embedded"
        return copy


def account():
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    email = f"tests@{PROJECT}.iam.gserviceaccount.com"
    made = Account(crypt.RSASigner.from_string(pem), email, "http://127.0.0.1:9/no-token", project_id=PROJECT)
    made.token = "embedded"
    return made


ACCOUNT = account()


def default(scopes=None, request=None, quota_project_id=None, default_scopes=None):
    return ACCOUNT, PROJECT


google.auth.default = default


# gRPC.
def target_of(target):
    return ADDRESS if ".googleapis.com" in target else target


def options_of(kwargs):
    return kwargs.get("options") or []


def channel(target, *args, **kwargs):
    return grpc.insecure_channel(target_of(target), options=options_of(kwargs))


def async_channel(target, *args, **kwargs):
    return grpc.aio.insecure_channel(target_of(target), options=options_of(kwargs))


grpc_helpers.create_channel = channel
grpc_helpers_async.create_channel = async_channel


# HTTP.
def url_of(url):
    split = urllib.parse.urlsplit(url)
    host = split.hostname or ""
    if split.netloc == ADDRESS:
        return split._replace(scheme="http").geturl()
    path = split.path
    own = ADDRESS.rsplit(":", 1)[0]
    bucket = None
    for end in (".storage.googleapis.com", f".{own}"):
        if host.endswith(end):
            bucket = host[: -len(end)]
    if bucket:
        path = f"/{bucket}{path}"
    elif not host.endswith(".googleapis.com"):
        return url
    return split._replace(scheme="http", netloc=ADDRESS, path=path).geturl()


_send = requests.adapters.HTTPAdapter.send
CALLS = HERE.parent / "out" / f"{SERVICE}.calls"


def send(self, request, **kwargs):
    request.url = url_of(request.url)
    response = _send(self, request, **kwargs)
    if response.status_code >= 400:
        try:
            body = "" if kwargs.get("stream") and response.raw.isclosed() else response.text[:400]
        except Exception as error:  # A stream that breaks.
            body = repr(error)
        refused(f"{request.method} {request.url} -> {response.status_code} {' '.join(body.split())}")
    return response


requests.adapters.HTTPAdapter.send = send
_now = {"test": None, "refused": []}


def refused(text):
    _now["refused"].append(text)


# Cloud Storage.
if SERVICE == "storage":
    from google.cloud import storage

    _client = storage.Client.__init__

    def client(self, project=storage.client._marker, credentials=None, *args, **kwargs):
        # With STORAGE_EMULATOR_HOST the client has no credentials of its own, and could not sign.
        _client(self, project, credentials or ACCOUNT, *args, **kwargs)

    storage.Client.__init__ = client
    if os.environ.get("EMBEDDED_UNVERSIONED"):
        _create = storage.Bucket.create

        def create(self, *args, **kwargs):
            if re.fullmatch(r"gcp-systest-\d+.*", self.name):
                self._properties.pop("versioning", None)
                self._changes.discard("versioning")
            return _create(self, *args, **kwargs)

        storage.Bucket.create = create


# Skips.
def pytest_plugin_registered(plugin, manager):
    # The tests skip what "does not yet support endpoint override". It does here.
    if SERVICE == "storage" and str(getattr(plugin, "__file__", "")).endswith("tests/system/conftest.py"):
        plugin._helpers.is_api_endpoint_override = False


def pytest_configure(config):
    if SERVICE == "firestore" and os.environ.get("EMBEDDED_NO_EXCUSES"):
        import sys

        sys.path.insert(0, str(HERE.parent / "tests" / "firestore" / "tests" / "system"))
        import test__helpers

        test__helpers.FIRESTORE_EMULATOR = False


def not_applicable():
    found = []
    for line in (HERE / "not_applicable.txt").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            service, pattern, reason = line.split(None, 2)
            if service == SERVICE:
                found.append((re.compile(pattern), reason))
    return found


def pytest_collection_modifyitems(items):
    for pattern, reason in not_applicable():
        for item in items:
            if pattern.search(item.nodeid):
                item.add_marker(pytest.mark.skip(reason=f"not applicable: {reason}"))


# Results, one JSON line a test.
RESULTS = os.environ.get("EMBEDDED_RESULTS")
_outcomes = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.excinfo is not None and report.failed:
        entries = [one for one in call.excinfo.traceback if "/tests/" in str(one.path)]
        report.sections.append(("embedded", json.dumps({
            "text": f"[{call.when}] {call.excinfo.type.__name__}: {call.excinfo.value}"[:1500],
            "place": f"{pathlib.Path(entries[-1].path).name}:{entries[-1].lineno + 1}" if entries else None,
        })))
    return report


def pytest_runtest_logreport(report):
    known = _outcomes.setdefault(
        report.nodeid, {"test": report.nodeid, "outcome": "passed", "text": "", "seconds": 0.0, "subtests_skipped": 0}
    )
    is_part = type(report).__name__ == "SubtestReport"
    known["seconds"] = round(known["seconds"] + (0 if is_part else report.duration), 2)
    if report.outcome == "failed":
        known["outcome"] = "failed"
        for name, text in report.sections:
            if name == "embedded":
                known["text"] += json.loads(text)["text"] + "\n"
                known.setdefault("place", json.loads(text)["place"])
        if not known["text"]:
            known["text"] = report.longreprtext[-1500:]
    elif report.outcome == "skipped":
        if is_part:
            known["subtests_skipped"] += 1
        elif known["outcome"] != "failed":
            known["outcome"] = "skipped"
            known["text"] = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)[:500]
    elif report.outcome == "rerun":
        known.update({"outcome": "passed", "text": ""})


def pytest_runtest_setup(item):
    _now["refused"] = []


def pytest_runtest_logfinish(nodeid, location):
    known = _outcomes.pop(nodeid, None)
    if known and RESULTS:
        known["refused"] = _now["refused"][-12:]
        with open(RESULTS, "a") as file:
            file.write(json.dumps(known) + "\n")
