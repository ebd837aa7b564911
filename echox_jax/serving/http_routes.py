"""Plain HTTP: a question in, an answer out; a text in, speech out; and how the server is."""

import asyncio
import base64
from collections.abc import Awaitable, Callable, Coroutine
import io
import json
import logging
from typing import Any

import numpy as np
import soundfile
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from echox_jax import audio, errors, rates
from echox_jax.inference.answering import Request
from echox_jax.inference.events import Done
from echox_jax.serving import fields, refusals, settings, worker
from echox_jax.serving.commands import Failed
from echox_jax.serving.connection import bearer
from echox_jax.serving.formats import PCM_RATES
from echox_jax.serving.hub import Hub
from echox_jax.serving.limits import Limits
from echox_jax.serving.openapi import OPENAPI
from echox_jax.serving.refusals import Refusal
from echox_jax.serving.resampling import Stream
from echox_jax.serving.settings import Choosing

# Name of a format of speech -> (media type, container, encoding) of soundfile; `pcm` has none.
SPEECH_FORMATS: dict[str, tuple[str, str, str]] = {
  'wav': ('audio/wav', 'WAV', 'PCM_16'),
  'flac': ('audio/flac', 'FLAC', 'PCM_16'),
  'mp3': ('audio/mpeg', 'MP3', 'MPEG_LAYER_III'),
  'opus': ('audio/ogg', 'OGG', 'OPUS'),
  'pcm': ('application/octet-stream', '', ''),
}
_STATUS = {refusals.INVALID: 400, refusals.BUSY: 503, refusals.SERVER: 500}
_OWN_STATUS = {'too_large': 413, 'too_slow': 408, 'client_gone': 499}  # by code; 499 as in nginx
_MOST_RATE, _MOST_CHANNELS = 192_000, 8  # of a recording
_log = logging.getLogger('echox_jax.serving')
Handler = Callable[[Hub, HttpRequest], Awaitable[Response]]


def guarded(handler: Handler) -> Callable[[HttpRequest], Awaitable[Response]]:
  """Checks origin, token and readiness; makes a JSON error of a refusal."""

  async def route(request: HttpRequest) -> Response:
    hub: Hub = request.app.state.hub
    headers = request.headers
    if not hub.access.welcomes(headers.get('origin'), headers.get('host')):
      return _error(
        403, 'Pages of this origin may not ask: open the page of this server.', 'wrong_origin'
      )
    if not hub.access.knows(bearer(headers.get('authorization'))):
      return _error(
        401, 'The token is missing or wrong: send it as Authorization: Bearer.', 'wrong_token'
      )
    try:
      if request.method == 'POST':
        return await _admitted(handler, hub, request)
      return await handler(hub, request)
    except Refusal as refusal:
      status = _OWN_STATUS.get(refusal.code, _STATUS[refusal.kind])
      return _error(status, str(refusal), refusal.code, refusal.param)
    except errors.EchoXError as error:
      return _error(400, str(error), 'invalid_request')

  return route


async def _admitted(handler: Handler, hub: Hub, request: HttpRequest) -> Response:
  """Serves a question or a text, if there is room for it."""
  if not hub.is_ready:
    raise Refusal(
      'The server is starting or stopping: ask again in a moment.', 'not_ready', refusals.BUSY
    )
  if hub.uploads >= hub.limits.uploads:
    raise Refusal(
      'The server takes no more requests at the same time: ask again in a few seconds.',
      'server_busy',
      refusals.BUSY,
    )
  hub.uploads += 1
  try:
    return await handler(hub, request)
  finally:
    hub.uploads -= 1


async def respond(hub: Hub, request: HttpRequest) -> Response:
  """`POST /v1/respond`: a recording, or JSON with a text, becomes an answer in text and speech."""
  body = await _body(request, hub.limits)
  kind = request.headers.get('content-type', '').partition(';')[0].strip().lower()
  wants_wav = 'audio/wav' in request.headers.get('accept', '')
  options = dict(request.query_params)
  if kind == 'application/json':
    values = _json(body)
    fields.known(values, ('text', 'sampling', 'max_tokens', 'speaks'), 'the body')
    asked = Request(
      text=fields.text(values.get('text'), 'text', 100_000),
      max_tokens=values.get('max_tokens')
      and fields.whole(values['max_tokens'], 'max_tokens', 1, 4096),
      speaks=fields.truth(values.get('speaks', True), 'speaks'),
      **vars(settings.choosing(Choosing(), values.get('sampling'), 'sampling')),
    )
  else:
    numbers = {name: _number(name, text) for name, text in options.items()}
    wave = await asyncio.to_thread(recording, body, hub.limits.audio_seconds)
    asked = Request(wave, **vars(settings.choosing(Choosing(), numbers, 'the query')))
  done = await _while_connected(request, worker.answer(hub.worker, asked))
  if isinstance(done, Failed):
    raise Refusal(done.message, done.code, done.kind)
  return _answer(done, wants_wav)


async def speech(hub: Hub, request: HttpRequest) -> Response:
  """`POST /v1/audio/speech`: a text becomes speech, by the text-to-codec model."""
  values = _json(await _body(request, hub.limits))
  fields.known(
    values, ('model', 'input', 'voice', 'response_format', 'speed', 'instructions'), 'the body'
  )
  text = fields.text(values.get('input'), 'input', hub.limits.speech_letters)
  kind = fields.choice(
    values.get('response_format') or 'mp3', 'response_format', tuple(SPEECH_FORMATS)
  )
  if values.get('speed') not in (None, 1):
    raise Refusal(
      'this model speaks at one speed: leave out speed, or set it to 1.0.',
      'unsupported_value',
      param='speed',
    )
  wave = await _while_connected(request, _spoken(hub, text))
  if kind == 'pcm':
    made = Stream(rates.SAMPLE_RATE, PCM_RATES[0]).take(wave, last=True)
    return Response(
      audio.to_int16(made).astype('<i2').tobytes(), media_type=SPEECH_FORMATS[kind][0]
    )
  data = await asyncio.to_thread(_written, wave, kind)
  return Response(data, media_type=SPEECH_FORMATS[kind][0])


async def health(request: HttpRequest) -> Response:
  """`GET /healthz`: whether the process lives and its engine has not failed."""
  failed = request.app.state.hub.worker.failed
  return JSONResponse({'status': 'failed' if failed else 'ok'}, 503 if failed else 200)


async def ready(request: HttpRequest) -> Response:
  """`GET /readyz`: whether it takes connections."""
  is_ready = request.app.state.hub.is_ready
  return JSONResponse({'ready': is_ready}, 200 if is_ready else 503)


async def metrics(hub: Hub, request: HttpRequest) -> Response:
  """`GET /metrics`: counters for Prometheus."""
  return Response(hub.metrics.text(), media_type='text/plain; version=0.0.4')


async def openapi(request: HttpRequest) -> Response:
  """`GET /openapi.json`: what all this is, for programs."""
  return JSONResponse(OPENAPI)


async def _body(request: HttpRequest, limits: Limits) -> bytes:
  """Reads the body, up to a size and a time."""
  data, most = bytearray(), limits.upload_bytes
  try:
    async with asyncio.timeout(limits.upload_seconds):
      async for piece in request.stream():
        data += piece
        if len(data) > most:
          raise Refusal(
            f'the body is larger than {most / 2**20:g} MiB: send a shorter recording.', 'too_large'
          )
  except TimeoutError as error:
    raise Refusal(
      f'the body has not come within {limits.upload_seconds:g} s: send a shorter recording.',
      'too_slow',
    ) from error
  except ClientDisconnect as error:
    raise _gone() from error
  return bytes(data)


def _gone() -> Refusal:
  return Refusal('The client has gone before its answer came: ask again.', 'client_gone')


async def _while_connected(request: HttpRequest, work: Coroutine[Any, Any, Any]) -> Any:
  """Gives what `work` comes to; where the client goes, nobody waits for it and it is stopped."""
  doing = asyncio.ensure_future(work)
  going = asyncio.ensure_future(request.receive())  # the body has come: what follows is the end
  try:
    await asyncio.wait((doing, going), return_when=asyncio.FIRST_COMPLETED)
    if not doing.done():
      raise _gone()
    return doing.result()
  finally:
    doing.cancel()
    going.cancel()
    await asyncio.gather(doing, going, return_exceptions=True)


def _json(body: bytes) -> dict[str, Any]:
  try:
    values = json.loads(body)
  except (ValueError, RecursionError) as error:
    raise Refusal('the body is not valid JSON: send one object.', 'invalid_json') from error
  return dict(fields.mapping(values, 'the body'))


def _number(name: str, text: str) -> Any:
  """A number of the query."""
  try:
    return int(text) if text.lstrip('-').isdigit() else float(text)
  except ValueError as error:
    raise fields.wrong(f'the query.{name}', 'a number') from error


def recording(data: bytes, seconds: float) -> np.ndarray:
  """float32[samples] at 16 kHz of a file. What the file says of itself is looked at first; then it
  is unpacked a second at a time, for a small one can hold gigabytes of samples.

  Raises:
    Refusal: it is no audio, or more than `seconds`, or has more channels or samples than anybody
      needs.
    AudioError: it holds no samples, or some that are not finite.
  """
  try:
    with soundfile.SoundFile(io.BytesIO(data)) as file:
      rate, channels = file.samplerate, file.channels
      if file.frames > seconds * rate:
        raise Refusal(
          f'the recording is longer than {seconds:g} s: send a shorter one.', 'audio_too_long'
        )
      if rate > _MOST_RATE or channels > _MOST_CHANNELS:
        raise Refusal(
          f'the recording has {channels} channels of {rate} Hz, but at most {_MOST_CHANNELS} of '
          f'{_MOST_RATE} Hz are read: convert it.',
          'invalid_audio',
        )
      stream = Stream(rate, rates.SAMPLE_RATE)
      blocks = file.blocks(rate, dtype='float32', always_2d=True)
      pieces = [stream.take(block.mean(axis=1)) for block in blocks]
  except (soundfile.SoundFileError, ValueError) as error:
    raise Refusal(
      'the body is not audio that can be read: send wav, flac, ogg or mp3.', 'invalid_audio'
    ) from error
  wave = np.concatenate([*pieces, stream.take(np.zeros(0, np.float32), last=True)])
  return audio.to_mono_16k(wave, rates.SAMPLE_RATE, name='the recording')


def _answer(done: Done, wants_wav: bool) -> Response:
  wav = _written(done.waveform, 'wav') if len(done.waveform) else b''
  if wants_wav and wav:
    return Response(wav, media_type='audio/wav')
  return JSONResponse(
    {
      'text': done.text,
      'audio': base64.b64encode(wav).decode() if wav else None,
      'sample_rate': rates.SAMPLE_RATE,
      'audio_s': len(done.waveform) / rates.SAMPLE_RATE,
      'first_audio_s': done.first_audio_at,
      'finished_s': done.finished_at,
      'overflow': done.overflow,
    }
  )


async def _spoken(hub: Hub, text: str) -> np.ndarray:
  """float32[samples] at 16 kHz of a text."""
  loop, pieces = asyncio.get_running_loop(), asyncio.Queue[np.ndarray | Failed | None]()
  stop = hub.worker.say(text, lambda piece: loop.call_soon_threadsafe(pieces.put_nowait, piece))
  made = []
  try:
    while (piece := await pieces.get()) is not None:
      if isinstance(piece, Failed):
        raise Refusal(piece.message, piece.code, piece.kind)
      made.append(piece)
  finally:
    stop()
  return np.concatenate([np.zeros(0, np.float32), *made])


def _written(wave: np.ndarray, kind: str) -> bytes:
  """A file of a wave."""
  _, container, encoding = SPEECH_FORMATS[kind]
  file = io.BytesIO()
  soundfile.write(file, np.clip(wave, -1, 1), rates.SAMPLE_RATE, format=container, subtype=encoding)
  return file.getvalue()


def _error(status: int, sentence: str, code: str, param: str | None = None) -> Response:
  kind = next((name for name, own in _STATUS.items() if own == status), refusals.INVALID)
  error = {'type': kind, 'code': code, 'message': sentence, 'param': param}
  return JSONResponse({'error': error}, status, {'Retry-After': '5'} if status == 503 else None)
