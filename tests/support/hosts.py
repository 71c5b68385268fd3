"""Two machines on one: each with a network of its own and a name of its own, joined by a cable.

Namespaces belong to the processes that hold them and end with them; nothing has a global name.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

TOOLS = ("unshare", "nsenter", "ip")


@dataclass(frozen=True)
class Host:
    """A machine: its address, and what goes before a command that runs there. Without a prefix it is this one."""

    address: str
    prefix: tuple[str, ...] = ()
    name: str = ""

    def run(self, *command: str) -> None:
        subprocess.run([*self.prefix, *command], check=True, capture_output=True, text=True)


class CannotJoin(Exception):
    """This machine allows no namespaces; the text says why."""


@contextlib.contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Two hosts in network namespaces.

    Raises:
        CannotJoin: where that is not allowed.
    """
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise CannotJoin(f"no {', '.join(missing)} on this machine")
    with contextlib.ExitStack() as stack:
        first = _hold(stack, "unshare", "--map-root-user", "--net", "--uts")
        inside = ("nsenter", "--target", str(first), "--user", "--preserve-credentials")
        second = _hold(stack, *inside, "unshare", "--net", "--uts")
        hosts = []
        for number, holder in enumerate((first, second)):
            enter = ("nsenter", "--target", str(holder), "--user", "--net", "--uts", "--preserve-credentials")
            hosts.append(Host(f"10.77.0.{number + 1}", enter, f"clusterfit-host{number}"))
        try:
            hosts[0].run("ip", "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", str(second))
            for host in hosts:
                host.run("ip", "address", "add", f"{host.address}/24", "dev", "cable")
                for link in ("lo", "cable"):
                    host.run("ip", "link", "set", link, "up")
                host.run("sh", "-c", f"echo {host.name} > /proc/sys/kernel/hostname")
        except subprocess.CalledProcessError as error:
            raise CannotJoin(f"{' '.join(error.cmd[-8:])}: {error.stderr.strip()}") from None
        yield hosts[0], hosts[1]


def _hold(stack: contextlib.ExitStack, *command: str) -> int:
    """A process that holds its namespaces until the stack is left; its number."""
    process = subprocess.Popen(
        [*command, "sh", "-c", "echo there; exec sleep 1000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    stack.callback(process.communicate)
    stack.callback(process.kill)
    if process.stdout.readline().strip() != "there":
        raise CannotJoin(f"{command[0]} refuses: {process.stderr.read().strip()}")
    return process.pid


def free_port() -> int:
    """A port of this machine that nobody uses."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        return listener.getsockname()[1]
