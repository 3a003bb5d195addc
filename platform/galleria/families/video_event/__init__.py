"""Events of videos from sparsely sampled frames, which rounds of self-attention weigh (CN108491817B)."""

from galleria.families.video_event.config import VideoEventConfig
from galleria.families.video_event.data import SCHEMA, context, example, present
from galleria.learn.family import Family, deferred

__all__ = ["FAMILY"]

FAMILY = Family(
    name="video_event",
    config=VideoEventConfig,
    schema=SCHEMA,
    context=context,
    build=deferred("galleria.families.video_event.task", "VideoEvent"),
    example=example,
    evaluate=deferred("galleria.families.video_event.evaluation", "evaluate"),
    present=present,
)
