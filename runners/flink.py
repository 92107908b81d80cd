"""Flink: one description of a job turned into Beam's options for its portable runner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

NAME: Final = "FlinkRunner"
CHECKPOINT_SECONDS: Final = 10.0
LEAST_PARALLELISM: Final = 2
"""With 1, Flink chains Beam's impulse to what follows and gives it another id than with more, so a
savepoint could not be resumed with another parallelism ("Cannot map checkpoint/savepoint state").
"""


@dataclass(frozen=True)
class FlinkConfig:
    """How to reach a cluster, and how a job runs there.

    Attributes:
        job_endpoint: HOST:PORT of Beam's job server, which submits to the cluster.
        artifact_endpoint: HOST:PORT of its artifacts; empty for what the job server says.
        environment: HOST:PORT of an SDK worker pool beside each TaskManager; empty for workers in
            this process (LOOPBACK), which only works while it lives.
        parallelism: slots that the job takes, at least ``LEAST_PARALLELISM``.
        checkpoint_seconds: between checkpoints. Without them Flink ignores when a source wants to
            be asked again, and nothing survives.
        state_backend: ``hashmap`` or ``rocksdb``; empty for the cluster's.
        checkpoint_folder: URI for checkpoints; empty for the cluster's.
        savepoint: URI of a savepoint or retained checkpoint to begin from; empty for none.
        workers: SDK worker processes beside each TaskManager, each of which computes on one core;
            0 for one less than it has cores.
    """

    job_endpoint: str
    artifact_endpoint: str = ""
    environment: str = ""
    parallelism: int = LEAST_PARALLELISM
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    state_backend: str = ""
    checkpoint_folder: str = ""
    savepoint: str = ""
    workers: int = 0

    def __post_init__(self) -> None:
        if self.parallelism < LEAST_PARALLELISM:
            raise ValueError(
                f"parallelism is {self.parallelism}: savepoints of such a job cannot be resumed "
                f"with another parallelism; give {LEAST_PARALLELISM} or more."
            )

        if self.checkpoint_seconds < 0.001:
            raise ValueError(
                f"checkpoint_seconds is {self.checkpoint_seconds}: without checkpoints nothing "
                f"survives a failure, and reading stalls; give 1 or more."
            )

    def arguments(self) -> list[str]:
        """Beam options."""
        given = [
            "--runner=PortableRunner",
            f"--job_endpoint={self.job_endpoint}",
            f"--parallelism={self.parallelism}",
            f"--checkpointing_interval={round(self.checkpoint_seconds * 1000)}",
            f"--sdk_worker_parallelism={self.workers}",
            "--shutdown_sources_after_idle_ms=9223372036854775807",
            # Else a checkpoint in the middle of a bundle keeps what the bundle gives for the next
            # bundle; the one that begins reading has no next, and then nothing is ever read.
            "--finish_bundle_before_checkpointing",
            # A job that was cancelled can be resumed from its last checkpoint.
            "--externalized_checkpoints_enabled",
            "--retain_externalized_checkpoints_on_cancellation",
        ]
        if self.artifact_endpoint:
            given.append(f"--artifact_endpoint={self.artifact_endpoint}")
        if self.environment:
            given += ["--environment_type=EXTERNAL", f"--environment_config={self.environment}"]
        else:
            given.append("--environment_type=LOOPBACK")
        if self.state_backend:
            given.append(f"--state_backend={self.state_backend}")
        if self.checkpoint_folder:
            given.append(f"--state_backend_storage_path={self.checkpoint_folder}")
        if self.savepoint:
            given.append(f"--savepoint_path={self.savepoint}")
        return given
