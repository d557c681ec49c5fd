// The settings of the form: those that matter in view, the others folded.

import { html, Icon } from "./dom.js";
import { JudgeFields } from "./scorers.js";
import { defaultOf, fieldOf, othersTold, roundsOf, sizesOf, sizeWords } from "./settings.js";
import { Whole } from "./whole.js";

/** Rounds, early stop, size, seed, trajectories. */
export function Settings({ form, model, set, ranges }) {
  const rounds = roundsOf(form, model);
  const given = form.image !== null;
  return html`
    <div class="settings">
      <div class="field">
        <div class="label-row">
          <label for="rounds">Rounds <output for="rounds">${rounds}</output></label>
          <span class="hint" id="rounds-hint">edits after the first picture</span>
        </div>
        <input id="rounds" type="range" min=${given ? 1 : 0} max=${ranges.max_rounds.maximum} value=${rounds}
          aria-describedby="rounds-hint" onInput=${(e) => set({ rounds: Number(e.target.value) })} />
      </div>
      <label class="switch">
        <input type="checkbox" checked=${form.earlyStop} onChange=${(e) => set({ earlyStop: e.target.checked })} />
        <span>Stop when the model is satisfied</span>
      </label>
      <div class="pair">
        <div class="field">
          <label for="size">Size</label>
          <select id="size" disabled=${given} onChange=${(e) => set({ size: e.target.value })}>
            ${given
              ? html`<option>as given</option>`
              : withCurrent(sizesOf(model.sizes), form.size).map(
                  (size) => html`<option value=${size} selected=${size === (form.size || model.sizes.default)}>
                    ${sizeWords(size)}</option>`,
                )}
          </select>
        </div>
        <${Trajectories} n=${form.n} most=${ranges.n.maximum} set=${set} />
      </div>
      <${Seed} form=${form} set=${set} />
    </div>`;
}

const withCurrent = (sizes, size) => (size && !sizes.includes(size) ? [...sizes, size] : sizes);

function Trajectories({ n, most, set }) {
  return html`
    <fieldset class="field">
      <legend>Trajectories</legend>
      <div class="segments">
        ${Array.from({ length: most }, (_, index) => index + 1).map(
          (count) => html`<label><input type="radio" name="n" value=${count} checked=${n === count}
            onChange=${() => set({ n: count })} /><span>${count}</span></label>`,
        )}
      </div>
    </fieldset>`;
}

function Seed({ form, set }) {
  const { isSeedLocked } = form;
  return html`
    <div class="field">
      <label for="seed">Seed</label>
      <div class="joined">
        <input id="seed" type="text" inputmode="numeric" pattern="[0-9]*" maxlength="16" placeholder="random each time"
          value=${isSeedLocked ? form.seed : ""} autocomplete="off"
          onInput=${(e) => {
            const seed = e.target.value.replace(/\D/g, "");
            e.target.value = seed;
            set({ seed, isSeedLocked: seed !== "" });
          }} />
        <button type="button" class="square" aria-pressed=${isSeedLocked} disabled=${!isSeedLocked && form.seed === ""}
          aria-label="Lock the seed" title=${isSeedLocked ? "The same seed each time" : "A new seed each time"}
          onClick=${() => set({ isSeedLocked: !isSeedLocked })}>
          <${Icon} name=${isSeedLocked ? "lock" : "unlock"} />
        </button>
      </div>
    </div>`;
}

const NUMBER_FIELDS = [
  ["generateTimesteps", "Timesteps, first picture", 1],
  ["refineTimesteps", "Timesteps, edits", 1],
  ["generateTextScale", "Text guidance, first picture", 0.1],
  ["refineTextScale", "Text guidance, edits", 0.1],
  ["refineImageScale", "Image guidance, edits", 0.1],
  ["generateStepCache", "Step cache, first picture", 1],
  ["refineStepCache", "Step cache, edits", 1],
  ["reasonTemperature", "Temperature, reasoning", 0.1],
  ["reflectTemperature", "Temperature, reflection", 0.1],
];

/** The rest. */
export function MoreSettings({ form, model, set, info }) {
  return html`
    <details class="more">
      <summary>More settings</summary>
      ${info.models.length > 1 &&
      html`<div class="field">
        <label for="model">Model</label>
        <select id="model" onChange=${(e) => set({ model: e.target.value, size: "" })}>
          ${info.models.map((m) => html`<option value=${m.name} selected=${m.name === model.name}>${m.name}</option>`)}
        </select>
      </div>`}
      <label class="switch">
        <input type="checkbox" checked=${form.think && !form.image} disabled=${form.image !== null}
          onChange=${(e) => set({ think: e.target.checked })} />
        <span>Reason before the first picture</span>
      </label>
      <div class="grid">
        <${Whole} id="minRounds" label="Edits at least" form=${form} set=${set} range=${info.ranges.min_rounds} />
        <${Whole} id="confirmations" label="Ask until satisfied, times" form=${form} set=${set} range=${info.ranges["early_stop.confirmations"]} />
        <${Whole} id="previews" label="Previews per picture" form=${form} set=${set} range=${info.ranges.previews} />
        <div class="field">
          <label for="deadlineS">Give up after, seconds</label>
          <input id="deadlineS" type="number" min="1" step="any" placeholder="never" value=${form.deadlineS}
            onInput=${(e) => set({ deadlineS: e.target.value })} />
        </div>
        ${NUMBER_FIELDS.map(([name, label, step]) => {
          const { minimum, maximum } = info.ranges[fieldOf(name)];
          return html`<div class="field" key=${name}>
            <label for=${name}>${label}</label>
            <input id=${name} type="number" min=${minimum} max=${maximum} step=${step} value=${form[name]}
              placeholder=${defaultOf(name, model)} onInput=${(e) => set({ [name]: e.target.value })} />
          </div>`;
        })}
      </div>
      <${JudgeFields} form=${form} set=${set} ranges=${info.ranges} />
      <p class="hint">An empty field is as the model does by default, which it shows in grey.</p>
    </details>`;
}

/** What a job whose settings are reused had beside the fields. In view, for it counts until it is left out. */
export function Others({ others, set }) {
  const told = othersTold(others);
  if (!told.length) return null;
  const leaveOut = () => {
    set({ others: {} });
    document.querySelector(".more > summary")?.focus(); // the button that had it is gone
  };
  return html`
    <p class="hint">Also reused: ${told.join(" · ")}${" "}
      <button type="button" onClick=${leaveOut}>Leave these out</button></p>`;
}
