// What a job is that is not the whole loop: what it is called, and what it is at. Pure.

import { hasEnded } from "./job.js";
import { isScored, picturesIn } from "./judge.js";

const NAMES = { score: "Scores", reflect: "A review", describe: "What the model sees", roundtrip: "Round trip" };

/** What a kind of job is called, "" for the loop itself. Of JSON or of the page's own value. */
export const kindName = ({ kind }) => NAMES[kind] ?? "";

/** What a job is headed with: its prompt, or where it has none its question, or what it is. */
export const titleOf = (job) => job.prompt || job.params?.question || kindName(job) || "A job";

/** What such a job is at while it runs: waiting, thinking, drawing, looking, comparing, scoring or done. */
export function taskPhase(job) {
  const [task] = job.trajectories;
  if (hasEnded(job)) return "done";
  if (job.status === "queued") return "waiting";
  if (task.drawing) return "drawing";
  if (job.kind === "score") return "scoring";
  if (job.kind !== "roundtrip") return "looking";
  if (!task.rounds.length && !job.params.image) return task.isReasoned || !job.params.think ? "drawing" : "thinking";
  if (!task.isDescribed) return "looking";
  return task.rounds.length > 1 ? "comparing" : "drawing";
}

/** The same in words. */
export function taskWords(job) {
  const [task] = job.trajectories;
  const step = task.drawing ? `, step ${task.drawing.step} of ${task.drawing.steps}` : "";
  return {
    thinking: "Reasoning about the prompt",
    drawing: `${task.rounds.length ? "Drawing from the words" : "Drawing the picture"}${step}`,
    looking: "Looking at the picture",
    comparing: "Comparing the two",
    scoring: scoring(job, task),
  }[taskPhase(job)];
}

function scoring(job, task) {
  const pictures = task.rounds.flatMap(picturesIn);
  const scored = pictures.filter((picture) => isScored(job, picture)).length;
  return pictures.length > 1 ? `Scoring, ${scored} of ${pictures.length} done` : "Scoring the picture";
}
