// What changed from one text to another, word by word: the longest common run of words stays, the rest came or went.

const LONGEST = 1200; // words; the table has the square of it

/** Pieces of both texts in order: [{ kind: "same" | "gone" | "new", text }]. Pure. */
export function wordDiff(before, after) {
  const [a, b] = [wordsOf(before), wordsOf(after)];
  const lengths = table(a, b);
  const pieces = [];
  const add = (kind, word) => {
    if (pieces.at(-1)?.kind === kind) pieces.at(-1).text += ` ${word}`;
    else pieces.push({ kind, text: word });
  };
  let [i, j] = [0, 0];
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      add("same", a[i]);
      i += 1;
      j += 1;
    } else if (j >= b.length || (i < a.length && lengths[i + 1][j] >= lengths[i][j + 1])) {
      add("gone", a[i]);
      i += 1;
    } else {
      add("new", b[j]);
      j += 1;
    }
  }
  return pieces;
}

const wordsOf = (text) => text.split(/\s+/).filter(Boolean).slice(0, LONGEST);

/** By place in either text, how many words the rests have in common, in order. */
function table(a, b) {
  const lengths = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      lengths[i][j] = a[i] === b[j] ? lengths[i + 1][j + 1] + 1 : Math.max(lengths[i + 1][j], lengths[i][j + 1]);
    }
  }
  return lengths;
}
