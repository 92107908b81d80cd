"""Benchmarks: the same job by adtally and by its peers, in the same run."""
