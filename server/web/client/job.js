// A job as the page shows it: a value, made from GET /jobs/{id} or from events one after another. Pure.
//
// { id, prompt, model, params, status, position, etaS, attempt, error, parent, createdAt, metadata, usage,
//   trajectories: [{ index, seed, reasoning, isReasoned, stopReason, isDone, drawing,
//                    rounds: [{ index, image, preview, instruction, said }] }] }
//
// drawing  { round, step, steps, preview } while a picture is drawn, else null
// preview  the last one of that picture, to be seen until the picture itself has come; null where there is none
// said     { text, thought, verdict, instruction } of a picture; verdict null while it is being written; null unasked

const ENDED = new Set(["succeeded", "failed", "cancelled"]);

/** From the server's answer. `isFollowed`: events will tell what was made, from the first on. */
export function fromJson(json, isFollowed = false) {
  return {
    id: json.id,
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
    trajectories: json.trajectories.map((t) => trajectoryOf(t, isFollowed)),
  };
}

function trajectoryOf(json, isFollowed) {
  const plain = { index: json.index, seed: json.seed, drawing: null };
  if (isFollowed) return { ...plain, reasoning: "", isReasoned: false, rounds: [], stopReason: null, isDone: false };
  const rounds = json.rounds.map((r) => ({
    index: r.index,
    image: r.image,
    preview: null,
    instruction: r.instruction,
    said: r.reflection,
  }));
  const isDone = json.stop_reason !== null;
  const isReasoned = json.reasoning !== null || rounds.length > 0;
  return { ...plain, reasoning: json.reasoning ?? "", isReasoned, rounds, stopReason: json.stop_reason, isDone };
}

export const hasEnded = (job) => ENDED.has(job.status);

/** The job after one more event. */
export function after(job, { name, data }) {
  const change = OF_JOB[name];
  if (change) return change(job, data);
  const ofTrajectory = OF_TRAJECTORY[name];
  if (!ofTrajectory) return job;
  const trajectories = job.trajectories.map((t) => (t.index === data.trajectory ? { ...t, ...ofTrajectory(t, data) } : t));
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
  image: (t, data) => ({
    isReasoned: true,
    drawing: null,
    rounds: [
      ...t.rounds.filter((r) => r.index < data.round),
      { index: data.round, image: data.image, preview: previewOf(t, data), instruction: data.instruction, said: null },
    ],
  }),
  "reflect.delta": (t, data) => ({ rounds: withSaid(t, data.round, (said) => writing(said, data.text)) }),
  "reflect.done": (t, data) => {
    const { text, thought, verdict, instruction } = data;
    return { rounds: withSaid(t, data.round, () => ({ text, thought, verdict, instruction })) };
  },
  "trajectory.done": (t, data) => ({
    stopReason: data.stop_reason,
    isDone: true,
    drawing: null,
    rounds: withoutUnfinished(t),
  }),
};

const stepOf = ({ round, step, steps }) => ({ round, step, steps });
const previewOf = (t, data) => sameRound(t, data).preview ?? null;
const sameRound = (t, data) => (t.drawing?.round === data.round ? t.drawing : {});
const idle = (job) => job.trajectories.map((t) => ({ ...t, drawing: null, rounds: withoutUnfinished(t) }));
const withoutUnfinished = (t) => t.rounds.map((r) => (r.said?.verdict === null ? { ...r, said: null } : r));
const withSaid = (t, round, change) => t.rounds.map((r) => (r.index === round ? { ...r, said: change(r.said) } : r));

/** A text that is being written: what was said before in full is asked anew. */
function writing(said, piece) {
  const before = said && said.verdict === null ? said.text : "";
  return { text: before + piece, thought: null, verdict: null, instruction: null };
}

/** What a trajectory is at: waiting, thinking, drawing, looking or done. */
export function phaseOf(job, t) {
  if (hasEnded(job) || t.isDone) return "done";
  if (job.status === "queued") return "waiting";
  if (t.drawing) return "drawing";
  const last = t.rounds.at(-1);
  if (!last) return t.isReasoned || !job.params.think ? "drawing" : "thinking";
  return last.said?.verdict ? "drawing" : "looking";
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

/** Every finished picture: { trajectory, round, key, label }. */
export function picturesOf(job) {
  const several = job.trajectories.length > 1;
  return job.trajectories.flatMap((trajectory) =>
    trajectory.rounds
      .filter((round) => round.image)
      .map((round) => ({
        trajectory,
        round,
        key: `${trajectory.index}-${round.index}`,
        label: several ? `${nameOf(trajectory)}: ${lower(pictureName(job, round.index))}` : pictureName(job, round.index),
      })),
  );
}

/** A trajectory's letter. */
export const nameOf = (trajectory) => "ABCD"[trajectory.index];

/** What a picture is called: the one that was given or drawn first, or the edit that made it. */
export function pictureName(job, index) {
  if (index > 0) return `Edit ${index}`;
  return job.params.image ? "The picture given" : "First picture";
}

/** A picture's name in the middle of a sentence. */
export const inWords = (name) => lower(name).replace(/^first/, "the first");

/** A sentence's beginning in the middle of one. */
export const lower = (text) => text[0].toLowerCase() + text.slice(1);
