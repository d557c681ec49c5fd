// Any two pictures of a job against each other: under a slider, side by side, or one in the place of the other.

import { wordDiff } from "./diff.js";
import { Dialog, html, useState, useWidth } from "./dom.js";
import { inWords, partsOf, picturesOf } from "./job.js";
import { shownSize } from "./picture.js";

const WAYS = [["slider", "Slider"], ["beside", "Side by side"], ["toggle", "Toggle"]];

/** The dialog. */
export function Compare({ job, size, onClose }) {
  const pictures = picturesOf(job);
  const [keys, setKeys] = useState(() => firstTwo(job, pictures));
  const [way, setWay] = useState("slider");
  const [ref, width] = useWidth(Math.min(innerWidth - 64, 900));
  const [a, b] = keys.map((key) => pictures.find((p) => p.key === key) ?? pictures[0]);
  const choose = (place) => (event) => setKeys(keys.map((key, i) => (i === place ? event.target.value : key)));
  return html`
    <${Dialog} title="Compare two pictures" name="is-wide" onClose=${onClose}>
      <div class="compare" ref=${ref}>
        <div class="compare-head">
          <${Choice} id="compare-a" label="Left, before" pictures=${pictures} value=${a.key} onChange=${choose(0)} />
          <${Choice} id="compare-b" label="Right, after" pictures=${pictures} value=${b.key} onChange=${choose(1)} />
          <fieldset class="field"><legend>How</legend><div class="segments">
            ${WAYS.map(([name, label]) => html`<label key=${name}><input type="radio" name="way" value=${name}
              checked=${way === name} onChange=${() => setWay(name)} /><span>${label}</span></label>`)}
          </div></fieldset>
        </div>
        <${Pictures} key=${way} way=${way} a=${a} b=${b} size=${size} width=${width} />
        <${Reflections} a=${a} b=${b} />
      </div>
    <//>`;
}

function firstTwo(job, pictures) {
  const chosen = pictures.filter((p) => p.isChosen);
  const ends = job.trajectories.map((t) => chosen.filter((p) => p.trajectory.index === t.index).at(-1)?.key);
  const across = ends.filter(Boolean);
  if (across.length > 1) return across.slice(0, 2);
  return chosen.length > 1 ? [chosen[0].key, chosen.at(-1).key] : [pictures[0].key, pictures.at(-1).key];
}

function Choice({ id, label, pictures, value, onChange }) {
  return html`<div class="field"><label for=${id}>${label}</label>
    <select id=${id} onChange=${onChange}>
      ${pictures.map((p) => html`<option key=${p.key} value=${p.key} selected=${p.key === value}>${p.label}</option>`)}
    </select></div>`;
}

function Pictures({ way, a, b, size, width }) {
  const [cut, setCut] = useState(50);
  const [isAfter, setAfter] = useState(false);
  const shown = shownSize(size, way === "beside" ? (width - 16) / 2 : width);
  const style = { width: `${shown.width}px`, height: `${shown.height}px` };
  const image = (p, extra = {}) => html`<img src=${p.round.image.url} alt=${p.label} style=${{ ...style, ...extra }} />`;
  if (way === "beside") {
    return html`<div class="compare-pair">
      ${[a, b].map((p, i) => html`<figure key=${i}>${image(p)}<figcaption>${p.label}</figcaption></figure>`)}</div>`;
  }
  if (way === "toggle") {
    return html`<div class="compare-one">${image(isAfter ? b : a)}
      <button type="button" aria-pressed=${isAfter} onClick=${() => setAfter(!isAfter)}>
        Showing ${inWords((isAfter ? b : a).label)}: show the other</button></div>`;
  }
  return html`<div class="compare-one">
    <div class="over" style=${{ ...style, "--height": style.height }}>
      ${image(a)}${image(b, { clipPath: `inset(0 0 0 ${cut}%)` })}
      <span class="cut" style=${{ left: `${cut}%` }}></span>
      <input type="range" min="0" max="100" value=${cut} aria-label="How much of the left picture is shown"
        onInput=${(e) => setCut(Number(e.target.value))} />
    </div>
    <p class="hint compare-legend" style=${{ width: style.width }}><span>${a.label}</span><span>${b.label}</span></p></div>`;
}

function Reflections({ a, b }) {
  const [before, after] = [a, b].map((p) => textOf(p.round.said));
  if (!before && !after) return html`<p class="hint">The model said nothing of these two.</p>`;
  if (!before || !after) {
    const [told, silent] = before ? [a, b] : [b, a];
    return html`<section class="diff"><h3>What the model says of ${inWords(told.label)}</h3><p>${before || after}</p>
      <p class="hint">Of ${inWords(silent.label)} it says nothing.</p></section>`;
  }
  return html`
    <section class="diff"><h3>What the model says of them</h3>
      <p>${wordDiff(before, after).map(({ kind, text }, i) => html`<${Piece} key=${i} kind=${kind} text=${text} /> `)}</p>
      <p class="hint"><del>only of ${inWords(a.label)}</del> · <ins>only of ${inWords(b.label)}</ins></p>
    </section>`;
}

function Piece({ kind, text }) {
  if (kind === "gone") return html`<del>${text}</del>`;
  return kind === "new" ? html`<ins>${text}</ins>` : html`<span>${text}</span>`;
}

function textOf(said) {
  if (!said) return "";
  const { thought, instruction } = partsOf(said);
  return `${thought} ${instruction}`.trim();
}
