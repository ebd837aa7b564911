"""What a run tells: JSON lines, and a progress bar with the time that is left.

`metrics.jsonl` holds a line for each window of steps, `{"kind": "train", "step", ...}`; for each
evaluation on held-out rows (`data.eval_sets`, see `validation`), `{"kind": "eval", "step", "loss",
..., "eval_seconds"}`; and for each compilation, `{"kind": "compile",
...}`. The time
of evaluations, compilations and checkpoints is in no window. With `train.tensorboard` the first two
are in event files as well (`event_files`).

In the record of a window, loss parts are means over its steps; `tokens`, `audio_seconds` and
`overflow_*` are sums. `step_time` and `data_time` are seconds a step, waiting for data included in
both. `job_seconds` is the time since the job first started, whatever stopped it meanwhile, and
`goodput` the share of it that was spent in steps that count. Where the FLOPs of a step are known
there are `model_flops_per_second`, and `mfu`, their share of what the chips can do.
"""

import json
import math
from pathlib import Path
import sys
import time
from typing import Any

import jax
import tqdm

from echox_jax import errors, files
from echox_jax.training import event_files

_SUMS = ('tokens', 'audio_seconds')


class Metrics:
  """Collects the metrics of steps; a record is written for each window. Only the first process
  writes.

  Args:
    file: the JSON lines; records after `step` are dropped, so that no step of a resumed run is
      there twice.
    stage: for the progress bar and messages.
    step: where the run starts.
    steps: where it ends.
    peak_flops: what all devices together can do, FLOP/s; None = not known.
    started: time.time() when this run began; None = now.
    events: folder for TensorBoard event files; None = none are written.

  Attributes:
    last: the newest record of a window, of this run or the one that it continues; {} = none yet.
    last_evaluation: that of an evaluation.
  """

  def __init__(
    self,
    file: Path,
    stage: str,
    step: int,
    steps: int,
    peak_flops: float | None = None,
    started: float | None = None,
    events: Path | None = None,
  ):
    self._file, self._stage, self._writes = Path(file), stage, jax.process_index() == 0
    self._peak_flops = peak_flops
    kept = truncate(self._file, step) if self._writes else []
    self.last, self.last_evaluation = newest(kept, 'train'), newest(kept, 'eval')
    self._events = event_files.EventFiles(events, kept) if events and self._writes else None
    before = self.last.get('job_seconds', 0.0)  # of the runs that this one continues
    self._job_started = (
      self.last['time'] - before if before else time.time() if started is None else started
    )
    self._productive = self.last.get('goodput', 0.0) * before
    slow = 0.2 if sys.stderr.isatty() else 20.0  # a log file is not to fill with bars
    self.bar = tqdm.tqdm(
      total=steps,
      initial=step,
      desc=stage,
      unit='step',
      mininterval=slow,
      maxinterval=slow,
      dynamic_ncols=True,
      disable=not self._writes,
    )
    self._begin()

  def _begin(self) -> None:
    self._window: list[dict[str, jax.Array]] = []
    self._data_time, self._flops, self._excluded, self._start = 0.0, 0.0, 0.0, time.perf_counter()

  def add(self, values: dict[str, jax.Array], data_time: float, flops: float = 0.0) -> None:
    """Adds one step; values stay on the device until the window ends. `flops`: of the model, over
    all devices; 0 = not known.
    """
    self._window.append(values)
    self._data_time += data_time
    self._flops += flops
    self.bar.update()

  def exclude(self, seconds: float) -> None:
    """Takes time that was not training (compiling, saving) out of the window."""
    self._excluded += seconds

  def compiled(self, step: int, variant: str, seconds: float) -> None:
    """Records a compilation before the step after `step`."""
    self._write(
      {'kind': 'compile', 'step': step, 'variant': variant, 'compile_seconds': round(seconds, 3)}
    )
    self.exclude(seconds)

  def evaluated(self, step: int, values: dict[str, float], seconds: float) -> None:
    """Records an evaluation after `step`, which took so long.

    Raises:
      EchoXError: a loss that is not finite.
    """
    if not math.isfinite(values['loss']):
      raise errors.EchoXError(
        f'stage {self._stage!r}: the loss on data.eval_sets is {values["loss"]} after step '
        f'{step}; the '
        'last good checkpoint is kept: lower train.optimizer.learning_rate and start again in '
        'another '
        '--workdir, or look at those sets.'
      )
    self.last_evaluation = {
      'kind': 'eval',
      'step': step,
      **dict(sorted(values.items())),
      'eval_seconds': seconds,
      'time': time.time(),
    }
    self._write(self.last_evaluation)
    self._show()
    self.exclude(seconds)

  def flush(self, step: int) -> None:
    """Ends the window at `step`: waits for its steps, writes its record.

    Raises:
      EchoXError: a loss or gradient that is not finite.
    """
    if not self._window:
      return
    window = jax.device_get(self._window)
    seconds = max(time.perf_counter() - self._start - self._excluded, 1e-9)
    record = {'kind': 'train', 'step': step}
    for name in sorted(window[-1]):
      values = [float(values[name]) for values in window if name in values]
      total = math.fsum(values)
      record[name] = total if name in _SUMS or name.startswith('overflow_') else total / len(values)
    bad = [
      name
      for name in record
      if name == 'loss' or name.startswith('grad_norm')
      if not math.isfinite(record[name])
    ]
    if bad:
      raise errors.EchoXError(
        f'stage {self._stage!r}: {bad[0]} is {record[bad[0]]} between steps '
        f'{step - len(window) + 1} and {step}; the last good '
        'checkpoint is kept: lower train.optimizer.learning_rate and start again in another '
        '--workdir, or look at the data.'
      )
    for name in _SUMS:
      if name in record:
        record[f'{name}_per_second'] = record[name] / seconds
    record |= {'step_time': seconds / len(window), 'data_time': self._data_time / len(window)}
    if self._flops:
      record['model_flops_per_second'] = self._flops / seconds
      if self._peak_flops is not None:
        record['mfu'] = record['model_flops_per_second'] / self._peak_flops
    self._productive += seconds
    now = time.time()
    job_seconds = max(now - self._job_started, self._productive)
    record |= {'time': now, 'job_seconds': job_seconds, 'goodput': self._productive / job_seconds}
    self._write(record)
    self.last = record
    self._show()
    self._begin()

  def close(self) -> None:
    """Ends the progress bar and the event files."""
    self.bar.close()
    if self._events:
      self._events.close()

  def _show(self) -> None:
    """The newest losses, behind the bar."""
    losses = {'loss': self.last, 'eval_loss': self.last_evaluation}
    self.bar.set_postfix(
      {name: f'{record["loss"]:.4g}' for name, record in losses.items() if record}, refresh=False
    )

  def _write(self, record: dict[str, Any]) -> None:
    if self._writes:
      with open(self._file, 'a', encoding='utf-8') as f:
        f.write(json.dumps(record) + '\n')
      if self._events:
        self._events.add(record)


def read(file: Path) -> list[dict[str, Any]]:
  """The records of a metrics file; a last line that was cut short is left out. Empty if there is no
  file.
  """
  records = []
  if Path(file).exists():
    for line in Path(file).read_text('utf-8').splitlines():
      try:
        records.append(json.loads(line))
      except ValueError:
        break
  return records


def truncate(file: Path, step: int) -> list[dict[str, Any]]:
  """Drops the records after `step` (all of them for a run that starts anew); returns the others."""
  kept = [record for record in read(file) if step and record['step'] <= step]
  files.atomic_write_text(file, ''.join(json.dumps(record) + '\n' for record in kept))
  return kept


def newest(records: list[dict[str, Any]], kind: str) -> dict[str, Any]:
  """The last record of a kind; {} if there is none."""
  return next((record for record in reversed(records) if record['kind'] == kind), {})
