"""The Python package `openai`, as its users write it: several turns, by commit, by voice, in
writing, and an interruption. Prints as JSON what it saw.

  python openai_client.py PORT QUESTION.wav
"""

import asyncio
import base64
import json
import sys
import wave

from openai import AsyncOpenAI
from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter

CHECKED = TypeAdapter(RealtimeServerEvent)


def pcm(file):
  with wave.open(file) as sound:
    assert (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) == (24000, 1, 2)
    return sound.readframes(sound.getnframes())


async def append(connection, data):
  for at in range(0, len(data), 4800):
    await connection.input_audio_buffer.append(
      audio=base64.b64encode(data[at : at + 4800]).decode()
    )


async def turn(connection, seen, until='response.done'):
  """Takes events up to one of that name; all must be what the types of the package say."""
  heard, transcript = 0, ''
  async with asyncio.timeout(60):
    async for event in connection:
      CHECKED.validate_python(event.to_dict(), strict=False)
      seen.append(event.type)
      if event.type == 'response.output_audio.delta':
        heard += len(base64.b64decode(event.delta))
      elif event.type == 'response.output_audio_transcript.delta':
        transcript += event.delta
      if event.type == until:
        return {'heard': heard, 'transcript': transcript, 'event': event.to_dict()}


def rule(**own):
  heard = {'turn_detection': own or None, 'transcription': {'model': 'whisper-1'}}
  return {'type': 'realtime', 'audio': {'input': heard}}


async def write(connection, text):
  await connection.conversation.item.create(
    item={'type': 'message', 'role': 'user', 'content': [{'type': 'input_text', 'text': text}]}
  )


async def main(port, file):
  data, seen, told = pcm(file), [], {}
  client = AsyncOpenAI(
    api_key='long-enough',
    base_url=f'http://127.0.0.1:{port}/v1',
    websocket_base_url=f'ws://127.0.0.1:{port}/v1',
  )
  async with client.realtime.connect(model='echox') as connection:
    await turn(connection, seen, 'session.created')
    await connection.session.update(session=rule())
    await append(connection, data)
    await connection.input_audio_buffer.commit()
    await connection.response.create()
    told['committed'] = await turn(connection, seen)
    await write(connection, 'Paris?')
    await connection.response.create()
    told['written'] = await turn(connection, seen)
    await connection.session.update(session=rule(type='server_vad', silence_duration_ms=300))
    await append(connection, data + bytes(48000))
    told['by_voice'] = await turn(connection, seen)
    await write(connection, 'What is two plus two?')
    await connection.response.create()
    item = (await turn(connection, seen, 'response.output_item.added'))['event']['item']['id']
    await connection.response.cancel()
    told['cancelled'] = await turn(connection, seen)
    await connection.conversation.item.truncate(item_id=item, content_index=0, audio_end_ms=0)
    await turn(connection, seen, 'conversation.item.truncated')
    await connection.send({'type': 'response.cancel', 'event_id': 'mine'})
    told['error'] = await turn(connection, seen, 'error')
  speech = await client.audio.speech.create(
    model='echox', voice='alloy', input='two plus two', response_format='wav'
  )
  told['speech'] = len(speech.content)
  print(json.dumps(told | {'seen': seen}))


asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
