"""What a client can do wrong."""


class BadRequestError(ValueError):
    """The client's mistake; the text is one sentence."""
