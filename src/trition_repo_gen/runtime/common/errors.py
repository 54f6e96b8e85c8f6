"""What can be wrong with a checkpoint by the time a rank loads it."""


class LoadError(RuntimeError):
    """The checkpoint cannot be loaded; the text is one sentence for the operator."""
