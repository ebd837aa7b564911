"""Computes once, before training: tokenizer, k-means, units, unit language, unit words, encoder
states.

`run` writes under `WORKDIR/precomputed`: tokenizer.model (or a tokenizer.json), kmeans.safetensors,
unit_language.json, the data sets with their columns filled in, tables of their sizes, manifest.json
(checksums, versions, config) and precompute.json (the measurements).

Several processes may call it together with one folder. They work on data sets in shards of
consecutive examples, and never make a finished file again (see `shards`). A run that was stopped in
any way continues where it was, on any number of processes.
"""

from data_pipeline.precompute.encoders import Encoders, pretrained_encoders
from data_pipeline.precompute.job import REPORT
from data_pipeline.precompute.report import summary
from data_pipeline.precompute.steps import check_sizes, run

__all__ = ['REPORT', 'Encoders', 'check_sizes', 'pretrained_encoders', 'run', 'summary']
