"""Where the nodes of a run meet, and by which network interface."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

from vissl_clusterfit.errors import ConfigError, problem

_IFNAME = "GLOO_SOCKET_IFNAME"
_SIOCGIFADDR = 0x8915


def rendezvous_endpoint(run: Any) -> tuple[str, int]:
    """Host and port where the processes of a run meet; port 0 where any free one will do.

    Args:
        run: ``config.DISTRIBUTED``.

    Raises:
        ConfigError: several nodes, and no word where they meet.
    """
    setting = "config.DISTRIBUTED.RUN_ID"
    if run.NUM_NODES > 1 and run.INIT_METHOD != "tcp":
        raise ConfigError(
            problem("config.DISTRIBUTED.INIT_METHOD", found=run.INIT_METHOD, allowed="tcp for several nodes")
        )
    if run.NUM_NODES == 1 and (run.INIT_METHOD != "tcp" or run.RUN_ID in ("auto", "", None)):
        return "localhost", 0
    host, _, port = str(run.RUN_ID).rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        several = f" for {run.NUM_NODES} nodes (config.DISTRIBUTED.NUM_NODES)" if run.NUM_NODES > 1 else ""
        alone = "To run on this machine alone, set config.DISTRIBUTED.NUM_NODES=1. " if several else ""
        raise ConfigError(
            problem(
                setting,
                found=f"{run.RUN_ID!r}{several}",
                allowed="<host>:<port> of node 0, the same on every node",
                remedy=f"{alone}For example config.DISTRIBUTED.RUN_ID=10.0.0.1:29500.",
            )
        )
    return host.strip("[]"), int(port)


def wait_for(host: str, port: int, limit_s: float, waiting: Callable[[], None]) -> None:
    """Returns when the port is open. ``waiting`` is called once, if that takes longer than a moment.

    Raises:
        ConfigError: it was not in that time.
    """
    begin, said = time.monotonic(), False
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
        except OSError as error:
            reason = error
        else:
            return
        passed = time.monotonic() - begin
        if passed > limit_s:
            raise ConfigError(
                problem(
                    "config.DISTRIBUTED.RUN_ID",
                    found=f"{host}:{port}, where nothing has answered for {limit_s:.0f} s ({reason})",
                    allowed="an address of node 0 that every node reaches",
                    remedy="Start node 0 (node_id=0) on that host, and let its firewall pass the port.",
                )
            )
        if passed > 5 and not said:
            waiting()
            said = True
        time.sleep(0.2)


def choose_interface(host: str, port: int) -> None:
    """Has gloo use the interface that leads to node 0, unless the user has named one.

    Left alone it takes the address that this machine's own name has, and that is a loopback one on many.
    """
    if os.environ.get(_IFNAME):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, port))  # a datagram socket: nothing is sent
        address = probe.getsockname()[0]
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # an interface without an address
                request = struct.pack("256s", name.encode()[:15])
                if socket.inet_ntoa(fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)[20:24]) == address:
                    os.environ[_IFNAME] = name
                    return
