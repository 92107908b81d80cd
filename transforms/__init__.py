"""Decode, slice, tally and flag: pure functions on Arrow tables, and their PTransforms."""
