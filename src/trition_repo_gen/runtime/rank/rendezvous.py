"""Where ranks tell each other their addresses: a store of torchrun's, or of the first rank.

torchrun's is there before any rank is. The first rank instead binds a port that torchrun found free when it started,
and seconds later, when torch is imported, another process of the machine may have it. But in torchrun's store ranks
that are started again would read the addresses of dead ones: torch 2.11 gives all starts one set of keys
(torch/distributed/rendezvous.py, `_create_c10d_store`). On one node the starts are numbered, so that each has its own
keys. Several nodes do not number them alike, and the store is the first rank's.
"""

import os
from typing import Any

OWN_STORE_VARIABLE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
"""Environment variable that tells torchrun to leave the store to the first rank."""


def of_this_start(dist: Any) -> dict[str, Any]:
    """Return the arguments of `init_process_group` that say where the ranks meet.

    Args:
        dist: torch.distributed
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {}
    port = int(os.environ["MASTER_PORT"])
    shared = dist.TCPStore(os.environ["MASTER_ADDR"], port, is_master=False, wait_for_workers=False)
    store = dist.PrefixStore(f"start {os.environ['TORCHELASTIC_RESTART_COUNT']}", shared)
    return {"store": store, "rank": int(os.environ["RANK"]), "world_size": int(os.environ["WORLD_SIZE"])}
