"""What a user can do wrong. The command line prints the sentence and exits with code 2; anything else is a bug."""


class UserError(Exception):
    """Base of all mistakes that a user can mend; its text is one sentence that says what to write instead."""


class CheckpointError(UserError):
    """The checkpoint is missing, half-written or of another kind."""


class LayoutError(UserError):
    """The checkpoint cannot be cut the way that was asked for."""


class RepositoryError(UserError):
    """The model repository cannot be written or read."""


class ServerError(UserError):
    """tritonserver cannot be found or started."""


class QueryError(UserError):
    """The server did not answer, or answered with an error."""
