// A link by which somebody without a key reads this one job, until it expires or is taken back.

import { asProblem, call } from "./api.js";
import { CopyButton, Dialog, html, useState } from "./dom.js";
import { ProblemNote } from "./notes.js";

const TIMES = [["One hour", 3600], ["One day", 86_400], ["One week", 604_800]];

/** The dialog. */
export function Share({ job, onClose }) {
  const [expiresS, setExpiresS] = useState(86_400);
  const [link, setLink] = useState(null);
  const [problem, setProblem] = useState(null);
  const [said, setSaid] = useState("");
  const attempt = async (what) => {
    setProblem(null);
    setSaid("");
    try {
      await what();
    } catch (error) {
      setProblem(asProblem(error));
    }
  };
  const make = () => attempt(async () => setLink(await call(`/jobs/${job.id}/share`, { method: "POST", body: { expires_s: expiresS } })));
  const revoke = () => attempt(async () => {
    await call(`/jobs/${job.id}/share`, { method: "DELETE" });
    setLink(null);
    setSaid("All links to this job are revoked.");
  });
  const address = link && new URL(link.url.replace("/jobs/", "/j/"), location.origin).href;
  return html`
    <${Dialog} title="Share this job" onClose=${onClose}>
      <p>Whoever has the link sees this job and its pictures, also while it runs, and can change nothing. No key is needed.</p>
      <fieldset class="field"><legend>It is good for</legend><div class="segments">
        ${TIMES.map(([label, seconds]) => html`<label key=${seconds}><input type="radio" name="expires"
          checked=${seconds === expiresS} onChange=${() => setExpiresS(seconds)} /><span>${label}</span></label>`)}
      </div></fieldset>
      <div class="buttons">
        <button type="button" class="primary" onClick=${make}>Make a link</button>
        <button type="button" class="danger" onClick=${revoke}>Revoke all links</button>
      </div>
      ${link && html`<div class="field">
        <label for="share-link">The link, which is shown this once</label>
        <div class="joined"><input id="share-link" type="text" readonly value=${address} onFocus=${(e) => e.target.select()} />
          <${CopyButton} text=${address} /></div>
        <p class="hint">Good until ${new Date(link.expires_at).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" })}, or as long as the job is kept.</p>
      </div>`}
      <p class="hint" role="status">${said}</p>
      ${problem && html`<${ProblemNote} problem=${problem} onClose=${() => setProblem(null)} />`}
    <//>`;
}
