"""Pixels from isocenter.v1.AiDispatch, with the token of the task."""

import hashlib
from collections.abc import Callable

import grpc
from isocenter.v1 import ai_pb2, ai_pb2_grpc

# What one study may weigh in memory; a model that needs more writes files.
MAX_BYTES = 1 << 30


class Broken(Exception):
    """What came is not what was announced."""


def instances(
    request: ai_pb2.AnalyzeRequest,
    uids: list[str],
    begun: Callable[[grpc.Call], None],
    timeout: float | None,
    credentials: grpc.ChannelCredentials | None = None,
) -> list[bytes]:
    """The DICOM files of `uids`, each with its length and SHA-256 checked. `begun` gets the call, which may be cancelled."""
    wanted = ai_pb2.FetchInstancesRequest(
        request_id=request.request_id, fetch_token=request.fetch_token, sop_instance_uids=uids
    )
    missing, files, total = set(uids), [], 0
    announced: ai_pb2.InstanceReference | None = None
    file = bytearray()
    with _channel(request.fetch_address, credentials) as channel:
        stream = ai_pb2_grpc.AiDispatchStub(channel).FetchInstances(wanted, timeout=timeout)
        begun(stream)
        for message in stream:
            part = message.WhichOneof("part")
            if part == "begin" and announced is None:
                announced, file = message.begin, bytearray()
                if announced.sop_instance_uid not in missing:
                    raise Broken("an instance that was not asked for, or one twice")
                missing.remove(announced.sop_instance_uid)
            elif part == "chunk" and announced is not None:
                file += message.chunk
                total += len(message.chunk)
                if len(file) > announced.size_bytes or total > MAX_BYTES:
                    raise Broken("an instance or the study is longer than it may be")
            elif part == "end" and announced is not None:
                if len(file) != announced.size_bytes or hashlib.sha256(file).digest() != message.end.sha256:
                    raise Broken("an instance does not have its length and SHA-256")
                files.append(bytes(file))
                announced = None
            else:
                raise Broken("parts of the stream are out of order")
    if announced is not None or missing:
        raise Broken("the stream ended before every instance was there")
    return files


def _channel(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.Channel:
    scheme, _, target = address.partition("://")
    if scheme == "http":
        return grpc.insecure_channel(target)
    if credentials is None:
        raise Broken("fetch_address asks for TLS, for which there are no certificates")
    return grpc.secure_channel(target, credentials)
