"""Logs of the server: a JSON object a line. What people say and hear is never logged."""

import json
import logging
import sys
import time
from typing import Any

# Attributes that every record has; others were given as `extra`.
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {'message', 'asctime', 'color_message'}


class JsonLines(logging.Formatter):
  """Writes a record as a line of JSON: time, level, event and what was given beside it."""

  def format(self, record: logging.LogRecord) -> str:
    """Gives the line."""
    values: dict[str, Any] = {
      'time': time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))
      + f'.{round(record.msecs) % 1000:03d}Z',
      'level': record.levelname.lower(),
      'event': record.getMessage(),
    }
    values |= {name: own for name, own in vars(record).items() if name not in _PLAIN}
    if record.exc_info:
      values['trace'] = self.formatException(record.exc_info)
    return json.dumps(values, default=str)


def _is_news(record: logging.LogRecord) -> bool:
  """Leaves out what uvicorn says of every socket that was refused with a status, as if it had been
  forgotten.
  """
  return 'returned without completing handshake' not in record.getMessage()


def to_stderr(level: str = 'INFO') -> None:
  """Sends the logs of the server, and warnings of what it is built on, to standard error."""
  handler = logging.StreamHandler(sys.stderr)
  handler.setFormatter(JsonLines())
  handler.addFilter(_is_news)
  for name, own in (('echox_jax.serving', level), ('uvicorn', 'WARNING'), ('websockets', 'ERROR')):
    logger = logging.getLogger(name)
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(own)
