"""Tests Cloud Storage with Google's Python client."""

import gzip
import io
import os
import tempfile
import urllib.request

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.api_core.exceptions import NotFound, PreconditionFailed
from google.cloud import storage
from google.cloud.storage import transfer_manager
from google.oauth2 import service_account
from points import absent, point, run

client = storage.Client()
bucket = client.bucket("python-clients")
large = bytes(range(256)) * 4096


def put(name, content="x"):
    blob = bucket.blob(name)
    blob.upload_from_string(content)
    return blob


def equal(found, expected):
    assert found == expected, f"{found!r} is not {expected!r}"


@point("create, get and list buckets")
def _():
    created = client.create_bucket("python-clients", location="EU")
    equal((created.location, created.storage_class), ("EU", "STANDARD"))
    assert created.time_created and created.etag
    equal(client.get_bucket("python-clients").name, "python-clients")
    assert "python-clients" in [found.name for found in client.list_buckets()]
    assert not client.bucket("nowhere").exists()


@point("labels of a bucket")
def _():
    found = client.get_bucket("python-clients")
    found.labels = {"team": "a"}
    found.patch()
    equal(client.get_bucket("python-clients").labels, {"team": "a"})
    found.update()


@point("upload and download a text")
def _():
    put("text", "hello")
    equal(bucket.blob("text").download_as_text(), "hello")


@point("upload and download a file")
def _():
    with tempfile.TemporaryDirectory() as folder:
        one, two = os.path.join(folder, "one"), os.path.join(folder, "two")
        with open(one, "wb") as file:
            file.write(large)
        bucket.blob("file").upload_from_filename(one)
        bucket.blob("file").download_to_filename(two)
        with open(two, "rb") as file:
            equal(file.read() == large, True)


@point("checksums, etag and times")
def _():
    blob = bucket.get_blob("text")
    equal((blob.crc32c, blob.md5_hash), ("mnG7TA==", "XUFAKrxLKna5cZ2REBfFkg=="))
    assert blob.etag and blob.updated.tzinfo and blob.generation and blob.metageneration == 1
    equal(bucket.blob("text").download_as_bytes(checksum="md5"), b"hello")


@point("resumable upload in chunks, by its media link")
def _():
    blob = bucket.blob("chunks", chunk_size=256 * 1024)
    blob.upload_from_file(io.BytesIO(large))
    equal(blob.size, len(large))
    equal(blob.download_as_bytes() == large, True)


@point("stream of unknown length, written and read as a file")
def _():
    with bucket.blob("stream").open("wb", chunk_size=256 * 1024) as file:
        for _ in range(3):
            file.write(large[: 300 * 1024])
    with bucket.blob("stream").open("rb") as file:
        equal(len(file.read()), 900 * 1024)


@point("range of an object")
def _():
    equal(bucket.blob("text").download_as_bytes(start=1, end=3), b"ell")


@point("gzip, decompressed by the client and raw")
def _():
    blob = bucket.blob("gzip")
    blob.content_encoding = "gzip"
    blob.upload_from_string(gzip.compress(b"plain"), content_type="text/plain")
    equal(bucket.blob("gzip").download_as_bytes(), b"plain")
    equal(gzip.decompress(bucket.blob("gzip").download_as_bytes(raw_download=True)), b"plain")


@point("metadata is patched and updated")
def _():
    blob = bucket.get_blob("text")
    blob.metadata = {"a": "1", "b": "2"}
    blob.cache_control = "no-store"
    blob.patch()
    blob.metadata = {"a": None}
    blob.patch()
    found = bucket.get_blob("text")
    equal((found.metadata, found.cache_control, found.metageneration), ({"b": "2"}, "no-store", 3))
    found.content_type = "text/markdown"
    found.update()
    found = bucket.get_blob("text")
    equal((found.metadata, found.content_type), ({"b": "2"}, "text/markdown"))


@point("list by prefix, delimiter and page")
def _():
    for name in ["list/1", "list/2", "list/deep/3"]:
        put(name)
    listed = client.list_blobs(bucket, prefix="list/", delimiter="/", page_size=1)
    equal([blob.name for blob in listed], ["list/1", "list/2"])
    equal(listed.prefixes, {"list/deep/"})


@point("generation preconditions")
def _():
    blob = bucket.blob("once")
    blob.upload_from_string("1", if_generation_match=0)
    try:
        bucket.blob("once").upload_from_string("2", if_generation_match=0)
        raise AssertionError("created twice")
    except PreconditionFailed:
        pass
    bucket.blob("once").upload_from_string("2", if_generation_match=blob.generation)
    equal(bucket.blob("once", generation=blob.generation).exists(), False)


@point("copy, rewrite, rename and move")
def _():
    bucket.copy_blob(bucket.blob("text"), bucket, "copied")
    token, rewritten, total = bucket.blob("rewritten").rewrite(bucket.blob("copied"))
    equal((token, rewritten, total), (None, 5, 5))
    bucket.rename_blob(bucket.blob("copied"), "renamed")
    bucket.move_blob(bucket.blob("renamed"), "moved")
    equal(bucket.blob("moved").download_as_text(), "hello")
    equal([bucket.blob(name).exists() for name in ["copied", "renamed"]], [False, False])


@point("storage class by rewrite")
def _():
    blob = put("class")
    blob.update_storage_class("NEARLINE")
    equal(bucket.get_blob("class").storage_class, "NEARLINE")


@point("compose")
def _():
    joined = bucket.blob("joined")
    joined.content_type = "text/plain"
    joined.compose([put("part-1", "1"), put("part-2", "2")], if_generation_match=0)
    equal((joined.download_as_text(), joined.component_count), ("12", 2))


@point("batch of deletes and patches")
def _():
    one, two = put("batch-1"), put("batch-2")
    with client.batch():
        one.delete()
        two.content_type = "a/b"
        two.patch()
    equal(one.exists(), False)
    equal(bucket.get_blob("batch-2").content_type, "a/b")
    bucket.delete_blobs([two])


def signer():
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return service_account.Credentials.from_service_account_info(
        {
            "client_email": "signer@example.com",
            "private_key": pem.decode(),
            "token_uri": "http://127.0.0.1:1",
        }
    )


@point("signed URLs (V4) upload and download")
def _():
    def url(method):
        return bucket.blob("signed").generate_signed_url(
            version="v4",
            expiration=600,
            method=method,
            credentials=signer(),
            api_access_endpoint=os.environ["STORAGE_EMULATOR_HOST"],
        )

    upload = urllib.request.Request(url("PUT"), data=b"by url", method="PUT")
    equal(urllib.request.urlopen(upload, timeout=30).status, 200)
    equal(urllib.request.urlopen(url("GET"), timeout=30).read(), b"by url")


@point("many at once by the transfer manager")
def _():
    with tempfile.TemporaryDirectory() as folder:
        names = [f"many-{index}" for index in range(5)]
        for name in names:
            with open(os.path.join(folder, name), "w") as file:
                file.write(name)
        threads = transfer_manager.THREAD
        results = transfer_manager.upload_many_from_filenames(
            bucket, names, source_directory=folder, worker_type=threads
        )
        equal(results, [None] * 5)
        equal(bucket.blob("many-3").download_as_text(), "many-3")


@point("permissions")
def _():
    equal(bucket.test_iam_permissions(["storage.objects.get"]), ["storage.objects.get"])


@point("delete objects and the bucket")
def _():
    bucket.blob("text").delete()
    try:
        bucket.blob("text").delete()
        raise AssertionError("deleted twice")
    except NotFound:
        pass
    other = client.create_bucket("python-emptied")
    other.blob("x").upload_from_string("x")
    other.delete(force=True)
    equal(other.exists(), False)


@absent("access control lists", "AccessControls")
def _():
    put("acl").acl.reload()


@absent("access control lists at an upload", "predefinedAcl")
def _():
    bucket.blob("acl").upload_from_string("x", predefined_acl="publicRead")


@absent("IAM policies", "IAM policies")
def _():
    bucket.get_iam_policy()


@absent("object versions", "versioning")
def _():
    found = client.get_bucket("python-clients")
    found.versioning_enabled = True
    found.patch()


@absent("lifecycle rules", "lifecycle")
def _():
    found = client.get_bucket("python-clients")
    found.add_lifecycle_delete_rule(age=1)
    found.patch()


@absent("holds", "temporaryHold")
def _():
    blob = put("held")
    blob.temporary_hold = True
    blob.patch()


@absent("notifications", "notification")
def _():
    list(bucket.list_notifications())


@absent("keys of customers", "encryption")
def _():
    bucket.blob("csek", encryption_key=b"0" * 32).upload_from_string("x")


@absent("glob patterns in lists", "matchGlob")
def _():
    list(client.list_blobs(bucket, match_glob="**/x"))


run()
