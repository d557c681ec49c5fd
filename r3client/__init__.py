"""The Python client of an R3 server. It needs httpx and pydantic; Pillow only for PIL images.

from r3client import Client

with Client() as client:                       # R3_URL and R3_API_KEY, or arguments
    job = client.generate("two yellow stars and one red circle", seed=7)
    job.image.pil().save("stars.png")

events.py      what `stream` and `follow` tell     live.py      all of it added up
errors.py      what can go wrong                   settings.py  what can be asked for
flows.py following.py acts.py                      the rules, without I/O
client.py aio.py                                   the I/O
"""

from r3client import errors, events, models, settings, task_settings
from r3client.aio import AsyncClient, AsyncEventStream
from r3client.client import Client, EventStream
from r3client.errors import (
    Busy,
    Conflict,
    Forbidden,
    GenerationCancelled,
    GenerationFailed,
    ImageDamaged,
    InvalidRequest,
    NoAnswer,
    NotFound,
    PillowMissing,
    R3Error,
    Refused,
    ServerFault,
    Unauthorized,
    UnexpectedAnswer,
)
from r3client.live import Live
from r3client.models import (
    Candidate,
    DescribeResult,
    Image,
    Job,
    JobPage,
    Reflection,
    ReflectResult,
    Round,
    RoundtripResult,
    Score,
    ScoreResult,
    Share,
    Trajectory,
)

__all__ = [
    "AsyncClient",
    "AsyncEventStream",
    "Busy",
    "Candidate",
    "Client",
    "Conflict",
    "DescribeResult",
    "EventStream",
    "Forbidden",
    "GenerationCancelled",
    "GenerationFailed",
    "Image",
    "ImageDamaged",
    "InvalidRequest",
    "Job",
    "JobPage",
    "Live",
    "NoAnswer",
    "NotFound",
    "PillowMissing",
    "R3Error",
    "ReflectResult",
    "Reflection",
    "Refused",
    "Round",
    "RoundtripResult",
    "Score",
    "ScoreResult",
    "ServerFault",
    "Share",
    "Trajectory",
    "Unauthorized",
    "UnexpectedAnswer",
    "errors",
    "events",
    "models",
    "settings",
    "task_settings",
]
