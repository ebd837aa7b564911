"""The Python package `voicebench`, which measures voice agents by their sound alone: two questions,
a voice that interrupts, and a noise that must not. Prints as JSON what it measured.

  python voicebench_client.py PORT QUESTION.wav
"""

import asyncio
import base64
import json
import sys

from voicebench import audio
from voicebench.adapters import AgentAudio, AgentClear
from voicebench.adapters.websocket import WebSocketAdapter
from voicebench.bench import run_benchmark
from voicebench.scenario import parse_scenario

RATE = 24000


class Realtime(WebSocketAdapter):
  """Speaks the Realtime protocol, and falls silent when a voice is heard, as a client should."""

  def encode_audio(self, pcm):
    data = base64.b64encode(audio.to_pcm16(pcm)).decode()
    return json.dumps({'type': 'input_audio_buffer.append', 'audio': data})

  def handle_text(self, message, now):
    event = json.loads(message)
    if event['type'] == 'response.output_audio.delta':
      self.emit(AgentAudio(audio.from_pcm16(base64.b64decode(event['delta'])), now))
    elif event['type'] == 'input_audio_buffer.speech_started':
      self.emit(AgentClear(now))
    elif event['type'] == 'error':
      raise RuntimeError(event['error']['message'])


def scenario(file):
  """What is said, when, and what should come of it."""
  question = {'file': file}
  speaking = {'after': 'agent_speech_start', 'delay_ms': 200}
  noise = {'synth': 'noise', 'duration_ms': 300, 'level_db': -20}
  turns = [
    {'id': 'question', 'audio': question},
    {'id': 'interruption', 'audio': question, 'start': speaking, 'expect': 'stop'},
    {'id': 'noise', 'audio': noise, 'start': speaking, 'expect': 'ignore'},
    {'id': 'last', 'audio': question},
  ]
  loudness = {'user': {'threshold_db': -36}}  # the noise of the recording is less loud
  return parse_scenario({'name': 'talk', 'sample_rate': RATE, 'vad': loudness, 'turns': turns})


async def main(port, file):
  options = {
    'url': f'ws://127.0.0.1:{port}/v1/realtime?model=echox',
    'headers': {'Authorization': 'Bearer long-enough'},
  }
  found = await run_benchmark(scenario(file), '__main__:Realtime', options)
  turns = [vars(turn) for turn in found.sessions[0].turns]
  print(json.dumps({'summary': found.summary, 'turns': turns}))


asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
