"""The Python package `livekit-plugins-openai` in an agent of LiveKit's, without a room: a written
turn, a spoken one, and a voice that interrupts. Prints as JSON what it saw.

  python livekit_client.py PORT QUESTION.wav
"""

import asyncio
import json
import sys
import time
import wave

from livekit import rtc
from livekit.agents import Agent, AgentSession, io
from livekit.plugins import openai

RATE, PIECE = 24000, 480


class Microphone(io.AudioInput):
  """What is said in real time, and silence between."""

  def __init__(self):
    super().__init__(label='microphone')
    self.said, self.next = b'', time.monotonic()

  async def __anext__(self):
    self.next += PIECE / RATE
    await asyncio.sleep(max(0, self.next - time.monotonic()))
    piece, self.said = self.said[: 2 * PIECE], self.said[2 * PIECE :]
    return rtc.AudioFrame(piece.ljust(2 * PIECE, b'\0'), RATE, 1, PIECE)


class Speaker(io.AudioOutput):
  """Plays in real time, and says how much of an answer was heard."""

  def __init__(self):
    capabilities = io.AudioOutputCapabilities(pause=False)
    super().__init__(label='speaker', capabilities=capabilities, sample_rate=RATE)
    self.begin, self.seconds, self.end = 0.0, 0.0, None

  async def capture_frame(self, frame):
    await super().capture_frame(frame)
    if not self.seconds:
      self.begin = time.time()
      self.on_playback_started(created_at=self.begin)
    self.seconds += frame.duration

  def flush(self):
    super().flush()
    if self.seconds:
      left = self.begin + self.seconds - time.time()
      self.end = asyncio.get_running_loop().call_later(max(0, left), self.finish, False)

  def clear_buffer(self):
    if self.seconds:
      self.finish(True)

  def finish(self, interrupted):
    if self.end:
      self.end.cancel()
    heard = min(self.seconds, time.time() - self.begin) if interrupted else self.seconds
    self.seconds, self.end = 0.0, None
    self.on_playback_finished(playback_position=heard, interrupted=interrupted)


async def until(ready, seconds=60):
  async with asyncio.timeout(seconds):
    while not ready():
      await asyncio.sleep(0.02)


async def main(port, file):
  with wave.open(file) as sound:
    data = sound.readframes(sound.getnframes())
  model = openai.realtime.RealtimeModel(
    model='echox', base_url=f'http://127.0.0.1:{port}/v1', api_key='long-enough'
  )
  session = AgentSession(llm=model, vad=None, aec_warmup_duration=None)
  microphone, speaker = Microphone(), Speaker()
  session.input.audio, session.output.audio = microphone, speaker
  errors, messages, played, seen = [], [], [], []
  session.on('error', lambda event: errors.append(str(event.error)))
  session.on('conversation_item_added', lambda event: messages.append(event.item.model_dump()))
  speaker.on('playback_finished', lambda event: played.append(vars(event)))

  def answers():
    return [own for own in messages if own.get('role') == 'assistant']

  agent = Agent(instructions='Answer briefly.')
  await session.start(agent)
  agent.realtime_llm_session.on('openai_server_event_received', seen.append)
  session.generate_reply(user_input='Paris?')
  await until(lambda: len(played) == 1)
  microphone.said = data
  await until(lambda: len(played) == 2)
  session.generate_reply(user_input='What is two plus two?')
  await until(lambda: speaker.seconds > 1)
  microphone.said = data
  await until(lambda: len(played) == len(answers()) == 4)
  await session.aclose()
  await model.aclose()
  told = {'errors': errors, 'played': played}
  told['answers'] = answers()
  told['refusals'] = [own['error']['code'] for own in seen if own['type'] == 'error']
  told['ends'] = [own['response'] for own in seen if own['type'] == 'response.done']
  print(json.dumps(told | {'seen': [own['type'] for own in seen]}))


asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
