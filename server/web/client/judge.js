// What scores are called and what the loop makes of them: which picture is edited next, and which ones led to the result.
// Pure.

/** By its name in a request, what a scorer is called, and what it says of a picture. */
export const SCORERS = {
  lift: { name: "Lift", says: "how much likelier the picture makes the words of the prompt" },
  vqa: { name: "VQA", says: "how surely the model answers yes when asked whether the picture shows the prompt" },
  gvu: { name: "GvU", says: "how likely the prompt is, said of the picture" },
  verdict: { name: "Verdict", says: "how near its review comes to “No further edit needed”" },
};

/** The scorers of a job; the first one decides. */
export const scorersOf = ({ params }) => params.judge?.scorers ?? params.scorers ?? [];

/** What a scorer gave a picture; null where it gave nothing, or has not been heard yet. */
export const valueOf = (picture, scorer) => scoreOf(picture, scorer)?.value ?? null;

/** All that a scorer said of a picture, if it did. */
export const scoreOf = (picture, scorer) => picture.scores.find((score) => score.scorer === scorer);

/** The words of the prompt with their lifts, from whichever scorer tells them; null while none has. */
export const wordsOf = (picture) => picture.scores.find(({ words }) => words?.length)?.words ?? null;

/** A score as it is written. */
export function scoreWords(scorer, value) {
  if (value === null || value === undefined) return "none";
  const text = scorer === "gvu" ? value.toPrecision(2) : value.toFixed(2);
  return Number(text) === 0 ? text.replace("-", "") : text.replaceAll("-", "−");
}

/** Every picture of a round, in the order in which they were drawn. */
export const picturesIn = (round) => (round.candidates.length ? round.candidates : [round]);

/** How much higher a round's score is than the best before it; null where there is nothing to compare. */
export function gainOf(trajectory, round, scorer) {
  const before = trajectory.rounds.filter((r) => r.index < round.index).map((r) => valueOf(r, scorer));
  const value = valueOf(round, scorer);
  const best = Math.max(...before.map(rank));
  return value === null || !Number.isFinite(best) ? null : value - best;
}

/** The round whose picture is edited next: the newest, or after a fall the best so far. As r3core/loop.py has it. */
export function baseOf(job, trajectory) {
  const { rounds } = trajectory;
  const [scorer] = scorersOf(job);
  const newest = rounds.at(-1);
  if (job.params.on_regression !== "backtrack" || !scorer || rounds.length < 2) return newest;
  const ranks = rounds.map((round) => rank(valueOf(round, scorer)));
  const best = Math.max(...ranks.slice(0, -1));
  const hasFallen = ranks.at(-1) < best - (job.params.early_stop.score?.min_gain ?? 0);
  return hasFallen ? rounds[ranks.indexOf(best)] : newest;
}

/** How many pictures a round has once it is whole, the budget allowing. */
export function wantedOf({ params }, trajectory, index) {
  const isGiven = (at) => at === 0 && Boolean(params.image);
  if (isGiven(index)) return 1;
  const wanted = (index === 0 ? params.candidates?.first : params.candidates?.refine) ?? 1;
  if (!params.max_images) return wanted;
  const share = Math.floor(params.max_images / params.n) + (trajectory.index < params.max_images % params.n ? 1 : 0);
  const drawn = trajectory.rounds.filter((r) => r.index < index && !isGiven(r.index));
  return Math.max(1, Math.min(wanted, share - drawn.reduce((sum, r) => sum + picturesIn(r).length, 0)));
}

/** Whether a round's picture is the trajectory's result, which is worth saying where it is not simply the last. */
export function isResult(job, trajectory, round) {
  return job.params.choose === "best" && trajectory.result !== null && round.image?.id === trajectory.result;
}

/** The indexes of the rounds that led to the result, or to the newest picture as long as there is none. */
export function pathOf(trajectory) {
  const { rounds, result } = trajectory;
  let at = rounds.find((r) => result !== null && r.image?.id === result) ?? rounds.at(-1);
  const path = [];
  while (at) {
    path.unshift(at.index);
    at = at.from === null ? undefined : rounds[at.from];
  }
  return path;
}

/** Whether a picture still waits for a score that is read from the picture itself. */
export function isScored(job, picture) {
  return scorersOf(job).every((scorer) => scorer === "verdict" || scoreOf(picture, scorer));
}

const rank = (value) => value ?? -Infinity;
