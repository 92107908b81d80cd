"""Packaging: the top-level folders are the packages ``adtally.*``.

The folders cannot be imported by their own names (``io`` is the standard library's), so each is
mapped below; every sub-package is listed. Beam's ``--setup_file`` builds the same distribution.
"""

from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
PACKAGES = {
    "adtally.io": "io",
    "adtally.pipelines": "pipelines",
    "adtally.pipelines.dashboard": "pipelines/dashboard",
    "adtally.runners": "runners",
    "adtally.runners.local": "runners/local",
    "adtally.transforms": "transforms",
    "adtally.transforms.rules": "transforms/rules",
}


def requirements(name: str) -> list[str]:
    lines = (HERE / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith(("#", "-"))]


def some(name: str, *beginnings: str) -> list[str]:
    return [line for line in requirements(name) if line.startswith(beginnings)]


setup(
    name="adtally",
    version="0.1.0",
    description="Near-real-time summaries and invalid-traffic flags from ad-tracking events",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.11",
    packages=list(PACKAGES),
    package_dir=PACKAGES,
    package_data={
        "adtally.io": ["*.sql", "*.toml", "py.typed"],
        "adtally.pipelines": ["mappings/*.toml", "templates/*.html"],
        "adtally.pipelines.dashboard": ["static/*", "templates/*.html"],
        "adtally.runners": ["deploy/flink/config.yaml"],
        "adtally.runners.local": ["elasticsearch/*", "flink/*", "kinesis/*", "pubsub/*"],
    },
    install_requires=requirements("requirements.txt"),
    # What 'adtally pull' needs for PostgreSQL, and 'adtally report' and 'adtally dashboard' at all;
    # the versions that the tests have.
    extras_require={
        "postgresql": some("requirements-dev.txt", "psycopg"),
        "report": some("requirements-dev.txt", "altair", "Jinja2", "vl-convert-python"),
        "dashboard": some(
            "requirements-dev.txt", "altair", "Jinja2", "starlette", "uvicorn", "vl-convert-python"
        ),
    },
    entry_points={"console_scripts": ["adtally = adtally.pipelines.cli:main"]},
)
