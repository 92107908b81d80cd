"""``python -m tests.fuzz_guided CORPUS -runs=N``: coverage of the decoder guides the mutations.

Options are libFuzzer's. Of native code (Polars, msgspec) nothing is seen, only which of our
branches its answers lead to.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["adtally.transforms", "adtally.io.limits"]):
    from tests import fuzz
    from tests.fuzz_payloads import payloads


def main() -> None:
    corpus = Path(sys.argv[1])
    corpus.mkdir(parents=True, exist_ok=True)
    every = fuzz.ways()
    for way in every:
        for number, line in enumerate(payloads(0, 300, way.record)):
            (corpus / f"{way.name}-{number}").write_bytes(line[:4096])

    def one(data: bytes) -> None:
        lines = data.split(b"\n")
        for way in every:
            fuzz.fuzz_batch(lines, way)

    atheris.Setup([*sys.argv[:1], "-max_len=8192", "-rss_limit_mb=0", *sys.argv[1:]], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
