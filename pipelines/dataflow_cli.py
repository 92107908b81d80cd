"""Dataflow on the command line: its options, what they mean, and the start of a job there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import click

from adtally.pipelines.options import options

if TYPE_CHECKING:
    from rich.console import Console

    from adtally.pipelines.stream import StreamRequest
    from adtally.runners.dataflow import DataflowConfig

NEEDED: Final = ("project", "region", "temp_location")
OURS: Final = {
    "project": "dataflow-project",
    "region": "dataflow-region",
    "temp_location": "dataflow-temp-location",
    "staging_location": "dataflow-staging-location",
    "job_name": "dataflow-job-name",
    "service_account_email": "dataflow-service-account",
    "network": "dataflow-network",
    "subnetwork": "dataflow-subnetwork",
    "machine_type": "dataflow-machine-type",
    "worker_machine_type": "dataflow-machine-type",
    "num_workers": "dataflow-workers",
    "max_num_workers": "dataflow-max-workers",
    "autoscaling_algorithm": "dataflow-autoscaling",
    "sdk_container_image": "dataflow-image",
    "template_location": "dataflow-template-location",
    "label": "dataflow-label",
    "labels": "dataflow-label",
    "no_use_public_ips": "dataflow-no-public-ips",
    "update": "dataflow-update",
    "transform_name_mapping": "dataflow-renamed",
    "setup_file": "dataflow-package",
    "extra_package": "dataflow-package",
    "extra_packages": "dataflow-package",
    "dry_run": "dataflow-dry-run",
}
"""Options of ours, by what Beam and the launcher of a Flex Template call them."""

dataflow_options = options(
    click.option("--dataflow-project", default="", help="Id of the project that the job runs in."),
    click.option("--dataflow-region", default="", help="Such as europe-west1."),
    click.option("--dataflow-temp-location", default="", help="gs://BUCKET/FOLDER."),
    click.option(
        "--dataflow-staging-location",
        default="",
        help="gs://BUCKET/FOLDER for graph and package.  [default: the temp location]",
    ),
    click.option(
        "--dataflow-job-name",
        default="adtally",
        show_default=True,
        help="A second job of that name is refused while one runs; updates go by it.",
    ),
    click.option("--dataflow-service-account", default="", help="E-mail; workers run as it."),
    click.option("--dataflow-network", default="", help="Of the workers."),
    click.option(
        "--dataflow-subnetwork", default="", help="regions/REGION/subnetworks/NAME, or its URL."
    ),
    click.option(
        "--dataflow-no-public-ips",
        is_flag=True,
        help="Workers have inner addresses only; give --dataflow-image with it.",
    ),
    click.option("--dataflow-machine-type", default="", help="Such as n2-standard-4."),
    click.option("--dataflow-workers", type=click.IntRange(min=0), default=0, help="At first."),
    click.option("--dataflow-max-workers", type=click.IntRange(min=0), default=0),
    click.option(
        "--dataflow-autoscaling",
        type=click.Choice(["THROUGHPUT_BASED", "NONE"]),
        help="[default: Dataflow's]",
    ),
    click.option("--dataflow-label", "dataflow_labels", multiple=True, metavar="KEY=VALUE"),
    click.option(
        "--dataflow-image", default="", help="Container image of the workers that has adtally."
    ),
    click.option(
        "--dataflow-package",
        default="",
        help="sdist or wheel of adtally that workers install.  [default: built from the checkout]",
    ),
    click.option(
        "--dataflow-update",
        is_flag=True,
        help="Replace the running job of that name, and take its state over.",
    ),
    click.option(
        "--dataflow-renamed",
        multiple=True,
        metavar="OLD=NEW",
        help="A step that has another name in the job that is updated.",
    ),
    click.option(
        "--dataflow-template-location",
        default="",
        help="gs:// address to write the job to, for one start later; it is not started.",
    ),
    click.option(
        "--dataflow-dry-run",
        default="",
        metavar="FOLDER",
        help="Build the job, write it and what would be staged to this folder; send nothing, "
        "write nothing to the output.",
    ),
)


def dataflow_of(given: dict[str, Any], beam_arguments: tuple[str, ...]) -> DataflowConfig | None:
    """How a job runs on Dataflow; None where it runs elsewhere.

    Raises:
        ConfigError: it cannot.
    """
    from adtally.pipelines.job import ConfigError
    from adtally.runners.dataflow import NAME, DataflowConfig, checkout_setup

    if given["runner"] != NAME:
        for name in ("update", "dry_run", "template_location"):
            if given[f"dataflow_{name}"]:
                raise ConfigError(
                    f"--dataflow-{name.replace('_', '-')} is of no use to --runner "
                    f"{given['runner']}; leave it out, or give --runner {NAME}."
                )
        return None
    missing = [name for name in NEEDED if not given[f"dataflow_{name}"]]
    if missing:
        names = ", ".join(f"--dataflow-{name.replace('_', '-')}" for name in missing)
        raise ConfigError(f"--runner {NAME} needs {names} too, or nobody knows where it runs.")
    _check_beam(beam_arguments)
    _check_place_kept(given)
    image, package = given["dataflow_image"], given["dataflow_package"]
    try:
        config = DataflowConfig(
            project=given["dataflow_project"],
            region=given["dataflow_region"],
            temp_location=given["dataflow_temp_location"],
            job_name=given["dataflow_job_name"],
            staging_location=given["dataflow_staging_location"],
            service_account=given["dataflow_service_account"],
            network=given["dataflow_network"],
            subnetwork=given["dataflow_subnetwork"],
            public_ips=not given["dataflow_no_public_ips"],
            machine_type=given["dataflow_machine_type"],
            workers=given["dataflow_workers"],
            max_workers=given["dataflow_max_workers"],
            autoscaling=given["dataflow_autoscaling"] or "",
            labels=given["dataflow_labels"],
            image=image,
            package=package or ("" if image else checkout_setup()),
            update=given["dataflow_update"],
            renamed=given["dataflow_renamed"],
            template_location=given["dataflow_template_location"],
            dry_run=given["dataflow_dry_run"],
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return config


def _check_place_kept(given: dict[str, Any]) -> None:
    """An update goes on where the job is; a subscription must not be set back under it."""
    from adtally.pipelines.job import ConfigError

    if given["dataflow_update"] and given["start"] not in (None, "TRIM_HORIZON"):
        raise ConfigError(
            "--start says where a new job begins, and --dataflow-update goes on where the running "
            "one is; leave one of them out."
        )


def _check_beam(arguments: tuple[str, ...]) -> None:
    """Beam takes the last of two values unchecked, and shows all to whoever sees the job."""
    from adtally.pipelines.job import ConfigError

    for argument in arguments:
        name = argument.removeprefix("--").partition("=")[0]
        if argument.startswith("--") and name in OURS:
            raise ConfigError(
                f"--{name} is Beam's, and would not be checked before the job is sent; "
                f"give --{OURS[name]}."
            )


def check_reach(request: StreamRequest) -> None:
    """Refuse what only this machine has: workers are elsewhere.

    Raises:
        ConfigError: names the option, and what to give in place of it.
    """
    from adtally.pipelines.job import ConfigError

    config, elastic = request.dataflow, request.elasticsearch
    if config is None:
        return
    places = {
        "--output": "" if config.dry_run else request.output,
        "--pii-key-file": request.settings.pii.key_file,
        "--alerts": getattr(request.alerts, "path", "") or getattr(request.alerts, "folder", ""),
    }
    if elastic is not None:
        places["--elasticsearch-api-key-file"] = elastic.api_key_file or ""
        places["--elasticsearch-password-file"] = elastic.password_file or ""
        if not config.image:
            places["--elasticsearch-ca-file"] = elastic.ca_file or ""
        _check_environment(elastic)
    for option, place in places.items():
        if place and ("://" not in place or place.startswith("file:")):
            raise ConfigError(
                f"{option} {place} is on this machine, and Dataflow's workers are not; give a "
                f"gs:// address that their service account may use."
            )


def _check_environment(elastic: Any) -> None:
    from adtally.io.elasticsearch_client import API_KEY_ENV, PASSWORD_ENV, USERNAME_ENV
    from adtally.pipelines.job import ConfigError

    key = elastic.api_key_file
    for variable, given, remedy in (
        (
            API_KEY_ENV,
            key,
            "put the key into a file and give --elasticsearch-api-key-file gs://...",
        ),
        (USERNAME_ENV, key or elastic.username, "give --elasticsearch-username"),
        (
            PASSWORD_ENV,
            key or elastic.password_file,
            "put it into a file and give --elasticsearch-password-file gs://...",
        ),
    ):
        if os.environ.get(variable) and not given:
            raise ConfigError(
                f"{variable} is set on this machine, and Dataflow's workers do not see it; {remedy}"
            )


def launch(request: StreamRequest, config: DataflowConfig, console: Console) -> None:
    """Start a job on Dataflow, or only write it; returns as soon as Dataflow has it.

    Nothing here stays with the job: it asks for its state as often as it is looked at, and
    Ctrl-C must not end what runs elsewhere.
    """
    from adtally.pipelines import stream as runs
    from adtally.runners.dataflow import write_job

    if config.dry_run:
        steps = write_job(runs.dry_run(request), config.dry_run)
        console.print(f"{len(steps)} steps; nothing was sent")
        console.print(f"job      {config.dry_run.rstrip('/')}/job.json", soft_wrap=True)
        return
    job, result = runs.stream(request)
    console.print(f"output   {job.output}", soft_wrap=True)
    if not result.has_job:
        console.print(f"job      {config.template_location}, not started", soft_wrap=True)
        return
    where = f"--project {config.project} --region {config.region}"
    console.print(f"job      {result.job_id()}", soft_wrap=True)
    console.print(
        f"look     gcloud dataflow jobs describe {result.job_id()} {where}", soft_wrap=True
    )
    console.print(f"end      gcloud dataflow jobs drain {result.job_id()} {where}", soft_wrap=True)
