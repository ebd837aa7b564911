"""The clocks of speech, everywhere in this library (facts 2 and 11)."""

SAMPLE_RATE = 16_000  # Hz; mono
MEL_HOP = 160  # samples from one mel frame to the next: 100 Hz
UNIT_HOP = 320  # samples of a unit, and of an encoder state: 50 Hz
