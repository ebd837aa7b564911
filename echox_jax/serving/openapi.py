"""The plain HTTP interface as OpenAPI 3.1. The socket has no place in it: it is described by
`protocol.py` and `server_events.py`.
"""

from importlib import metadata
from typing import Any


def _body(description: str, schema: dict[str, Any], media: str = 'application/json') -> dict:
  return {'description': description, 'content': {media: {'schema': schema}}}


def _object(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
  return {'type': 'object', 'properties': properties, 'required': list(required)}


_NUMBER, _INTEGER, _STRING = {'type': 'number'}, {'type': 'integer'}, {'type': 'string'}
_BYTES = {'type': 'string', 'format': 'binary'}
_SAMPLING = {
  'temperature': _NUMBER | {'default': 0, 'minimum': 0, 'maximum': 10},
  'top_p': _NUMBER | {'default': 1, 'exclusiveMinimum': 0, 'maximum': 1},
  'top_k': _INTEGER | {'default': 0, 'minimum': 0},
  'repetition_penalty': _NUMBER | {'default': 1},
  'seed': _INTEGER | {'default': 0},
}
_ANSWER = _object(
  ('text', 'audio', 'sample_rate', 'audio_s', 'finished_s', 'overflow'),
  text=_STRING,
  audio={'type': ['string', 'null'], 'description': 'A wav file in base64.'},
  sample_rate=_INTEGER,
  audio_s=_NUMBER,
  first_audio_s={'type': ['number', 'null']},
  finished_s=_NUMBER,
  overflow={'type': 'object', 'additionalProperties': _INTEGER},
)
_ERROR = _object(
  ('error',),
  error=_object(('type', 'code', 'message'), type=_STRING, code=_STRING, message=_STRING),
)
_REFUSALS = {
  '400': _body('The request cannot be served; the message says why.', _ERROR),
  '401': _body('The token is missing or wrong.', _ERROR),
  '408': _body('The body has not come in time.', _ERROR),
  '413': _body('The body is too large.', _ERROR),
  '503': _body('The server is busy, starting or stopping.', _ERROR),
}
_STATE = {'get': {'responses': {'200': {'description': 'Yes.'}, '503': {'description': 'No.'}}}}

OPENAPI: dict[str, Any] = {
  'openapi': '3.1.0',
  'info': {'title': 'EchoX-JAX', 'version': metadata.version('echox-jax')},
  'components': {'securitySchemes': {'token': {'type': 'http', 'scheme': 'bearer'}}},
  'security': [{'token': []}],
  'paths': {
    '/v1/respond': {
      'post': {
        'summary': 'Answers a recording, or a written question, in text and speech.',
        'description': 'With `Accept: audio/wav` the answer is the wav file alone.',
        'parameters': [
          {'name': name, 'in': 'query', 'schema': schema} for name, schema in _SAMPLING.items()
        ],
        'requestBody': {
          'required': True,
          'content': {
            'audio/*': {'schema': _BYTES},
            'application/json': {
              'schema': _object(
                ('text',),
                text=_STRING,
                sampling=_object(**_SAMPLING),
                max_tokens=_INTEGER,
                speaks={'type': 'boolean', 'default': True},
              )
            },
          },
        },
        'responses': {
          '200': {
            'description': 'The answer.',
            'content': {'application/json': {'schema': _ANSWER}, 'audio/wav': {'schema': _BYTES}},
          },
          **_REFUSALS,
        },
      }
    },
    '/v1/audio/speech': {
      'post': {
        'summary': 'Speaks a text, by the text-to-codec model.',
        'requestBody': {
          'required': True,
          'content': {
            'application/json': {
              'schema': _object(
                ('input',),
                input=_STRING,
                model=_STRING,
                voice=_STRING,
                response_format={
                  'type': 'string',
                  'enum': ['wav', 'flac', 'mp3', 'opus', 'pcm'],
                  'default': 'mp3',
                },
                speed={'type': 'number', 'const': 1},
              )
            }
          },
        },
        'responses': {'200': _body('The sound.', _BYTES, 'audio/*'), **_REFUSALS},
      }
    },
    '/healthz': _STATE | {'summary': 'Whether the process lives.'},
    '/readyz': _STATE | {'summary': 'Whether it takes connections.'},
    '/metrics': {
      'get': {'responses': {'200': _body('Counters for Prometheus.', _STRING, 'text/plain')}}
    },
  },
}
