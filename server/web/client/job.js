// A job's value after one more event, and what can be read from it: json.js says what it is made of. Pure.

import { fromJson, pictureOf } from "./json.js";
import { baseOf, isScored, picturesIn, scoreOf, scorersOf } from "./judge.js";

const ENDED = new Set(["succeeded", "failed", "cancelled"]);

export const hasEnded = (job) => ENDED.has(job.status);

/** The job after one more event. */
export function after(job, { name, data }) {
  const change = OF_JOB[name];
  if (change) return change(job, data);
  const ofTrajectory = OF_TRAJECTORY[name];
  if (!ofTrajectory) return job;
  const trajectories = job.trajectories.map((t) => (t.index === data.trajectory ? { ...t, ...ofTrajectory(t, data, job) } : t));
  return { ...job, status: job.status === "queued" ? "running" : job.status, trajectories };
}

const OF_JOB = {
  "job.queued": (job, data) => ({ ...job, status: "queued", position: data.position, etaS: data.eta_s }),
  "job.started": (job, data) => ({
    ...job,
    status: "running",
    attempt: data.attempt,
    position: null,
    // What another worker had not finished is made again.
    trajectories: job.trajectories.map((t) => ({
      ...t,
      reasoning: t.isReasoned ? t.reasoning : "",
      description: t.isDescribed ? t.description : "",
      drawing: null,
      rounds: withoutUnfinished(t),
    })),
  }),
  "job.succeeded": (_, data) => fromJson(data.job),
  "job.failed": (job, data) => ({ ...job, status: "failed", error: data.error, trajectories: idle(job) }),
  "job.cancelled": (job) => ({ ...job, status: "cancelled", trajectories: idle(job) }),
  "stream.reset": (_, data) => fromJson(data.job),
};

const OF_TRAJECTORY = {
  "reason.delta": (t, data) => ({ reasoning: t.reasoning + data.text }),
  "reason.done": (_, data) => ({ reasoning: data.text, isReasoned: true }),
  "image.progress": (t, data) => ({ drawing: { preview: null, ...sameRound(t, data), ...stepOf(data) } }),
  "image.preview": (t, data) => ({ drawing: { ...stepOf(data), preview: data.image } }),
  image: (t, data, job) => ({ isReasoned: true, drawing: null, rounds: withPicture(job, t, data) }),
  score: (t, data, job) => ({ rounds: withChange(t, data, ({ scores }) => ({ scores: withScore(job, scores, data) })) }),
  chosen: (t, data) => ({ rounds: t.rounds.map((r) => (r.index === data.round ? faced({ ...r, chosen: data.candidate }) : r)) }),
  "reflect.delta": (t, data) => ({ rounds: withChange(t, data, ({ said }) => ({ said: writing(said, data.text) })) }),
  "reflect.done": (t, data) => {
    const { text, thought, verdict, instruction } = data;
    return { rounds: withChange(t, data, () => ({ said: { text, thought, verdict, instruction } })) };
  },
  "describe.delta": (t, data) => ({ description: t.description + data.text }),
  "describe.done": (_, data) => ({ description: data.text, isDescribed: true }),
  "trajectory.done": (t, data) => ({
    stopReason: data.stop_reason,
    isDone: true,
    drawing: null,
    result: data.image?.id ?? null,
    rounds: withoutUnfinished(t),
  }),
};

const stepOf = ({ round, step, steps }) => ({ round, step, steps });
const previewOf = (t, data) => sameRound(t, data).preview ?? null;
const sameRound = (t, data) => (t.drawing?.round === data.round ? t.drawing : {});
const idle = (job) => job.trajectories.map((t) => ({ ...t, drawing: null, rounds: withoutUnfinished(t) }));
const withoutUnfinished = (t) => t.rounds.map((r) => faced({ ...whole(r), candidates: r.candidates.map(whole) }));
const whole = (picture) => (picture.said?.verdict === null ? { ...picture, said: null } : picture);

/** The scores in the order of their scorers; one that is said again takes the place of the first. */
function withScore(job, scores, { scorer, value, lift, words }) {
  const order = scorersOf(job);
  const all = [...scores.filter((s) => s.scorer !== scorer), { scorer, value, lift, words }];
  return all.sort((a, b) => order.indexOf(a.scorer) - order.indexOf(b.scorer));
}

/** The rounds with one more picture: of a new round, or one more candidate of the newest. */
function withPicture(job, t, data) {
  const picture = { ...pictureOf(data), preview: previewOf(t, data) };
  const before = t.rounds.filter((r) => r.index < data.round);
  if (data.candidate === undefined) return [...before, { ...newRound(job, t, data), chosen: 0, ...picture }];
  const round = t.rounds.find((r) => r.index === data.round) ?? { ...newRound(job, t, data), chosen: null };
  return [...before, faced({ ...round, candidates: [...round.candidates.slice(0, data.candidate), picture] })];
}

function newRound(job, t, { round, instruction }) {
  return { index: round, instruction, candidates: [], from: round > 0 ? (baseOf(job, t)?.index ?? round - 1) : null };
}

/** The rounds after something was said of a picture: of that candidate, else of the chosen one. */
function withChange(t, { round, candidate }, change) {
  return t.rounds.map((r) => {
    if (r.index !== round) return r;
    if (!r.candidates.length) return { ...r, ...change(r) };
    const at = candidate ?? r.chosen ?? 0;
    return faced({ ...r, candidates: r.candidates.map((c, i) => (i === at ? { ...c, ...change(c) } : c)) });
  });
}

/** A round with the candidate in front that goes on. */
const faced = (round) => ({ ...round, ...round.candidates[round.chosen ?? 0] });

/** A text that is being written: what was said before in full is asked anew. */
function writing(said, piece) {
  const before = said && said.verdict === null ? said.text : "";
  return { text: before + piece, thought: null, verdict: null, instruction: null };
}

/** What a trajectory is at: waiting, thinking, drawing, scoring, looking or done. */
export function phaseOf(job, t) {
  if (hasEnded(job) || t.isDone) return "done";
  if (job.status === "queued") return "waiting";
  if (t.drawing) return "drawing";
  const last = t.rounds.at(-1);
  if (!last) return t.isReasoned || !job.params.think ? "drawing" : "thinking";
  if (!picturesIn(last).every((picture) => isScored(job, picture))) return "scoring";
  if (scorersOf(job).includes("verdict") && !picturesIn(last).every((p) => scoreOf(p, "verdict"))) return "looking";
  return baseOf(job, t).said?.verdict ? "drawing" : "looking";
}

/** A model's text without the marks that it thinks between, finished or not. */
export function plain(text) {
  return text.replace(/<\/?think>/g, "").replace(/<\/?(t(h(i(nk?)?)?)?)?$/, "").trim();
}

/** Thought and instruction of what is said of a picture, also while it is written. */
export function partsOf(said) {
  if (said.thought !== null) return { thought: plain(said.thought), instruction: said.instruction ?? "" };
  const [thought, instruction = ""] = said.text.split("</think>");
  return { thought: plain(thought), instruction: instruction.trim() };
}

/** Every finished picture: { trajectory, round, key, label, isChosen }; `round` has that candidate in front. */
export function picturesOf(job) {
  const several = job.trajectories.length > 1;
  return job.trajectories.flatMap((trajectory) =>
    trajectory.rounds
      .filter((round) => round.image)
      .flatMap((round) =>
        picturesIn(round).map((picture, candidate) => {
          const name = nameIn(job, round, candidate);
          return {
            trajectory,
            round: { ...round, ...picture },
            key: `${trajectory.index}-${round.index}${round.candidates.length ? `-${candidate}` : ""}`,
            label: several ? `${nameOf(trajectory)}: ${lower(name)}` : name,
            isChosen: candidate === (round.chosen ?? 0),
          };
        }),
      ),
  );
}

function nameIn(job, round, candidate) {
  if (!round.candidates.length) return pictureName(job, round.index);
  return job.kind === "score" ? `Picture ${candidate + 1}` : `${pictureName(job, round.index)}, candidate ${candidate + 1}`;
}

/** A trajectory's letter. */
export const nameOf = (trajectory) => "ABCD"[trajectory.index];

/** What a picture is called: the one that was given or drawn first, or the edit that made it. */
export function pictureName(job, index) {
  if (job.kind !== "generate") return index > 0 ? "The reconstruction" : "The picture";
  if (index > 0) return `Edit ${index}`;
  return job.params.image ? "The picture given" : "First picture";
}

/** A picture's name in the middle of a sentence. */
export const inWords = (name) => lower(name).replace(/^first/, "the first");

/** A sentence's beginning in the middle of one. */
export const lower = (text) => text[0].toLowerCase() + text.slice(1);
