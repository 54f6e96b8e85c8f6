"""Triton's Python stub: reads requests, admits them, supervises ranks, answers. No torch: numpy, pyzmq, msgpack."""
