"""The encoding actors of a run on Ray: one a GPU, also of nodes that join and leave while it runs.

Knows nothing of shards in flight: the engine gives work to every actor that is in the list.
"""

import logging
import math
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from muse.errors import MuseError, WorkerError
from muse.pipeline.encoders.setting import EncoderSetting
from muse.pipeline.ray_decoding import RETRIES
from muse.pipeline.ray_workers import EncodeActor

logger = logging.getLogger(__name__)


class ActorLostError(WorkerError):
    """An encoding actor can't be reached; Ray may start it again elsewhere."""


class RayEncoders:
    """Actors with the same encoder.

    Args:
        setting: Its device is resolved.
        num_actors: At the start.
        follows_gpus: Whether GPUs that join get an actor, too, beyond so many.
    """

    def __init__(self, setting: EncoderSetting, *, num_actors: int, follows_gpus: bool) -> None:
        self._setting = setting
        self._most = math.inf if follows_gpus else num_actors
        self._joining: dict[Any, Any] = {}  # the answer to its first call -> actor
        self._node_of: dict[Any, Any] = {}  # actor -> the answer that names its node
        self.actors = [self._new_actor() for _ in range(num_actors)]
        """That get work; fewer while a GPU is gone, and none if all are."""

    def follow(self, num_gpus: int, location: str) -> None:
        """Gives up actors on nodes that are gone, starts some for GPUs without, takes in the ready.

        Ray would start an actor of a lost node again, but only where a GPU is free: until one
        comes, what it had in hand would wait. The calls of one that is given up raise
        `ActorLostError`, so that others do them.

        Args:
            num_gpus: Of the cluster now; 0 with an encoder on a CPU.
            location: Of the store that they shall write to: one whose encoder gives other features
                is left out, with a warning.
        """
        if self._setting.device != "cuda":
            return  # one that moves finds a place on any node
        self._give_up_lost()
        if self._joining:
            ready, _ = ray.wait(list(self._joining), num_returns=len(self._joining), timeout=0)
            for reference in ready:
                self._take_in(reference, self._joining.pop(reference))
        while len(self.actors) + len(self._joining) < min(num_gpus, self._most):
            actor = self._new_actor()
            self._joining[actor.open_store.remote(location)] = actor

    def _give_up_lost(self) -> None:
        there = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        lost = [actor for actor in self.actors if self._is_known_elsewhere(actor, there)]
        for actor in lost:
            logger.warning("a GPU left the cluster: %d encoders are left", len(self.actors) - 1)
            self.actors.remove(actor)
            _kill(actor)

    def _is_known_elsewhere(self, actor: Any, nodes: set[str]) -> bool:
        """Whether the node that it began on is none of these; one that waits to begin is not."""
        ready, _ = ray.wait([self._node_of[actor]], timeout=0)
        try:
            return bool(ready) and ray.get(ready[0]) not in nodes
        except RayError:  # the answer was lost, with the node
            return True

    def close(self) -> None:
        """Ends them all."""
        for actor in [*self.actors, *self._joining.values()]:
            _kill(actor)

    def _take_in(self, reference: Any, actor: Any) -> None:
        try:
            result_of(reference)
        except MuseError as error:
            logger.warning("a GPU that joined the cluster is not used: %s", error)
            self._most = len(self.actors)  # it would be tried again and again
            _kill(actor)
        else:
            self.actors.append(actor)

    def _new_actor(self) -> Any:
        options = {
            "num_gpus": 1 if self._setting.device == "cuda" else 0,
            "num_cpus": 0,  # the CPUs are counted for decoding
            "max_concurrency": 2,  # one shard is encoded while another is written
            "max_restarts": -1,  # a task that kills its actor ends the run by its own retries
            "max_task_retries": RETRIES,
        }
        actor = ray.remote(**options)(EncodeActor).remote(self._setting)
        self._node_of[actor] = actor.node.remote()
        return actor


def result_of(reference: Any) -> Any:
    """What a call gave, or the error it raised, without Ray's wrapping."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        cause: BaseException = error
        while isinstance(cause, RayTaskError):  # an error of a task that another one awaited
            cause = cause.cause
        if isinstance(cause, MuseError):
            raise cause from None
        raise
    except RayError as error:
        words = " ".join(str(error).split())[:300]
        kind = ActorLostError if isinstance(error, RayActorError) else WorkerError
        raise kind(
            f"Ray lost a worker or its result: {words}. What was committed is safe: "
            "run the same command again."
        ) from error


def _kill(actor: Any) -> None:
    try:
        ray.kill(actor)
    except (RayError, RuntimeError, OSError) as error:  # Ray may be gone itself
        logger.debug("an actor can't be ended: %s", error)
