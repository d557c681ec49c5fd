// What can be done with one finished picture: go on from it in several ways, start anew from it, keep it.

import { asProblem } from "./api.js";
import { isFirst, submit, tripOf } from "./composer.js";
import { html, Icon, useState } from "./dom.js";
import { ProblemNote } from "./notes.js";
import { repeatOf } from "./settings.js";

const SEEDS = 2 ** 32;

/** The request that goes on from a picture: the job's own settings, and one picture in place of the first. */
function onwards(job, model, round, changes) {
  const { size, think, n, instruction, image, ...same } = repeatOf(job, model);
  if (same.max_images) same.max_images = Math.max(same.max_images, same.candidates?.refine ?? 1);
  return { ...same, image: round.image.id, ...changes };
}

const newSeed = () => crypto.getRandomValues(new Uint32Array(1))[0] % SEEDS;

/** The buttons; of all but the last picture they are folded. */
export function Actions({ job, model, round, isOpen, onJob, onStart }) {
  const [problem, setProblem] = useState(null);
  const [isEditing, setEditing] = useState(false);
  const [isSending, setSending] = useState(false);
  if (!round.image || !model) return null;
  const ask = async (body, path) => {
    if (isSending) return;
    setSending(true);
    setProblem(null);
    try {
      onJob(await submit(body, path));
    } catch (error) {
      setProblem(asProblem(error));
    }
    setSending(false);
  };
  const send = (changes) => ask(onwards(job, model, round, changes));
  const { seed } = job.params;
  const isWhole = job.kind === "generate";
  const rounds = Math.max(1, job.params.max_rounds);
  const buttons = html`
    <div class="buttons actions" onClickCapture=${(event) => isFirst(event) || event.stopPropagation()}>
      ${isWhole && html`
      <button type="button" onClick=${() => send({ seed, min_rounds: 1, max_rounds: 1 })}><${Icon} name="again" /> One more round</button>
      <button type="button" onClick=${() => send({ seed: newSeed(), max_rounds: rounds })}><${Icon} name="branch" /> Branch, new seed</button>
      <button type="button" aria-expanded=${isEditing} onClick=${() => setEditing(!isEditing)}><${Icon} name="pencil" /> Edit it my way</button>`}
      <button type="button" onClick=${() => onStart(round.image, job)}><${Icon} name="image" /> Use as start</button>
      <button type="button" onClick=${() => ask(tripOf(round.image.id, model.name), "/roundtrip")}><${Icon} name="eye" /> What does it see?</button>
      <a class="button" href=${download(round.image.url)} download><${Icon} name="download" /> Download</a>
    </div>
    ${isEditing && html`<${MyEdit} id=${`my-edit-${round.image.id}`} isSending=${isSending}
      onSend=${(text) => send({ seed, instruction: text, min_rounds: 0, max_rounds: 1 })} />`}
    ${problem && html`<${ProblemNote} problem=${problem} onClose=${() => setProblem(null)} />`}`;
  if (isOpen || !isWhole) return html`<div class="go-on">${buttons}</div>`;
  return html`<details class="more go-on"><summary>Go on from this picture</summary>${buttons}</details>`;
}

function MyEdit({ id, onSend, isSending }) {
  const [text, setText] = useState("");
  const send = (event) => {
    event.preventDefault();
    if (text.trim()) onSend(text.trim());
  };
  return html`
    <form class="my-edit" onSubmit=${send}>
      <label for=${id}>What should be changed?</label>
      <div class="joined">
        <input id=${id} type="text" maxlength="4000" value=${text} placeholder="Make the circle blue." autocomplete="off"
          ref=${(element) => element && !element.dataset.seen && ((element.dataset.seen = "1"), element.focus())}
          onInput=${(e) => setText(e.target.value)} />
        <button type="submit" class="primary" aria-disabled=${isSending || !text.trim()}>Edit</button>
      </div>
    </form>`;
}

/** The address under which a picture is saved. */
export const download = (url) => `${url}${url.includes("?") ? "&" : "?"}download=1`;
