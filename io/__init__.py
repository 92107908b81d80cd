"""Schemas, sources (logs) and sinks (Parquet, Elasticsearch, dead letters)."""
