"""``python docs/sample/make.py``: makes clicks.csv beside it, as a small tracker might write it.

Six hours of three shops. Two visitors are not people: from one address come 50 clicks in a minute,
from another one every six seconds.
"""

from __future__ import annotations

import csv
import datetime
import random
from pathlib import Path

START = datetime.datetime.fromisoformat("2026-03-02T08:00")
SHOPS = {"shoes-and-more": 0.24, "bike-barn": 0.31, "tea-corner": 0.09}
BROWSERS = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/133.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_3 like Mac OS X) AppleWebKit/605.1.15 Safari/604.1",
    "Mozilla/5.0 (Linux; Android 15) AppleWebKit/537.36 Chrome/132.0 Mobile Safari/537.36",
)
FIELDS = (
    "click_id",
    "click_time",
    "client",
    "campaign",
    "publisher",
    "visitor",
    "ip",
    "ua",
    "price",
)


def main() -> None:
    draw = random.Random(7)
    rows = []
    for _ in range(1_200):
        shop = draw.choices(list(SHOPS), (5, 3, 1))[0]
        person = draw.randrange(600)
        at = START + datetime.timedelta(seconds=draw.randrange(6 * 3_600))
        address = f"198.51.{person % 100}.{person // 4}"
        rows.append((at, shop, f"v{person}", address, draw.choice(BROWSERS)))
    flood = START + datetime.timedelta(hours=2, minutes=13)
    for n in range(50):
        at = flood + datetime.timedelta(seconds=n)
        rows.append((at, "shoes-and-more", f"x{n}", "203.0.113.66", BROWSERS[0]))
    for n in range(60):
        at = flood + datetime.timedelta(hours=1, seconds=6 * n)
        rows.append((at, "bike-barn", "clockwork", "203.0.113.9", BROWSERS[2]))
    with (Path(__file__).parent / "clicks.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=";", lineterminator="\n")
        writer.writerow(FIELDS)
        for number, (at, shop, visitor, address, browser) in enumerate(sorted(rows)):
            campaign = f"{shop}-{'spring' if number % 3 else 'brand'}"
            price = f"{SHOPS[shop]:.2f}".replace(".", ",")
            writer.writerow((f"k{number:05}", f"{at:%d.%m.%Y %H:%M:%S}", shop, campaign,
                             f"pub-{number % 11}", visitor, address, browser, price))  # fmt: skip


if __name__ == "__main__":
    main()
