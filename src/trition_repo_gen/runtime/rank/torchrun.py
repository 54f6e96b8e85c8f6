"""Run torchrun for this node: it starts the ranks, ends all of them when one dies, and restarts them."""

import contextlib
import json
import os
import sys

from ..common.parent_death import PARENT_VARIABLE, die_with_parent, end_parent_with_grandparent
from ..common.protocol import SETTINGS_VARIABLE
from ..common.settings import Settings
from .rendezvous import OWN_STORE_VARIABLE


def run_agent() -> None:
    """Run `torch.distributed.run` on model.py with this process's arguments.

    On further nodes of a deployment, start it by hand:
    `python model.py --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:PORT`.
    """
    if PARENT_VARIABLE in os.environ:
        die_with_parent()
        end_parent_with_grandparent()
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    import torch
    from torch.distributed import run

    arguments = [*sys.argv[1:], sys.argv[0]]
    _, nodes = run.parse_min_max_nnodes(run.parse_args(arguments).nnodes)
    if nodes > 1:  # see rendezvous.py
        os.environ.setdefault(OWN_STORE_VARIABLE, "1")
    if torch.cuda.is_available():  # CUDA does not work in a forked process
        run.main(arguments)
    else:
        _import_for_all_ranks()
        run.main(["--run-path", "--start-method", "fork", *arguments])


def _import_for_all_ranks() -> None:
    """Import what the ranks need: they are forked from this process, at the start and after a death.

    On further nodes the settings are not known yet, so each of their ranks imports it.
    """
    if parameters := os.environ.get(SETTINGS_VARIABLE):
        from .start import import_libraries

        with contextlib.suppress(Exception):  # the ranks will run into it again and report it
            import_libraries(Settings.from_parameters(json.loads(parameters)), on_cpu=True)
