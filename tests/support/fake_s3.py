"""iopath's own handler of ``s3://``, with a client that keeps its objects in the ``ObjectStore`` of this folder.

Importing this module registers it. What is tested with it is what that handler asks of its callers.
"""

from types import SimpleNamespace
from typing import Any

from iopath.common import s3
from iopath.common.file_io import g_pathmgr
from object_store import HANDLERS, ObjectStore


class ClientError(Exception):
    """As boto's."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.response = {"Error": {"Message": message}}


class Client:
    """The calls of boto's client that iopath makes."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def _content(self, bucket: str, key: str) -> bytes:
        try:
            return self._store.file(f"s3://{bucket}/{key}").read_bytes()
        except FileNotFoundError:
            raise ClientError("Not Found") from None

    def head_object(self, Bucket: str, Key: str) -> dict[str, Any]:
        return {"ContentLength": len(self._content(Bucket, Key))}

    get_object = head_object

    def download_fileobj(self, bucket: str, key: str, file: Any, Config: None) -> None:
        file.write(self._content(bucket, key))

    def upload_fileobj(self, file: Any, bucket: str, key: str, Config: None) -> None:
        self._store.put(f"s3://{bucket}/{key}", file.read())

    def put_object(self, Bucket: str, Key: str) -> None:
        self._store._mkdirs(f"s3://{Bucket}/{Key}")

    def delete_object(self, Bucket: str, Key: str) -> None:
        self._store._rm(f"s3://{Bucket}/{Key}")

    def get_paginator(self, operation: str) -> SimpleNamespace:
        assert operation == "list_objects_v2"
        return SimpleNamespace(paginate=self._pages)

    def _pages(self, Bucket: str, Prefix: str, Delimiter: str) -> list[dict[str, list[dict[str, str]]]]:
        assert Delimiter == "/"
        listed = [key.removeprefix(f"{Bucket}/") for key in self._store._ls(f"s3://{Bucket}/{Prefix}")]
        folders = sorted({key for key in listed if key.endswith("/") and key != Prefix})
        return [
            {"Contents": [{"Key": key} for key in listed if key not in folders]},
            {"CommonPrefixes": [{"Prefix": key} for key in folders]},
        ]


class S3(s3.S3PathHandler):
    """The handler without boto's settings of a transfer."""

    def __init__(self, store: ObjectStore) -> None:
        super(s3.S3PathHandler, self).__init__()
        self.transfer_config = None
        self.client = Client(store)


s3.botocore = SimpleNamespace(exceptions=SimpleNamespace(ClientError=ClientError, NoCredentialsError=ClientError))
objects = ObjectStore()
HANDLERS["s3://"] = objects
g_pathmgr.register_handler(S3(objects))
