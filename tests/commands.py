"""Commands of the shell that need not import everything anew: each is forked from a process that has imported it.

What a command does is what it does when it is started: its arguments, folder, environment, output and exit status are
its own. Only the seconds are saved in which it would import DuckDB, torch and transformers.
"""

from __future__ import annotations

import array
import atexit
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["forked_commands"]

#: What commands import first: without these, forking saves little.
_MODULES = (
    "slideduck.cli.group",
    "slideduck.study",
    "slideduck.runner",
    "slideduck.runner.cli.train",
    "slideduck.runner.cli.use",
    "torch",
    "ffcv.loader",
    "transformers.models.auto.modeling_auto",
    "transformers.models.resnet.modeling_resnet",
    "matplotlib.figure",
    "pandas",
)

#: Asks the server, hands it the three streams, and ends as the command did. It imports nothing that takes long.
_CLIENT = """\
#!{python} -IS
import array, json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    asked = json.dumps([sys.argv, os.getcwd(), dict(os.environ)]).encode()
    streams = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", (0, 1, 2)))]
    server.sendmsg([len(asked).to_bytes(8, "big")], streams)
    server.sendall(asked)
    status = server.recv(1)
sys.exit(status[0] if status else 70)
"""


@contextmanager
def forked_commands(folder: Path) -> Iterator[Path]:
    """Make the command ``slideduck`` in a folder, which is to be the first on the path, while the block runs.

    Parameters
    ----------
    folder : Path
        A folder that exists; its path is short, since sockets have short names.

    Yields
    ------
    Path
        The folder that holds the command.
    """
    address = str(folder / "server")
    command = folder / "slideduck"
    command.write_text(_CLIENT.format(python=sys.executable, address=address))
    command.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.commands", str(listening.fileno())],
            cwd=Path(__file__).resolve().parents[1],
            pass_fds=[listening.fileno()],
        )
        try:
            yield folder
        finally:
            server.terminate()
            server.wait()


def _serve(listening: socket.socket) -> None:
    """Fork a command for each that asks, one after the other, as a shell runs them."""
    for name in _MODULES:
        importlib.import_module(name)
    while True:
        asking, _ = listening.accept()
        with asking:
            head, ancillary, _, _ = asking.recvmsg(8, socket.CMSG_SPACE(3 * array.array("i").itemsize))
            streams = array.array("i", ancillary[0][2])
            length = int.from_bytes(head, "big")
            asked = b""
            while len(asked) < length:
                asked += asking.recv(length - len(asked))
            child = os.fork()
            if not child:
                listening.close()
                words, at, environment = json.loads(asked)
                _run(words, at, environment, streams)
            for stream in streams:
                os.close(stream)
            _, ended = os.waitpid(child, 0)
            asking.send(bytes([os.waitstatus_to_exitcode(ended) % 256]))


def _run(words: list[str], folder: str, environment: dict[str, str], streams: array.array[int]) -> None:
    """Be the command; never returns."""
    from slideduck.cli.group import cli

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = words
    status = 70
    try:
        cli(prog_name="slideduck")
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    _serve(socket.socket(fileno=int(sys.argv[1])))
