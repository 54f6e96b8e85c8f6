"""The least that anybody pays: import Megatron-Bridge, load a checkpoint with it. Runs in the ranks' environment.

    python bench/bare_load.py VERSION_FOLDER CHECKPOINT

Prints {"import": S, "load": S}, seconds, in its last line.
"""

import json
import os
import sys
import time


def main() -> None:
    version_folder, checkpoint = sys.argv[1:]
    started = time.perf_counter()
    import torch

    on_cpu = not torch.cuda.is_available()
    if on_cpu:
        sys.path.insert(0, version_folder)
        from runtime.rank import cpu

        cpu.install()
    import megatron.bridge  # noqa: F401
    from megatron.bridge.training.model_load_save import build_and_load_model, load_model_config
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed

    if on_cpu:
        cpu.after_import()
    import torch.distributed as dist

    imported = time.perf_counter()
    dist.init_process_group("gloo" if on_cpu else "nccl", store=dist.HashStore(), rank=0, world_size=1)
    config, arguments = load_model_config(checkpoint)
    if on_cpu:
        cpu.adapt_config(config)
    parallel_state.initialize_model_parallel()
    model_parallel_cuda_manual_seed(0)
    build_and_load_model(checkpoint, config, megatron_args=arguments, use_cpu_init=on_cpu)
    if not on_cpu:
        torch.cuda.synchronize()
    print(json.dumps({"import": imported - started, "load": time.perf_counter() - imported}), flush=True)
    sys.stderr.flush()
    os._exit(0)  # what a process does on its way out is not part of loading


if __name__ == "__main__":
    main()
