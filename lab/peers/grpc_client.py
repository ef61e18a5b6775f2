"""Calls every method of grpc_server.py and says what came. ADDRESS [CERTIFICATE]"""

import sys

import grpc

if len(sys.argv) > 2:
    trusted = grpc.ssl_channel_credentials(open(sys.argv[2], "rb").read())
    options = [("grpc.ssl_target_name_override", "localhost")]
    channel = grpc.secure_channel(sys.argv[1], trusted, options)
else:
    channel = grpc.insecure_channel(sys.argv[1])
grpc.channel_ready_future(channel).result(timeout=20)


def path(name):
    return f"/test.Test/{name}"


def failure(call):
    try:
        return call()
    except grpc.RpcError as error:
        metadata = dict(error.trailing_metadata() or ())
        return error.code().name, error.details(), metadata.get("x-why")


unary = channel.unary_unary(path("Unary"))
answer, call = unary.with_call(b" there", metadata=(("x-name", "hello"),), timeout=20)
print("unary", answer, dict(call.trailing_metadata())["x-calls"])
large = bytes(range(256)) * 8_000
print("large", unary(large, timeout=20) == large)
call = channel.unary_stream(path("Count"))(b"1000", timeout=20)
numbers = [int(number) for number in call]
print("stream down", numbers == list(range(1000)), dict(call.trailing_metadata())["x-sent"])
up = channel.stream_unary(path("Total"))
print("stream up", up((large for _ in range(4)), timeout=20))


def talk():
    """Each message is sent only when the one before has come back."""
    heard = []

    def messages():
        for number in range(20):
            while len(heard) < number:
                condition.wait(0.01)
            yield str(number).encode()

    import threading

    condition = threading.Event()
    for message in channel.stream_stream(path("Echo"))(messages(), timeout=20):
        heard.append(int(message))
    return heard == list(range(20))


print("both ways", talk())
print("error", failure(lambda: channel.unary_unary(path("Fail"))(b"", timeout=20)))
late = channel.unary_stream(path("FailLate"))(b"", timeout=20)
print("first", next(late))
print("error behind it", failure(lambda: next(late)))
print("unknown", failure(lambda: channel.unary_unary(path("Nothing"))(b"", timeout=20))[0])
print("deadline", failure(lambda: channel.unary_unary(path("Slow"))(b"", timeout=0.3))[0])
left = channel.unary_unary(path("Left"))
print("deadline is told", 10 < float(left(b"", timeout=20)) < 21)
cancelled = channel.unary_unary(path("Slow")).future(b"", timeout=20)
cancelled.cancel()
print("cancelled", cancelled.cancelled(), unary(b"still there", timeout=20))
no_backend = grpc.insecure_channel(sys.argv[1]) if len(sys.argv) == 2 else channel
print("no backend", failure(lambda: no_backend.unary_unary("/gone/X")(b"", timeout=20))[0])
