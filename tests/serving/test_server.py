"""The whole server with a tiny model, on real sockets."""

import asyncio
import base64
import io
import json
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
import soundfile
import websockets

from echox_jax import audio
from echox_jax.serving.limits import Access, Limits
from echox_jax.serving.resampling import Stream
from tests.helpers import tiny_model
from tests.helpers.live_server import Client, serving


@pytest.fixture(scope='module')
def server(reader):
  limits = Limits(sessions=12, message_bytes=2**20, upload_bytes=2**20)
  with serving(reader, limits) as live:
    yield live


def run(server, talk, **options):
  """Runs `talk(client)` on a socket; gives what it gives."""

  async def main():
    async with server.connect(**options) as websocket:
      client = Client(websocket)
      await client.until('session.created')
      return await talk(client)

  return asyncio.run(main())


def question(seconds=1.5):
  """A spoken question at 24 kHz."""
  wave = tiny_model.question(seconds)
  return np.interp(np.arange(round(24000 * seconds)) / 1.5, np.arange(len(wave)), wave)


def request(server, path, data=None, **headers):
  """(status, content type, body) of an HTTP request."""
  made = urllib.request.Request(server.http + path, data, headers)
  try:
    with urllib.request.urlopen(made, timeout=60) as answer:
      return answer.status, answer.headers['content-type'], answer.read()
  except urllib.error.HTTPError as error:
    return error.code, error.headers['content-type'], error.read()


@pytest.mark.slow
def test_tls(reader, tmp_path):
  if shutil.which('openssl') is None:
    pytest.skip('openssl, which makes a certificate, is not installed')
  files = {'certificate': tmp_path / 'certificate.pem', 'key': tmp_path / 'key.pem'}
  made = ['-out', files['certificate'], '-keyout', files['key'], '-subj', '/CN=localhost']
  made += ['-addext', 'subjectAltName=DNS:localhost', '-nodes', '-days', '1']
  subprocess.run(['openssl', 'req', '-x509', *made], check=True, capture_output=True)
  trusted = ssl.create_default_context(cafile=files['certificate'])

  async def talk(port):
    address = f'wss://localhost:{port}/v1/realtime'
    async with websockets.connect(address, ssl=trusted) as websocket:
      return await Client(websocket).until('session.created')

  with serving(reader, **files) as live:
    assert asyncio.run(talk(live.port))['session']
    place = f'https://localhost:{live.port}/healthz'
    assert urllib.request.urlopen(place, context=trusted, timeout=30).status == 200


def test_text_and_sound_come_and_turns_follow(server):
  async def talk(client):
    first = await client.say(question())
    heard = len(client.heard())
    return first, heard, await client.ask('Paris?'), client

  first, heard, second, client = run(server, talk)
  assert (
    first['status'] in ('completed', 'incomplete')
    and first['output'][0]['content'][0]['transcript']
  )
  assert heard > 4800 and heard % 2 == 0
  assert second['output'][0]['content'][0]['transcript'] and second['usage']['output_tokens'] > 0
  kinds = [event['type'] for event in client.events]
  assert kinds.index('response.output_audio.delta') < kinds.index('response.done')
  assert len({event['event_id'] for event in client.events}) == len(kinds)


def test_what_is_heard_is_what_the_engine_says(server):
  async def talk(client):
    done = await client.ask('What is two plus two?')
    return done, client.heard()

  done, heard = run(server, talk)
  said = list(server.hub.worker.engine.answer(text='What is two plus two?'))[-1]
  assert said.text == done['output'][0]['content'][0]['transcript']
  expected = audio.to_int16(Stream(16000, 24000).take(said.waveform, last=True))
  got = np.frombuffer(heard, '<i2')
  assert len(got) == len(expected) > 2400
  assert np.abs(got.astype(int) - expected).max() <= 8  # of 32,768


def test_who_asks_for_transcripts_is_told_what_was_heard(server):
  async def talk(client):
    rule = {'turn_detection': None, 'transcription': {'model': 'whisper-1'}}
    await client.send('session.update', session={'audio': {'input': rule}})
    await client.say(question())
    await client.say(np.zeros(24000))
    return client.events

  kind = 'conversation.item.input_audio_transcription'
  events = run(server, talk)
  heard, silent = (own for own in events if own['type'] == 'input_audio_buffer.committed')
  (completed,) = (own for own in events if own['type'] == f'{kind}.completed')
  (failed,) = (own for own in events if own['type'] == f'{kind}.failed')
  assert completed['item_id'] == heard['item_id'] and completed['transcript']
  assert failed['item_id'] == silent['item_id'] and 'silent' in failed['error']['message']


def test_two_at_once_and_each_hears_its_own(server):
  texts = ('Paris?', 'two plus two')
  alone = [run(server, lambda client, t=t: client.ask(t)) for t in texts]

  async def main():
    async with server.connect() as one, server.connect() as two:
      return await asyncio.gather(*(Client(s).ask(t) for s, t in zip((one, two), texts)))

  together = asyncio.run(main())
  said = lambda responses: [r['output'][0]['content'][0]['transcript'] for r in responses]
  assert said(together) == said(alone) and len(set(said(alone))) == 2


def test_cancel_stops_and_the_conversation_goes_on(server):
  async def talk(client):
    await client.write('Paris?')
    await client.send('response.create')
    item = (await client.until('response.output_item.added'))['item']['id']
    asked = time.monotonic()
    await client.send('response.cancel')
    done = (await client.until('response.done'))['response']
    seconds = time.monotonic() - asked
    await client.send('conversation.item.truncate', item_id=item, content_index=0, audio_end_ms=0)
    return done, seconds, await client.ask('two plus two'), client.events

  done, seconds, after, events = run(server, talk)
  if done['status'] == 'cancelled':  # it may just have ended
    assert done['status_details']['reason'] == 'client_cancelled'
    place = next(i for i, e in enumerate(events) if e['type'] == 'response.done')
    late = [e for e in events[place:] if e.get('response_id') == done['id']]
    assert not late
  assert seconds < 2 and after['status'] != 'failed'
  assert not [
    e for e in events if e['type'] == 'error' and e['error']['code'] != 'response_cancel_not_active'
  ]


def test_noise_is_no_voice_but_can_be_committed(server):
  async def talk(client):
    noise = np.random.default_rng(0).normal(0, 0.02, 24000)
    data = base64.b64encode((noise * 32767).astype('<i2').tobytes()).decode()
    await client.send('input_audio_buffer.append', audio=data)
    await client.send('input_audio_buffer.commit')
    await client.until('conversation.item.done')
    return [event['type'] for event in client.events]

  assert 'input_audio_buffer.speech_started' not in run(server, talk)


GARBAGE = [
  ('{', 'invalid_json'),
  ('\x00\x01', 'invalid_json'),
  ('{"type": "input_audio_buffer.append", "audio": "A"}', 'invalid_base64'),
  ('{"type": "input_audio_buffer.append", "audio": "AAAA"}', 'odd_byte_count'),
  ('{"type": "response.cancel"}', 'response_cancel_not_active'),
  ('{"type": "input_audio_buffer.commit"}', 'input_audio_buffer_commit_empty'),
  (b'\x00\x01\x02', 'invalid_message'),
]


def test_garbage_is_refused_and_the_session_goes_on(server):
  async def talk(client):
    codes = []
    for text, _ in GARBAGE:
      await client.socket.send(text)
      codes.append((await client.until('error'))['error']['code'])
    return codes, await client.ask('Paris?')

  codes, done = run(server, talk)
  assert codes == [code for _, code in GARBAGE] and done['status'] != 'failed'


def test_a_question_that_cannot_be_answered_fails_in_one_sentence(server):
  async def talk(client):
    silent = await client.say(np.zeros(24000))
    return silent, await client.ask('two plus ' * 60), await client.ask('Paris?')

  silent, long, good = run(server, talk)
  assert silent['status'] == long['status'] == 'failed' and good['status'] != 'failed'
  assert 'silent' in silent['status_details']['error']['message']
  assert 'at most 48' in long['status_details']['error']['message']


def test_an_oversized_message_ends_only_its_own_connection(server):
  async def main():
    async with server.connect() as bad, server.connect() as good:
      with pytest.raises(websockets.ConnectionClosed):
        await bad.send('x' * (2**20 + 1))
        while True:
          await asyncio.wait_for(bad.recv(), 20)
      assert bad.close_code == 1009
      return await Client(good).ask('Paris?')

  assert asyncio.run(main())['status'] != 'failed'


def test_a_client_that_goes_mid_answer_leaves_no_trace(server):
  async def leave(client):
    await client.write('Paris?')
    await client.send('response.create')
    await client.until('response.created')

  for _ in range(5):
    run(server, leave)
  assert run(server, lambda client: client.ask('two plus two'))['status'] != 'failed'
  deadline = time.monotonic() + 10
  while (server.hub.connections or server.hub.worker.answering) and time.monotonic() < deadline:
    time.sleep(0.05)
  assert not server.hub.connections and not server.hub.worker.answering


def refused(server, **options):
  """Status and code of a refused handshake."""

  async def main():
    async with server.connect(**options):
      pass

  with pytest.raises(websockets.InvalidStatus) as caught:
    asyncio.run(main())
  answer = caught.value.response
  return answer.status_code, json.loads(answer.body)['error']['code']


def test_a_page_of_another_origin_is_refused(server):
  assert refused(server, origin='https://evil.example') == (403, 'wrong_origin')
  own = f'http://127.0.0.1:{server.port}'
  assert run(server, lambda client: client.ask(), origin=own)['status'] != 'failed'


def test_too_many_are_refused_and_nobody_hangs(server):
  async def one():
    try:
      async with server.connect(open_timeout=20) as websocket:
        return (await Client(websocket).ask('Paris?'))['status']
    except websockets.InvalidStatus as error:
      return error.response.status_code

  async def main():
    async with asyncio.timeout(120):
      return await asyncio.gather(*(one() for _ in range(40)))

  found = asyncio.run(main())
  assert set(found) <= {503, 'completed', 'incomplete'}
  assert sum(own != 503 for own in found) >= 12


def test_health_metrics_and_openapi(server):
  assert request(server, '/healthz')[0] == request(server, '/readyz')[0] == 200
  run(server, lambda client: client.ask('Paris?'))
  text = request(server, '/metrics')[2].decode()
  assert 'echox_answers_total{status="completed"}' in text and 'echox_first_sound_seconds' in text
  spec = json.loads(request(server, '/openapi.json')[2])
  assert {'/v1/respond', '/v1/audio/speech'} <= set(spec['paths'])


def wav(wave, rate=16000):
  file = io.BytesIO()
  soundfile.write(file, wave, rate, format='WAV')
  return file.getvalue()


def test_a_recording_is_answered(server):
  data = wav(np.repeat(tiny_model.question(), 3), 48000)
  status, kind, body = request(server, '/v1/respond?temperature=0.5&seed=3', data)
  assert status == 200 and kind == 'application/json' and json.loads(body)['text']
  status, kind, body = request(server, '/v1/respond', data, Accept='audio/wav')
  wave, rate = soundfile.read(io.BytesIO(body))
  assert (status, kind, rate) == (200, 'audio/wav', 16000) and len(wave)


@pytest.mark.parametrize('kind', ['wav', 'flac', 'mp3', 'opus', 'pcm'])
def test_a_text_is_spoken(server, kind):
  body = json.dumps({'model': 'm', 'voice': 'a', 'input': 'two plus two', 'response_format': kind})
  status, _, data = request(server, '/v1/audio/speech', body.encode())
  assert status == 200 and len(data) > 100
  if kind == 'pcm':
    assert len(data) % 2 == 0
  else:
    wave, _ = soundfile.read(io.BytesIO(data))
    assert len(wave) and np.isfinite(wave).all()


@pytest.mark.parametrize(
  'path, body, status, code',
  [
    ('/v1/respond', b'no sound', 400, 'invalid_audio'),
    ('/v1/respond', b'', 400, 'invalid_audio'),
    ('/v1/respond', wav(np.zeros(16000)), 400, 'invalid_question'),
    ('/v1/respond', wav(tiny_model.question(4)), 400, 'invalid_question'),
    ('/v1/respond', bytes(2**20 + 1), 413, 'too_large'),
    ('/v1/respond?top_p=7', wav(tiny_model.question()), 400, 'invalid_value'),
    ('/v1/respond?colour=1', wav(tiny_model.question()), 400, 'unknown_parameter'),
    ('/v1/respond?seed=x', wav(tiny_model.question()), 400, 'invalid_value'),
    ('/v1/audio/speech', b'{', 400, 'invalid_json'),
    ('/v1/audio/speech', b'{"input": 7}', 400, 'invalid_value'),
    ('/v1/audio/speech', b'{"input": " "}', 400, 'invalid_text'),
    ('/v1/audio/speech', b'{"input": "a", "speed": 2}', 400, 'unsupported_value'),
    ('/v1/audio/speech', b'{"input": "a", "response_format": "aac"}', 400, 'invalid_value'),
  ],
)
def test_bad_requests_are_refused_in_one_sentence(server, path, body, status, code):
  found, _, answer = request(server, path, body)
  error = json.loads(answer)['error']
  assert (found, error['code']) == (status, code) and '\n' not in error['message']


def test_pages_of_others_cannot_post(server):
  status, _, _ = request(server, '/v1/respond', b'', Origin='https://evil.example')
  assert status == 403


def test_the_page_is_whole_and_takes_nothing_from_elsewhere(server):
  status, kind, page = request(server, '/')
  assert status == 200 and kind.startswith('text/html') and b'page.js' in page
  for name in ('page.js', 'page.css', 'sound.js', 'socket.js', 'turns.js', 'microphone.js'):
    status, _, text = request(server, f'/{name}')
    assert (
      status == 200 and b'//cdn' not in text and b'https:' not in text.replace(b"'https:'", b'')
    )
  assert request(server, '/../setup.cfg')[0] == 404
  assert request(server, '/%2e%2e/%2e%2e/setup.cfg')[0] == 404


def test_a_token_is_asked_of_everybody(reader):
  with serving(reader, access=Access('right-token')) as server:
    assert refused(server) == (401, 'wrong_token')
    wrong = {'Authorization': 'Bearer wrong-token'}
    assert refused(server, additional_headers=wrong) == (401, 'wrong_token')
    right = {'Authorization': 'Bearer right-token'}
    talk = lambda client: client.ask('Paris?', output_modalities=['text'])
    assert run(server, talk, additional_headers=right)['status'] != 'failed'

    async def browser():
      offered = ['realtime', 'openai-insecure-api-key.right-token']
      address = f'ws://127.0.0.1:{server.port}/v1/realtime'
      async with websockets.connect(address, subprotocols=offered) as websocket:
        return websocket.subprotocol

    assert asyncio.run(browser()) == 'realtime'
    for path in ('/metrics', '/v1/respond'):
      data = b'' if path == '/v1/respond' else None
      assert request(server, path, data)[0] == 401
    assert request(server, '/metrics', **right)[0] == 200
    assert request(server, '/healthz')[0] == request(server, '/')[0] == 200


def stalled_reader(server):
  """A socket that asks and asks, and never reads."""
  raw = socket.create_connection(('127.0.0.1', server.port))
  raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
  key = base64.b64encode(b'0123456789abcdef').decode()
  raw.sendall(
    f'GET /v1/realtime HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nUpgrade: websocket\r\n'
    f'Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n'.encode()
  )
  assert raw.recv(12) == b'HTTP/1.1 101'
  return raw


def test_a_stalled_reader_is_dropped_and_others_are_served(reader):
  limits = Limits(unsent_bytes=200_000, stall_seconds=2.0)
  with serving(reader, limits) as server:
    raw = stalled_reader(server)
    text = b'{"type": "session.update", "session": {"instructions": "' + b'a' * 20_000 + b'"}}'
    mask = bytes([0x81, 0xFE]) + len(text).to_bytes(2, 'big') + bytes(4)
    raw.settimeout(10)
    try:
      for _ in range(1500):
        raw.sendall(mask + text)
    except OSError:
      pass  # it has been dropped already
    deadline = time.monotonic() + 20
    while server.hub.connections and time.monotonic() < deadline:
      time.sleep(0.05)
    assert not server.hub.connections
    assert run(server, lambda client: client.ask('Paris?'))['status'] != 'failed'
    assert b'slow_reader' in server.hub.metrics.text()
    raw.close()


def test_idle_sessions_are_closed(reader):
  with serving(reader, Limits(idle_seconds=0.5)) as server:

    async def talk(client):
      with pytest.raises(websockets.ConnectionClosed):
        await client.until('never', 10)
      return client.socket.close_code, client.socket.close_reason

    assert run(server, talk) == (1001, 'The session was idle for too long.')


def test_a_rate_is_kept(reader):
  with serving(reader, Limits(burst=5, messages_per_second=1.0)) as server:

    async def talk(client):
      for _ in range(8):
        await client.send('response.cancel')
      return [(await client.until('error'))['error']['code'] for _ in range(8)]

    codes = run(server, talk)
    assert codes[:5] == ['response_cancel_not_active'] * 5 and codes[-1] == 'rate_limit_exceeded'


def test_a_full_queue_is_told(reader):
  with serving(reader, Limits(waiting=1)) as server:

    async def main():
      async with server.connect() as one, server.connect() as two, server.connect() as three:
        clients = [Client(s) for s in (one, two, three)]
        return await asyncio.gather(*(client.ask('What is two plus two?') for client in clients))

    found = asyncio.run(main())
    failed = [own for own in found if own['status'] == 'failed']
    assert 1 <= len(failed) <= 2
    assert {own['status_details']['error']['code'] for own in failed} == {'server_busy'}


def test_a_server_that_stops_ends_its_answers(reader):
  with serving(reader) as server:

    async def main():
      async with server.connect() as idle, server.connect() as busy:
        client, other = Client(busy), Client(idle)
        await other.until('session.created')
        await client.write('What is two plus two?')
        await client.send('response.create')
        await client.until('response.created')
        server.begin_stop()
        done = (await client.until('response.done'))['response']
        with pytest.raises(websockets.ConnectionClosed):
          await other.until('never', 10)
        with pytest.raises(websockets.ConnectionClosed):
          await client.until('never', 10)
        return done, idle.close_code, busy.close_code

    done, *codes = asyncio.run(main())
    assert done['status'] in ('completed', 'incomplete') and codes == [1001, 1001]


def test_an_answer_that_is_cancelled_holds_up_no_stop(reader, monkeypatch):
  pump = reader.engine.pump
  monkeypatch.setattr(reader.engine, 'pump', lambda: time.sleep(0.3) or pump())
  with serving(reader) as server:

    async def talk(client):
      await client.write('What is two plus two?')
      await client.send('response.create')
      await client.until('response.created')
      server.begin_stop()
      while not server.hub.stopping:
        await asyncio.sleep(0.01)
      await client.send('response.cancel')
      assert (await client.until('response.done'))['response']['status'] == 'cancelled'
      with pytest.raises(websockets.ConnectionClosed):
        await client.until('never', 5)
      return client.socket.close_code

    assert run(server, talk) == 1001
