"""Run one rank: join the others, load this rank's part of the model, serve."""

import faulthandler
import gc
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from ..common.parent_death import die_with_parent, name_process
from ..common.protocol import REMOTE_FRONTEND_VARIABLE, SETTINGS_VARIABLE, Fatal, Ready
from ..common.settings import Settings
from . import rendezvous
from .loop.connection import RankConnection


def run() -> None:
    """Serve until the process is ended. torchrun's environment variables have this process's rank."""
    die_with_parent()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)  # instead of torchrun's handlers, which a forked rank inherits
    faulthandler.enable()
    rank = int(os.environ["RANK"])
    name_process(f"rank {rank}")
    connection = RankConnection(rank)
    try:
        try:
            serving = _start(rank, connection)
        except Exception as error:
            connection.send(Fatal(rank, f"{type(error).__name__}: {error}"))
            connection.close()
            raise
        serving()
    except Exception:
        traceback.print_exc()  # torchrun keeps a forked rank's, so that the stub shows it
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)  # at once, without waiting for threads that still fetch images


def _start(rank: int, connection: RankConnection) -> Callable[[], None]:
    """Start the rank; return the function that serves."""
    begun = time.monotonic()
    connection.progress("importing torch")

    import torch
    import torch.distributed as dist

    on_cpu = not torch.cuda.is_available()
    connection.progress(f"joining {os.environ['WORLD_SIZE']} ranks")
    if on_cpu:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // int(os.environ["LOCAL_WORLD_SIZE"])))
        dist.init_process_group("gloo", **rendezvous.of_this_start(dist))
    else:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        # Without `device_id`: communicators of all of Megatron's groups, used or not, would take 7.6 GiB of the GPU.
        dist.init_process_group("nccl", **rendezvous.of_this_start(dist))
    settings = _meet(dist, connection)

    from .engines.api import warm_up
    from .loop.broadcast import StepBroadcast
    from .loop.intake import Intake
    from .loop.serving import serve
    from .loop.topology import discover
    from .start import start

    started = start(settings, on_cpu=on_cpu, progress=connection.progress)
    engine = started.engine
    group, replica, groups = discover()
    engine.loop.run_until_complete(warm_up(engine, settings.max_sequence_length))
    gc.collect()
    gc.freeze()  # 700,000 objects of the libraries: scanning them takes a third of a second, during serving
    broadcast = StepBroadcast(group, rank)
    intake = None
    if broadcast.is_leader:
        connection.progress(f"ready after {time.monotonic() - begun:.1f} s")
        intake = Intake(
            connection,
            started.codec,
            Ready(
                connection=connection.identity,
                groups=groups,
                slots=engine.slots * len(group.replica_leaders),
                max_sequence_length=settings.max_sequence_length,
                max_prompt_bytes=settings.max_sequence_length * started.codec.max_token_bytes(),
            ),
        )
    return lambda: engine.loop.run_until_complete(
        serve(
            group,
            replica,
            rank,
            broadcast=broadcast,
            connection=connection,
            intake=intake,
            codec=started.codec,
            engine=engine,
            eos_ids=started.eos_ids,
        )
    )


def _meet(dist: Any, connection: RankConnection) -> Settings:
    """Return the deployment's settings, which the ranks of the stub's node have and share with the others."""
    own = (os.environ.get(SETTINGS_VARIABLE), os.environ.get(REMOTE_FRONTEND_VARIABLE))
    given: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(given, own)
    parameters, endpoint = next((each for each in given if each[0]), (None, None))
    if parameters is None:
        raise RuntimeError("No rank has the deployment's settings; Triton's stub has to start one of the nodes.")
    if not connection.connected and endpoint:
        connection.connect(endpoint)
    return Settings.from_parameters(json.loads(parameters))
