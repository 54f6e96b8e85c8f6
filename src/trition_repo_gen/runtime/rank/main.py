"""Entry point of ranks: torchrun runs model.py once per GPU; run by hand, model.py starts torchrun for this node."""

import os


def main() -> None:
    """Run as a rank if torchrun started this process, else as the node's torchrun."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        from .run import run

        run()
    else:
        from .torchrun import run_agent

        run_agent()
