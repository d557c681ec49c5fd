// The form: what the picture should show, what to start from, and how to go about it.

import { asProblem, call, Problem } from "./api.js";
import { html, Icon, randomHex, useEffect, useRef, useState } from "./dom.js";
import { MoreSettings, Others, Settings } from "./fields.js";
import { ProblemNote } from "./notes.js";
import { requestOf } from "./settings.js";

const KINDS = ["image/png", "image/jpeg", "image/webp"];

const REST_MS = 1500;
const PREVIEWS = 4;

/** Ask for a job, and where no answer comes once more: by its key that is the same job. Throws Problem. */
export async function submit(body, path = "/generate") {
  const headers = { Prefer: "respond-async", "Idempotency-Key": randomHex(16) };
  const ask = () => call(path, { method: "POST", body, headers });
  try {
    return await ask();
  } catch (error) {
    if (error.code !== "unreachable") throw error;
    await new Promise((resolve) => setTimeout(resolve, REST_MS));
    return ask();
  }
}

/** Whether a click is no second one of a double click, which asks for one job. */
export const isFirst = (event) => event.detail < 2;

/** The body of POST /roundtrip: what the model sees in a picture, and what it draws of that. */
export const tripOf = (image, model) => ({ image, model, previews: PREVIEWS });

/** A picture of a person's own, as the form holds it. Throws Problem where the server would refuse it. */
export async function pictureOf(file, limits) {
  if (!KINDS.includes(file?.type)) {
    throw new Problem({ title: "This is no picture that can be used", detail: "Give a PNG, a JPEG or a WebP." });
  }
  if (file.size > limits.image_bytes) {
    const [is, may] = [file.size, limits.image_bytes].map((size) => `${(size / 1e6).toFixed(1)} MB`);
    throw new Problem({ title: "The picture is too large", detail: `It has ${is}; give one of at most ${may}.` });
  }
  await checkPixels(file, limits);
  const dataUrl = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Problem({ title: "The picture cannot be read", detail: "Choose it once more." }));
    reader.readAsDataURL(file);
  });
  return { dataUrl, url: URL.createObjectURL(file), name: file.name || "pasted picture" };
}

async function checkPixels(file, limits) {
  let picture;
  try {
    picture = await createImageBitmap(file);
  } catch {
    throw new Problem({ title: "The picture cannot be read", detail: "It is empty or broken; choose another." });
  }
  const { width, height } = picture;
  picture.close();
  if (width * height > limits.image_pixels) {
    const most = `${(limits.image_pixels / 1e6).toFixed(1)} megapixels`;
    throw new Problem({ title: "The picture is too large", detail: `It is ${width} × ${height}; give one of at most ${most}.` });
  }
}

/** The form. `onJob` is given the job that was made; `isFolded` shows only its head on a phone, which `onFold` changes. */
export function Composer({ form, set, model, info, onJob, isFolded, onFold }) {
  const [problem, setProblem] = useState(null);
  const [isSending, setSending] = useState(false);
  const [isOver, setOver] = useState(false);
  const prompt = useRef(null);
  const element = useRef(null);

  const taken = useRef(0);
  const take = async (file) => {
    const own = ++taken.current;
    setProblem(null);
    onFold(false);
    try {
      const image = await pictureOf(file, info.limits);
      if (own !== taken.current) { // another was given meanwhile
        URL.revokeObjectURL(image.url);
        return;
      }
      set({ image });
      requestAnimationFrame(() => document.querySelector("#instruction")?.scrollIntoView({ block: "nearest" }));
    } catch (error) {
      setProblem(asProblem(error));
    }
  };
  useDrops(take, setOver);
  const send = async (body, path) => {
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
  const run = async (event) => {
    event?.preventDefault();
    const unread = [...element.current.elements].find((field) => !field.disabled && field.validity?.badInput);
    if (unread) {
      const told = { title: "There is something that is no number", detail: `Look at “${unread.labels[0].textContent}”.` };
      setProblem(new Problem(told));
      if (unread.closest("details")) unread.closest("details").open = true;
      return unread.focus();
    }
    if (form.prompt.trim()) return send(requestOf(form, model, info));
    setProblem(new Problem({ title: "There is no prompt yet", detail: "Write what the picture should show." }));
    return prompt.current.focus();
  };
  const look = () => send(tripOf(form.image.id ?? form.image.dataUrl, model.name), "/roundtrip");
  const runByKeys = (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.repeat && run(event);
  const { url: shown } = form.image ?? {};
  const shownLast = useRef(shown);
  useEffect(() => {
    if (shown !== shownLast.current && shownLast.current?.startsWith("blob:")) URL.revokeObjectURL(shownLast.current);
    shownLast.current = shown;
  }, [shown]);
  const choose = (text) => {
    set({ prompt: text });
    prompt.current.focus();
  };

  return html`
    <form ref=${element} class="composer ${isFolded ? "is-folded" : ""} ${isOver ? "is-over" : ""}" onSubmit=${run} onKeyDown=${runByKeys}
      aria-label="New picture" noValidate>
      <button type="button" class="unfold" aria-expanded=${!isFolded} onClick=${() => onFold(!isFolded)}>
        <${Icon} name="plus" /> New picture
      </button>
      <div class="composer-body">
        <label class="prompt-label" for="prompt">What should the picture show?</label>
        <textarea id="prompt" ref=${prompt} rows="3" maxlength=${info.limits.prompt_characters} value=${form.prompt}
          aria-describedby="prompt-hint" placeholder=${model.example_prompts[0] ?? ""}
          onInput=${(e) => set({ prompt: e.target.value })}></textarea>
        <${Examples} model=${model} onChoose=${choose} />
        <${Start} form=${form} set=${set} onFile=${take} onLook=${look} />
        <${Settings} form=${form} model=${model} set=${set} ranges=${info.ranges} />
        <${MoreSettings} form=${form} model=${model} set=${set} info=${info} />
        <${Others} others=${form.others} set=${set} />
        <div class="go">
          ${problem && html`<${ProblemNote} problem=${problem} onClose=${() => setProblem(null)} />`}
          <button type="submit" class="primary" aria-disabled=${isSending} onClick=${(e) => isFirst(e) || e.preventDefault()}>
            <${Icon} name="play" /> ${isSending ? "Sending" : "Run"}
          </button>
          <p class="hint" id="prompt-hint">or <kbd>Ctrl</kbd>/<kbd>⌘</kbd> <kbd>Enter</kbd></p>
        </div>
      </div>
    </form>`;
}

function Examples({ model, onChoose }) {
  if (!model.example_prompts.length) return null;
  return html`
    <div class="examples" role="group" aria-label="Example prompts">
      ${model.example_prompts.slice(0, 5).map(
        (text) => html`<button type="button" class="example" key=${text} onClick=${() => onChoose(text)}>${text}</button>`,
      )}
    </div>`;
}

function Start({ form, set, onFile, onLook }) {
  const input = useRef(null);
  if (form.image === null) {
    return html`
      <div class="start">
        <input ref=${input} type="file" id="start-file" class="unseen" tabindex="-1" aria-hidden="true" accept=${KINDS.join()}
          onChange=${(e) => {
            if (e.target.files[0]) onFile(e.target.files[0]);
            e.target.value = "";
          }} />
        <button type="button" class="wide" onClick=${() => input.current.click()}>
          <${Icon} name="image" /> Start from a picture
        </button>
        <p class="hint">or drop one anywhere, or paste it</p>
      </div>`;
  }
  return html`
    <div class="start is-given">
      <img src=${form.image.url} alt="The picture to start from" width="72" height="72" />
      <div class="field">
        <label for="instruction">What to change in it</label>
        <textarea id="instruction" rows="2" value=${form.instruction} placeholder="Left empty, the model decides"
          onInput=${(e) => set({ instruction: e.target.value })}></textarea>
      </div>
      <button type="button" class="look" onClick=${(e) => isFirst(e) && onLook()}><${Icon} name="eye" /> What does it see?</button>
      <button type="button" class="quiet square" aria-label="Do not start from this picture"
        onClick=${() => set({ image: null, instruction: "" })}><${Icon} name="close" /></button>
    </div>`;
}

/** Pictures that are dropped anywhere on the page, or pasted. */
function useDrops(take, setOver) {
  const latest = useRef(take);
  latest.current = take;
  useEffect(() => {
    const stop = new AbortController();
    const on = (name, listener) => document.addEventListener(name, listener, { signal: stop.signal });
    const hasFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
    on("dragover", (event) => {
      if (!hasFile(event)) return;
      event.preventDefault();
      setOver(true);
    });
    on("dragleave", (event) => event.relatedTarget === null && setOver(false));
    on("drop", (event) => {
      setOver(false);
      if (!hasFile(event)) return;
      event.preventDefault();
      latest.current(event.dataTransfer.files[0]);
    });
    on("paste", (event) => {
      // An office program gives a picture of the text beside the text, which is what a field wants.
      if (event.target.matches?.("input, textarea") && event.clipboardData.types.includes("text/plain")) return;
      const file = [...event.clipboardData.files].find((f) => f.type.startsWith("image/"));
      if (!file) return;
      event.preventDefault();
      latest.current(file);
    });
    return () => stop.abort();
  }, []);
}
