"""Sockets on which anything may come: no traceback, no lost neighbour."""

import asyncio
import json
import logging

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
import pytest

from echox_jax.serving.commands import Transcript
from echox_jax.serving.limits import Limits
from echox_jax.serving.protocol import EVENT_NAMES
from tests.helpers import serving as helpers
from tests.helpers.live_server import Client, serving

JSON = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
  lambda inner: (
    st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
  ),
  max_leaves=6,
)
FIELDS = st.sampled_from(
  [
    'session',
    'audio',
    'item',
    'item_id',
    'content_index',
    'audio_end_ms',
    'response',
    'event_id',
    'response_id',
    'previous_item_id',
  ]
)
ITEM = st.fixed_dictionaries(
  {
    'type': st.sampled_from(['message', 'item_reference', 'function_call']),
    'role': st.sampled_from(['user', 'assistant', 'system', 'x']),
    'content': st.lists(
      st.fixed_dictionaries(
        {'type': st.sampled_from(['input_text', 'input_audio', 'output_text', 'output_audio'])},
        optional={
          'text': st.text(max_size=20),
          'audio': st.sampled_from(['', 'AAA', 'AAAAAA==', 'AAAA' * 400]),
        },
      ),
      max_size=3,
    ),
  },
  optional={'id': st.sampled_from(['a', 'b', 'c'])},
)
VALUES = {
  'audio': st.sampled_from(['', 'AAA', 'AAAA', 'AAAAAAAA', 'f38A' * 800]) | JSON,
  'item': ITEM | JSON,
  'item_id': st.sampled_from(['a', 'b', 'c', 'item_1']) | JSON,
  'previous_item_id': st.sampled_from(['root', 'a', None]) | JSON,
  'content_index': st.just(0) | JSON,
  'audio_end_ms': st.integers(-5, 2000) | JSON,
  'session': st.fixed_dictionaries(
    {},
    optional={
      'output_modalities': st.sampled_from([['audio'], ['text']]),
      'audio': st.sampled_from(
        [
          {'input': {'turn_detection': None}},
          {'input': {'turn_detection': {'type': 'server_vad', 'threshold': 10**400}}},
          {'input': {'transcription': {'model': 'whisper-1'}}},
          {'input': {'turn_detection': {'type': 'server_vad', 'silence_duration_ms': 64}}},
          {'input': {'format': {'type': 'audio/pcmu'}}},
          {'output': {'format': {'type': 'audio/pcm', 'rate': 16000}}},
        ]
      ),
      'max_output_tokens': st.integers(0, 9),
    },
  )
  | JSON,
  'response': st.fixed_dictionaries(
    {},
    optional={
      'conversation': st.sampled_from(['auto', 'none']),
      'input': st.lists(ITEM, max_size=2),
      'max_output_tokens': st.integers(1, 9),
    },
  )
  | JSON,
}


@st.composite
def message(draw):
  """A message: mostly an event, with fields that fit or do not."""
  kind = draw(st.integers(0, 9))
  if kind == 0:
    return draw(st.text(max_size=30) | st.binary(max_size=30))
  if kind == 1:
    return json.dumps(draw(JSON))
  name = draw(st.sampled_from(EVENT_NAMES))
  fields = {'type': name}
  likely = {
    'session.update': ['session'],
    'input_audio_buffer.append': ['audio'],
    'conversation.item.create': ['item', 'previous_item_id'],
    'conversation.item.truncate': ['item_id', 'content_index', 'audio_end_ms'],
    'conversation.item.delete': ['item_id'],
    'conversation.item.retrieve': ['item_id'],
    'response.create': ['response'],
  }.get(name, [])
  if kind == 2:
    likely = draw(st.lists(FIELDS, max_size=3, unique=True))
  for field in likely:
    fields[field] = draw(VALUES.get(field, JSON))
  return json.dumps(fields)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(message(), max_size=15))
def test_a_session_takes_anything(messages):
  """Whatever comes, each message is answered by events or not at all, and never by an exception."""
  own = helpers.session()
  for text in messages:
    if isinstance(text, bytes):
      continue
    for outputs in own.client(text):
      for output in outputs:
        if isinstance(output, dict):
          json.dumps(output)
        elif type(output).__name__ == 'Ask' and len(messages) % 2:
          for event in (helpers.text('a'), helpers.sound(), helpers.done()):
            own.engine(output.ticket, event)
        elif type(output).__name__ == 'Transcribe' and len(messages) % 2:
          own.engine(output, Transcript('a'))


@pytest.fixture(scope='module')
def server(reader):
  limits = Limits(messages_per_second=1e9, burst=10**9)
  with serving(reader, limits) as live:
    yield live


def batter(server, caplog, sockets: int, each: int):
  """Sends many messages on several sockets, and asks a neighbour all the while."""
  caplog.set_level(logging.WARNING)
  batches = []

  @settings(
    max_examples=sockets, deadline=None, database=None, suppress_health_check=list(HealthCheck)
  )
  @given(st.lists(message(), min_size=each, max_size=each))
  def gather(messages):
    batches.append(messages)

  gather()

  async def attack(messages):
    async with server.connect() as websocket:
      reader = asyncio.create_task(read(websocket))
      for text in messages:
        await websocket.send(
          text.encode('utf-8', 'replace').decode() if isinstance(text, str) else text
        )
      await asyncio.sleep(0.2)
      reader.cancel()

  async def read(websocket):
    async for text in websocket:
      json.loads(text)

  async def main():
    async with server.connect() as websocket:
      neighbour, said = Client(websocket), []
      for begin in range(0, len(batches), 4):
        own = asyncio.gather(*map(attack, batches[begin : begin + 4]))
        said.append(await neighbour.ask('Paris?', conversation='none', input=[USER]))
        await own
      return said

  said = asyncio.run(main())
  texts = {own['output'][0]['content'][0]['transcript'] for own in said}
  assert len(texts) == 1 and {own['status'] for own in said} <= {'completed', 'incomplete'}
  assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
  assert server.hub.worker.is_well
  return sum(map(len, batches))


USER = {'type': 'message', 'role': 'user', 'content': [{'type': 'input_text', 'text': 'Paris?'}]}


def test_a_socket_takes_anything(server, caplog):
  assert batter(server, caplog, sockets=8, each=40) >= 300


@pytest.mark.slow
def test_a_socket_takes_ten_thousand_messages(server, caplog):
  assert batter(server, caplog, sockets=100, each=110) >= 10_000
