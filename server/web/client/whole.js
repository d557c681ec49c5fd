// A field of the form for a whole number between two ends.

import { html } from "./dom.js";

/** It. What is typed counts at once, too much as the most there may be; too little may be on its way to more, and is
 * brought up when the field is left.
 *
 * With `empty`, which it shows in grey, nothing may be said at all; `isOff`: nothing can be.
 */
export function Whole({ id, label, form, set, range, empty, isOff = false }) {
  const { minimum: min, maximum: max } = range;
  const typed = ({ target: { value } }) => {
    const number = Number(value);
    if (value === "" && empty !== undefined) set({ [id]: "" });
    else if (Number.isInteger(number) && number >= min) set({ [id]: Math.min(max, number) });
  };
  const left = ({ target: { value } }) => {
    const isEmpty = value === "" && empty !== undefined;
    set({ [id]: isEmpty ? "" : Math.round(Math.min(max, Math.max(min, Number(value) || 0))) });
  };
  return html`<div class="field">
    <label for=${id}>${label}</label>
    <input id=${id} type="number" min=${min} max=${max} step="1" value=${isOff ? "" : form[id]} disabled=${isOff}
      placeholder=${empty} onInput=${typed} onChange=${left} />
  </div>`;
}
