"""The model hub, tried once for a few seconds; without it, files that were fetched before."""

from __future__ import annotations

import logging
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

_PATIENCE = 4.0  # seconds
_UNREACHABLE = "it cannot be reached, and the file is not in the cache"


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Ask the hub once, and quietly; without network, take what is in the cache.

    The hub's own client tries for most of a minute, with a line for each attempt. ``HF_HUB_OFFLINE=1`` is obeyed without a try.
    What fails in the end is raised; ConnectionError if the hub cannot be reached.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    logger = logging.getLogger("huggingface_hub")
    level, offline = logger.level, constants.HF_HUB_OFFLINE
    there = not offline and _reachable(constants.ENDPOINT)
    logger.setLevel(logging.ERROR)
    constants.HF_HUB_OFFLINE = not there
    try:
        yield
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        if there:
            raise
        why = "HF_HUB_OFFLINE is set, and the file is not in the cache" if offline else _UNREACHABLE
        raise ConnectionError(f"{constants.ENDPOINT}: {why}") from error
    finally:
        constants.HF_HUB_OFFLINE = offline
        logger.setLevel(level)


def _reachable(url: str) -> bool:
    """Whether the host of ``url``, or its proxy, accepts a connection within four seconds.

    The look-up of a name has no time limit of its own, so a thread is left alone with it.
    """
    place = urlsplit(url)
    proxy = urllib.request.getproxies().get(place.scheme)
    if proxy and not urllib.request.proxy_bypass(place.hostname or ""):
        place = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    address = place.hostname or "", place.port or (80 if place.scheme == "http" else 443)
    answered: list[bool] = []

    def attempt() -> None:
        with suppress(OSError, RuntimeError), socket.create_connection(address, timeout=_PATIENCE):
            answered.append(True)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    return bool(answered)
