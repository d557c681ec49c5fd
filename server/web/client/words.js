// How a job stands, in words. Pure.

import { hasEnded, inWords, lower, nameOf, phaseOf, pictureName } from "./job.js";

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
};

/** Why a trajectory ended. */
export const endOf = (trajectory) => ENDS[trajectory.stopReason] ?? "";

/** The job's state in one line. */
export function statusOf(job) {
  if (job.status === "queued") return queued(job);
  if (job.status === "failed") return "Failed";
  if (job.status === "cancelled") return "Cancelled";
  if (hasEnded(job)) {
    const ends = [...new Set(job.trajectories.map(endOf))].filter(Boolean);
    return `Finished: ${ends.join("; ")}`;
  }
  if (job.trajectories.length > 1) return together(job);
  const [t] = job.trajectories;
  return phaseWords(job, t) + (t.drawing ? `, step ${t.drawing.step} of ${t.drawing.steps}` : "");
}

/** What several trajectories are at; those that are at the same are named together. */
function together(job) {
  const at = new Map();
  for (const t of job.trajectories) {
    const words = phaseWords(job, t);
    at.set(words, [...(at.get(words) ?? []), nameOf(t)]);
  }
  if (at.size === 1) return [...at.keys()][0];
  return [...at].map(([words, names]) => `${names.join(", ")}: ${lower(words)}`).join("; ");
}

function queued({ position, etaS }) {
  const place = position > 1 ? `Number ${position} in the queue` : "Next in the queue";
  return etaS === null || etaS === undefined ? place : `${place}, starts in about ${duration(etaS)}`;
}

/** What a trajectory is at. */
export function phaseWords(job, t) {
  const next = t.rounds.length ? t.rounds.at(-1).index + 1 : 0;
  return {
    waiting: "Waiting",
    thinking: "Reasoning about the prompt",
    drawing: `Drawing ${inWords(pictureName(job, t.drawing?.round ?? next))}`,
    looking: `Looking at ${inWords(pictureName(job, next - 1))}`,
    done: `Done, ${endOf(t)}`,
  }[phaseOf(job, t)];
}

/** What changed from one state to the next that a person who cannot see it should hear; "" for nothing. */
export function newsOf(before, job) {
  if (!before || before.id !== job.id) return statusOf(job);
  if (before.status !== job.status) return statusOf(job);
  const told = job.trajectories.map((t, i) => {
    const old = before.trajectories[i];
    const name = job.trajectories.length > 1 ? `Candidate ${nameOf(t)}: ` : "";
    const [last, oldLast] = [t.rounds.at(-1), old?.rounds.at(-1)];
    if (last && last.index !== oldLast?.index) return `${name}${pictureName(job, last.index)} is finished.`;
    if (last?.said?.verdict && !oldLast?.said?.verdict) {
      const edit = last.said.verdict === "edit" ? `: ${last.said.instruction}` : "";
      return `${name}The model ${{ edit: "wants an edit", satisfied: "is satisfied", malformed: "gave an unclear answer" }[last.said.verdict]}${edit}.`;
    }
    return "";
  });
  return told.filter(Boolean).join(" ");
}

/** Seconds as people say them. */
export function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${Math.round(seconds / 3600)} h`;
}
