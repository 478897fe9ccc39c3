"""Services that get the numbers of a run: TensorBoard, Weights & Biases and MLflow."""

from __future__ import annotations

import json
import re
import time
import warnings
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, cast

from omegaconf import OmegaConf

from mozoo.arguments import ConfigError
from mozoo.checkpoint import saving, write_text
from mozoo.config import LoggerConfig, flatten


class Service(Protocol):
    """Takes numbers by name. ``status`` is that of ``summary.json``, or ``failed``."""

    def log(self, values: Mapping[str, float], step: int) -> None: ...
    def flush(self) -> None: ...
    def close(self, status: str) -> None: ...


def start_services(folder: Path, logger: LoggerConfig, steps: int | None) -> list[Service]:
    """The services that ``logger`` chooses, for the run in ``folder``.

    A run that is resumed after ``steps`` keeps the names that services gave it, which are in ``services.json``.
    Raises ConfigError if a service does not start.
    """
    services: list[Service] = [TensorBoard(folder, steps)] if logger.tensorboard else []
    file = folder / "services.json"
    names: dict[str, str] = json.loads(file.read_text(encoding="utf-8")) if steps is not None and file.is_file() else {}
    if logger.wandb:
        services.append(WandB(folder, logger, names))
    if logger.mlflow:
        services.append(MLflow(folder, logger, names))
    if names:
        write_text(file, json.dumps(names) + "\n")
    return services


class TensorBoard:
    """Event files in the run folder, from the first numbers on.

    One event per step is ten times as fast as many.
    """

    def __init__(self, folder: Path, steps: int | None) -> None:
        self._folder, self._steps = folder / "tensorboard", steps

    @cached_property
    def _writer(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter  # takes a moment to import, and no step should wait for it

        return SummaryWriter(str(self._folder), purge_step=None if self._steps is None else self._steps + 1)

    def log(self, values: Mapping[str, float], step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        entries = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        with saving(self._folder):  # what its own thread could not write, the next call raises
            self._writer.file_writer.add_summary(Summary(value=entries), step)

    def flush(self) -> None:
        with saving(self._folder):
            self._writer.flush()

    def close(self, status: str) -> None:
        with saving(self._folder):
            self._writer.close()


class WandB:
    """Weights & Biases. ``names`` gets, or has, the run's id."""

    def __init__(self, folder: Path, logger: LoggerConfig, names: dict[str, str]) -> None:
        import wandb

        try:
            self._run = wandb.init(
                project=logger.wandb_project,
                name="/".join(folder.absolute().parts[-2:]),
                dir=str(folder),
                config=_configuration(folder),
                id=names.get("wandb"),
                resume="allow" if "wandb" in names else None,
            )
        except wandb.Error as error:
            hint = "log in with `wandb login`, or set WANDB_MODE=offline to write files that `wandb sync` sends later"
            raise ConfigError(f"logger.wandb: {str(error).splitlines()[0]}; {hint}") from None
        names["wandb"] = self._run.id

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def flush(self) -> None:
        pass  # its own process sends in the background

    def close(self, status: str) -> None:
        self._run.finish(exit_code=1 if status == "failed" else 0)


class MLflow:
    """MLflow, in a database file or on a server. ``names`` gets, or has, the run's id.

    Values wait in memory until :meth:`flush`, so that no step waits for a database; those that cannot be delivered wait on.
    """

    def __init__(self, folder: Path, logger: LoggerConfig, names: dict[str, str]) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param
        from mlflow.exceptions import MlflowException

        self._metric, self._error = Metric, MlflowException
        self._waiting: list[Any] = []
        try:
            self._client = MlflowClient(tracking_uri=logger.mlflow_uri)
            if "mlflow" in names:
                self._client.update_run(names["mlflow"], status="RUNNING")
            else:
                experiment = self._client.get_experiment_by_name(logger.mlflow_experiment)
                number = (
                    experiment.experiment_id if experiment else self._client.create_experiment(logger.mlflow_experiment)
                )
                run = self._client.create_run(number, run_name="/".join(folder.absolute().parts[-2:]))
                names["mlflow"] = run.info.run_id
                parameters = [Param(key, str(value)[:500]) for key, value in flatten(_configuration(folder)).items()]
                for i in range(0, len(parameters), 100):
                    self._client.log_batch(names["mlflow"], params=parameters[i : i + 100])
        except (MlflowException, ImportError) as error:  # some stores need a package of their own
            raise ConfigError(f"logger.mlflow: {str(error).splitlines()[0]}; set logger.mlflow_uri") from None
        self._id = names["mlflow"]

    def log(self, values: Mapping[str, float], step: int) -> None:
        now = int(1000 * time.time())
        for name, value in values.items():
            self._waiting.append(self._metric(re.sub(r"[^\w./ -]", "_", name), value, now, step))

    def flush(self) -> None:
        try:
            while self._waiting:
                self._client.log_batch(self._id, metrics=self._waiting[:1000])
                del self._waiting[:1000]
        except self._error as error:
            warnings.warn(f"logger.mlflow: {str(error).splitlines()[0]}; will try again", stacklevel=2)

    def close(self, status: str) -> None:
        self.flush()
        try:
            self._client.set_terminated(self._id, {"finished": "FINISHED", "stopped": "KILLED"}.get(status, "FAILED"))
        except self._error as error:
            warnings.warn(f"logger.mlflow: {str(error).splitlines()[0]}", stacklevel=2)


def _configuration(folder: Path) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(folder / "config.yaml")))
