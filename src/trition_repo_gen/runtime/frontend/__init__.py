"""The side that Triton's Python stub runs: requests in, answers out. No torch: numpy, pyzmq and msgpack."""
