"""The data of the paper: its table of sets, tasks, items and hours (arXiv 2509.09174, "Data").

The names are those that `python -m launch.corpus --reader ... --prefix librispeech_` and similar
commands give the sets.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Source:
  """Speech of one kind from one place.

  Attributes:
    name: folder of the data set; it ends in `transcripts` (read aloud), `questions` or `answers`.
    items: number of recordings.
    hours: of speech.
  """

  name: str
  items: int
  hours: float


READ = (Source('librispeech_transcripts', 281_241, 960), Source('mls_transcripts', 723_636, 3_000))
SPOKEN = (
  Source('audioqa_answers', 178_576, 989),
  Source('speechinstruct_answers', 31_563, 84),
  Source('hh_rlhf_answers', 124_945, 656),
)
ASKED = (Source('sharechatx_questions', 43_223, 178), Source('magpie_questions', 117_000, 327))
SOURCES = (*READ, *SPOKEN, *ASKED)
