"""The rates of speech that the whole library uses (facts 2 and 11)."""

SAMPLE_RATE = 16_000  # Hz; mono
MEL_HOP = 160  # samples between mel frames: 100 Hz
UNIT_HOP = 320  # samples per unit and per encoder state: 50 Hz
