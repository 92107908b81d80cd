"""Invalid-traffic rules: one module each, listed in :mod:`adtally.transforms.rules.ruleset`."""
