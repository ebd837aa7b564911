"""What the server refuses, in one sentence and with a code that programs can read."""

from echox_jax import errors

INVALID, BUSY, SERVER = 'invalid_request_error', 'rate_limit_error', 'server_error'


class Refusal(errors.EchoXError):
  """A message of a client that cannot be served; the connection stays open.

  Args:
    message: one sentence with the remedy.
    code: a short name, such as `invalid_value`.
    kind: `type` of the protocol's error object.
    param: path of the field that is wrong, such as `session.audio.input.format`.
  """

  def __init__(self, message: str, code: str, kind: str = INVALID, param: str | None = None):
    super().__init__(message)
    self.code, self.kind, self.param = code, kind, param
    self.event_id: str | None = None  # of the message that is refused
