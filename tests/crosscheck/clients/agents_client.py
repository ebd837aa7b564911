"""The Python package `openai-agents`, which checks every event with pydantic: a written turn, a
spoken one, and an interruption. Prints as JSON what it saw.

  python agents_client.py PORT QUESTION.wav
"""

import asyncio
import json
import sys
import wave

from agents.realtime import RealtimeAgent, RealtimeRunner


async def until(session, seen, kind, seconds=60):
  async with asyncio.timeout(seconds):
    async for event in session:
      name = event.data.type if event.type == 'raw_model_event' else event.type
      seen.append(name)
      if event.type == 'error':
        raise RuntimeError(str(event.error))
      if name == kind:
        return event


async def main(port, file):
  with wave.open(file) as sound:
    data = sound.readframes(sound.getnframes())
  agent = RealtimeAgent(name='Echo', instructions='Answer briefly.')
  runner = RealtimeRunner(agent, config={'tracing_disabled': True})
  address = f'ws://127.0.0.1:{port}/v1/realtime?model=echox'
  seen: list[str] = []
  async with await runner.run(model_config={'url': address, 'api_key': 'long-enough'}) as session:
    await session.send_message('Paris?')
    await until(session, seen, 'audio')
    await until(session, seen, 'agent_end')
    await session.send_message('What is two plus two?')
    await until(session, seen, 'audio')
    await session.interrupt()
    await until(session, seen, 'audio_interrupted')
    for at in range(0, len(data), 4800):
      await session.send_audio(data[at : at + 4800])
    await session.send_audio(bytes(72000))
    # by then all of the interrupted answer has come
    await until(session, seen, 'input_audio_transcription_completed')
    await until(session, seen, 'audio')
    await until(session, seen, 'agent_end')
  print(json.dumps({'seen': seen}))


asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
