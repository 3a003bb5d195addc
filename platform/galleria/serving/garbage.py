"""Garbage collection in the processes of the service."""

import gc

import ray


def freeze_heap() -> None:
    """Leave out what is loaded now of all further garbage collections: a full one stops every thread meanwhile.

    The imports alone make more than half a million objects, and a collection visits each. What is released later is
    still freed, unless a cycle holds it. For the end of a replica's start; does nothing outside of an actor.
    """
    if ray.is_initialized() and ray.get_runtime_context().get_actor_id() is not None:
        gc.collect()
        gc.freeze()
