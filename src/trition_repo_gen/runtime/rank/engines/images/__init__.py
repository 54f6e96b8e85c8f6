"""Models that read pictures: an engine of our own, since Megatron Core's takes text alone."""
