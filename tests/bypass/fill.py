"""Fills the map `homes`, whose path is the argument, for each line that it reads, and says how many
entries it has made by then."""

import ctypes
import struct
import sys

BPF, UPDATE, GET = 321, 2, 7
E2BIG = 7

libc = ctypes.CDLL(None, use_errno=True)


def bpf(command, attributes):
    data = ctypes.create_string_buffer(attributes, len(attributes))
    result = libc.syscall(BPF, command, data, len(attributes))
    return result if result >= 0 else -ctypes.get_errno()


def fill(fd):
    made = 0
    key = ctypes.create_string_buffer(16)
    # of an address that nobody has: 100::, port 0, family 6
    value = ctypes.create_string_buffer(bytes([1]) + bytes(17) + struct.pack("H", 6), 20)
    while True:
        # numbers of cgroups do not get that high
        struct.pack_into("QII", key, 0, 2**60 + made, 1, 0)
        at = (ctypes.addressof(key), ctypes.addressof(value))
        if bpf(UPDATE, struct.pack("IIQQQ", fd, 0, *at, 0)) == -E2BIG:
            return made
        made += 1


path = ctypes.create_string_buffer(sys.argv[1].encode())
fd = bpf(GET, struct.pack("QII", ctypes.addressof(path), 0, 0))
assert fd >= 0, fd
for _ in sys.stdin:
    print(fill(fd), flush=True)
