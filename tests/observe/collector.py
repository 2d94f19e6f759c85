"""A collector of traces: takes OTLP by HTTP on one port and by gRPC on the other, and prints each span
as a line of JSON, with what its resource says. The messages are OpenTelemetry's own (PyPI's
opentelemetry-proto).

    collector.py HTTP_PORT GRPC_PORT
"""

import json
import sys
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

lock = threading.Lock()


def values(attributes):
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in attributes}


def take(request, by):
    with lock:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    print(json.dumps({
                        "by": by,
                        "resource": values(resource.resource.attributes),
                        "schema": resource.schema_url,
                        "scope": scope.scope.name,
                        "trace": span.trace_id.hex(),
                        "id": span.span_id.hex(),
                        "parent": span.parent_span_id.hex(),
                        "name": span.name,
                        "kind": span.kind,
                        "flags": span.flags,
                        "start": span.start_time_unix_nano,
                        "end": span.end_time_unix_nano,
                        "status": span.status.code,
                        "attributes": values(span.attributes),
                        "unknown": len(span.ListFields()) - sum(
                            1 for f, _ in span.ListFields() if f.name in span.DESCRIPTOR.fields_by_name),
                    }), flush=True)


class Http(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if (self.path != "/v1/traces"
                or self.headers["content-type"] != "application/x-protobuf"):
            self.send_error(404)
            return
        take(ExportTraceServiceRequest.FromString(body), "http")
        answer = ExportTraceServiceResponse().SerializeToString()
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


class Grpc(TraceServiceServicer):
    def Export(self, request, context):
        take(request, "grpc")
        return ExportTraceServiceResponse()


server = grpc.server(futures.ThreadPoolExecutor(2))
add_TraceServiceServicer_to_server(Grpc(), server)
server.add_insecure_port(f"0.0.0.0:{sys.argv[2]}")
server.start()
http = ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Http)
print("collecting", flush=True)
http.serve_forever()
