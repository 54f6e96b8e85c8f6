"""Choose the store through which ranks exchange addresses: torchrun's, or one of the first rank.

torchrun's store exists before any rank. A store of the first rank needs a port that torchrun found free when it
started; seconds later, when torch is imported, another process may have taken it. But in torchrun's store, restarted
ranks would read the addresses of dead ones: torch 2.11 uses the same keys for all starts
(torch/distributed/rendezvous.py, `_create_c10d_store`). On one node the starts are numbered, so that each has its own
keys. Several nodes do not agree on the number, so there the first rank has the store.
"""

import os
from typing import Any

OWN_STORE_VARIABLE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
"""Environment variable that makes torchrun leave the store to the first rank."""


def of_this_start(dist: Any) -> dict[str, Any]:
    """Return the arguments of `init_process_group` for the store of this start.

    Args:
        dist: torch.distributed
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {}
    port = int(os.environ["MASTER_PORT"])
    shared = dist.TCPStore(os.environ["MASTER_ADDR"], port, is_master=False, wait_for_workers=False)
    store = dist.PrefixStore(f"start {os.environ['TORCHELASTIC_RESTART_COUNT']}", shared)
    return {"store": store, "rank": int(os.environ["RANK"]), "world_size": int(os.environ["WORLD_SIZE"])}
