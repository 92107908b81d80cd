"""Dataflow: one description of a job turned into Beam's options for Google's runner."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions

NAME: Final = "DataflowRunner"
JOB_NAME: Final = "adtally"
MOST_LABELS: Final = 64

_PROJECT: Final = re.compile(r"([a-z0-9][-a-z0-9.]*:)?[a-z][-a-z0-9]{4,28}[a-z0-9]")
"""6 to 30 lower-case letters, digits and hyphens; old ones begin with a domain and a colon."""

_REGION: Final = re.compile(r"[a-z]+-[a-z]+[0-9]+")
_JOB_NAME: Final = re.compile(r"[a-z]([-a-z0-9]{0,1022}[a-z0-9])?")  # as Dataflow's API has it
_FOLDER: Final = re.compile(r"gs://[a-z0-9][-_a-z0-9.]{1,220}[a-z0-9]/\S*")
_ACCOUNT: Final = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_PACKAGES: Final = (".tar.gz", ".whl", "setup.py")


class DataflowError(ValueError):
    """Dataflow has not what was asked for; the message names cause and remedy."""


@dataclass(frozen=True)
class DataflowConfig:
    """Where a job runs, with what, and as whom.

    Attributes:
        project: id of the project that pays.
        region: such as ``europe-west1``.
        temp_location: folder in Cloud Storage for what the job needs while it runs.
        job_name: by which a running job is updated; Dataflow refuses a second one of that name.
        staging_location: folder for the graph and the package; empty for ``temp_location``.
        service_account: e-mail of the account that workers run as; empty for the project's default.
        network: of the workers; empty for ``default``, or that of ``subnetwork``.
        subnetwork: ``regions/REGION/subnetworks/NAME``, or its whole URL for a shared one.
        public_ips: whether workers have addresses of their own. Without, the subnetwork needs
            Private Google Access, and a package index is out of reach: give ``image``.
        machine_type: such as ``n2-standard-4``; empty for what Dataflow takes.
        workers: to begin with, and the fewest where nothing scales; 0 for what Dataflow takes.
        max_workers: up to which it scales; 0 for what Dataflow takes, which is many.
        autoscaling: ``THROUGHPUT_BASED`` or ``NONE``; empty for Dataflow's default.
        labels: ``KEY=VALUE``, seen on the bill.
        image: container image of the workers, which has this package; empty for Beam's.
        package: what workers of Beam's image install: a ``setup.py``, an sdist or a wheel.
        update: replace the running job of this name, and take its state over.
        renamed: ``OLD=NEW`` names of steps, for an update of a graph whose steps have others.
        template_location: write the job there and do not start it; a Flex Template's launcher
            asks for that.
        dry_run: folder of this machine that the job is written to, and nothing is sent.
    """

    project: str
    region: str
    temp_location: str
    job_name: str = JOB_NAME
    staging_location: str = ""
    service_account: str = ""
    network: str = ""
    subnetwork: str = ""
    public_ips: bool = True
    machine_type: str = ""
    workers: int = 0
    max_workers: int = 0
    autoscaling: str = ""
    labels: tuple[str, ...] = ()
    image: str = ""
    package: str = ""
    update: bool = False
    renamed: tuple[str, ...] = ()
    template_location: str = ""
    dry_run: str = ""

    def __post_init__(self) -> None:
        self._check_place()
        self._check_workers()
        for label in self.labels:
            _check_label(label)
        keys = [label.partition("=")[0] for label in self.labels]
        if len(set(keys)) < len(keys) or len(keys) > MOST_LABELS:
            raise ValueError(
                f"labels {', '.join(keys)} are more than {MOST_LABELS}, or one is there twice, and "
                f"Dataflow would refuse or lose some; give each key once."
            )
        if self.renamed and not self.update:
            raise ValueError(
                f"steps {', '.join(self.renamed)} are renamed, which has a meaning for an update "
                f"only; ask for one, or leave the names out."
            )
        for pair in self.renamed:
            if not all(pair.partition("=")):
                raise ValueError(f"renamed step {pair!r} is no pair; write OLD=NEW.")
        if not self.image and not self.package.endswith(_PACKAGES):
            raise ValueError(
                f"package {self.package!r} is no setup.py, .tar.gz or .whl, so workers would have "
                f"no adtally; give the sdist or wheel that it was installed from, or an image "
                f"that has it."
            )

    def _check_place(self) -> None:
        if not _PROJECT.fullmatch(self.project):
            raise ValueError(
                f"project {self.project!r} is no project's id, and Dataflow would refuse it; give "
                f"the id (6 to 30 of a-z, 0-9 and -), not the number or the display name."
            )
        if not _REGION.fullmatch(self.region):
            raise ValueError(
                f"region {self.region!r} is none; write one such as europe-west1, without the "
                f"letter of a zone."
            )
        if not _JOB_NAME.fullmatch(self.job_name):
            raise ValueError(
                f"job name {self.job_name!r} would be refused; it begins with a-z, goes on with "
                f"a-z, 0-9 and -, and does not end with -."
            )
        for name in ("temp_location", "staging_location", "template_location"):
            folder = getattr(self, name)
            if not _FOLDER.fullmatch(folder) and (folder or name == "temp_location"):
                raise ValueError(
                    f"{name} {folder!r} is no address in Cloud Storage, which is all that Dataflow "
                    f"reads; write gs://BUCKET/FOLDER."
                )
        if self.service_account and not _ACCOUNT.fullmatch(self.service_account):
            raise ValueError(
                f"service account {self.service_account!r} is no e-mail, so workers could not run "
                f"as it; write NAME@PROJECT.iam.gserviceaccount.com."
            )
        inside = rf"(\S+/)?regions/{self.region}/subnetworks/[^/\s]+"
        if self.subnetwork and not re.fullmatch(inside, self.subnetwork):
            raise ValueError(
                f"subnetwork {self.subnetwork!r} is not in {self.region}, or not written out, and "
                f"workers would not start; write regions/{self.region}/subnetworks/NAME."
            )

    def _check_workers(self) -> None:
        if self.workers < 0 or self.max_workers < 0:
            raise ValueError(
                f"workers is {self.workers}, max_workers {self.max_workers}: a job with fewer than "
                f"one does nothing; give 1 or more, or leave it to Dataflow."
            )
        if 0 < self.max_workers < self.workers:
            raise ValueError(
                f"workers is {self.workers}, above max_workers, {self.max_workers}, and Dataflow "
                f"would refuse the job; raise one or lower the other."
            )
        if self.autoscaling not in ("", "THROUGHPUT_BASED", "NONE"):
            raise ValueError(
                f"autoscaling {self.autoscaling!r} is not known; give THROUGHPUT_BASED or NONE."
            )

    def arguments(self) -> list[str]:
        """Beam options."""
        given = [
            f"--runner={NAME}",
            f"--project={self.project}",
            f"--region={self.region}",
            f"--temp_location={self.temp_location}",
            f"--staging_location={self.staging_location or self.temp_location}",
            f"--job_name={self.job_name}",
            # State and timers of windows lie in Dataflow's service, not on workers' disks. Python
            # has nothing else there; it is said for whoever reads the options.
            "--enable_streaming_engine",
            # Else Beam sends what the program that starts the job has in its main module, and a
            # list of what is installed here, with paths and addresses of private repositories.
            "--no_save_main_session",
            "--experiments=disable_logging_submission_environment",
        ]
        optional = {
            "service_account_email": self.service_account,
            "network": self.network,
            "subnetwork": self.subnetwork,
            "worker_machine_type": self.machine_type,
            "num_workers": self.workers,
            "max_num_workers": self.max_workers,
            "autoscaling_algorithm": self.autoscaling,
            "template_location": self.template_location,
        }
        given += [f"--{name}={value}" for name, value in optional.items() if value]
        given += [f"--labels={label}" for label in self.labels]
        if not self.public_ips:
            given.append("--no_use_public_ips")
        return [*given, *self._code(), *self._mode()]

    def _code(self) -> list[str]:
        given = [f"--sdk_container_image={self.image}"] if self.image else []
        if self.package:
            option = "setup_file" if self.package.endswith("setup.py") else "extra_package"
            given.append(f"--{option}={self.package}")
        return given

    def _mode(self) -> list[str]:
        if self.dry_run:  # an update asks Dataflow for the job that runs
            return ["--dry_run=True"]
        if not self.update:
            return []
        names = dict(pair.split("=", 1) for pair in self.renamed)
        return ["--update", *([f"--transform_name_mapping={json.dumps(names)}"] if names else [])]


def _check_label(label: str) -> None:
    key, _, value = label.partition("=")
    signs = all(re.fullmatch(r"[\w-]*", part) and part == part.lower() for part in (key, value))
    if not (signs and key[:1].isalpha() and len(key) <= 63 and len(value) <= 63):
        raise ValueError(
            f"label {label!r} would be refused; write KEY=VALUE of lower-case letters, digits, _ "
            f"and -, up to 63 of them each, the key with a letter first."
        )


def checkout_setup() -> str:
    """``setup.py`` of the checkout that this runs from; empty for an installed package."""
    file = Path(__file__).resolve().parents[1] / "setup.py"
    return str(file) if file.is_file() else ""


def check_running(arguments: list[str], name: str) -> None:
    """Make sure that a job is there to be updated.

    Beam 2.77 looks for it too, and where it is not there asks for the list again, without end.

    Raises:
        DataflowError: none of that name runs.
    """
    from apache_beam.runners.dataflow.internal import apiclient
    from google.cloud import dataflow_v1beta3 as api

    options = PipelineOptions(arguments)
    cloud = options.view_as(GoogleCloudOptions)
    request = api.ListJobsRequest(project_id=cloud.project, location=cloud.region)
    jobs = apiclient.DataflowApplicationClient(options)._jobs_client.list_jobs(request)
    running = (api.JobState.JOB_STATE_RUNNING, api.JobState.JOB_STATE_DRAINING)
    if not any(job.name == name and job.current_state in running for job in jobs):
        raise DataflowError(
            f"no job {name!r} runs in {cloud.project}, {cloud.region}, so there is none to update; "
            f"correct the name, or start it without --dataflow-update."
        )


def write_job(job: Any, folder: str) -> list[str]:
    """Write what would be sent and staged to a folder of this machine; returns names of steps.

    ``job.json`` is the request, ``pipeline.pb`` the graph, the rest what workers install. In it
    Beam names the folder in place of the staging location, and says that it asked for no
    credentials; all else is as it would be sent.

    Args:
        job: of a pipeline that was run with ``--dry_run``.
        folder: made where it is not there.
    """
    from apache_beam.runners.dataflow.internal import apiclient

    path = Path(folder).resolve()
    path.mkdir(parents=True, exist_ok=True)
    cloud = job.options.view_as(GoogleCloudOptions)
    cloud.no_auth = True
    cloud.staging_location = str(path)
    cloud.template_location = str(path / "job.json")
    apiclient.DataflowApplicationClient(job.options).create_job(job)
    return steps(job.proto_pipeline)


def steps(graph: Any) -> list[str]:
    """Names of a graph's steps, by which an update finds their state; without composites."""
    found = graph.components.transforms.values()
    return sorted(step.unique_name for step in found if not step.subtransforms)
