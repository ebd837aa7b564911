"""Who may come in, and how often."""

import pytest

from echox_jax import errors
from echox_jax.serving import limits
from echox_jax.serving.limits import Access, Rate


@pytest.mark.parametrize(
  'host, token, allowed',
  [
    ('127.0.0.1', None, True),
    ('localhost', None, True),
    ('::1', None, True),
    ('0.0.0.0', None, False),
    ('::', None, False),
    ('192.168.1.7', None, False),
    ('talk.example.org', None, False),
    ('0.0.0.0', 'long-enough', True),
    ('127.0.0.1', 'short', False),
    ('127.0.0.1', 'with space in it', False),
  ],
)
def test_others_need_a_token(host, token, allowed):
  if allowed:
    limits.check_host(host, token)
  else:
    with pytest.raises(errors.EchoXError, match='token'):
      limits.check_host(host, token)


def test_tokens():
  own = Access('right-token')
  assert own.knows('right-token') and not own.knows('right-tokem')
  assert not own.knows(None) and not own.knows('') and not own.knows('right-töken')
  assert Access().knows(None)


@pytest.mark.parametrize(
  'origin, host, token, welcome',
  [
    (None, '127.0.0.1:8765', None, True),
    ('http://127.0.0.1:8765', '127.0.0.1:8765', None, True),
    ('http://localhost:8765', 'localhost:8765', None, True),
    ('http://localhost:9000', 'localhost:8765', None, False),
    ('https://evil.example', '127.0.0.1:8765', None, False),
    ('null', '127.0.0.1:8765', None, False),
    ('http://evil.example:8765', 'evil.example:8765', None, False),  # a name made to point here
    (None, 'evil.example:8765', None, False),
    ('https://talk.example', 'talk.example', 'right-token', True),
    ('https://evil.example', 'talk.example', 'right-token', False),
    ('https://friend.example', 'talk.example', 'right-token', True),
    (None, None, None, False),
    ('http://[', '127.0.0.1:8765', None, False),
  ],
)
def test_pages(origin, host, token, welcome):
  assert Access(token, ('https://friend.example',)).welcomes(origin, host) == welcome


def test_a_burst_and_then_a_rate(monkeypatch):
  now = [0.0]
  monkeypatch.setattr('time.monotonic', lambda: now[0])
  rate = Rate(2.0, 3)
  assert [rate.allows() for _ in range(5)] == [True, True, True, False, False]
  now[0] = 0.5
  assert [rate.allows() for _ in range(2)] == [True, False]
