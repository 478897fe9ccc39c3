"""What all tests share: options and markers, a small table of diamonds, and no way to the network."""

import gc
import lzma
import os
import socket
from pathlib import Path

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # albumentations asks a server for its newest version when it is imported

import pytest
import torch

torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_xdist_auto_num_workers(config):
    """Workers for ``-n auto``: every one imports torch and uses one core, so a few are enough."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 4)


def pytest_collection_modifyitems(config, items):
    for item in items:
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def pytest_collection_finish(session):
    """What is there now stays: gc.collect, of which some tests and scripts need many, looks at what came later alone."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def no_network():
    """Only loopback addresses and Unix sockets can be connected to, and no name can be looked up."""

    def guard(function, position):
        def checked(*arguments, **options):
            target = arguments[position]
            host = target[0] if isinstance(target, tuple) else target
            local = host in (None, "", "localhost", "::1") or str(host).startswith("127.")
            if not local and getattr(arguments[0], "family", None) != socket.AF_UNIX:
                raise RuntimeError(f"a test tried to reach {host!r}")
            return function(*arguments, **options)

        return checked

    with pytest.MonkeyPatch.context() as patch:
        for method in ("connect", "connect_ex", "sendto"):
            position = -1 if method == "sendto" else 1
            patch.setattr(socket.socket, method, guard(getattr(socket.socket, method), position))
        patch.setattr(socket, "getaddrinfo", guard(socket.getaddrinfo, 0))
        yield


@pytest.fixture(scope="session", autouse=True)
def quick_seeds():
    """Without a GPU, torch.manual_seed would keep a trace of every call, a millisecond each, for the day there is one."""
    with pytest.MonkeyPatch.context() as patch:
        if not torch.cuda.is_available():
            patch.setattr(torch, "manual_seed", torch.default_generator.manual_seed)
        yield


@pytest.fixture(scope="session")
def stones(tmp_path_factory):
    """A CSV file with every 27th diamond: 1,398 to train on, 300 to validate and 300 to test."""
    lines = lzma.decompress((ROOT / "tasks/data/diamonds.csv.xz").read_bytes()).decode().splitlines()
    path = tmp_path_factory.mktemp("data") / "stones.csv"
    path.write_text("\n".join([lines[0], *lines[1::27]]) + "\n")
    return path
