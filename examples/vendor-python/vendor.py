"""A vendor's AI service: isocenter.v1.AiInference around the model in model.py.

It keeps the contract of docs/vendor.md: it de-duplicates on request_id, takes no more at once than it says, checks what it
fetches, stops on Cancel, tells its health, and finishes what it has begun when it is asked to end.
"""

import argparse
import collections
import concurrent.futures
import json
import logging
import pathlib
import signal
import sys
import threading
import time

sys.path.append(str(pathlib.Path(__file__).resolve().parent / "generated"))

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from isocenter.v1 import ai_pb2, ai_pb2_grpc

import fetch
import model

SERVICE = "isocenter.v1.AiInference"
# Answers kept for repeated requests. A retry comes within minutes.
ANSWERS_KEPT = 1024
# How long what has begun may go on after SIGTERM.
GRACE = 30.0

log = logging.getLogger("vendor")


class Failed(Exception):
    """The analysis failed; the same request may be tried again."""

    def __init__(self, code: grpc.StatusCode, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class Job:
    """One analysis. Everybody who asks for it, under its request id, waits for the same outcome."""

    def __init__(self, deadline: float | None) -> None:
        self.cancelled = threading.Event()
        self._call: grpc.Call | None = None
        self.ended = threading.Event()
        self.deadline = deadline
        self.answer: ai_pb2.AnalyzeResponse | None = None
        self.failure: Failed | None = None

    def cancel(self) -> None:
        self.cancelled.set()
        if self._call is not None:
            self._call.cancel()

    def calls(self, call: grpc.Call) -> None:
        """A call that is to end when the job is cancelled."""
        self._call = call
        if self.cancelled.is_set():
            call.cancel()

    def stopped(self) -> bool:
        return self.cancelled.is_set() or (self.deadline is not None and time.monotonic() >= self.deadline)

    def remaining(self) -> float | None:
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())


class Jobs:
    """Analyses under way, at most `limit`, and the last answers."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._running: dict[str, Job] = {}
        self._answered: collections.OrderedDict[str, Job] = collections.OrderedDict()

    def admit(self, request_id: str, deadline: float | None) -> tuple[Job | None, bool]:
        """The job of a request, and whether the caller is to do it; no job where there are too many."""
        with self._lock:
            job = self._running.get(request_id) or self._answered.get(request_id)
            if job is not None:
                return job, False
            if len(self._running) >= self._limit:
                return None, False
            job = self._running[request_id] = Job(deadline)
            return job, True

    def finish(self, request_id: str, job: Job) -> None:
        """Ends a job. Answers are kept; a failure is forgotten, so that the same request may be tried again."""
        with self._lock:
            self._running.pop(request_id, None)
            if job.answer is not None:
                self._answered[request_id] = job
                while len(self._answered) > ANSWERS_KEPT:
                    self._answered.popitem(last=False)
        job.ended.set()

    def cancel(self, request_id: str) -> bool:
        with self._lock:
            job = self._running.get(request_id)
        if job is not None:
            job.cancel()
        return job is not None


class Tls:
    """Certificates of both sides: who calls is known, and so is who is called."""

    def __init__(self, cert: bytes, key: bytes, ca: bytes) -> None:
        self._cert, self._key, self._ca = cert, key, ca

    @classmethod
    def load(cls, args: argparse.Namespace) -> "Tls | None":
        files = (args.tls_cert, args.tls_key, args.tls_ca)
        if not any(files):
            return None
        if not all(files):
            raise SystemExit("--tls-cert, --tls-key and --tls-ca go together")
        return cls(*(file.read_bytes() for file in files))

    def server(self) -> grpc.ServerCredentials:
        return grpc.ssl_server_credentials([(self._key, self._cert)], self._ca, require_client_auth=True)

    def client(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(self._ca, self._key, self._cert)


class Inference(ai_pb2_grpc.AiInferenceServicer):
    def __init__(self, concurrency: int, delay: float, tls: Tls | None) -> None:
        self._channel = tls.client() if tls else None
        self._concurrency = concurrency
        self._delay = delay
        self._jobs = Jobs(concurrency)

    def Describe(self, request: ai_pb2.DescribeRequest, context: grpc.ServicerContext) -> ai_pb2.DescribeResponse:
        return ai_pb2.DescribeResponse(
            vendor=model.VENDOR,
            model_id=model.MODEL_ID,
            model_version=model.MODEL_VERSION,
            modalities=model.MODALITIES,
            body_parts=model.BODY_PARTS,
            accepted_transfer_syntaxes=model.TRANSFER_SYNTAXES,
            max_concurrency=self._concurrency,
            intended_use=model.INTENDED_USE,
        )

    def Analyze(self, request: ai_pb2.AnalyzeRequest, context: grpc.ServicerContext) -> ai_pb2.AnalyzeResponse:
        if not request.request_id or not request.study_instance_uid:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "request_id and study_instance_uid are required")
        remaining = context.time_remaining()
        deadline = None if remaining is None else time.monotonic() + remaining
        job, mine = self._jobs.admit(request.request_id, deadline)
        if job is None:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "as many analyses as promised are under way")
        if mine:
            # In this thread: it goes on when the caller's connection does not, and a retry finds it.
            self._run(request, job)
        elif not job.ended.wait(remaining):
            context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the analysis took too long")
        if job.failure is not None:
            context.abort(job.failure.code, job.failure.detail)
        return job.answer

    def Cancel(self, request: ai_pb2.CancelRequest, context: grpc.ServicerContext) -> ai_pb2.CancelResponse:
        if not self._jobs.cancel(request.request_id):
            context.abort(grpc.StatusCode.NOT_FOUND, "no such request is under way")
        return ai_pb2.CancelResponse()

    def _run(self, request: ai_pb2.AnalyzeRequest, job: Job) -> None:
        began = time.monotonic()
        log.info("request %s attempt %d: begun", request.request_id, request.attempt)
        try:
            job.answer = self._answer(request, job)
            outcome = job.answer.WhichOneof("outcome")
        except Failed as failure:
            job.failure, outcome = failure, failure.code.name
        except Exception as error:
            # A defect of ours. Its text may repeat what stands in a file: only its kind is logged and told.
            job.failure = Failed(grpc.StatusCode.INTERNAL, f"the model failed: {type(error).__name__}")
            outcome = type(error).__name__
        finally:
            self._jobs.finish(request.request_id, job)
        log.info("request %s attempt %d: %s in %.2f s", request.request_id, request.attempt, outcome, time.monotonic() - began)

    def _answer(self, request: ai_pb2.AnalyzeRequest, job: Job) -> ai_pb2.AnalyzeResponse:
        response = ai_pb2.AnalyzeResponse(
            request_id=request.request_id,
            study_instance_uid=request.study_instance_uid,
            model_id=model.MODEL_ID,
            model_version=model.MODEL_VERSION,
        )
        try:
            # Known before any pixel moves.
            series = [s for s in request.series if s.modality in model.MODALITIES]
            if not series:
                raise model.Refused("MODALITY", f"no series is of {', '.join(model.MODALITIES)}")
            images = [i for s in series for i in s.instances if i.transfer_syntax_uid in model.TRANSFER_SYNTAXES]
            if not images:
                raise model.Refused("SERIES", "no instance is in a transfer syntax that is read here")
            files = self._fetch(request, [i.sop_instance_uid for i in images], job)
            # Stands for a model that takes its time.
            remaining = job.remaining()
            job.cancelled.wait(self._delay if remaining is None else min(self._delay, remaining))
            analysis = model.analyse(files, job.stopped)
        except model.Refused as refused:
            reason = ai_pb2.AiRefusalReason.Value(f"AI_REFUSAL_REASON_{refused.reason}")
            response.refusal.CopyFrom(ai_pb2.AiRefusal(reason=reason, detail=refused.detail[:250]))
            return response
        self._check(job)
        findings = [
            ai_pb2.AiFinding(
                label=f.label, probability=f.probability, sop_instance_uid=f.sop_instance_uid, frame=1, box=f.box
            )
            for f in analysis.findings[:256]
        ]
        result = ai_pb2.AiResult(abnormal_probability=analysis.probability, summary=analysis.summary, findings=findings)
        response.result.CopyFrom(result)
        return response

    def _fetch(self, request: ai_pb2.AnalyzeRequest, uids: list[str], job: Job) -> list[bytes]:
        try:
            return fetch.instances(request, uids, job.calls, job.remaining(), self._channel)
        except fetch.Broken as broken:
            raise Failed(grpc.StatusCode.DATA_LOSS, str(broken)) from None
        except grpc.RpcError as error:
            self._check(job)
            # Isocenter calls again, with a new token; another code would say that the fault is the study's.
            raise Failed(grpc.StatusCode.UNAVAILABLE, f"pixels could not be fetched: {error.code().name}") from None
        finally:
            self._check(job)

    def _check(self, job: Job) -> None:
        """Nobody waits for a job that was cancelled or is late."""
        if job.cancelled.is_set():
            raise Failed(grpc.StatusCode.CANCELLED, "cancelled")
        if job.stopped():
            raise Failed(grpc.StatusCode.DEADLINE_EXCEEDED, "the analysis took too long")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--listen", default="127.0.0.1:50051", help="host:port; port 0 takes any free one")
    parser.add_argument("--concurrency", default=2, type=int, help="analyses at once, from 1")
    parser.add_argument("--tls-cert", type=pathlib.Path, help="our certificate and its chain, PEM; as server and as client")
    parser.add_argument("--tls-key", type=pathlib.Path, help="its private key, PEM")
    parser.add_argument("--tls-ca", type=pathlib.Path, help="the authorities of Isocenter's certificates, PEM")
    parser.add_argument("--delay", default=0.0, type=float, help="seconds added to each analysis, for tests")
    args = parser.parse_args()
    # Blocked before there is any other thread: a signal that one of gRPC's threads took would not wake this one.
    ending = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ending)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

    # Analyses and those who wait for them, and room for Describe, Cancel and health while all are busy.
    threads = 2 * args.concurrency + 8
    server = grpc.server(
        concurrent.futures.ThreadPoolExecutor(threads),
        maximum_concurrent_rpcs=2 * threads,
        # A second server on the port would take half of the calls.
        options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 16 << 20)],
    )
    checks = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    tls = Tls.load(args)
    ai_pb2_grpc.add_AiInferenceServicer_to_server(Inference(args.concurrency, args.delay, tls), server)
    port = server.add_secure_port(args.listen, tls.server()) if tls else server.add_insecure_port(args.listen)
    server.start()
    for name in ("", SERVICE):
        checks.set(name, health_pb2.HealthCheckResponse.SERVING)
    print(json.dumps({"listen": f"{args.listen.rpartition(':')[0]}:{port}"}), flush=True)
    signal.sigwait(ending)
    # First no more studies come, then what has begun is finished.
    checks.enter_graceful_shutdown()
    log.info("stopping: what has begun is finished within %.0f s", GRACE)
    server.stop(GRACE).wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
