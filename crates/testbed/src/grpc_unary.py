"""Unary gRPC calls by a real client library: Debian's python3-grpcio. Prints one line of JSON.

    grpc_unary.py TO [--metadata KEY=VALUE] [--connections N] [--seconds S]

Each connection is a channel of its own with one call after the other, so calls wait for answers as
those of a service do. Every answer is compared with what was sent: the server is to send it back.
"""

import argparse
import asyncio
import json
import sys
import time

import grpc

METHOD = "/bench.Echo/Unary"
MESSAGE = b"\x0a\x10" + b"0123456789abcdef"

# Without it, channels to one target share a connection.
OPTIONS = [("grpc.use_local_subchannel_pool", 1)]


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("to")
    parser.add_argument("--metadata", action="append", default=[])
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.0, help="0: one call a connection")
    return parser.parse_args()


class Tally:
    """What all connections have seen."""

    def __init__(self):
        self.latencies = []
        self.errors = []
        self.heads = {}

    def see(self, latency, answer, head):
        self.latencies.append(latency)
        if answer != MESSAGE:
            self.errors.append(f"answered {answer!r}")
        self.heads = {key: str(value) for key, value in head}


async def call_in_turn(tally, to, metadata, seconds):
    async with grpc.aio.insecure_channel(to, options=OPTIONS) as channel:
        unary = channel.unary_unary(METHOD)
        end = time.monotonic() + seconds
        while True:
            start = time.monotonic()
            try:
                call = unary(MESSAGE, metadata=metadata, timeout=5)
                answer = await call
                tally.see(time.monotonic() - start, answer, await call.initial_metadata())
            except grpc.aio.AioRpcError as error:
                tally.errors.append(f"{error.code().name}: {error.details()}")
            if time.monotonic() >= end:
                return


async def main():
    options = parse()
    metadata = [tuple(pair.split("=", 1)) for pair in options.metadata]
    tally = Tally()
    start = time.monotonic()
    calls = (
        call_in_turn(tally, options.to, metadata, options.seconds)
        for _ in range(options.connections)
    )
    await asyncio.gather(*calls)
    wall = time.monotonic() - start
    latencies = sorted(tally.latencies)

    def percentile(share):
        return latencies[int(share * (len(latencies) - 1))] * 1e6 if latencies else 0.0

    result = {
        "requests": len(latencies),
        "rps": len(latencies) / wall,
        "p50_us": percentile(0.5),
        "p90_us": percentile(0.9),
        "p99_us": percentile(0.99),
        "errors": len(tally.errors),
        "first_error": tally.errors[0] if tally.errors else None,
        "head": tally.heads,
        "library": f"grpcio {grpc.__version__}",
    }
    print(json.dumps(result))
    return 1 if tally.errors or not latencies else 0


sys.exit(asyncio.run(main()))
