"""What all steps of precompute share: inputs, files, encoders, progress."""

from collections.abc import Callable, Iterable, Iterator
import contextlib
from typing import Any

from tqdm import tqdm

from data_pipeline import dataset, index, record_files, selection
from data_pipeline.fingerprints import file_fingerprint, fingerprint
from data_pipeline.precompute.encoders import Encoders
from data_pipeline.precompute.progress import Bar
from data_pipeline.shards import SCRATCH, Outputs, Process, SharedWork, ranges
from echox_jax import config as config_lib
from echox_jax import errors, model_folder
from echox_jax.parallel import heartbeats
from echox_jax.storage import Path
from echox_jax.training.experiment import ExperimentConfig
from echox_jax.units.extract import SpeechEncoder

KMEANS, LANGUAGE = model_folder.KMEANS, model_folder.UNIT_LANGUAGE
REPORT, MANIFEST = 'precompute.json', 'manifest.json'


class Job:
  """One run: the inputs of its steps, their files, and shared helpers."""

  def __init__(
    self,
    experiment: ExperimentConfig,
    workdir: Path,
    encoders: Encoders,
    progress: bool,
    process: Process,
    beat: heartbeats.Heartbeat,
  ):
    self.experiment, self.choices, self.cfg = (
      experiment,
      experiment.precompute,
      experiment.model.units,
    )
    self.encoders, self.progress = encoders, progress and process.index == 0
    self.raw, self.folder = (
      selection.raw_dir(experiment, workdir),
      selection.precomputed_dir(workdir),
    )
    self.sets = tuple(dict.fromkeys((*self.choices.unit_sets, *self.choices.state_sets)))
    cache = selection.record_cache(experiment.data)
    self.sources = {
      name: dataset.open_dataset(self.raw, *selection.split_name(name), cache) for name in self.sets
    }
    # Raw sets are also read for their questions and transcripts.
    asked = (*self.choices.state_sets, *self._trained_on())
    self.asked = tuple(n for n in dict.fromkeys(asked) if self._is_raw(n))
    self.turns = {
      name: dataset.open_turns(self.raw, *selection.split_name(name))
      for name in dict.fromkeys((*self.sets, *self.asked))
    }
    self.records = {
      name: ranges(len(turns), self.choices.shard_examples) for name, turns in self.turns.items()
    }
    self.work = SharedWork(self.folder, process, beat=beat, wait_seconds=self.choices.wait_seconds)
    given = {
      'kmeans': self.choices.kmeans,
      'unit_language': self.choices.unit_language,
      'hubert': self.choices.hubert if self.cfg.encoder == 'hubert' else '',
    }
    self.given = {kind: file_fingerprint(path) if path else '' for kind, path in given.items()}
    self.products: list[Path] = []  # final files of the run
    self._loaded: dict[str, SpeechEncoder] = {}

  def _trained_on(self) -> Iterator[str]:
    """Sets of the stage. The vocoder stage reads units and needs no token counts."""
    return (name for name in self.experiment.data.sets if name not in self.choices.unit_sets)

  def _is_raw(self, name: str) -> bool:
    return dataset.dataset_exists(self.raw, selection.split_name(name)[0])

  # Inputs of the steps, and their files.

  def raw_inputs(self, name: str) -> str:
    """Fingerprint of one raw data set and split."""
    return dataset.identity(self.raw, *selection.split_name(name))

  def states_inputs(self, name: str, role: str) -> str:
    model = self.experiment.model
    made_by = (
      (self.cfg.encoder, self.cfg.layer, self.cfg.padding_seconds, self.given['hubert'])
      if role == 'assistant'
      else (model.audio_padding_seconds,)
    )
    return fingerprint(
      self.raw_inputs(name),
      self.experiment.speech_encoder,
      config_lib.to_dict(model.whisper),
      *made_by,
    )

  def kmeans_inputs(self) -> str:
    if self.choices.kmeans:
      return self.given['kmeans']
    return fingerprint(
      [self.states_inputs(name, 'assistant') for name in self.choices.kmeans_sets],
      self.cfg.num_units,
      self.choices.fit.kmeans_iterations,
      self.choices.fit.seed,
      self.choices.kmeans_hours,
    )

  def units_inputs(self, name: str) -> str:
    return fingerprint(self.states_inputs(name, 'assistant'), self.kmeans_inputs())

  def language_inputs(self) -> str:
    if self.choices.unit_language:
      return self.given['unit_language']
    return fingerprint(
      [self.units_inputs(name) for name in self.choices.language_sets],
      config_lib.to_dict(self.cfg) | config_lib.to_dict(self.choices.fit),
      self.choices.shard_examples,
    )

  def shards(self, name: str, paths: Iterable[Path], *inputs: Any) -> Outputs:
    """One output for every shard of a set."""
    return {
      path: fingerprint(inputs, records.start, records.stop)
      for path, records in zip(paths, self.records[name], strict=True)
    }

  def scratch(self, kind: str, name: str) -> Iterator[Path]:
    """Paths of files that are kept between the steps."""
    count = len(self.records[name])
    return (
      self.folder / SCRATCH / kind / name.replace('/', '-') / f'{i:05d}-of-{count:05d}'
      for i in range(count)
    )

  def sample_parts(self, name: str, share: float) -> Outputs:
    return self.shards(
      name, self.scratch('sample', name), self.states_inputs(name, 'assistant'), share
    )

  def unit_parts(self, *names: str) -> Outputs:
    return {
      path: inputs
      for name in names
      for path, inputs in self.shards(
        name, self.scratch('units', name), self.units_inputs(name)
      ).items()
    }

  def token_parts(self, name: str) -> Outputs:
    return self.shards(
      name, self.scratch('tokens', name), self.raw_inputs(name), index.counted_by(self.folder)
    )

  def record_files(self, name: str) -> Outputs:
    folder, split = selection.split_name(name)
    spoken = (
      [self.units_inputs(name), self.language_inputs()] if name in self.choices.unit_sets else []
    )
    heard = [self.states_inputs(name, 'user')] if name in self.choices.state_sets else []
    paths = (
      self.folder / folder / file
      for file in record_files.file_names(split, len(self.records[name]))
    )
    return self.shards(name, paths, self.raw_inputs(name), spoken, heard)

  # Helpers that the steps share.

  def make(self, step: str, path: Path, inputs: str, make: Callable[[Path], Any]) -> None:
    """Makes one product in the first process."""
    self.work.run(step, {path: inputs}, lambda _, beside: make(beside), here=True)
    self.products.append(path)

  def encoder(self, kind: str) -> SpeechEncoder:
    if kind not in self._loaded:
      self._loaded[kind] = getattr(self.encoders, kind)()
    return self._loaded[kind]

  def check_heard(self, name: str, role: str, outputs: Outputs) -> None:
    """Raises DataError if a set has no clips."""
    if not self.work.measured(outputs, 'clips'):
      raise errors.DataError(
        f'the data set {name!r} has no audio of role {role!r}: take it out of '
        'precompute or record some.'
      )

  @contextlib.contextmanager
  def bar(self, title: str, name: str, outputs: Outputs) -> Iterator['Bar']:
    """Progress of this process in a set; shows nothing if nothing is left to do."""
    total = sum(len(self.records[name][i]) for i in self.work.unfinished(outputs))
    with (
      self.work.beat.during(heartbeats.STEPS),
      tqdm(
        total=total,
        desc=title,
        unit='example',
        disable=not (self.progress and total),
        mininterval=1.0,
      ) as shown,
    ):
      yield Bar(shown, self.work.count, self.work.beat)
