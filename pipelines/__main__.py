"""``python -m adtally.pipelines``: the same as the command ``adtally``."""

from adtally.pipelines.cli import main

if __name__ == "__main__":
    main()
