"""The DirectRunner: everything on this machine, in one process or several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.runners.portability.fn_api_runner import fn_runner
from apache_beam.runners.portability.portable_runner import JobServiceHandle

from adtally.io.objects import check_encryption
from adtally.runners.interrupts import interruptible

NAME = "DirectRunner"


def direct_runner(options: PipelineOptions) -> fn_runner.FnApiRunner:
    """The runner that Beam's ``DirectRunner`` uses for bounded pipelines in the end.

    Beam's own switch tries Prism first, which needs a download; bounded runs must not depend on
    that, so the runner behind it is named here as the switch would make it.
    """
    encoded = JobServiceHandle.encode_pipeline_options(options.get_all_options())
    provision = beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded)
    return fn_runner.FnApiRunner(provision_info=fn_runner.ExtendedProvisionInfo(provision))


def run_bounded(
    build: Callable[[beam.Pipeline], None], runner: str, arguments: Sequence[str]
) -> dict[str, int]:
    """Build and run a bounded pipeline and wait for it.

    Args:
        build: wires the pipeline.
        runner: ``DirectRunner``, or any runner name that Beam knows.
        arguments: Beam options as on its command line.

    Returns:
        The counters of all steps, added up by name.

    Raises:
        KeyboardInterrupt: by Ctrl-C.
    """
    options = PipelineOptions(list(arguments))
    chosen: Any = direct_runner(options) if runner == NAME else runner
    pipeline = beam.Pipeline(runner=chosen, options=options)
    build(pipeline)
    with interruptible():
        result = pipeline.run()
        result.wait_until_finish()
    counters: dict[str, int] = {}
    for metric in result.metrics().query()["counters"]:
        name = metric.key.metric.name
        counters[name] = counters.get(name, 0) + int(metric.result)
    return counters


def use_storage(arguments: Sequence[str]) -> None:
    """Let Beam's filesystems know its options before there is a pipeline, which else tells them.

    Without that, none of ``s3://`` can be opened; its endpoint and credentials are among them.

    Args:
        arguments: Beam options as on its command line.

    Raises:
        EncryptionError: they ask for an encryption that there is not.
    """
    FileSystems.set_options(PipelineOptions(list(arguments)))
    check_encryption()


def unknown_arguments(arguments: Sequence[str]) -> list[str]:
    """Arguments that no Beam option understands: most likely misspelt options of ours."""
    from apache_beam.options import pipeline_options

    parser = pipeline_options._BeamArgumentParser(allow_abbrev=False)
    for options in _all_options(PipelineOptions):
        options._add_argparse_args(parser)
    return list(parser.parse_known_args(list(arguments))[1])


def _all_options(cls: Any) -> list[Any]:
    found: list[Any] = []
    for child in cls.__subclasses__():
        if "_add_argparse_args" in vars(child):
            found.append(child)
        found += _all_options(child)
    unique = {f"{option.__module__}.{option.__name__}": option for option in found}
    return list(unique.values())
