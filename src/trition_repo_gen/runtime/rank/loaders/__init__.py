"""From a checkpoint on disk to a model on this rank: a module per kind of checkpoint, and what they share."""
