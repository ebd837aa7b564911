"""The metrics of a run: JSON lines, and a progress bar with the remaining time.

`metrics.jsonl` has four kinds of lines: `{"kind": "train", "step", ...}` per window of steps;
`{"kind": "eval", "step", "loss", ..., "eval_seconds"}` per evaluation on held-out rows
(`data.eval_sets`, see `validation`); `{"kind": "compile", ...}` per compilation; and
`{"kind": "save", "step", "wait_seconds", "write_seconds"}` per checkpoint that is complete (see
`checkpoint.Saved`). A window excludes the time of evaluations, compilations and of waiting for
checkpoints. With `train.tensorboard` the first two kinds go to event files too (`event_files`).

In the record of a window, loss parts are means over its steps; `tokens`, `audio_seconds` and
`overflow_*` are sums. `step_time` and `data_time` are seconds per step; both include waiting for
data. `job_seconds` is the time since the job first started, including interruptions. `goodput` is
the share of it spent in steps that were kept, `saving` the share in which training waited for
checkpoints. If the FLOPs of a step are known, there are
`model_flops_per_second`, and `mfu`, their share of the chips' peak.
"""

from collections.abc import Iterable
import dataclasses
import math
import sys
import time
from typing import Any

import jax
import tqdm

from echox_jax import errors, storage
from echox_jax.storage import Path
from echox_jax.training import checkpoint, event_files, not_finite, records

_SUMS = ('tokens', 'audio_seconds')


class Metrics:
  """Collects the metrics of steps and writes a record per window. Only the first process writes.

  Args:
    file: the JSON lines file; records after `step` are dropped, so that no step of a resumed run
      appears twice.
    stage: for the progress bar and messages.
    step: first step of the run.
    steps: last step of the run.
    peak_flops: peak FLOP/s of all devices together; None = unknown.
    started: time.time() when this run began; None = now.
    events: folder for TensorBoard event files; None = no event files.

  Attributes:
    last: the newest window record of this run or of the run that it continues; {} = none yet.
    last_evaluation: the newest evaluation record.
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
    self._stage, self._writes = stage, jax.process_index() == 0
    self._peak_flops = peak_flops
    kept = records.kept(file, step) if self._writes else []
    content = ''.join(map(records.line, kept))
    self._lines = storage.Lines(file, content) if self._writes else None
    self.last, self.last_evaluation = (records.newest(kept, kind) for kind in ('train', 'eval'))
    self._saving = sum(record['wait_seconds'] for record in kept if record['kind'] == 'save')
    self._events = event_files.EventFiles(events, kept) if events and self._writes else None
    before = self.last.get('job_seconds', 0.0)  # job time of the runs that this one continues
    self._job_started = (
      self.last['time'] - before if before else time.time() if started is None else started
    )
    self._productive = self.last.get('goodput', 0.0) * before
    slow = 0.2 if sys.stderr.isatty() else 20.0  # do not fill a log file with progress bars
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
    """Adds one step; values stay on the device until the window ends. `flops`: model FLOPs of the
    step over all devices; 0 = unknown.
    """
    self._window.append(values)
    self._data_time += data_time
    self._flops += flops
    self.bar.update()

  def exclude(self, seconds: float) -> None:
    """Excludes time that was not training (compiling, saving) from the window."""
    self._excluded += seconds

  def saved(self, complete: Iterable[checkpoint.Saved]) -> None:
    """Records checkpoints that are complete; the time that training waited for them is to be
    excluded by itself.
    """
    for saved in complete:
      self._saving += saved.wait_seconds
      self._write({'kind': 'save', **dataclasses.asdict(saved), 'time': time.time()})

  def compiled(self, step: int, variant: str, seconds: float) -> None:
    """Records a compilation before the step after `step`."""
    self._write(
      {'kind': 'compile', 'step': step, 'variant': variant, 'compile_seconds': round(seconds, 3)}
    )
    self.exclude(seconds)

  def evaluated(self, step: int, values: dict[str, float], seconds: float) -> None:
    """Records an evaluation after `step` that took `seconds`.

    Raises:
      EchoXError: the loss is not finite.
    """
    if not math.isfinite(values['loss']):
      raise errors.EchoXError(
        f'stage {self._stage!r}: the loss on data.eval_sets is {values["loss"]} after step '
        f'{step}; the '
        'last good checkpoint is kept: lower train.optimizer.learning_rate and start again in '
        'another '
        '--workdir, or check those sets.'
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
    """Ends the window at `step`: waits for its steps and writes its record.

    Raises:
      NotFinite: a loss or gradient is not finite.
    """
    if not self._window:
      return
    window = jax.device_get(self._window)
    not_finite.check(self._stage, step, window)
    seconds = max(time.perf_counter() - self._start - self._excluded, 1e-9)
    record = {'kind': 'train', 'step': step}
    for name in sorted(window[-1]):
      values = [float(values[name]) for values in window if name in values]
      total = math.fsum(values)
      record[name] = total if name in _SUMS or name.startswith('overflow_') else total / len(values)
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
    record |= {
      'time': now,
      'job_seconds': job_seconds,
      'goodput': self._productive / job_seconds,
      'saving': self._saving / job_seconds,
    }
    self._write(record)
    self.last = record
    self._show()
    self._begin()

  def sync(self) -> None:
    """Returns when all records are in the file."""
    if self._lines:
      self._lines.flush()

  def close(self) -> None:
    """Closes the progress bar, the file and the event files."""
    self.bar.close()
    for file in (self._lines, self._events):
      if file:
        file.close()

  def _show(self) -> None:
    """Shows the newest losses after the progress bar."""
    losses = {'loss': self.last, 'eval_loss': self.last_evaluation}
    self.bar.set_postfix(
      {name: f'{record["loss"]:.4g}' for name, record in losses.items() if record}, refresh=False
    )

  def _write(self, record: dict[str, Any]) -> None:
    if self._lines:
      self._lines.add(records.line(record))
      if self._events:
        self._events.add(record)
