// What a person sets, and the request that it makes. Pure. An empty field means: as the model does by default.

import { judgedFormOf, judgedOf, UNJUDGED } from "./judging.js";

/**
 * The form before anything was set. `image` is { id } or { dataUrl, name }, with `url` to show it by; `others` are settings
 * of a job that are reused and have no field here, as a request has them: { refine: { cfg_interval: [0, 1] } }.
 */
export const BLANK = {
  prompt: "",
  model: "",
  image: null,
  instruction: "",
  rounds: null,
  earlyStop: true,
  size: "",
  seed: "",
  isSeedLocked: false,
  n: 1,
  previews: 4,
  think: true,
  minRounds: 0,
  confirmations: 1,
  deadlineS: "",
  reasonTemperature: "",
  reflectTemperature: "",
  generateTimesteps: "",
  generateTextScale: "",
  refineTimesteps: "",
  refineTextScale: "",
  refineImageScale: "",
  generateStepCache: "",
  refineStepCache: "",
  others: {},
  ...UNJUDGED,
};

// By the form's name, where the number stands in a request.
const NUMBERS = {
  reasonTemperature: ["reason", "temperature"],
  reflectTemperature: ["reflect", "temperature"],
  generateTimesteps: ["generate", "num_timesteps"],
  generateTextScale: ["generate", "cfg_text_scale"],
  refineTimesteps: ["refine", "num_timesteps"],
  refineTextScale: ["refine", "cfg_text_scale"],
  refineImageScale: ["refine", "cfg_img_scale"],
  generateStepCache: ["generate", "step_cache"],
  refineStepCache: ["refine", "step_cache"],
};
const isShown = (group, key) => Object.values(NUMBERS).some((path) => same(path, [group, key]));

/** What a model does where a field of NUMBERS is empty. */
export const defaultOf = (name, model) => NUMBERS[name].reduce((value, key) => value?.[key], model.defaults);

/** The request's field of a form's number, as /info's ranges name it. */
export const fieldOf = (name) => NUMBERS[name].join(".");

/** The body of POST /generate that the form asks for. */
export function requestOf(form, model, info) {
  const given = form.image !== null;
  const body = { ...form.others, prompt: form.prompt.trim(), max_rounds: roundsOf(form, model), previews: form.previews };
  if (info.models.length > 1) body.model = model.name;
  if (form.isSeedLocked && form.seed !== "") body.seed = Number(form.seed);
  if (form.n > 1) body.n = form.n;
  const { score, ...judged } = judgedOf(form);
  Object.assign(body, judged);
  const { earlyStop, confirmations } = form;
  const again = earlyStop && confirmations > 1 ? { confirmations } : {};
  if (score || again.confirmations) body.early_stop = { on_satisfied: earlyStop, ...again, ...score };
  else if (!earlyStop) body.early_stop = false;
  if (form.minRounds > 0) body.min_rounds = Math.min(form.minRounds, body.max_rounds);
  if (form.deadlineS !== "") body.deadline_s = Number(form.deadlineS);
  if (given) {
    body.image = form.image.id ?? form.image.dataUrl;
    if (form.instruction.trim()) body.instruction = form.instruction.trim();
  } else {
    if (form.size && form.size !== model.sizes.default) body.size = form.size;
    if (!form.think) body.think = false;
  }
  for (const [name, [group, key]] of Object.entries(NUMBERS)) {
    if (form[name] !== "") body[group] = { ...body[group], [key]: Number(form[name]) };
  }
  return body;
}

/** How many rounds the form asks for: a picture that is given needs at least one. */
export function roundsOf(form, model) {
  const rounds = form.rounds ?? model.defaults.max_rounds;
  return form.image === null ? rounds : Math.max(1, rounds);
}

// What the form has, of the fields of a request that are no group of NUMBERS.
const FIELDS = new Set([
  ...["model", "prompt", "image", "instruction", "size", "seed", "n", "think", "previews", "deadline_s"],
  ...["max_rounds", "min_rounds", "early_stop", "max_images", "judge", "candidates", "choose", "on_regression"],
]);

/** Of what makes a job once more, that which the form has no field for. */
function othersOf(job, model) {
  const others = Object.entries(repeatOf(job, model)).filter(([name]) => !FIELDS.has(name));
  return Object.fromEntries(
    others.map(([name, value]) => [name, isGroup(value) ? unshown(name, value) : value]).filter(([, value]) => !isEmpty(value)),
  );
}

const isGroup = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
const isEmpty = (value) => isGroup(value) && !Object.keys(value).length;
const unshown = (group, settings) =>
  Object.fromEntries(Object.entries(settings).filter(([key]) => !isShown(group, key)));

/** The settings without a field in words: "reflect.top_p 0.8". */
export const othersTold = (others) =>
  Object.entries(others).flatMap(([name, value]) =>
    isGroup(value)
      ? Object.entries(value).map(([key, part]) => `${name}.${key} ${JSON.stringify(part)}`)
      : [`${name} ${JSON.stringify(value)}`],
  );

/** The form that asks for the same as a job did, its seed locked. */
export function formOf(job, model) {
  const { params } = job;
  const numbers = Object.entries(NUMBERS).map(([name, [group, key]]) => {
    const value = params[group]?.[key];
    return [name, value === undefined || value === defaultOf(name, model) ? "" : String(value)];
  });
  return {
    ...BLANK,
    ...Object.fromEntries(numbers),
    prompt: job.prompt,
    model: job.model,
    image: params.image ? { id: params.image, url: startUrl(job), name: "the same start" } : null,
    instruction: params.instruction ?? "",
    rounds: params.max_rounds,
    earlyStop: params.early_stop.on_satisfied,
    confirmations: params.early_stop.confirmations,
    size: params.size ?? "",
    seed: String(params.seed),
    isSeedLocked: true,
    n: params.n,
    previews: params.previews,
    think: params.think,
    minRounds: params.min_rounds,
    deadlineS: params.deadline_s === null ? "" : String(params.deadline_s),
    others: othersOf(job, model),
    ...judgedFormOf(params),
  };
}

const startUrl = (job) => job.trajectories[0]?.rounds[0]?.image?.url ?? `/images/${job.params.image}`;

// What POST /generate does where a field is left out, whatever the model.
const PLAIN = {
  min_rounds: 0,
  think: true,
  n: 1,
  previews: 0,
  output_format: "png",
  priority: "normal",
  early_stop: { on_satisfied: true, confirmations: 1 },
  choose: "last",
  on_regression: "keep",
  candidates: { first: 1, refine: 1 },
};

/** The body that makes a finished job once more, without what is so anyway, and without how its answer was taken. */
export function repeatOf(job, model) {
  const defaults = { ...PLAIN, ...model.defaults, size: model.sizes.default };
  const { response_format, cancel_on_disconnect, ...params } = job.params;
  const told = Object.entries(params)
    .map(([name, value]) => [name, without(value, defaults[name])])
    .filter(([name, value]) => value !== null && value !== undefined && (name !== "think" || !job.params.image));
  return { model: job.model, ...(job.prompt ? { prompt: job.prompt } : {}), ...Object.fromEntries(told) };
}

/** Null where the value is the default's; of an object, the part that is not. */
function without(value, standard) {
  if (same(value, standard)) return null;
  if (value === null || typeof value !== "object" || Array.isArray(value)) return value;
  return Object.fromEntries(Object.entries(value).filter(([key, part]) => !same(part, standard?.[key])));
}

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

/** Sizes to choose from: the default first, then other shapes of the longest edge, across and upright. */
export function sizesOf({ default: standard, multiple_of: step, longest_edge: longest, shortest_edge: shortest }) {
  const across = [1, 5 / 4, 4 / 3, 3 / 2, 16 / 9, 2].map((ratio) => {
    const side = Math.round(longest / ratio / step) * step;
    return [Math.floor(longest / step) * step, side];
  });
  const fitting = across.filter(([, side]) => side >= shortest && side <= longest);
  const found = fitting.flatMap(([w, h]) => [`${w}x${h}`, `${h}x${w}`]);
  return [...new Set([standard, ...found])];
}

/** "1024x768" as people write it. */
export const sizeWords = (size) => size.replace("x", " × ");
