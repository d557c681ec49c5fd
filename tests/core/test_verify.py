"""The replay of recorded numbers: it holds on what the reference recorded, and nothing wrong in a set passes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from r3core.errors import CheckpointError, InvalidRequest
from r3core.verify import Report, Row, main, verify
from r3core.verify.golden import is_informational
from r3core.verify.judging import Judge
from r3core.verify.scores import check_scores
from tests.core.plain_checkpoint import Sizes, write_checkpoint
from tests.core.plain_golden import write_golden

Spoil = Callable[[dict[str, Any], dict[str, Tensor]], None]
GOLDEN = Path(__file__).resolve().parents[1] / "golden"
# What a replay starts from. Other values tell when one of these is wrong: noise is row 0 of the latents.
GIVEN = re.compile(
    r"image\..*|preproc\.image_.*|.*\.input\d+_u8|.*\.initial_noise|.*\.noise\d+"
    r"|sampling\.logits|vae\.rand\.latent|rope\.pos|time_embedder\.t"
)


def spoiled(folder: Path, spoil: Spoil) -> Path:
    """The recorded set with something changed in it."""
    recorded: dict[str, Any] = json.loads((GOLDEN / "golden.json").read_text(encoding="utf-8"))
    tensors = load_file(GOLDEN / "golden.safetensors")
    spoil(recorded, tensors)
    folder.mkdir(exist_ok=True)
    (folder / "golden.json").write_text(json.dumps(recorded), encoding="utf-8")
    save_file(tensors, folder / "golden.safetensors")
    return folder


def failed(report: Report) -> set[str]:
    """The names of what failed; a loop that runs freely is named as the one that is forced."""
    return {row.case.removesuffix(" (free)") for row in report.failures}


def test_no_table_is_begun_for_a_set_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CheckpointError):
        main(tmp_path, tmp_path / "nowhere", device="cpu")
    assert capsys.readouterr().out == ""


# --- what was recorded holds


def test_the_recorded_set_holds_in_full_in_float32(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(checkpoint, GOLDEN, device="cpu", dtype="fp32") == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"case +largest +tolerance +verdict", lines[0])
    assert (last := re.fullmatch(r"(\d+) of \1 cases hold", lines[-1]))
    assert int(last[1]) > 700
    assert not [line for line in lines if " fails" in line]


def test_the_recorded_set_holds_in_bf16(checkpoint: Path) -> None:
    report = verify(checkpoint, GOLDEN, device="cpu", dtype="bf16")
    assert not report.failures
    assert report.holds
    rows = {row.case: row for row in report.rows}
    stats = json.loads((GOLDEN / "golden.json").read_text(encoding="utf-8"))["bf16_vs_fp32"]["stats"]
    for case in (name for name, stat in stats.items() if isinstance(stat, dict)):
        assert rows[case].verdict == "holds"
        assert rows[case].tolerance == 4 * stats[case]["max"]
    assert rows["t2i.channel.latents"].verdict == "shown"
    assert rows["greedy_think[0] p0.m24 ids"].verdict == "holds"


# Sizes and decisions that the recorded set does not have; a seed is chosen by how its loops go.
OTHER_SHAPES = {
    "satisfied later, an empty edit, never satisfied": (164, Sizes()),
    "malformed, satisfied at once and later": (217, Sizes()),
    "other shapes again": (
        3,
        Sizes(
            hidden=96,
            layers=1,
            heads=6,
            kv_heads=3,
            vit_hidden=48,
            vit_layers=2,
            vit_heads=3,
            vit_patch=16,
            vit_side=9,
            latent_patch=1,
            latent_side=9,
            z=16,
            channels=(32, 32, 64, 64),
            blocks=1,
        ),
    ),
}


@pytest.fixture(scope="module", params=list(OTHER_SHAPES.values()), ids=list(OTHER_SHAPES))
def other_set(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint and what the plain implementation computes from it."""
    seed, sizes = request.param
    folder = tmp_path_factory.mktemp("other")
    write_checkpoint(folder / "checkpoint", sizes, seed)
    write_golden(folder / "checkpoint", folder / "golden", sizes, seed)
    return folder


def test_another_set_from_an_independent_implementation_holds(other_set: Path) -> None:
    report = verify(other_set / "checkpoint", other_set / "golden", device="cpu", dtype="fp32")
    assert not report.failures
    assert report.judged > 400


@pytest.mark.parametrize("other_set", [OTHER_SHAPES["satisfied later, an empty edit, never satisfied"]], indirect=True)
def test_in_bf16_a_text_may_part_at_a_near_tie_and_what_follows_is_only_shown(other_set: Path) -> None:
    report = verify(other_set / "checkpoint", other_set / "golden", device="cpu", dtype="bf16")
    assert not report.failures
    parted = [row for row in report.rows if row.verdict == "shown" and row.case.endswith("_ids")]
    assert parted, "no text parted, so this seed shows nothing"


# --- what is wrong in a set fails by name


def move_one_number_of_every_tensor(_: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Each by a little more than twice what is tolerated."""
    for i, (name, tensor) in enumerate(sorted(tensors.items())):
        if GIVEN.fullmatch(name):
            continue
        flat = tensor.reshape(-1)
        at = (7919 * (i + 1)) % flat.numel()
        if tensor.dtype == torch.uint8:
            flat[at] = flat[at] + 3 if flat[at] < 128 else flat[at] - 3
        elif tensor.is_floating_point():
            flat[at] += 2.1e-4 * float(tensor.abs().max())
        else:
            flat[at] += 1


def test_a_number_moved_by_more_than_twice_its_tolerance_fails_in_every_tensor(
    checkpoint: Path, tmp_path: Path
) -> None:
    golden = spoiled(tmp_path, move_one_number_of_every_tensor)
    report = verify(checkpoint, golden, device="cpu", dtype="fp32")
    not_judged = {row.case for row in report.rows if row.verdict == "informational"}
    targets = {name for name in load_file(GOLDEN / "golden.safetensors") if not GIVEN.fullmatch(name)} - not_judged
    assert len(targets) > 200
    assert targets - failed(report) == set()


def spoil_values(recorded: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """One of each kind, none of which any other value is computed from."""
    recorded["greedy_think"][4]["text"] += "."
    recorded["greedy_think"][5]["ids"][3] += 1
    recorded["greedy_think"][6]["forced_end"] = False
    recorded["greedy_think"][7]["format_ok_think"] = 1.0
    recorded["cases"]["text.p0"]["generated_probs"][2] -= 3e-4
    recorded["cases"]["text.p0"]["kv_len_after"] += 1
    recorded["reflect"][0]["edit_operation"] = "Add two more red apples on the table."
    recorded["reflect"][1]["kv_len"] -= 1
    recorded["reflect"][2]["rope_next"] += 1
    recorded["tokenizer"]["cases"][3]["ids"][-1] = 5
    recorded["tokenizer"]["decode"][3]["text"] += " "
    recorded["tokenizer"]["special_ids"]["start_of_image"] = 3
    recorded["timesteps"][1]["cfg_active_0p4_1"][-1] = True
    recorded["timesteps"][2]["dt"][0] += 1e-3
    recorded["resize_table"]["rows"][0]["out"][0] += 16
    recorded["sampling"][1]["support"][0] += 1
    recorded["sizes"]["llm"]["num_key_value_heads"] = 4
    recorded["files"]["vocab.json"][1] = "0" * 64
    recorded["t2i"][0]["think_texts"][0] = "<think>Something else.</think>"
    recorded["t2i"][1]["branches_per_step"][-1] = 2
    recorded["edit"][0]["img_scale_seen"][0] = 1.0
    recorded["edit"][1]["branches_per_step"][-1] = 3
    recorded["edit"][2]["t"][1] += 1e-3
    recorded["routing"]["passes"][2]["expert"][4] = "gen"
    loop = recorded["loop"][0]
    loop["no_edit_cnt"][2] = 1
    loop["samples"][0]["rounds"][0]["think_text"] += " "
    loop["samples"][0]["rounds"][1]["reflection_text"] += " "
    loop["samples"][1]["rounds"][1]["stop"] = False
    loop["samples"][3]["rounds"][2]["edit_operation"] = "no further edit"
    loop["samples"][3]["format_scores"][1] += 1
    loop["samples"][4]["n_per_sample_imgs"] += 1


SPOILED_VALUES = {
    "greedy_think[4] p1.m24 text",
    "greedy_think[5] p1.m64 ids",
    "greedy_think[6] p1.m1 forced_end",
    "greedy_think[7] p1.m8 format_ok_think",
    "text.p0 generated_probs",
    "text.p0 kv_len_after",
    "reflect.i0.p0 edit_operation",
    "reflect.i0.p2 kv_len",
    "reflect.i0.p3 rope_next",
    "tokenizer.cases[3]",
    "tokenizer.cases[3] as user text",
    "tokenizer.decode[3]",
    "tokenizer.special_ids",
    "timesteps[1].cfg_active_0p4_1",
    "timesteps[2].dt",
    "resize_table.r3_vae",
    "sampling[1].support",
    "sizes.llm",
    "files.vocab.json",
    "t2i.a think_texts[0]",
    "t2i.b branches_per_step",
    "edit.text_channel img_scale_seen",
    "edit.global branches_per_step",
    "edit.channel t",
    "loop.all no_edit_cnt",
    "loop.all.s0.r0 think_text",
    "loop.all.s0.r1 reflection_text",
    "loop.all.s1.r1 stop",
    "loop.all.s3.r2 edit_operation",
    "loop.all.s3 format_scores",
    "loop.all.s4 n_per_sample_imgs",
}


def test_a_changed_value_fails_and_nothing_else_does(checkpoint: Path, tmp_path: Path) -> None:
    report = verify(checkpoint, spoiled(tmp_path, spoil_values), device="cpu", dtype="fp32")
    routing = {name for name in failed(report) if name.startswith("routing ")}
    assert len(routing) == 1  # one that was never recorded so
    assert failed(report) - routing == SPOILED_VALUES


def spoil_forms(recorded: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Kinds, fields and tensors that nobody knows, and some that are not there."""
    recorded["dreams"] = [{"tag": "dreams.a"}]
    recorded["cases"]["video.p0"] = {"segments": []}
    recorded["t2i"][0]["cfg_rescale"] = 0.7
    recorded["sizes"]["llm"]["sliding_window"] = 4
    recorded["loop"][1]["static_cache"] = True
    recorded["loop"][2]["static_cache"] = True
    recorded["t2i"][3]["settings"]["cfg_renorm_type"] = "sideways"
    recorded["edit"] = {"tag": "edit.text_channel"}
    tensors["dreams.latents"] = torch.zeros(2)
    tensors["t2i.b.step9_v_cond"] = torch.zeros(2)
    tensors["text.p9.prefill_last_logits"] = torch.zeros(1, 704)
    tensors["t2i.channel.latents"][3, 2, 1] = float("nan")
    tensors["t2i.nocfg.velocity"] = torch.zeros(3, 3)
    for name in (
        "vit.i0.llm_input",
        "reflect.i1.p2.step_logits",
        "loop.all.s0.r1.final_latent",
        "loop.stop_later.s0.r1.edited_u8",
    ):
        del tensors[name]


def test_what_the_replay_does_not_know_and_what_it_misses_fail_by_name(checkpoint: Path, tmp_path: Path) -> None:
    report = verify(checkpoint, spoiled(tmp_path, spoil_forms), device="cpu", dtype="fp32")
    names = failed(report)
    assert {"dreams", "cases.video.p0", "t2i.a.cfg_rescale", "dreams.latents", "t2i.b.step9_v_cond"} <= names
    assert {"text.p9.prefill_last_logits", "t2i.channel.latents", "t2i.nocfg.velocity"} <= names
    assert {"vit.i0.llm_input", "reflect.i1.p2.step_logits", "loop.all.s0.r1.final_latent"} <= names
    assert "loop.stop_later.s0.r1.edited_u8" in names
    assert "sizes" in names  # and the reason names the size
    assert "sliding_window" in next(row.note for row in report.failures if row.case == "sizes")
    assert "loop.wide" in names  # a loop of the reference's faulty cache under another name
    assert "t2i.interval_hi.latents" in names
    assert "edit" in names  # not a list of cases any more
    assert not any(name.startswith(("t2i.c.", "vae.", "loop.single4")) for name in names)


# --- scores


def with_scores(folder: Path, spoil: Callable[[dict[str, Any]], None]) -> Path:
    """The recorded set with something changed in its scores."""
    scores: dict[str, Any] = json.loads((GOLDEN / "judge.json").read_text(encoding="utf-8"))
    spoil(scores)
    for name in ("golden.json", "golden.safetensors"):
        (folder / name).symlink_to(GOLDEN / name)
    (folder / "judge.json").write_text(json.dumps(scores), encoding="utf-8")
    return folder


@pytest.fixture
def scores_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replay scores and nothing else, which leaves the rest of a set unused."""
    monkeypatch.setattr("r3core.verify._CHECKS", {"judge": check_scores})


def judged(report: Report, verdict: str) -> set[str]:
    return {row.case for row in report.rows if row.case.startswith("judge") and row.verdict == verdict}


@pytest.mark.usefixtures("scores_alone")
def test_every_recorded_score_is_judged_in_float32_and_shown_in_bf16(checkpoint: Path) -> None:
    exact = verify(checkpoint, GOLDEN, device="cpu", dtype="fp32")
    assert len(judged(exact, "holds")) == 10 * 8
    assert not judged(exact, "fails")
    rounded = verify(checkpoint, GOLDEN, device="cpu", dtype="bf16")
    assert len(judged(rounded, "shown")) == 10 * 7
    assert len(judged(rounded, "holds")) == 10  # ids are no matter of rounding


@pytest.mark.usefixtures("scores_alone")
def test_a_score_moved_by_more_than_twice_its_tolerance_fails(checkpoint: Path, tmp_path: Path) -> None:
    moved = 2.1 * 5e-4

    def spoil(scores: dict[str, Any]) -> None:
        for case in scores["cases"]:
            for name in ("logprobs", "prior_logprobs"):
                case[name][len(case[name]) // 2] += moved
            for name in ("logp_yes", "logp_no", "lift"):
                case[name] -= moved
            case["gvu"] *= 1 + moved
            case["p_yes"] *= 1 - 2 * moved
            case["ids"][0] += 1

    report = verify(checkpoint, with_scores(tmp_path, spoil), device="cpu", dtype="fp32")
    assert len(judged(report, "fails")) == 10 * 8


@pytest.mark.usefixtures("scores_alone")
def test_scores_that_the_replay_does_not_know_and_that_it_misses_fail_by_name(checkpoint: Path, tmp_path: Path) -> None:
    def spoil(scores: dict[str, Any]) -> None:
        scores["cases"][0]["beauty"] = 0.5
        del scores["cases"][1]["lift"]
        scores["cases"][2]["logprobs"].pop()
        scores["cases"][3]["image"] = "image.nobody_u8"
        scores["dreams"] = 1

    report = verify(checkpoint, with_scores(tmp_path, spoil), device="cpu", dtype="fp32")
    lost = {row.case: row.note for row in report.failures if row.case.startswith("judge")}
    assert {"judge.cases[0].beauty", "judge.cases[1]", "judge.cases[2].logprobs", "judge.dreams"} <= lost.keys()
    assert "judge.cases[1].lift is not in judge.json" in lost["judge.cases[1]"]
    assert "image.nobody_u8" in lost["judge.cases[3]"]
    assert not any(case.startswith("judge.cases[4]") for case in lost)


@pytest.mark.usefixtures("scores_alone")
def test_another_question_gives_other_scores(checkpoint: Path, tmp_path: Path) -> None:
    """What is asked is the set's, so that it is seen where a server's words part from it."""
    report = verify(
        checkpoint, with_scores(tmp_path, lambda s: s.update(question="What is this?")), device="cpu", dtype="fp32"
    )
    assert "judge.cases[0].logprobs" in judged(report, "fails")
    assert "judge.cases[0].logp_yes" in judged(report, "holds")


def test_a_wrong_checkpoint_fails_and_says_so_by_its_exit_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = Sizes(layers=1)
    write_checkpoint(tmp_path / "one", sizes, seed=1)
    write_checkpoint(tmp_path / "other", sizes, seed=2)
    write_golden(tmp_path / "one", tmp_path / "golden", sizes, seed=1)
    assert main(tmp_path / "other", tmp_path / "golden", device="cpu", dtype="fp32") == 1
    last = capsys.readouterr().out.splitlines()[-1]
    held, of = (int(v) for v in re.findall(r"\d+", last))
    assert 0 < held < of


def test_what_is_informational_is_listed_and_not_judged() -> None:
    for name in (
        "bf16.t2i.a.final_latent",
        "bf16_vs_fp32",
        "edit.batch2.STATIC_image_u8",
        "loop.all_static.s0.final_u8",
        "self_agreement",
        "t2i.a.velocity_std",
        "greedy_think[0].min_top2_margin",
        "edit.global.naive_vs_static_u8_max",
        "t2i.batch3.batched_vs_single_final_latent_max",
        "edit.notextcfg.note",
        "inf.edit.image_u8",
        "inferencer",
        "prompt_strings.inferencer_GEN_THINK_SYSTEM_PROMPT",
    ):
        assert is_informational(name), name
    for name in ("loop.all.s0.final_u8", "t2i.a.latents", "reflect", "infinite.latents", "notes_of_music"):
        assert not is_informational(name), name


# --- judging


@pytest.mark.parametrize(
    ("got", "verdict"),
    [
        (torch.tensor([1.0, 2.0]), "holds"),
        (torch.tensor([1.0, 2.00019]), "holds"),
        (torch.tensor([1.0, 2.00021]), "fails"),
        (torch.tensor([1.0, float("nan")]), "fails"),
        (torch.tensor([1.0, float("inf")]), "fails"),
        (torch.tensor([[1.0, 2.0]]), "fails"),
    ],
)
def test_the_tolerance_is_relative_to_the_largest_magnitude_and_no_fault_passes_for_a_small_error(
    got: Tensor, verdict: str
) -> None:
    judge = Judge()
    judge.close("x", {"single": torch.tensor([1.0, 2.0]), "batched": got}, torch.tensor([1.0, 2.0]))
    assert [row.verdict for row in judge.rows] == [verdict]


def test_a_set_that_records_something_infinite_does_not_hold() -> None:
    judge = Judge()
    judge.close("x", {"single": torch.tensor([float("inf")])}, torch.tensor([float("inf")]))
    assert [row.verdict for row in judge.rows] == ["fails"]


def test_in_bf16_four_times_the_references_own_error_is_tolerated_and_the_rest_is_shown() -> None:
    judge = Judge(honest_errors={"known": 0.1})
    for error in (0.39, 0.41):
        judge.close("known", {"single": torch.tensor([1.0 + error])}, torch.tensor([1.0]))
    judge.close("unknown", {"single": torch.tensor([9.0])}, torch.tensor([1.0]))
    judge.close("of no weights", {"single": torch.tensor([1.1])}, torch.tensor([1.0]), of_model=False)
    assert [row.verdict for row in judge.rows] == ["holds", "fails", "shown", "fails"]


def test_a_report_in_which_nothing_was_judged_does_not_hold() -> None:
    assert not Report((Row("x", "shown"), Row("y", "informational"))).holds


# --- what cannot be replayed at all is refused


def test_a_folder_without_a_set_is_refused_by_name(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=re.escape(f"{tmp_path} has no golden.json")):
        verify(checkpoint, tmp_path)


def test_a_set_without_prompt_strings_is_refused_by_name(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "golden.json").write_text("{}", encoding="utf-8")
    save_file({}, tmp_path / "golden.safetensors")
    with pytest.raises(CheckpointError, match=r"prompt_strings is not in golden\.json"):
        verify(checkpoint, tmp_path)


def test_an_unknown_dtype_is_refused_by_name(checkpoint: Path) -> None:
    with pytest.raises(InvalidRequest, match="'fp16' is not known; use bf16 or fp32"):
        verify(checkpoint, GOLDEN, dtype="fp16")
