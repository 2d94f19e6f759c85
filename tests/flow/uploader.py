"""Uploads as event loops do: python3 uploader.py ADDR PORT PATH BYTES MODE

MODE is blocking, level (poll until it can be written to, then write once), edge (epoll, edge
triggered: write until EAGAIN) or idle-edge (the same, and never asks for readability, so that only
the room in the send buffer can wake it). Prints one line of JSON: the answer's status and body, the
processor time and the number of wake-ups while the upload went on, and the error, if there was one.
"""

import json
import select
import socket
import sys
import time

LIMIT = 60
PERIOD = bytes(i % 251 for i in range(251))


def blocking(sock, body):
    sock.sendall(body)
    return 0


def level(sock, body):
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    sent = wakes = 0
    while sent < len(body):
        if not poll.poll(LIMIT * 1000):
            raise TimeoutError("never writable")
        wakes += 1
        try:
            sent += sock.send(body[sent : sent + 65536])
        except BlockingIOError:
            pass
    return wakes


def edge(sock, body, events=select.EPOLLIN | select.EPOLLOUT | select.EPOLLET):
    epoll = select.epoll()
    epoll.register(sock, events)
    sent = wakes = 0
    while sent < len(body):
        if not epoll.poll(LIMIT):
            raise TimeoutError("never writable")
        wakes += 1
        try:
            while sent < len(body):
                sent += sock.send(body[sent : sent + 65536])
        except BlockingIOError:
            pass
    return wakes


def idle_edge(sock, body):
    return edge(sock, body, select.EPOLLOUT | select.EPOLLET)


def answer(sock):
    sock.settimeout(LIMIT)
    data = b""
    while b"\r\n\r\n" not in data:
        data += receive(sock)
    head, body = data.split(b"\r\n\r\n", 1)
    lines = head.decode().split("\r\n")
    fields = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}
    while len(body) < int(fields["content-length"]):
        body += receive(sock)
    return int(lines[0].split()[1]), body.decode()


def receive(sock):
    data = sock.recv(65536)
    if not data:
        raise EOFError("the connection has ended")
    return data


def main():
    address, port, path, length, mode = sys.argv[1:]
    length = int(length)
    body = memoryview((PERIOD * (length // len(PERIOD) + 1))[:length])
    report = {}
    begun = time.monotonic()
    try:
        sock = socket.create_connection((address, int(port)))
        head = f"POST {path} HTTP/1.1\r\nHost: web\r\nend-user: jason\r\n"
        sock.sendall(f"{head}Content-Length: {length}\r\n\r\n".encode())
        sock.setblocking(mode == "blocking")
        cpu = time.process_time()
        upload = {"blocking": blocking, "level": level, "edge": edge, "idle-edge": idle_edge}
        report["wakes"] = upload[mode](sock, body)
        report["cpu"] = time.process_time() - cpu
        report["status"], report["body"] = answer(sock)
    except Exception as error:
        report["error"] = repr(error)
    report["seconds"] = time.monotonic() - begun
    print(json.dumps(report))


main()
