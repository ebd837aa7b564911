"""The whole of EchoX-nano in one command: voices, units, five training stages, evaluation, one
spoken answer.

  python -m launch.demo --out out/demo

Every part is a separate command that can be run by hand. The demo skips finished parts when it runs
again.
"""

import argparse
from collections.abc import Callable
import json
import os
from pathlib import Path
import threading
import time

from echox_jax import storage
from launch import cli, pipeline
from launch.steps import Runner, Step

CONFIG = 'configs/echox_nano.py'
TARGETS = {  # targets of the demo on two CPU cores
  'text_exact_match': ('>=', 0.97),
  's2t_exact_match': ('>=', 0.93),
  's2s_exact_match': ('>=', 0.85),
  'reply_wer': ('<=', 0.08),
  'resynthesis_wer': ('<=', 0.06),
  'total_minutes': ('<=', 40),
  'peak_rss_gib': ('<=', 12),
}


def steps(out: storage.Path) -> list[Step]:
  """All parts in order."""
  work, model = str(out), str(out / 'model')
  return [
    Step(
      'corpus',
      'voices speak the questions and answers',
      ('launch.corpus', '--data', str(out / 'data')),
    ),
    *pipeline.steps(CONFIG, str(out)),
    Step(
      'evaluate',
      'unseen voices ask, a judge listens',
      (
        'launch.evaluate',
        '--checkpoint',
        model,
        '--workdir',
        work,
        '--out',
        str(out / 'evaluation.json'),
      ),
      'evaluation.json',
    ),
    Step(
      'answer',
      'one question, one spoken answer',
      (
        'launch.respond',
        '--checkpoint',
        model,
        str(out / 'question.wav'),
        '-o',
        str(out / 'reply.wav'),
        '--json',
        str(out / 'reply.json'),
      ),
      'reply.json',
    ),
  ]


class Clock:
  """Tracks the total minutes and the peak memory over all runs of this demo in `progress.json`."""

  def __init__(self, path: storage.Path, started: float):
    self._path, self._started = path, started
    self.state = (
      json.loads(path.read_text())
      if storage.is_file(path)
      else {'finished': {}, 'seconds': 0.0, 'peak_rss_gib': 0.0}
    )
    self._before = self.state['seconds']

  def save(self, name: str | None = None, seconds: float = 0.0) -> None:
    """Writes the totals so far; with a name, marks that part as finished."""
    self.state['seconds'] = self._before + time.time() - self._started
    if name:
      self.state['finished'][name] = round(seconds, 1)
    storage.atomic_write_json(self._path, self.state)

  def saw_memory(self, gib: float) -> None:
    """Keeps the highest value."""
    self.state['peak_rss_gib'] = max(self.state['peak_rss_gib'], round(gib, 2))


def tree_rss_gib(root: int) -> float:
  """Resident memory of a process and all its descendants, in GiB (a shared page counts once per
  process).
  """
  children, pages = {}, {}
  for entry in Path('/proc').iterdir():
    if entry.name.isdigit():
      try:
        fields = (entry / 'stat').read_text().rsplit(')', 1)[1].split()
        pages[int(entry.name)] = int((entry / 'statm').read_text().split()[1])
      except (FileNotFoundError, ProcessLookupError):
        continue  # it ended after it was listed
      children.setdefault(int(fields[1]), []).append(int(entry.name))
  todo, total = [root], 0
  while todo:
    pid = todo.pop()
    total += pages.get(pid, 0)
    todo += children.get(pid, [])
  return total * os.sysconf('SC_PAGE_SIZE') / 2**30


def watch_memory(pid: int, saw: Callable[[float], None], stop: threading.Event) -> None:
  """Reports the memory of a process tree twice a second until `stop` is set."""
  while not stop.wait(0.5):
    saw(tree_rss_gib(pid))


def run(step: Step, clock: Clock) -> int:
  """Runs one part and records its peak memory; returns the exit code of a part that was stopped,
  else 0.
  """
  stop = threading.Event()
  watcher = threading.Thread(
    target=watch_memory, args=(os.getpid(), clock.saw_memory, stop), daemon=True
  )
  watcher.start()
  try:
    with Runner() as runner:
      return runner.run(step)
  finally:
    stop.set()
    watcher.join()


def choose_question(out: storage.Path) -> None:
  """Writes one question, in a voice never heard in training, as question.wav for the finished model
  to answer.
  """
  from data_pipeline import dataset
  from echox_jax import audio

  for example in dataset.read_examples(out / 'data', 'questions', 'test'):
    if 'Japan' in example.turns[0].text:
      break
  audio.write_wav(out / 'question.wav', example.turns[0].audio)


def finish(out: storage.Path, clock: Clock) -> dict:
  """Writes metrics.json, reply.txt and the report; returns the metrics."""
  from echox_jax.evaluation import report

  metrics = json.loads((out / 'evaluation.json').read_text())
  reply = json.loads((out / 'reply.json').read_text())
  storage.atomic_write_text(out / 'reply.txt', reply['text'] + '\n')
  metrics.update(
    total_minutes=round(clock.state['seconds'] / 60, 1),
    peak_rss_gib=clock.state['peak_rss_gib'],
    minutes_by_part={k: round(v / 60, 2) for k, v in clock.state['finished'].items()},
  )
  storage.atomic_write_json(out / 'metrics.json', metrics)
  report.write_report(out, metrics, reply, TARGETS)
  return metrics


def summary(out: storage.Path, metrics: dict) -> str:
  """The final message at the terminal."""
  lines = ['', 'EchoX-nano, trained end to end on this machine', '']
  for name, (sign, target) in TARGETS.items():
    value = metrics[name]
    good = value >= target if sign == '>=' else value <= target
    bounds = metrics.get('intervals', {}).get(name)
    interval = '[{:.3f}, {:.3f}]'.format(*bounds) if bounds else ''
    lines.append(
      f'  {name:18} {value:8.3f} {interval:14}   target {sign} {target:<5} '
      f'{"ok" if good else "MISSED"}'
    )
  lines += [
    '',
    f'  question:    {out}/question.wav',
    f'  answer:      {out}/reply.wav  ({(out / "reply.txt").read_text().strip()!r})',
    f'  report:      {out}/report.html',
    f'  all figures: {out}/metrics.json',
    '',
    f'  to ask your own question: python -m launch.respond --checkpoint {out}/model '
    'YOUR.wav -o answer.wav',
    '',
  ]
  return '\n'.join(lines)


def main() -> int:
  parser = argparse.ArgumentParser(
    prog='python -m launch.demo',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    '--out',
    type=storage.check_writable,
    default=Path('out/demo'),
    help='folder to write (default out/demo)',
  )
  parser.add_argument(
    '--started',
    type=float,
    default=None,
    help='Unix time at which the clock started (installation counts)',
  )
  args = parser.parse_args()
  out, began = args.out, time.time()
  storage.make_folder(out)
  clock = Clock(out / 'progress.json', args.started or began)
  if 'install' not in clock.state['finished']:
    clock.save('install', began - (args.started or began))
  todo = steps(out)
  for number, step in enumerate(todo, 1):
    head = f'[{number}/{len(todo)}] {step.name}: {step.title}'
    if step.name in clock.state['finished'] and (
      step.proof is None or storage.is_file(out / step.proof)
    ):
      print(f'{head} (finished before)', flush=True)
      continue
    print(head, flush=True)
    if step.name == 'answer':
      choose_question(out)
    start = time.time()
    try:
      code = run(step, clock)
    finally:
      clock.save()
    if code:
      return code
    clock.save(step.name, time.time() - start)
  print(summary(out, finish(out, clock)))
  return 0


if __name__ == '__main__':
  cli.run(main)
