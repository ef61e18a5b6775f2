"""A gRPC server of each kind of call, over bytes. ADDRESS [CERTIFICATE KEY]"""

import sys
import time
from concurrent import futures

import grpc


def unary(request, context):
    context.set_trailing_metadata((("x-calls", "1"),))
    metadata = dict(context.invocation_metadata())
    return metadata.get("x-name", "").encode() + request


def count(request, context):
    for number in range(int(request)):
        yield str(number).encode()
    context.set_trailing_metadata((("x-sent", request.decode()),))


def total(requests, context):
    return str(sum(len(request) for request in requests)).encode()


def echo(requests, context):
    yield from requests


def fail(request, context):
    context.set_trailing_metadata((("x-why", "because"),))
    context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no: \u00e4")


def fail_late(request, context):
    yield b"first"
    context.abort(grpc.StatusCode.DATA_LOSS, "the rest is gone")


def slow(request, context):
    while context.is_active():
        time.sleep(0.02)
    return b""


def left(request, context):
    return str(context.time_remaining()).encode()


methods = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Count": grpc.unary_stream_rpc_method_handler(count),
    "Total": grpc.stream_unary_rpc_method_handler(total),
    "Echo": grpc.stream_stream_rpc_method_handler(echo),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "FailLate": grpc.unary_stream_rpc_method_handler(fail_late),
    "Slow": grpc.unary_unary_rpc_method_handler(slow),
    "Left": grpc.unary_unary_rpc_method_handler(left),
}
server = grpc.server(futures.ThreadPoolExecutor(16))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", methods),))
if len(sys.argv) > 2:
    certificate, key = (open(file, "rb").read() for file in sys.argv[2:4])
    server.add_secure_port(sys.argv[1], grpc.ssl_server_credentials([(key, certificate)]))
else:
    server.add_insecure_port(sys.argv[1])
server.start()
server.wait_for_termination()
