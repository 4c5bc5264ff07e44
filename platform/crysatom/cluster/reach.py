"""Check whether a Ray head answers at an address. Ray 2.60 itself makes 20 attempts of 41 seconds each."""

from __future__ import annotations

import logging
import time

import grpc
from ray._private.grpc_utils import init_grpc_channel  # uses TLS if Ray does
from ray._private.services import canonicalize_bootstrap_address  # resolves an address as ray.init does

logger = logging.getLogger(__name__)

ANSWER_S = 20.0
"""Seconds for a head that is being started or restarted."""

_ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"


def require_answer(address: str, patience: float = ANSWER_S) -> None:
    """Return if a Ray head answers, even if it asks for a token.

    Args:
        address: Value of ``RAY_ADDRESS``. A Ray Client address (``ray://``) is not checked: it has its own timeout.
        patience: Seconds to keep trying.

    Raises:
        ValueError: If it is not the address of a Ray head.
        ConnectionError: If nothing answers.

    """
    if address.startswith("ray://"):
        return
    if "://" in address:
        raise ValueError(
            f"RAY_ADDRESS={address} is a dashboard's address, to which jobs are submitted; a job joins the cluster at "
            "HOST:PORT of its head (port 6379 by default), or starts its own Ray without RAY_ADDRESS"
        )
    try:
        place = canonicalize_bootstrap_address(address)
    except ValueError as error:
        raise ValueError(f"RAY_ADDRESS={address} is not HOST:PORT") from error
    assert place is not None, "no cluster was named"
    deadline, logged = time.monotonic() + patience, False
    while why := _failure(place, deadline - time.monotonic()):
        if time.monotonic() >= deadline - 1:
            raise ConnectionError(
                f"no Ray answers at RAY_ADDRESS={address} ({place}: {why}); start its head (ray start --head), correct "
                "the address, or unset RAY_ADDRESS: the job then starts its own Ray"
            )
        if not logged:
            logger.info("no Ray answers at %s (%s); trying for %.0f s ...", place, why, patience)
            logged = True
        time.sleep(1)


def _failure(place: str, patience: float) -> str:
    """Return why no head answers; empty if one does."""
    with init_grpc_channel(place, [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(_ALIVE)(b"", timeout=max(patience, 0.1))
        except grpc.RpcError as error:
            code, details = error.code(), str(error.details())
            if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                return "no answer"
            if code is grpc.StatusCode.UNIMPLEMENTED:
                return "the server there is not a Ray head"
            return details.rpartition(": ")[2].rstrip("]") if code is grpc.StatusCode.UNAVAILABLE else ""
    return ""
