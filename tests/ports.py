"""Addresses on this machine that nothing listens at."""

import socket


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def closed_address() -> str:
    return f"http://127.0.0.1:{free_port()}"
