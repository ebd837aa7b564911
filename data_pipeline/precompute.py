"""Everything that is computed once before training: tokenizer, k-means, units, unit language, unit
words, encoder states.

`run` writes under `WORKDIR/precomputed`: tokenizer.model (or a tokenizer.json), kmeans.safetensors,
unit_language.json, the data sets with their columns filled in, tables of their sizes, manifest.json
(checksums, versions, config) and precompute.json, which says what was measured.

Several processes may call it alike, with one folder. Sets are worked on in shards of consecutive
examples, and nothing that is finished is made again (see `shards`): a run that was stopped,
however, goes on where it was, on any number of processes.
"""

from collections.abc import Callable, Iterable, Iterator
import contextlib
import dataclasses
from pathlib import Path
import time
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from data_pipeline import (
  dataset,
  index,
  language_shards,
  provenance,
  parts,
  record_files,
  schema,
  selection,
)
from data_pipeline.fingerprints import file_fingerprint, fingerprint
from data_pipeline.shards import SCRATCH, Outputs, Process, SharedWork, ranges
from echox_jax import config as config_lib
from echox_jax import errors, files, rates, tokenizer
from echox_jax.parallel import distributed
from echox_jax.training.experiment import ExperimentConfig
from echox_jax.units import extract, kmeans
from echox_jax.units.extract import SpeechEncoder
from echox_jax.units.unit_language import UnitLanguage

KMEANS, LANGUAGE, REPORT, MANIFEST = (
  'kmeans.safetensors',
  'unit_language.json',
  'precompute.json',
  'manifest.json',
)
_MEASURED_EXAMPLES = 256  # of a set, from which its hours are estimated


@dataclasses.dataclass(frozen=True)
class Encoders:
  """How the two frozen encoders are loaded: the one that units come from, and the one that the LLM
  hears through.
  """

  units: Callable[[], SpeechEncoder]
  speech: Callable[[], SpeechEncoder]


def run(
  experiment: ExperimentConfig,
  workdir: str | Path,
  encoders: Encoders | None = None,
  *,
  progress: bool = True,
  process: Process | None = None,
) -> dict[str, Any]:
  """Does everything of `experiment.precompute` that is not finished.

  Args:
    experiment: the job; its stage does not matter.
    workdir: working folder, the same for all processes; the raw data sets are in
      `experiment.data_dir`, or in `data` there.
    encoders: in place of the pretrained ones.
    progress: whether to show bars with the time left.
    process: one of several; that of `jax.distributed` by default.

  Returns:
    The report: `clips` and `seconds` of speech of each set, `units_per_second` (reduced units),
    `unit_words_per_second` of speech, `compression` of each kind of unit language (`vocab_size`,
    reduced `units_per_word` on what it was fitted on, and `units_per_word_held_out` on the other
    unit sets), `tokenizer_vocab_size`, `step_seconds` of all processes together, `ran` (the steps
    that this process had a part in now).

  Raises:
    EchoXError: missing raw data, sizes that do not fit each other, missing weights.
  """
  check_sizes(experiment)
  process = process or Process(jax.process_index(), jax.process_count(), distributed.barrier)
  job = _Job(
    experiment, Path(workdir), encoders or pretrained_encoders(experiment), progress, process
  )
  job.tokenizer()
  if experiment.precompute.unit_sets:
    job.units(job.kmeans())
    job.language()
  job.datasets()
  job.tables()
  return job.finish()


def check_sizes(experiment: ExperimentConfig) -> None:
  """Whether the sizes of the config fit each other.

  Raises:
    ConfigError: they do not, or nothing is to be computed.
  """
  model, jobs = experiment.model, experiment.precompute
  words = model.units.num_units if model.units.language == 'plain' else model.units.vocab_size
  if words > model.unit_decoder.unit_vocab_size:
    raise errors.ConfigError(
      f'the unit language has up to {words} words, more than the '
      f'{model.unit_decoder.unit_vocab_size} of the '
      'unit decoder: raise model.unit_decoder.unit_vocab_size or lower model.units.vocab_size.'
    )
  if model.units.num_units > model.vocoder.num_units:
    raise errors.ConfigError(
      f'model.units.num_units is {model.units.num_units}, but the vocoder '
      f'knows {model.vocoder.num_units} '
      'units: make model.vocoder.num_units the same.'
    )
  if jobs.shard_examples < 1:
    raise errors.ConfigError(
      f'precompute.shard_examples is {jobs.shard_examples}: make it at least 1.'
    )
  if not jobs.unit_sets and not jobs.state_sets:
    raise errors.ConfigError(
      'precompute has nothing to do: name data sets in precompute.unit_sets '
      'or precompute.state_sets.'
    )
  if jobs.state_sets and model.pad_audio_to_30_s:
    raise errors.ConfigError(
      'states of audio padded to 30 s are not cached: set '
      'precompute.state_sets to () and data.cached_states to False.'
    )
  fitted_on = (*(() if jobs.kmeans else jobs.kmeans_sets), *jobs.language_sets)
  stray = [name for name in fitted_on if name not in jobs.unit_sets]
  if jobs.unit_sets and (stray or not jobs.language_sets or not (jobs.kmeans or jobs.kmeans_sets)):
    raise errors.ConfigError(
      'k-means and unit language are fitted on sets that get units, not on '
      f'{", ".join(stray) or "none"}: '
      'name sets of precompute.unit_sets in precompute.kmeans_sets and '
      'precompute.language_sets.'
    )


def pretrained_encoders(experiment: ExperimentConfig) -> Encoders:
  """The encoders that the config names; weights are read when first needed."""
  model = experiment.model

  def whisper(layer: int, padding_seconds: float) -> SpeechEncoder:
    from echox_jax.conversion import whisper_ct2

    cfg, params = whisper_ct2.load_packaged_whisper(experiment.speech_encoder, model.whisper.dtype)
    if dataclasses.replace(cfg, attention=model.whisper.attention) != model.whisper:
      raise errors.ConfigError(
        f'model.whisper has not the sizes of {experiment.speech_encoder!r}: '
        f'make them those of {cfg}.'
      )
    return extract.speech_encoder(
      params,
      model.whisper,
      dataclasses.replace(
        model.units, encoder='whisper', layer=layer, padding_seconds=padding_seconds
      ),
    )

  def units() -> SpeechEncoder:
    if model.units.encoder != 'hubert':
      return whisper(model.units.layer, model.units.padding_seconds)
    cfg, params = _load_hubert(experiment.precompute.hubert)
    return extract.speech_encoder(params, cfg, model.units)

  return Encoders(
    units, speech=lambda: whisper(model.whisper.num_layers, model.audio_padding_seconds)
  )


def _load_hubert(folder: str):
  """Config and parameters of a HuBERT, imported or as transformers wrote it."""
  from echox_jax.conversion import importers

  if not folder:
    raise errors.ConfigError(
      'there is no HuBERT in precompute.hubert, which is empty: name a '
      'folder with config.json and safetensors.'
    )
  return importers.load_group('hubert', Path(folder))


class _Job:
  """One run: what each step is made from, and the steps in order."""

  def __init__(
    self,
    experiment: ExperimentConfig,
    workdir: Path,
    encoders: Encoders,
    progress: bool,
    process: Process,
  ):
    self.experiment, self.jobs, self.cfg = experiment, experiment.precompute, experiment.model.units
    self.encoders, self.progress = encoders, progress and process.index == 0
    self.raw, self.folder = (
      selection.raw_dir(experiment, workdir),
      selection.precomputed_dir(workdir),
    )
    self.sets = tuple(dict.fromkeys((*self.jobs.unit_sets, *self.jobs.state_sets)))
    self.sources = {
      name: dataset.open_dataset(self.raw, *selection.split_name(name)) for name in self.sets
    }
    self.records = {
      name: ranges(len(source), self.jobs.shard_examples) for name, source in self.sources.items()
    }
    self.work = SharedWork(self.folder, process)
    given = {
      'kmeans': self.jobs.kmeans,
      'hubert': self.jobs.hubert if self.cfg.encoder == 'hubert' else '',
    }
    self.given = {kind: file_fingerprint(path) if path else '' for kind, path in given.items()}
    self.products: list[Path] = []  # what is left when all is done
    self._loaded: dict[str, SpeechEncoder] = {}

  # What the steps are made from, and where it lies.

  def raw_inputs(self, name: str) -> str:
    """Of one raw data set and split."""
    folder, split = selection.split_name(name)
    note = self.raw / f'{folder}.json'
    return fingerprint(
      split,
      file_fingerprint(self.raw / folder / dataset.INFO),
      file_fingerprint(note) if note.exists() else '',
    )

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
    if self.jobs.kmeans:
      return self.given['kmeans']
    return fingerprint(
      [self.states_inputs(name, 'assistant') for name in self.jobs.kmeans_sets],
      self.cfg.num_units,
      self.cfg.kmeans_iterations,
      self.cfg.seed,
      self.jobs.kmeans_hours,
    )

  def units_inputs(self, name: str) -> str:
    return fingerprint(self.states_inputs(name, 'assistant'), self.kmeans_inputs())

  def language_inputs(self) -> str:
    return fingerprint(
      [self.units_inputs(name) for name in self.jobs.language_sets],
      config_lib.to_dict(self.cfg),
      self.jobs.shard_examples,
    )

  def shards(self, name: str, paths: Iterable[Path], *inputs: Any) -> Outputs:
    """One file for every shard of a set."""
    return {
      path: fingerprint(inputs, records.start, records.stop)
      for path, records in zip(paths, self.records[name], strict=True)
    }

  def scratch(self, kind: str, name: str) -> Iterator[Path]:
    """Files that are kept between the steps."""
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

  def record_files(self, name: str) -> Outputs:
    folder, split = selection.split_name(name)
    spoken = (
      [self.units_inputs(name), self.language_inputs()] if name in self.jobs.unit_sets else []
    )
    heard = [self.states_inputs(name, 'user')] if name in self.jobs.state_sets else []
    paths = (
      self.folder / folder / file
      for file in record_files.file_names(split, len(self.records[name]))
    )
    return self.shards(name, paths, self.raw_inputs(name), spoken, heard)

  # The steps.

  def make(self, step: str, path: Path, inputs: str, make: Callable[[Path], Any]) -> None:
    """One product, made by the first process."""
    self.work.run(step, {path: inputs}, lambda _, beside: make(beside))
    self.products.append(path)

  def tokenizer(self) -> None:
    """Copies the tokenizer, or trains it on the texts of the training splits."""
    own = self.experiment.tokenizer
    target = self.folder / tokenizer.file_name(own.model)
    learn_from = [name for name in self.sets if selection.split_name(name)[1] == 'train']
    inputs = (
      fingerprint(file_fingerprint(own.model))
      if own.model
      else fingerprint(own.vocab_size, [self.raw_inputs(name) for name in learn_from])
    )

    def make(beside: Path) -> None:
      if own.model:
        files.atomic_write_bytes(beside, Path(own.model).read_bytes())
        return
      texts = dict.fromkeys(
        turn['text']
        for name in learn_from
        for i in range(len(self.sources[name]))
        for turn in schema.text_turns(self.sources[name][i])
        if turn['text']
      )
      tokenizer.train_tokenizer(texts, beside, own.vocab_size)

    if target.name != tokenizer.BPE_FILE:
      # of an earlier config: it would go first
      (self.folder / tokenizer.BPE_FILE).unlink(missing_ok=True)
    self.make('tokenizer', target, inputs, make)
    size, limit = (
      tokenizer.precomputed_tokenizer(self.folder).vocab_size,
      self.experiment.model.llm.vocab_size,
    )
    if size > limit:
      raise errors.ConfigError(
        f'the tokenizer has {size} ids, the LLM only {limit}: raise '
        'model.llm.vocab_size or lower tokenizer.vocab_size.'
      )

  def kmeans(self) -> np.ndarray:
    """Centroids float32[K,D]: the given ones, or fitted, by all processes together."""
    target, inputs, seconds = self.folder / KMEANS, self.kmeans_inputs(), 0.0
    centroids = None
    if not self.jobs.kmeans and not self.work.finished(target, inputs):
      stored = [
        values for values in map(parts.StoredValues, self.kmeans_sample()) if values.shape[0]
      ]
      if self.progress:
        print(
          f'fitting {self.cfg.num_units} units on {sum(values.shape[0] for values in stored)} '
          'states',
          flush=True,
        )
      started = time.monotonic()
      centroids = kmeans.fit(stored, self.cfg.num_units, self.cfg.kmeans_iterations, self.cfg.seed)
      seconds = time.monotonic() - started
    self.make(
      'kmeans',
      target,
      inputs,
      lambda beside: kmeans.save(
        beside, kmeans.load(self.jobs.kmeans) if centroids is None else centroids
      ),
    )
    self.work.seconds['kmeans'] = round(self.work.seconds['kmeans'] + seconds, 1)
    centroids = kmeans.load(target)
    if len(centroids) != self.cfg.num_units:
      raise errors.ConfigError(
        f'{self.jobs.kmeans or target} has {len(centroids)} units, the '
        f'config {self.cfg.num_units}: '
        'make model.units.num_units the same.'
      )
    return centroids

  def kmeans_share(self) -> float:
    """The share of the examples of `kmeans_sets` that k-means sees."""
    seconds = 0.0
    for name in self.jobs.kmeans_sets if self.jobs.kmeans_hours else ():
      source, looked_at = self.sources[name], min(_MEASURED_EXAMPLES, len(self.sources[name]))
      clips = parts.Clips(
        source, 'assistant', (i * len(source) // looked_at for i in range(looked_at))
      )
      seconds += sum(map(len, clips)) / rates.SAMPLE_RATE * len(source) / looked_at
    return min(1.0, self.jobs.kmeans_hours * 3600 / seconds) if seconds else 1.0

  def kmeans_sample(self) -> list[Path]:
    """The states that k-means is fitted on."""
    share, paths = self.kmeans_share(), []
    for name in self.jobs.kmeans_sets:
      outputs = self.sample_parts(name, share)
      with self.bar(f'states of {name}', name, outputs) as bar:

        def make(i: int, beside: Path) -> dict[str, Any]:
          chosen = (
            record for record in bar.watch(self.records[name][i]) if parts.is_chosen(record, share)
          )
          clips = parts.Clips(self.sources[name], 'assistant', chosen)
          frames = parts.write_part(beside, list(self.layer_states(clips)), np.float16)
          return {**bar.heard(clips), 'frames': frames}

        self.work.run(f'states:{name}', outputs, make)
      paths += outputs
    return paths

  def layer_states(self, clips: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """float16[T,D] of each clip, from the layer that units are made of."""
    return (
      clip.layer.astype(np.float16)
      for clip in extract.encode_clips(
        self.encoder('units'), clips, self.jobs.batch_seconds, ('layer',)
      )
    )

  def units(self, centroids: np.ndarray) -> None:
    """The unit of every state of every unit set. States are not kept; where k-means has seen all of
    them, they are there already.
    """
    for name in self.jobs.unit_sets:
      outputs, sample = self.unit_parts(name), list(self.sample_parts(name, 1.0).items())
      with self.bar(f'units of {name}', name, outputs) as bar:

        def make(i: int, beside: Path) -> dict[str, Any]:
          if self.work.finished(*sample[i]):
            states, heard = (
              parts.read_part(sample[i][0]),
              lambda: self.work.note(sample[i][0])['measured'],
            )
          else:
            clips = parts.Clips(self.sources[name], 'assistant', bar.watch(self.records[name][i]))
            states, heard = self.layer_states(clips), lambda: bar.heard(clips)
            if self.encoder('units').width != centroids.shape[1]:
              raise errors.ConfigError(
                f'the k-means is for states of width {centroids.shape[1]}, the encoder gives '
                f'{self.encoder("units").width}: '
                'use the encoder and layer it was fitted on, or fit another (precompute.kmeans '
                'empty).'
              )
          units = list(kmeans.assign_clips(states, centroids))
          frames = parts.write_part(beside, units, np.int32)
          return {
            **heard(),
            'frames': frames,
            'reduced': sum(len(kmeans.reduce_units(clip)[0]) for clip in units),
          }

        self.work.run(f'units:{name}', outputs, make)
      self.check_heard(name, 'assistant', outputs)
      self.work.keep_only(outputs)
    self.work.remove(self.folder / SCRATCH / 'sample')

  def language(self) -> None:
    """Fits the unit language of the config, and measures what each kind would compress."""
    target, inputs, step = self.folder / LANGUAGE, self.language_inputs(), 'unit language'
    counts, own = self.folder / SCRATCH / 'language', None
    fitted_on = list(self.unit_parts(*self.jobs.language_sets))
    others = list(
      self.unit_parts(
        *(name for name in self.jobs.unit_sets if name not in self.jobs.language_sets)
      )
    )
    if self.cfg.language == 'ngram' and not self.work.finished(target, inputs):
      own = language_shards.fit_stored(self.work, step, counts, fitted_on, inputs, self.cfg)
      self.work.meet('the counts have been read')

    def make(beside: Path) -> dict[str, Any]:
      samples = (
        language_shards.sample(paths, self.work.measured(paths, 'reduced'))
        for paths in (fitted_on, others)
      )
      language, compression = language_shards.compare(own, self.cfg, *samples)
      language.save(beside)
      return {'compression': compression}

    self.make(step, target, inputs, make)
    self.work.remove(counts)

  def datasets(self) -> None:
    """Writes the data sets with states, units and unit words."""
    for folder in dict.fromkeys(selection.split_name(name)[0] for name in self.sets):
      names = [name for name in self.sets if selection.split_name(name)[0] == folder]
      outputs = {name: self.record_files(name) for name in names}
      step, features, info = (
        f'data set {folder}',
        *(self.folder / folder / file for file in (record_files.FEATURES, dataset.INFO)),
      )
      inputs = fingerprint([list(some.values()) for some in outputs.values()])
      if self.work.index == 0 and not self.work.finished(info, inputs):
        info.unlink(missing_ok=True)  # nobody is to read old and new files as one data set
      for name in names:
        self.write_records(
          step, name, outputs[name], has_states=bool({*names} & {*self.jobs.state_sets})
        )
      written = {
        name: [note['measured'] for note in self.work.notes(some)] for name, some in outputs.items()
      }

      def write_metadata(beside: Path) -> None:
        splits = {selection.split_name(name)[1]: measured for name, measured in written.items()}
        record_files.write_metadata(beside, splits, written[names[0]][0]['width'])

      self.work.keep_only([features, info, *(path for some in outputs.values() for path in some)])
      for path in (features, info):
        self.make(step, path, inputs, write_metadata)

  def write_records(self, step: str, name: str, outputs: Outputs, has_states: bool) -> None:
    """The files of one split. Where states take its place, audio is dropped."""
    paths, source, has_units, hears = (
      list(outputs),
      self.sources[name],
      name in self.jobs.unit_sets,
      name in self.jobs.state_sets,
    )
    units = list(self.unit_parts(name)) if has_units else []
    language = (
      UnitLanguage.load(self.folder / LANGUAGE)
      if has_units and self.work.unfinished(outputs)
      else None
    )
    with self.bar(f'writing {name}', name, outputs) as bar:

      def make(i: int, beside: Path) -> dict[str, Any]:
        records, words = self.records[name][i], 0
        width = self.encoder('speech').width if has_states else 1
        own_units = parts.iterate_parts(units[i : i + 1])
        states, heard = (
          self.user_states(name, paths[i], records, width, bar) if hears else (iter(()), dict)
        )

        def examples() -> Iterator[schema.Example]:
          nonlocal words
          for record in bar.watch(records):
            example = schema.decode(source[record])
            turns = []
            for turn in example.turns:
              if has_units and turn.role == 'assistant' and len(turn.audio):
                own = next(own_units)
                turn = dataclasses.replace(
                  turn, units=own, unit_words=language.encode(kmeans.reduce_units(own)[0])
                )
                words += len(turn.unit_words)
              if hears and turn.role == 'user' and len(turn.audio):
                turn = dataclasses.replace(
                  turn, states=np.asarray(next(states)), audio=np.zeros(0, np.int16)
                )
              turns.append(turn)
            yield schema.Example(example.id, tuple(turns))

        written = record_files.write(beside, examples(), width)
        return {**written, **heard(), 'width': width, 'words': words}

      self.work.run(step, outputs, make)
    self.products += outputs
    if hears:
      self.check_heard(name, 'user', outputs)

  def user_states(
    self, name: str, path: Path, records: range, width: int, bar: '_Bar'
  ) -> tuple[Iterator[np.ndarray], Callable[[], dict[str, Any]]]:
    """The final states of the clips of users in `records`, and what will have been heard. An
    earlier file has them where only units have changed.
    """
    made_from, before = self.states_inputs(name, 'user'), self.work.note(path).get('measured', {})
    if path.exists() and before.get('states') == made_from:
      kept = (
        turn.states
        for example in record_files.read(path, width)
        for turn in example.turns
        if len(turn.states)
      )
      return kept, lambda: {key: before[key] for key in ('clips', 'seconds', 'states')}
    clips = parts.Clips(self.sources[name], 'user', records)
    encoded = extract.encode_clips(
      self.encoder('speech'), clips, self.jobs.batch_seconds, ('final',)
    )
    return (clip.final for clip in encoded), lambda: {**bar.heard(clips), 'states': made_from}

  def tables(self) -> None:
    """The sizes of whatever the stages read (`index`): no host is to read a whole set before it
    trains.
    """
    # Raw sets are read for their questions and transcripts; the vocoder's stage reads units and
    # needs no counts of tokens.
    asked = dict.fromkeys(
      (
        *self.jobs.state_sets,
        *(name for name in self.experiment.data.sets if name not in self.jobs.unit_sets),
      )
    )
    wanted = [
      *(
        (self.raw, name, self.folder)
        for name in asked
        if dataset.dataset_exists(self.raw, selection.split_name(name)[0])
      ),
      *((self.folder, name, self.folder) for name in self.sets),
      *((self.folder, name, None) for name in self.jobs.unit_sets),
    ]
    for folder, name, tokens in wanted[self.work.index :: self.work.count]:
      index.open_table(
        self.folder, folder, *selection.split_name(name), tokens, self.experiment.data.workers
      )
    self.work.meet('the tables are there')

  def finish(self) -> dict[str, Any]:
    """Adds up what was measured; writes it and the manifest."""
    report = self.report()
    if self.work.index == 0:
      files.atomic_write_json(
        self.folder / REPORT,
        {'steps': {k: {'seconds': v} for k, v in self.work.seconds.items()}, 'report': report},
      )
    content = provenance.describe(self.work, self.products, self.experiment)
    self.work.run(
      'manifest',
      {self.folder / MANIFEST: fingerprint(content)},
      lambda _, beside: provenance.write(beside, content),
    )
    return {
      **report,
      'step_seconds': self.work.seconds,
      'ran': [step for step in self.work.ran if step != 'manifest'],
    }

  def report(self) -> dict[str, Any]:
    """What was measured, from the notes of all files."""
    report, units = {'sets': {}}, self.unit_parts(*self.jobs.unit_sets)
    measured = self.work.measured
    for name in self.sets:
      outputs = [
        *(self.unit_parts(name) if name in self.jobs.unit_sets else ()),
        *self.record_files(name),
      ]
      report['sets'][name] = {
        'clips': measured(outputs, 'clips'),
        'seconds': round(measured(outputs, 'seconds'), 1),
      }
    if units:
      seconds = measured(units, 'frames') * rates.UNIT_HOP / rates.SAMPLE_RATE
      words = sum(measured(self.record_files(name), 'words') for name in self.jobs.unit_sets)
      report |= self.work.note(self.folder / LANGUAGE)['measured']
      report |= {
        'units_per_second': round(measured(units, 'reduced') / seconds, 2),
        'unit_words_per_second': round(words / seconds, 2),
      }
    return report | {
      'tokenizer_vocab_size': tokenizer.precomputed_tokenizer(self.folder).vocab_size
    }

  # Helpers.

  def encoder(self, kind: str) -> SpeechEncoder:
    if kind not in self._loaded:
      self._loaded[kind] = getattr(self.encoders, kind)()
    return self._loaded[kind]

  def check_heard(self, name: str, role: str, outputs: Outputs) -> None:
    """Raises DataError where a set has no clips."""
    if not self.work.measured(outputs, 'clips'):
      raise errors.DataError(
        f'the data set {name!r} has no audio of role {role!r}: take it out of '
        'precompute or record some.'
      )

  @contextlib.contextmanager
  def bar(self, title: str, name: str, outputs: Outputs) -> Iterator['_Bar']:
    """Progress of this process in a set; nothing is shown where nothing is to be done."""
    total = sum(len(self.records[name][i]) for i in self.work.unfinished(outputs))
    with tqdm(
      total=total,
      desc=title,
      unit='example',
      disable=not (self.progress and total),
      mininterval=1.0,
    ) as shown:
      yield _Bar(shown, self.work.count)


class _Bar:
  """Examples that are done, the time that is left, and hours of audio an hour, as all `processes`
  together do them if they are alike.
  """

  def __init__(self, shown: tqdm, processes: int):
    self._shown, self._processes, self._seconds, self._started = (
      shown,
      processes,
      0.0,
      time.monotonic(),
    )

  def watch(self, records: Iterable[int]) -> Iterator[int]:
    """The same records; each counts when it has been dealt with."""
    for record in records:
      yield record
      self._shown.update()

  def heard(self, clips: parts.Clips) -> dict[str, float]:
    """What was read of `clips`, which is shown and given back."""
    measured = clips.measured()
    self._seconds += measured['seconds']
    speed = self._processes * self._seconds / (time.monotonic() - self._started)
    self._shown.set_postfix_str(f'{speed:.0f} hours of audio an hour', refresh=False)
    return measured


def summary(report: dict[str, Any]) -> str:
  """The report in words."""
  lines = [
    f'{name}: {c["clips"]} clips, {c["seconds"] / 60:.1f} min of speech'
    for name, c in report.get('sets', {}).items()
  ]
  if 'units_per_second' in report:
    lines.append(
      f'{report["units_per_second"]} reduced units and '
      f'{report["unit_words_per_second"]} unit words a second of speech'
    )
    lines += [
      f'unit language {name}: {c["units_per_word"]} reduced units a word'
      for name, c in report['compression'].items()
    ]
  lines.append(
    f'{sum(report["step_seconds"].get(step, 0) for step in report["ran"]):.0f} s; '
    + (f'done: {", ".join(report["ran"])}' if report['ran'] else 'everything was there already')
  )
  return '\n'.join(lines)
