// How a job stands, in words. Pure.

import { hasEnded, inWords, nameOf, phaseOf, pictureName } from "./job.js";
import { picturesIn, SCORERS, scorersOf, scoreWords, valueOf } from "./judge.js";
import { taskWords } from "./kinds.js";

/** What is said of a picture, on its chip: { label, kind, icon }. */
export function verdictOf(said, isAsked) {
  if (!said) return isAsked ? { label: "looking", kind: "busy" } : { label: "not reviewed", kind: "none" };
  return {
    edit: { label: "wants an edit", kind: "edit", icon: "pencil" },
    satisfied: { label: "satisfied", kind: "good", icon: "check" },
    malformed: { label: "unclear answer", kind: "bad", icon: "question" },
    null: { label: "looking", kind: "busy" },
  }[said.verdict];
}

const ENDS = {
  satisfied: "the model is satisfied",
  max_rounds: "all rounds are used",
  malformed: "the model's last answer could not be read",
  deadline: "its time was over",
  stopped: "stopped where it was good enough",
  budget: "its pictures are used up",
};

/** Why a trajectory ended. */
export function endOf(job, trajectory) {
  return trajectory.stopReason === "score" ? scoreEnd(job, trajectory) : (ENDS[trajectory.stopReason] ?? "");
}

function scoreEnd({ params }, { rounds }) {
  const rule = params.early_stop.score;
  const value = rounds.length ? valueOf(rounds.at(-1), rule.scorer) : null;
  const isEnough = rule.at_least !== null && rule.at_least !== undefined && value !== null && value >= rule.at_least;
  const { name } = SCORERS[rule.scorer];
  return isEnough ? `${name} ${scoreWords(rule.scorer, value)} is enough` : `${name} rose no more`;
}

/** What was drawn, and how much of it for nothing once that is known. */
export function spentOf({ status, usage, params, trajectories }) {
  if (status === "succeeded") return spent(usage.images, usage.discarded_images);
  const isDrawn = (round) => round.index > 0 || !params.image;
  return spent(trajectories.flatMap((t) => t.rounds.filter(isDrawn).flatMap(picturesIn)).length, 0);
}

function spent(images, lost) {
  const drawn = `${images} ${images === 1 ? "picture" : "pictures"} drawn`;
  return lost ? `${drawn}, ${lost} of them not used` : drawn;
}

/** The job's state in one line. */
export function statusOf(job) {
  if (job.status === "queued") return queued(job);
  if (job.status === "failed") return "Failed";
  if (job.status === "cancelled") return "Cancelled";
  if (job.kind !== "generate") return hasEnded(job) ? "Finished" : taskWords(job);
  if (hasEnded(job)) {
    const ends = [...new Set(job.trajectories.map((t) => endOf(job, t)))].filter(Boolean);
    return `Finished: ${ends.join("; ")}`;
  }
  return job.trajectories.length > 1 ? together(job) : phaseWords(job, job.trajectories[0]);
}

const AT = { thinking: "reasoning", drawing: "drawing", scoring: "scoring", looking: "looking", done: "done" };

/** What several trajectories are at, in a line that stays one on a phone. */
function together(job) {
  const phases = job.trajectories.map((t) => AT[phaseOf(job, t)]);
  const kinds = [...new Set(phases)];
  if (kinds.length === 1) return `All ${phases.length} ${kinds[0]}`;
  return kinds.map((kind) => `${phases.filter((phase) => phase === kind).length} ${kind}`).join(", ");
}

function queued({ position, etaS }) {
  if (position === null || position === undefined) return "Waiting";
  const place = position > 1 ? `Number ${position} in the queue` : "Next in the queue";
  return etaS === null || etaS === undefined ? place : `${place}, starts in about ${duration(etaS)}`;
}

/** What a trajectory is at. */
function phaseWords(job, t) {
  const next = t.rounds.length ? t.rounds.at(-1).index + 1 : 0;
  const step = t.drawing ? `, step ${t.drawing.step} of ${t.drawing.steps}` : "";
  return {
    thinking: "Reasoning about the prompt",
    drawing: `Drawing ${inWords(pictureName(job, t.drawing?.round ?? next))}${step}`,
    scoring: `Scoring ${inWords(pictureName(job, next - 1))}`,
    looking: `Looking at ${inWords(pictureName(job, next - 1))}`,
    done: `Done, ${endOf(job, t)}`,
  }[phaseOf(job, t)];
}

/** What changed from one state to the next that a person who cannot see it should hear; "" for nothing. */
export function newsOf(before, job) {
  if (!before || before.id !== job.id) return statusOf(job);
  if (before.status !== job.status) return statusOf(job);
  const told = job.trajectories.flatMap((t, i) => {
    const name = job.trajectories.length > 1 ? `Trajectory ${nameOf(t)}: ` : "";
    return newsOfOne(job, t, before.trajectories[i]).map((text) => `${name}${text}`);
  });
  return told.join(" ");
}

/** Of one trajectory: several events may have come at once. */
function newsOfOne(job, t, old) {
  const last = t.rounds.at(-1);
  const same = old?.rounds.find((r) => r.index === last?.index);
  const told = t.isDescribed && !old?.isDescribed ? [`The model sees: ${t.description}`] : [];
  if (!last) return told;
  if (!same) told.unshift(`${pictureName(job, last.index)} is finished.`);
  told.push(scoreNews(job, last, same));
  if (last.said?.verdict && !same?.said?.verdict) told.push(verdictNews(last.said));
  return told.filter(Boolean);
}

/** Which candidate goes on, or what the only one scored, the moment it is known. */
function scoreNews(job, last, old) {
  const [scorer] = scorersOf(job);
  if (!scorer || last.chosen === null) return "";
  const value = valueOf(last, scorer);
  const score = `${SCORERS[scorer].name} ${scoreWords(scorer, value)}`;
  if (last.candidates.length) return old && old.chosen !== null ? "" : `Candidate ${last.chosen + 1} goes on, ${score}.`;
  const wasThere = value === null || (old && valueOf(old, scorer) !== null);
  return wasThere ? "" : `${pictureName(job, last.index)}: ${score}.`;
}

function verdictNews({ verdict, instruction }) {
  const says = { edit: "wants an edit", satisfied: "is satisfied", malformed: "gave an unclear answer" }[verdict];
  return `The model ${says}${verdict === "edit" ? `: ${instruction.replace(/\.$/, "")}` : ""}.`;
}

/** Seconds as people say them, in one piece. */
export function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))}\u00a0s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)}\u00a0min`;
  return `${Math.round(seconds / 3600)}\u00a0h`;
}
