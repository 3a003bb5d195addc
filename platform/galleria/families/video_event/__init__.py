"""Events of videos from sparsely sampled frames, which rounds of self-attention weigh (CN108491817B)."""

from galleria.families.video_event.data import SCHEMA, context, evaluate, example, present
from galleria.families.video_event.task import VideoEvent, VideoEventConfig
from galleria.learn.family import Family

__all__ = ["FAMILY"]

FAMILY = Family(
    name="video_event",
    config=VideoEventConfig,
    schema=SCHEMA,
    context=context,
    build=VideoEvent,
    example=example,
    evaluate=evaluate,
    present=present,
)
