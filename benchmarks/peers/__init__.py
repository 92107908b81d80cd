"""The job as one would write it for other engines; each a script: LOGS OUTPUT."""
