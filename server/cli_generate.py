"""`r3 generate`: the options, which are the fields of POST /generate. Light: all that works is imported when it runs.

Numbers stay text here: the API's schema is the one judge of them, so that its refusals are the same in both places.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from server.cli_options import AllowUnexpected, Base, Checkpoint, Device, Dtype

Fields = dict[str, Any]
Text = str | None
_STAGES = ("reason", "reflect", "generate", "refine")


def _number(help_: str, metavar: str = "<int>") -> Any:
    return typer.Option(help=help_, metavar=metavar, show_default=False)


_FLOAT = "<float>"
MaxTokens = Annotated[Text, _number("Most tokens of the text, 1-2048")]
Temperature = Annotated[Text, _number("0-2; 0 is greedy", _FLOAT)]
TopP = Annotated[Text, _number("Above 0, at most 1", _FLOAT)]
TopK = Annotated[Text, _number("0-1000; 0 is off; ignored where top_p is below 1")]
Timesteps = Annotated[Text, _number("2-200; N timesteps are N-1 steps")]
TextScale = Annotated[Text, _number("Guidance by the text, 0-20; 1 or less is none at all", _FLOAT)]
ImageScale = Annotated[Text, _number("Guidance by the picture, 0-20; 1 or less is none", _FLOAT)]
Interval = Annotated[
    tuple[str, str] | None,
    typer.Option(metavar="LO HI", help="Guidance is on where LO < t <= HI, from 0 to 1", show_default=False),
]
Renorm = Annotated[Text, _number("global, channel or text_channel", "<name>")]
RenormMin = Annotated[Text, _number("0-1", _FLOAT)]
Shift = Annotated[Text, _number("Timestep shift, above 0, at most 10", _FLOAT)]
Cache = Annotated[Text, _number("1-4; compute one of so many steps, and let the others follow")]


def generate(
    prompt: Annotated[str, typer.Argument(help="What the picture should show", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for pictures, trajectory.json and contact_sheet.png")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in that folder")] = False,
    image: Annotated[Path | None, typer.Option(help="Start from this picture: PNG, JPEG or WebP")] = None,
    instruction: Annotated[Text, typer.Option(help="With --image: the edit of round 1, before any reflection")] = None,
    max_rounds: Annotated[Text, _number("Reflect-refine rounds after the first picture, 0-8")] = None,
    min_rounds: Annotated[Text, _number("So many refinements even where the model is satisfied")] = None,
    early_stop: Annotated[
        bool | None, typer.Option("--early-stop/--no-early-stop", help="End where the model is satisfied [on]")
    ] = None,
    confirmations: Annotated[Text, _number("Times that it must say so running, 1-5")] = None,
    stop_scorer: Annotated[Text, _number("End by this scorer: when it is reached, or rises no more", "<name>")] = None,
    stop_at_least: Annotated[Text, _number("Reached with this score", _FLOAT)] = None,
    stop_min_gain: Annotated[Text, _number("A rise is at least this [0]", _FLOAT)] = None,
    stop_patience: Annotated[Text, _number("End after so many rounds without a rise, 1-8 [1]")] = None,
    stop_all: Annotated[
        bool | None, typer.Option("--stop-all/--stop-any", help="End when all rules say so, or any [any]")
    ] = None,
    scorers: Annotated[
        Text, _number("Score every picture, the first decides: of gvu, lift, vqa, verdict", "NAME,NAME")
    ] = None,
    choose: Annotated[Text, _number("last or best: which round's picture is the result [last]", "<name>")] = None,
    on_regression: Annotated[
        Text, _number("keep or backtrack: after a round that scored lower [keep]", "<name>")
    ] = None,
    candidates_first: Annotated[Text, _number("First pictures, of which the best goes on, 1-8 [1]")] = None,
    candidates_refine: Annotated[Text, _number("Refinements, of which the best goes on, 1-4 [1]")] = None,
    max_images: Annotated[Text, _number("The most pictures to draw, over all trajectories")] = None,
    think: Annotated[
        bool | None, typer.Option("--think/--no-think", help="Write a plan before the first picture [on]")
    ] = None,
    size: Annotated[Text, _number("Width and height [the checkpoint's default]", "WxH")] = None,
    n: Annotated[Text, typer.Option("--n", help="Independent trajectories, 1-4 [1]", metavar="<int>")] = None,
    seed: Annotated[Text, _number("Trajectory i draws with seed + i [random]")] = None,
    reason_max_tokens: MaxTokens = None,
    reason_temperature: Temperature = None,
    reason_top_p: TopP = None,
    reason_top_k: TopK = None,
    reflect_max_tokens: MaxTokens = None,
    reflect_temperature: Temperature = None,
    reflect_top_p: TopP = None,
    reflect_top_k: TopK = None,
    generate_num_timesteps: Timesteps = None,
    generate_cfg_text_scale: TextScale = None,
    generate_cfg_interval: Interval = None,
    generate_cfg_renorm_type: Renorm = None,
    generate_cfg_renorm_min: RenormMin = None,
    generate_timestep_shift: Shift = None,
    generate_step_cache: Cache = None,
    refine_num_timesteps: Timesteps = None,
    refine_cfg_text_scale: TextScale = None,
    refine_cfg_img_scale: ImageScale = None,
    refine_cfg_interval: Interval = None,
    refine_cfg_renorm_type: Renorm = None,
    refine_cfg_renorm_min: RenormMin = None,
    refine_timestep_shift: Shift = None,
    refine_step_cache: Cache = None,
    previews: Annotated[Text, _number("Previews of each picture, written beside it, 0-20")] = None,
    output_format: Annotated[Text, _number("png, webp or jpeg, beside the lossless one", "<name>")] = None,
    output_compression: Annotated[Text, _number("Quality of webp and jpeg, 0-100, 100 the best")] = None,
    deadline_s: Annotated[Text, _number("End after so many seconds with what is finished", _FLOAT)] = None,
    metadata: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Kept in trajectory.json")] = None,
    checkpoint: Checkpoint = None,
    base_checkpoint: Base = None,
    device: Device = None,
    dtype: Dtype = None,
    allow_unexpected: AllowUnexpected = None,
) -> None:
    """Run one request here, without a service, and write what comes of it to a folder.

    The options are the fields of POST /generate, and are judged as they are there. Ctrl-C keeps what is finished.
    """
    given = {name: value for name, value in locals().items() if value is not None}
    options = {name: given.pop(name) for name in _SETTINGS if name in given}
    del given["out"], given["overwrite"]
    from server.generate import run_generate
    from server.preflight import load_settings

    raise typer.Exit(run_generate(load_settings(options), fields_of(given), out, overwrite=overwrite))


_SETTINGS = ("checkpoint", "base_checkpoint", "device", "dtype", "allow_unexpected")


def fields_of(given: Fields) -> Fields:
    """The body of POST /generate that the options say; what is no number stays text, for the schema to refuse."""
    fields: Fields = {}
    for name, value in given.items():
        *outer, last = place_of(name)
        inside = fields
        for part in outer:
            inside = inside.setdefault(part, {})
        if name == "metadata":
            inside[last] = _pairs(value)
        elif name == "scorers":
            inside[last] = [part.strip() for part in value.split(",")]
        else:
            inside[last] = str(value) if name in _TEXTS else _read(value)
    return fields


def place_of(option: str) -> tuple[str, ...]:
    """Where in the body an option's value stands; the option is named as it is in Python."""
    part, _, setting = option.partition("_")
    if part in _PARTS and setting:
        return (part, setting)
    return _ELSEWHERE.get(option, (option,))


_TEXTS = ("prompt", "image", "instruction", "size", "output_format", "choose", "on_regression", "stop_scorer")
_PARTS = (*_STAGES, "candidates")
_ELSEWHERE = {
    "early_stop": ("early_stop", "on_satisfied"),
    "confirmations": ("early_stop", "confirmations"),
    "stop_all": ("early_stop", "all"),
    **{f"stop_{name}": ("early_stop", "score", name) for name in ("scorer", "at_least", "min_gain", "patience")},
    "scorers": ("judge", "scorers"),
}


def _read(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_read(part) for part in value]
    for kind in (int, float):
        try:
            return kind(value) if isinstance(value, str) else value
        except ValueError:
            continue
    return value


def _pairs(given: list[str]) -> dict[str, str]:
    from server.misconfigured import Misconfigured

    pairs = [entry.partition("=") for entry in given]
    if wrong := [key for key, mark, _ in pairs if not mark]:
        raise Misconfigured(f"--metadata {wrong[0]} has no value; write it as KEY=VALUE")
    return {key: value for key, _, value in pairs}
