"""HTTP without a client library: the bytes that are sent are those of the test."""

import json
import socket
import struct
from dataclasses import dataclass, field


@dataclass
class Response:
    status: int
    headers: dict = field(default_factory=dict)  # names in lower case
    body: bytes = b""

    def error(self):
        """The error object, its shape checked."""
        error = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["code"] == self.status
        assert error["message"]
        return error


class Connection:
    def __init__(self, server, receive_buffer=0, timeout=30):
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout)
        self.socket.connect(("127.0.0.1", server.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.input = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send(self, data):
        """False when the server has closed the connection."""
        try:
            self.socket.sendall(data)
            return True
        except (BrokenPipeError, ConnectionResetError):
            return False

    def _fill(self):
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            data = b""
        self.input += data
        return bool(data)

    def _until(self, end):
        while (at := self.input.find(end)) < 0:
            assert self._fill(), f"the connection ended; read: {self.input[:200]}"
        taken, self.input = self.input[: at + len(end)], self.input[at + len(end) :]
        return taken

    def response(self):
        """The next response; of the bytes after a header without Content-Length nothing is taken."""
        head = self._until(b"\r\n\r\n").decode("ascii").split("\r\n")
        response = Response(int(head[0].split(" ")[1]))
        for line in head[1:-2]:
            name, value = line.split(": ", 1)
            response.headers[name.lower()] = value
        size = int(response.headers.get("content-length", 0))
        while len(self.input) < size:
            assert self._fill(), "the connection ended within a body"
        response.body, self.input = self.input[:size], self.input[size:]
        return response

    def rest(self):
        """What comes until the server closes."""
        while self._fill():
            pass
        return self.input

    def close(self):
        self.socket.close()

    def reset(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def half_close(self):
        self.socket.shutdown(socket.SHUT_WR)


def post(path, body, headers=""):
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
    return head.encode() + payload


def exchange(server, data):
    """The one response to these bytes, after which the server closes when it has refused them."""
    with Connection(server) as connection:
        connection.send(data)
        return connection.response()
