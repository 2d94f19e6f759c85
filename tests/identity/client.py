"""A client that does as it is told, line by line, and answers each line with one of its own.

ask HOST PORT [SOURCE [PORT]]   makes a connection, from there, and asks who it is taken for
fork HOST PORT                  the same in a child
open HOST PORT [SOURCE [PORT]]  keeps a connection
detour HOST PORT [SOURCE]       asks, of what only userspace can tell, by a new connection
again                           asks by the connection that is kept
enter PATH                      enters a network namespace
"""

import ctypes
import os
import socket
import sys

IP_FREEBIND = 15
CLONE_NEWNET = 0x40000000


def connect(host, port, source=None, source_port="0"):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.settimeout(5)
    if source:
        made.setsockopt(socket.SOL_IP, IP_FREEBIND, 1)
        made.bind((source, int(source_port)))
    made.connect((host, int(port)))
    return made


def ask(made, path="/"):
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
    return body.decode()


def fork(*where):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, ask(connect(*where)).encode())
        os._exit(0)
    os.close(write)
    answer = os.read(read, 4096).decode()
    os.close(read)
    os.waitpid(child, 0)
    return answer


def enter(path):
    libc = ctypes.CDLL(None, use_errno=True)
    with open(path) as namespace:
        if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
            return os.strerror(ctypes.get_errno())
    return "entered"


kept = None
print("here", flush=True)
for line in sys.stdin:
    order, *rest = line.split()
    try:
        if order == "ask":
            answer = ask(connect(*rest))
        elif order == "detour":
            # the kernel normalises no path
            answer = ask(connect(*rest), "/x/../y")
        elif order == "open":
            kept = connect(*rest)
            answer = ask(kept)
        elif order == "again":
            answer = ask(kept)
        elif order == "fork":
            answer = fork(*rest)
        elif order == "enter":
            answer = enter(*rest)
    except OSError as error:
        answer = str(error)
    print(answer, flush=True)
