"""Whether anybody answers at the address of a cluster. Ray itself tries for 14 minutes, and cannot be interrupted."""

from __future__ import annotations

import logging
import time

import grpc
from ray._private.grpc_utils import init_grpc_channel  # with TLS where Ray has it
from ray._private.services import canonicalize_bootstrap_address  # what ray.init makes of an address

logger = logging.getLogger(__name__)

ANSWER_S = 20.0
"""A head that is being started, or restarted, has until then."""

_ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"


def require_answer(address: str, patience: float = ANSWER_S) -> None:
    """Return if a Ray head answers, be it by asking for a token.

    Args:
        address: As ``RAY_ADDRESS`` has it; one of Ray Client (``ray://``) is left to it, which gives up by itself.
        patience: Seconds.

    Raises:
        ValueError: If it is no address of a Ray head.
        ConnectionError: If nothing answers there.

    """
    if address.startswith("ray://"):
        return
    if "://" in address:
        raise ValueError(
            f"RAY_ADDRESS={address} is that of a dashboard, to which jobs are submitted; a job itself joins the "
            "cluster at HOST:PORT of its head (6379 unless told otherwise), or starts Ray without RAY_ADDRESS"
        )
    try:
        place = canonicalize_bootstrap_address(address)
    except ValueError as error:
        raise ValueError(f"RAY_ADDRESS={address} is no HOST:PORT") from error
    assert place is not None, "no cluster was named"
    deadline, said = time.monotonic() + patience, False
    while why := _silence(place, deadline - time.monotonic()):
        if time.monotonic() >= deadline - 1:
            raise ConnectionError(
                f"no Ray answers at RAY_ADDRESS={address} ({place}: {why}); start its head (ray start --head), correct "
                "the address, or unset RAY_ADDRESS: then the job starts a Ray of its own"
            )
        if not said:
            logger.info("no Ray answers at %s (%s); trying for %.0f s ...", place, why, patience)
            said = True
        time.sleep(1)


def _silence(place: str, patience: float) -> str:
    """Return why no head answers; empty if one does."""
    with init_grpc_channel(place, [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(_ALIVE)(b"", timeout=max(patience, 0.1))
        except grpc.RpcError as error:
            code, details = error.code(), str(error.details())
            if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                return "no answer"
            if code is grpc.StatusCode.UNIMPLEMENTED:
                return "what answers is no head of Ray"
            return details.rpartition(": ")[2].rstrip("]") if code is grpc.StatusCode.UNAVAILABLE else ""
    return ""
