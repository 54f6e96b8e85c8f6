"""The door for ranks: torchrun runs model.py once per GPU; started by hand, model.py starts torchrun for this node."""

import os


def main() -> None:
    """Run as a rank if torchrun says so, else as the node's torchrun."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        from .run import run

        run()
    else:
        from .torchrun import run_agent

        run_agent()
