"""Models that take images: an engine of our own, since Megatron Core's takes text alone."""
