"""torchrun for this node: starts its ranks, ends all of them when one dies, starts them again."""

import os
import sys

from ..lifeline import PARENT_VARIABLE, die_with_parent, end_parent_with_grandparent


def run_agent() -> None:
    """Run `torch.distributed.run` on model.py with this process's arguments.

    On a further node of a deployment one starts it by hand:
    `python model.py --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:PORT`.
    """
    if PARENT_VARIABLE in os.environ:
        die_with_parent()
        end_parent_with_grandparent()
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    # Ranks that are started again would read addresses of dead ones: torch 2.11 lets all starts share one store and one
    # set of keys (torch/distributed/rendezvous.py:189) unless the rendezvous keeps its store to itself.
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    import torch
    from torch.distributed import run

    # What torchrun has imported its ranks need not import again; but CUDA works in no process that was forked.
    forks = [] if torch.cuda.is_available() else ["--run-path", "--start-method", "fork"]
    run.main([*forks, *sys.argv[1:], sys.argv[0]])
