"""A TCP server of its own making at the far end of a tun device, for what no kernel sends at a
test's wish: segments that repeat bytes which came before.

    repeats.py ADDRESS

It waits for a request on any port of ADDRESS and answers with 200 and a body of the pattern
(byte i is i % 251), by the segments of the line of JSON that it reads from standard input: a list of
[FIRST, END] in bytes of the body, or a number of bytes that must be acknowledged before it goes on.
The head goes by itself before. Prints `listening`, and `answered` when all was acknowledged.
"""

import fcntl, json, os, select, socket, struct, subprocess, sys, time

PERIOD = 251
SYN, FIN, RST, PSH, ACK = 2, 1, 4, 8, 16
START = 0xFFFFF000  # so that sequence numbers wrap


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Peer:
    def __init__(self, tun, ours, segment):
        self.tun, self.ours = tun, ours
        self.theirs, self.port, self.their_port = segment.source, segment.to, segment.port
        self.acked = 0
        self.next = segment.seq + 1
        self.send(0, b"", SYN | ACK, before=1)

    def send(self, offset, data, flags=ACK, before=0):
        """Sends data that begins at an offset of what follows the handshake."""
        seq = (START + 1 + offset - before) & 0xFFFFFFFF
        next_, length = self.next & 0xFFFFFFFF, 20 + len(data)
        head = struct.pack("!HHIIBBHHH", self.port, self.their_port, seq, next_, 0x50, flags, 65535, 0, 0)
        pseudo = self.ours + self.theirs + struct.pack("!BBH", 0, socket.IPPROTO_TCP, length)
        total = checksum(pseudo + head + data)
        head = head[:16] + struct.pack("!H", total) + head[18:]
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 0, 0x4000, 64, socket.IPPROTO_TCP, 0)
        ip += self.ours + self.theirs
        ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
        os.write(self.tun, ip + head + data)

    def take(self, segment):
        """Takes note of a segment; what it brought."""
        if segment.flags & RST:
            sys.exit("reset")
        if segment.flags & ACK:
            self.acked = max(self.acked, (segment.ack - START - 1) & 0xFFFFFFFF)
        if not segment.data or segment.seq != self.next & 0xFFFFFFFF:
            return b""
        self.next += len(segment.data)
        self.send(self.sent, b"")
        return segment.data

    sent = 0

    def wait(self, done):
        end = time.monotonic() + 10
        data = b""
        while not done(data):
            if time.monotonic() > end:
                sys.exit(f"{self.acked} bytes were acknowledged")
            segment = receive(self.tun, 0.1)
            if segment:
                data += self.take(segment)


class Segment:
    def __init__(self, packet):
        head = (packet[0] & 15) * 4
        self.source = packet[12:16]
        self.port, self.to, self.seq, self.ack, words, self.flags = struct.unpack(
            "!HHIIBB", packet[head : head + 14]
        )
        self.data = packet[head + (words >> 4) * 4 :]


def receive(tun, limit):
    if not select.select([tun], [], [], limit)[0]:
        return None
    packet = os.read(tun, 65535)
    if packet[0] >> 4 != 4 or packet[9] != socket.IPPROTO_TCP:
        return None
    return Segment(packet)


def tun_to(address):
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", b"far", 0x1001))  # TUNSETIFF: TUN, NO_PI
    ip = lambda *words: subprocess.run(["ip", *words], check=True)
    ip("link", "set", "far", "up", "mtu", "65535")
    ip("route", "add", f"{address}/32", "dev", "far")
    return tun


def answer(peer, plan):
    size = max(step[1] for step in plan if isinstance(step, list))
    pattern = bytes(i % PERIOD for i in range(size))
    peer.wait(lambda data: b"\r\n\r\n" in data)
    head = f"HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n".encode()
    peer.send(0, head, ACK | PSH)
    for step in plan:
        if isinstance(step, list):
            first, end = step
            peer.send(len(head) + first, pattern[first:end], ACK | PSH)
        else:
            peer.wait(lambda _: peer.acked >= len(head) + step)
    peer.sent = len(head) + size
    peer.wait(lambda _: peer.acked >= peer.sent)
    return peer


def main():
    address = sys.argv[1]
    tun = tun_to(address)
    print("listening", flush=True)
    for line in sys.stdin:
        segment = None
        while not (segment and segment.flags & SYN):
            segment = receive(tun, 1)
        answer(Peer(tun, socket.inet_aton(address), segment), json.loads(line))
        print("answered", flush=True)


main()
