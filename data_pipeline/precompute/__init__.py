"""Everything that is computed once before training: tokenizer, k-means, units, unit language, unit
words, encoder states.

`run` writes under `WORKDIR/precomputed`: tokenizer.model (or a tokenizer.json), kmeans.safetensors,
unit_language.json, the data sets with their columns filled in, tables of their sizes, manifest.json
(checksums, versions, config) and precompute.json, which says what was measured.

Several processes may call it alike, with one folder. Sets are worked on in shards of consecutive
examples, and nothing that is finished is made again (see `shards`): a run that was stopped,
however, goes on where it was, on any number of processes.
"""

from data_pipeline.precompute.encoders import Encoders, pretrained_encoders
from data_pipeline.precompute.job import REPORT
from data_pipeline.precompute.report import summary
from data_pipeline.precompute.steps import check_sizes, run

__all__ = ['REPORT', 'Encoders', 'check_sizes', 'pretrained_encoders', 'run', 'summary']
