"""Checks this code against golden sets: arrays that the released code computed with its weights."""
