// A job as the page shows it: a value, made from GET /jobs/{id} here, or from events one after another by job.js. Pure.
//
// { id, kind, prompt, model, params, status, position, etaS, attempt, error, parent, createdAt, metadata, usage,
//   trajectories: [{ index, seed, reasoning, isReasoned, stopReason, isDone, drawing, result,
//                    rounds: [{ index, image, preview, instruction, said, scores, candidates, chosen, from }] }] }
//
// drawing     { round, step, steps, preview } while a picture is drawn, else null
// result      the id of the picture that the trajectory comes to, null until it is known
// preview     the last one of that picture, to be seen until the picture itself has come; null where there is none
// said        { text, thought, verdict, instruction } of a picture; verdict null while it is being written; null unasked
// scores      [{ scorer, value, lift, words }] of a picture
// candidates  [{ image, preview, said, scores }] where a round has several, else []: the round's own are then those of
//             the chosen one, and of the first while `chosen` is null
// from        the round whose picture was edited, null for the first
//
// What only a job of another kind than "generate" has: `description`, `isDescribed`, and at the end `similarities`.

/** From the server's answer. `isFollowed`: events will tell what was made, from the first on. */
export function fromJson(json, isFollowed = false) {
  return {
    id: json.id,
    kind: json.kind ?? "generate",
    prompt: json.prompt,
    model: json.model,
    params: json.params,
    status: json.status,
    position: json.queue_position,
    etaS: json.eta_s,
    attempt: json.attempt,
    error: json.error,
    parent: json.parent ?? null,
    createdAt: json.created_at,
    usage: json.usage,
    metadata: json.metadata,
    trajectories: json.trajectories.map((t) => ({ ...trajectoryOf(t, isFollowed), ...toldOf(isFollowed ? {} : (json.result ?? {})) })),
  };
}

function trajectoryOf(json, isFollowed) {
  const plain = { index: json.index, seed: json.seed, drawing: null, result: null };
  if (isFollowed) return { ...plain, reasoning: "", isReasoned: false, rounds: [], stopReason: null, isDone: false };
  const rounds = json.rounds.map(roundOf);
  const isDone = json.stop_reason !== null;
  const isReasoned = json.reasoning !== null || rounds.length > 0;
  const result = isDone ? (json.image?.id ?? null) : null;
  return { ...plain, reasoning: json.reasoning ?? "", isReasoned, rounds, stopReason: json.stop_reason, isDone, result };
}

function roundOf(json) {
  const candidates = (json.candidates ?? []).map(pictureOf);
  const from = json.from_round ?? (json.index > 0 ? json.index - 1 : null);
  const round = { index: json.index, instruction: json.instruction, candidates, chosen: json.chosen ?? 0, from };
  return { ...round, ...pictureOf(json) };
}

/** A picture and what was said of it. */
export const pictureOf = ({ image, reflection = null, scores = [] }) => ({ image, preview: null, said: reflection, scores });

/** What a picture was said to show, in answer to /describe or on its way through words and back. */
function toldOf({ description, text, similarities = null }) {
  const said = description ?? text ?? null;
  return { description: said ?? "", isDescribed: said !== null, similarities };
}
