"""Attackers in a process of their own, so that what they take is not the measuring client's time: slow_sender.py PORT HEX

100 connections send the bytes given and then a byte every 50 ms each, until standard input ends. "ready" is printed
when all have begun.
"""

import select
import socket
import sys


def send(connection, data):
    try:
        connection.sendall(data)
    except OSError:  # the server has had enough of it
        pass


def main():
    port, start = int(sys.argv[1]), bytes.fromhex(sys.argv[2])
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
    for connection in connections:
        send(connection, start)
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], 0.05)[0]:
        for connection in connections:
            send(connection, b"x")


if __name__ == "__main__":
    main()
