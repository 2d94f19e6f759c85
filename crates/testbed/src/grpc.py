"""A gRPC server and client of Google's own library, for tests: bytes in, bytes out, no schema.

    grpc.py serve PORT NAME     prints a line when it listens
    grpc.py call HOST:PORT      one channel; a call for each line of JSON on standard input

A call is {"call": METHOD, "body": TEXT, "metadata": {..}, "deadline": SECONDS, "times": N,
"messages": N, "size": BYTES}; its answer is a line of JSON: `code`, `details`, `by` (how often each
server answered), `bodies`.
"""

import json
import sys
import threading
from concurrent import futures

import grpc

SERVICE = "testbed.Peer"
LARGE = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Peer:
    """Every method tells in its trailers who answers."""

    def __init__(self, name):
        self.name = name

    def sign(self, context):
        context.set_trailing_metadata([("served-by", self.name)])

    def echo(self, body, context):
        self.sign(context)
        return body

    def fail(self, body, context):
        self.sign(context)
        codes = {code.name: code for code in grpc.StatusCode}
        context.abort(codes[body.decode()], "on purpose")

    def hang(self, body, context):
        threading.Event().wait(30)
        return body

    def down(self, body, context):
        """`messages` of `size` bytes."""
        self.sign(context)
        messages, size = (int(n) for n in body.split())
        for number in range(messages):
            yield bytes([number % 251]) * size

    def up(self, bodies, context):
        """How many bytes came."""
        self.sign(context)
        return str(sum(len(body) for body in bodies)).encode()

    def chat(self, bodies, context):
        """Each message at once."""
        self.sign(context)
        for body in bodies:
            yield body


def serve(port, name):
    peer = Peer(name)
    handlers = {
        "Echo": grpc.unary_unary_rpc_method_handler(peer.echo),
        "Fail": grpc.unary_unary_rpc_method_handler(peer.fail),
        "Hang": grpc.unary_unary_rpc_method_handler(peer.hang),
        "Down": grpc.unary_stream_rpc_method_handler(peer.down),
        "Up": grpc.stream_unary_rpc_method_handler(peer.up),
        "Chat": grpc.stream_stream_rpc_method_handler(peer.chat),
    }
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=32), options=LARGE)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    server.add_insecure_port(f"[::]:{port}")
    server.start()
    print("listening", flush=True)
    server.wait_for_termination()


def once(channel, step):
    """One call: its bodies, and who has answered."""
    path = f"/{SERVICE}/{step['call']}"
    metadata = list(step.get("metadata", {}).items())
    options = {"timeout": step.get("deadline", 10), "metadata": metadata, "wait_for_ready": True}
    body = step.get("body", "").encode()
    size, messages = step.get("size", 0), step.get("messages", 1)
    body += b"x" * size
    if step["call"] == "Down":
        call = channel.unary_stream(path)(f"{messages} {size}".encode(), **options)
        bodies = [str(len(part)) for part in call]
    elif step["call"] == "Up":
        answer, call = channel.stream_unary(path).with_call(iter([body] * messages), **options)
        bodies = [answer.decode()]
    elif step["call"] == "Chat":
        bodies = []
        heard = threading.Semaphore(1)

        def speak():
            for number in range(messages):
                # the next message waits for the echo of the one before
                heard.acquire()
                yield body + str(number).encode()

        call = channel.stream_stream(path)(speak(), **options)
        for part in call:
            bodies.append(part.decode())
            heard.release()
    else:
        answer, call = channel.unary_unary(path).with_call(body, **options)
        bodies = [answer.decode() if len(answer) < 1000 else str(len(answer))]
    by = dict(call.trailing_metadata()).get("served-by", "nobody")
    return bodies, by


def call(target):
    channel = grpc.insecure_channel(target, options=LARGE)
    for line in sys.stdin:
        step = json.loads(line)
        answer = {"code": "OK", "details": "", "by": {}, "bodies": []}
        for _ in range(step.get("times", 1)):
            try:
                bodies, by = once(channel, step)
                answer["by"][by] = answer["by"].get(by, 0) + 1
                answer["bodies"] = bodies
            except grpc.RpcError as error:
                answer["code"], answer["details"] = error.code().name, error.details()
        print(json.dumps(answer), flush=True)


if sys.argv[1] == "serve":
    serve(int(sys.argv[2]), sys.argv[3])
else:
    call(sys.argv[2])
