"""What the command line, the way through Triton and the start cost: `python -m bench [cli|overhead|start|all]`."""
