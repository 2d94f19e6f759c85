"""A client that goes on calling: what is allowed and what is not, in turn, by connections of each kind.

It is told a phase ("phase NAME"), which is a part of the path of forbidden requests, and answers when
nothing of the phase before is under way; "report" has it tell, by phase and kind, how often there was
which result. Arguments: the address of the service, that of the pod, and the kinds.
"""

import collections
import errno
import json
import socket
import sys
import threading
import time

SERVICE, POD = sys.argv[1:3]
# seconds for what may never be answered
LIMIT = 1.0
# another service, and a port of the pod that no service has
ECHO, FORBIDDEN_ECHO = ("10.96.0.12", 7), 7008


def connect(host, port, limit=LIMIT):
    made = socket.create_connection((host, port), timeout=limit)
    made.settimeout(limit)
    return made


def ask(made, path):
    made.sendall(f"GET {path} HTTP/1.1\r\nhost: web\r\n\r\n".encode())
    text = b""
    while b"\r\n\r\n" not in text:
        piece = made.recv(4096)
        if not piece:
            return "closed"
        text += piece
    head, body = text.split(b"\r\n\r\n", 1)
    length = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    while len(body) < length:
        body += made.recv(4096)
    return head.split()[1].decode()


def ping(made):
    made.sendall(b"ping")
    return made.recv(4, socket.MSG_WAITALL).decode() or "closed"


class Kept:
    """Requests by one connection; another is made when it fails."""

    def __init__(self, prefix):
        self.prefix, self.made = prefix, None

    def attempt(self, path):
        try:
            if not self.made:
                self.made = connect(SERVICE, 80)
            return ask(self.made, path)
        except OSError:
            self.made = None
            raise

    def turns(self, phase):
        yield "fine", lambda: self.attempt(self.prefix + "/fine")
        yield "forbidden", lambda: self.attempt(f"{self.prefix}/admin/{phase}")


class Fresh:
    """Each request by a connection of its own."""

    def __init__(self, host, port, limit=LIMIT):
        self.to, self.limit = (host, port), limit

    def attempt(self, path):
        with connect(*self.to, self.limit) as made:
            return ask(made, path)

    def turns(self, phase):
        yield "fine", lambda: self.attempt("/fine")
        yield "forbidden", lambda: self.attempt(f"/admin/{phase}")


class Opaque:
    """A connection that is kept for good, and new ones to a port that is forbidden."""

    def __init__(self):
        self.made = connect(*ECHO)

    def attempt(self):
        with connect(POD, FORBIDDEN_ECHO, 0.3) as made:
            return ping(made)

    def turns(self, _):
        yield "fine", lambda: ping(self.made)
        yield "forbidden", self.attempt


KINDS = {
    "kept": lambda: Kept(""),
    # which the kernel leaves to userspace to normalise
    "detour": lambda: Kept("/x/.."),
    "fresh": lambda: Fresh(SERVICE, 80),
    "straight": lambda: Fresh(POD, 8080, 0.3),
    "opaque": Opaque,
}


class Caller(threading.Thread):
    def __init__(self, kind):
        super().__init__(daemon=True)
        self.kind, self.lock = kind, threading.Lock()
        self.calls = KINDS[kind]()
        self.start()

    def run(self):
        while True:
            with self.lock:
                for what, attempt in self.calls.turns(phase):
                    try:
                        result = attempt()
                    except OSError as error:
                        result = errno.errorcode.get(error.errno, "timeout")
                    counts[phase][self.kind][what][result] += 1
            time.sleep(0.001)


def tree(leaf, depth):
    return collections.defaultdict(lambda: tree(leaf, depth - 1)) if depth else leaf()


phase = "start"
counts = tree(collections.Counter, 3)
callers = [Caller(kind) for kind in sys.argv[3:]]
print("here", flush=True)
for line in sys.stdin:
    order, *rest = line.split()
    for caller in callers:
        caller.lock.acquire()
    if order == "phase":
        phase = rest[0]
        answer = phase
    else:
        answer = json.dumps(counts)
    for caller in callers:
        caller.lock.release()
    print(answer, flush=True)
