"""A client that sends in every way that Linux has. It takes orders, a line of JSON each, and answers
each with one of its own.

{"connect": [HOST, PORT]}           makes a connection; with "source": from there; with "multipath": by
                                    MPTCP; with "padded": by packets with options of IPv6; with
                                    "wait": in so many seconds; "socket": makes one only, "finish":
                                    connects that
{"datagram": [HOST, PORT]}          what comes back; with "connected": by a connected socket; with "again":
                                    by the same as before; with "port": from there; with "wait": so
                                    many seconds; with
                                    "source": from there, and nothing comes back
{"send": TEXT, "way": WAY}          sends it; WAYS has the ways
{"again": [HOST, PORT]}             ends the connection and makes another by the same socket
{"read": SECONDS}                   the status of the next answer
{"echo": SECONDS}                   sends four bytes, which an echo server sends back
{"give": PATH} {"take": PATH}       hands the connection to another process, by a socket of that path
{"enter": PATH}                     moves the process to a cgroup
{"late": TEXT, "to": [HOST, PORT]}  sends while the connection is not established yet: "started"; with
                                    "fast": "send" or "option" by TCP Fast Open
{"late_done": SECONDS}              and what came of it
"""

import ctypes
import errno
import json
import mmap
import os
import socket
import struct
import sys
import tempfile
import threading

MSG_ZEROCOPY = 0x4000000
MSG_FASTOPEN = 0x20000000
TCP_FASTOPEN_CONNECT = 30
SO_ZEROCOPY = 60
IPPROTO_MPTCP = 262

libc = ctypes.CDLL(None, use_errno=True)


def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


class Ring:
    """As much of io_uring as it takes to do one thing after the other."""

    SETUP, ENTER, REGISTER = 425, 426, 427
    WRITE_FIXED, SENDMSG, WRITE, SEND, SPLICE, SEND_ZC = 5, 9, 23, 26, 30, 47
    FIXED_FILE, FIXED_BUFFER = 1, 4
    SQPOLL = 2
    MORE = 2

    def __init__(self, flags=0):
        params = bytearray(120)
        struct.pack_into("III", params, 8, flags, 0, 1000)
        self.fd = checked(libc.syscall(self.SETUP, 8, (ctypes.c_char * 120).from_buffer(params)))
        entries, completions = struct.unpack_from("II", params)
        self.sq = struct.unpack_from("8I", params, 40)
        self.cq = struct.unpack_from("8I", params, 80)
        self.rings = mmap.mmap(self.fd, self.sq[6] + 4 * entries, offset=0)
        self.done = mmap.mmap(self.fd, self.cq[5] + 16 * completions, offset=0x8000000)
        self.entries = mmap.mmap(self.fd, 64 * entries, offset=0x10000000)
        self.polled = flags & self.SQPOLL

    def register(self, what, array, count):
        checked(libc.syscall(self.REGISTER, self.fd, what, array, count))

    def do(self, opcode, fd, address=0, length=0, flags=0, priority=0, offset=0, buffer=0, source=0):
        tail = struct.unpack_from("I", self.rings, self.sq[1])[0]
        mask = struct.unpack_from("I", self.rings, self.sq[2])[0]
        at = tail & mask
        entry = struct.pack(
            "<BBHiQQIIQHHIQQ", opcode, flags, priority, fd, offset, address, length, 0, 1, buffer, 0,
            source, 0, 0,
        )
        self.entries[64 * at : 64 * at + 64] = entry
        struct.pack_into("I", self.rings, self.sq[6] + 4 * at, at)
        struct.pack_into("I", self.rings, self.sq[1], tail + 1)
        result, more = None, True
        while more:
            # GETEVENTS, and SQ_WAKEUP for a thread of the kernel that may sleep
            submit = 0 if result is not None else 1
            flags = 3 if self.polled else 1
            checked(libc.syscall(self.ENTER, self.fd, submit, 1, flags, None, 0))
            head = struct.unpack_from("I", self.done, self.cq[0])[0]
            ready = struct.unpack_from("I", self.done, self.cq[1])[0]
            mask = struct.unpack_from("I", self.done, self.cq[2])[0]
            while head != ready:
                at = self.cq[5] + 16 * (head & mask)
                _, code, marks = struct.unpack_from("QiI", self.done, at)
                result = code if result is None else result
                more = marks & self.MORE
                head += 1
            struct.pack_into("I", self.done, self.cq[0], head)
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return result


def address_of(data):
    return ctypes.addressof(data)


def uring(operation, ring_flags=0, fixed_file=False, fixed_buffer=False):
    def send(made, text):
        ring = Ring(ring_flags)
        data = ctypes.create_string_buffer(text, len(text))
        fd, flags, priority = made.fileno(), 0, 0
        if fixed_file:
            ring.register(2, (ctypes.c_int * 1)(fd), 1)
            fd, flags = 0, Ring.FIXED_FILE
        if fixed_buffer:
            ring.register(0, struct.pack("QQ", address_of(data), len(text)), 1)
            priority = Ring.FIXED_BUFFER if operation == Ring.SEND_ZC else 0
        offset = 0 if operation in (Ring.SEND, Ring.SEND_ZC) else 2**64 - 1
        sent = ring.do(operation, fd, address_of(data), len(text), flags, priority, offset)
        assert sent == len(text), sent
        os.close(ring.fd)

    return send


def uring_splice(made, text):
    ring, (read, write) = Ring(), os.pipe()
    os.write(write, text)
    none = 2**64 - 1
    assert ring.do(Ring.SPLICE, made.fileno(), none, len(text), offset=none, source=read) == len(text)
    for fd in (ring.fd, read, write):
        os.close(fd)


def sendfile(made, text):
    with tempfile.TemporaryFile() as file:
        file.write(text)
        file.flush()
        at = 0
        while at < len(text):
            at += os.sendfile(made.fileno(), file.fileno(), at, len(text) - at)


def splice(made, text):
    read, write = os.pipe()
    os.write(write, text)
    left = len(text)
    while left:
        left -= os.splice(read, made.fileno(), left)
    os.close(read)
    os.close(write)


def vmsplice(made, text):
    read, write = os.pipe()
    data = ctypes.create_string_buffer(text, len(text))
    vector = struct.pack("QQ", address_of(data), len(text))
    checked(libc.vmsplice(write, vector, 1, 0))
    left = len(text)
    while left:
        left -= os.splice(read, made.fileno(), left)
    os.close(read)
    os.close(write)


def zerocopy(made, text):
    made.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
    assert made.send(text, MSG_ZEROCOPY) == len(text)


def pieces(text):
    """The first byte, and two more parts."""
    middle = max(1, len(text) // 2)
    return [piece for piece in (text[:1], text[1:middle], text[middle:]) if piece]


def more(made, text):
    """The kernel is told that more will come."""
    for piece in pieces(text)[:-1]:
        made.send(piece, socket.MSG_MORE)
    made.send(pieces(text)[-1])


def urgent(made, text):
    """The last byte is out of band."""
    if len(text) > 1:
        made.send(text[:-1])
    made.send(text[-1:], socket.MSG_OOB)


def vectors(made, text):
    assert os.writev(made.fileno(), pieces(text)) == len(text)


def child(made, text):
    """A process that has inherited the connection."""
    pid = os.fork()
    if pid == 0:
        code = 0
        try:
            made.sendall(text)
        except OSError as error:
            code = error.errno
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise OSError(code, os.strerror(code))


WAYS = {
    "plain": lambda made, text: made.sendall(text),
    "vectors": vectors,
    "more": more,
    "urgent": urgent,
    "child": child,
    "sendfile": sendfile,
    "splice": splice,
    "vmsplice": vmsplice,
    "zerocopy": zerocopy,
    "uring": uring(Ring.SEND),
    "uring-write": uring(Ring.WRITE),
    "uring-zerocopy": uring(Ring.SEND_ZC),
    "uring-fixed-file": uring(Ring.SEND, fixed_file=True),
    "uring-fixed-buffer": uring(Ring.WRITE_FIXED, fixed_buffer=True),
    "uring-zerocopy-fixed": uring(Ring.SEND_ZC, fixed_file=True, fixed_buffer=True),
    "uring-polled": uring(Ring.SEND, Ring.SQPOLL, fixed_file=True),
    "uring-splice": uring_splice,
}


def make(host, protocol=0):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM, protocol)
    made.settimeout(5)
    return made


def read(made, seconds):
    """The status of the next answer; its body is read too."""
    made.settimeout(seconds)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        piece = made.recv(1)
        if not piece:
            return "closed"
        head += piece
    length = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    while length:
        length -= len(made.recv(length))
    return head.split()[1].decode()


def echo(made, seconds):
    made.settimeout(seconds)
    made.sendall(b"ping")
    return made.recv(4, socket.MSG_WAITALL).decode() or "closed"


def give(made, path):
    with socket.socket(socket.AF_UNIX) as carrier:
        carrier.connect(path)
        socket.send_fds(carrier, [b"x"], [made.fileno()])
        carrier.recv(1)


def take(path):
    with socket.socket(socket.AF_UNIX) as carrier:
        carrier.bind(path)
        carrier.listen()
        print(json.dumps("waiting"), flush=True)
        other, _ = carrier.accept()
        _, fds, _, _ = socket.recv_fds(other, 1, 1)
        other.send(b"x")
        other.close()
    os.unlink(path)
    return socket.socket(fileno=fds[0])


class Late:
    """Sends by a connection that is not established yet, and says what came of it."""

    def __init__(self, to, text, fast):
        self.made = make(to[0])
        if fast == "option":
            self.made.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
            self.made.connect(tuple(to))
        elif not fast:
            self.made.setblocking(False)
            assert self.made.connect_ex(tuple(to)) == errno.EINPROGRESS
        self.made.settimeout(None)
        self.result = None
        self.thread = threading.Thread(target=self.run, args=(tuple(to), text, fast), daemon=True)
        self.thread.start()

    def run(self, to, text, fast):
        try:
            if fast == "send":
                self.made.sendto(text, MSG_FASTOPEN, to)
            else:
                self.made.sendall(text)
            self.result = "sent"
        except OSError as error:
            self.result = name(error)

    def done(self, seconds):
        self.thread.join(seconds)
        return self.result


def raw_datagram(to, source, protocol):
    """A packet that connect() knows nothing of: made by hand, from whatever address."""
    made = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    udp = struct.pack("!4H", 7777, to[1], 12, 0) + b"ping" + bytes(12)
    addresses = socket.inet_aton(source) + socket.inet_aton(to[0])
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, protocol, 0) + addresses
    made.sendto(head + udp, (to[0], 0))


def datagram(order):
    """What comes back for a datagram, by a socket that is kept."""
    global kept
    to = tuple(order["datagram"])
    if order.get("source"):
        raw_datagram(to, order["source"], order.get("protocol", socket.IPPROTO_UDP))
        return "sent"
    if not order.get("again"):
        kept = socket.socket(socket.AF_INET6 if ":" in to[0] else socket.AF_INET, socket.SOCK_DGRAM)
        if "port" in order:
            kept.bind(("", order["port"]))
        if order.get("connected"):
            kept.connect(to)
    kept.settimeout(order.get("wait", 10))
    if order.get("connected"):
        kept.send(b"ping")
    else:
        kept.sendto(b"ping", to)
    return kept.recv(4).decode()


def name(error):
    return errno.errorcode.get(error.errno, "timeout" if isinstance(error, TimeoutError) else str(error))


kept = late = None


def follow(order):
    global kept, late
    if "connect" in order:
        kept = make(order["connect"][0], IPPROTO_MPTCP if order.get("multipath") else 0)
        if "source" in order:
            kept.bind((order["source"], 0))
        if order.get("deferred"):
            kept.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 1)
        if order.get("padded"):
            # destination options of padding alone (RFC 8200 section 4.6)
            padding = bytes([0, 0, 1, 4, 0, 0, 0, 0])
            kept.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, padding)
        if "wait" in order:
            kept.settimeout(order["wait"])
        kept.connect(tuple(order["connect"]))
        return "connected"
    if "datagram" in order:
        return datagram(order)
    if "socket" in order:
        kept = make(order["socket"])
        return "made"
    if "again" in order:
        checked(libc.connect(kept.fileno(), bytes(16), 16))
        kept.connect(tuple(order["again"]))
        return "connected"
    if "finish" in order:
        kept.settimeout(2)
        kept.connect(tuple(order["finish"]))
        return "connected"
    if "send" in order:
        kept.settimeout(None)
        WAYS[order["way"]](kept, order["send"].encode())
        return "sent"
    if "read" in order:
        return read(kept, order["read"])
    if "echo" in order:
        return echo(kept, order["echo"])
    if "give" in order:
        return give(kept, order["give"]) or "given"
    if "take" in order:
        kept = take(order["take"])
        return "taken"
    if "enter" in order:
        with open(order["enter"] + "/cgroup.procs", "w") as members:
            members.write(str(os.getpid()))
        return "entered"
    if "late" in order:
        late = Late(order["to"], order["late"].encode(), order.get("fast"))
        kept = late.made
        return "started"
    if "late_done" in order:
        return late.done(order["late_done"]) or "waits"
    return list(WAYS)


print(json.dumps("here"), flush=True)
for line in sys.stdin:
    try:
        result = follow(json.loads(line))
    except OSError as error:
        result = name(error)
    print(json.dumps(result), flush=True)
