// What a person sets of how pictures are judged, and what that is in a request. Pure.
//
// What needs a score is asked for only where there is a scorer, so that no request is refused for that.

import { SCORERS } from "./judge.js";

/** The part of the form before anything was set: nothing is judged. */
export const UNJUDGED = {
  scorers: [],
  firstCandidates: 1,
  editCandidates: 1,
  choose: "last",
  onRegression: "keep",
  stopsByScore: false,
  stopScorer: "",
  atLeast: "",
  minGain: "",
  patience: 1,
  stopsOnAll: false,
  maxImages: "",
};

/** The scorers after one was ticked or unticked: those that were there before keep their place. */
export const withScorer = (scorers, name, isOn) => (isOn ? [...scorers, name] : scorers.filter((one) => one !== name));

/** The scorers with this one first, which decides. */
export const decidedBy = (scorers, name) => [name, ...scorers.filter((one) => one !== name)];

/** The scorer that the score rule reads: the chosen one while it is among the scorers, else the one that decides. */
export const stopScorerOf = ({ scorers, stopScorer }) => (scorers.includes(stopScorer) ? stopScorer : scorers[0]);

/** Whether a threshold means something: GvU's level depends on the prompt, and the server refuses one. */
export const mayHaveThreshold = (scorer) => scorer !== "gvu";

/** The least budget that is worth something: each trajectory gets the pictures that it begins with. */
export function leastImages({ n, scorers, image, firstCandidates, editCandidates }) {
  return n * (scorers.length ? (image === null ? firstCandidates : editCandidates) : 1);
}

/** The fields of a request; `score` is what early_stop gains, where it does. */
export function judgedOf(form) {
  const budget = form.maxImages === "" ? {} : { max_images: Math.max(leastImages(form), form.maxImages) };
  if (!form.scorers.length) return budget;
  const candidates = {};
  if (form.firstCandidates > 1 && form.image === null) candidates.first = form.firstCandidates;
  if (form.editCandidates > 1) candidates.refine = form.editCandidates;
  return {
    judge: { scorers: form.scorers },
    ...(Object.keys(candidates).length ? { candidates } : {}),
    ...(form.choose === "last" ? {} : { choose: form.choose }),
    ...(form.onRegression === "keep" ? {} : { on_regression: form.onRegression }),
    ...(form.stopsByScore ? { score: scoreStopOf(form) } : {}),
    ...budget,
  };
}

function scoreStopOf(form) {
  const scorer = stopScorerOf(form);
  const score = { scorer, patience: form.patience };
  if (form.atLeast !== "" && mayHaveThreshold(scorer)) score.at_least = Number(form.atLeast);
  if (form.minGain !== "") score.min_gain = Math.max(0, Number(form.minGain));
  return { score, ...(form.earlyStop && form.stopsOnAll ? { all: true } : {}) };
}

/** The part of the form that asks for the same as a job did. */
export function judgedFormOf(params) {
  const rule = params.early_stop.score ?? null;
  return {
    ...UNJUDGED,
    scorers: (params.judge?.scorers ?? []).filter((name) => name in SCORERS),
    firstCandidates: params.candidates?.first ?? 1,
    editCandidates: params.candidates?.refine ?? 1,
    choose: params.choose ?? "last",
    onRegression: params.on_regression ?? "keep",
    maxImages: params.max_images ?? "",
    stopsByScore: rule !== null,
    stopScorer: rule?.scorer ?? "",
    atLeast: told(rule?.at_least),
    minGain: rule?.min_gain ? String(rule.min_gain) : "",
    patience: rule?.patience ?? 1,
    stopsOnAll: params.early_stop.all ?? false,
  };
}

const told = (value) => (value === null || value === undefined ? "" : String(value));
