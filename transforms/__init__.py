"""Decode, slice, tally and flag: pure functions on Arrow tables, and the PTransforms around them."""
