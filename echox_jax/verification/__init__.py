"""Checks of this code against golden sets: arrays that the released code computed, with the weights
it had.
"""
